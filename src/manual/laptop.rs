//! Life on a laptop: what voicelane does when everything around it moves.
//!
//! # One answer to everything
//!
//! The steward (`daemon::reconciler`) is one loop. A notice of the kernel, a new day, the end of a sleep, a time that has
//! come: the answer is always to read links, addresses, routes and rules anew, to choose the uplink, to plan and to
//! apply. What a notice says is not relied on, so that a lost one does no harm; it is read only for who was at work. So
//! these are all the same to it:
//!
//! - `ip rule flush`; systemd-networkd, which deletes rules and routes that it did not make;
//! - a VPN that starts, stops, reconnects or replaces the default route;
//! - a lease that is renewed (nothing changes), an address that goes or comes, IPv6 that comes later;
//! - another network, a cable beside the Wi-Fi, a link that was made anew under the same name;
//! - more notices than the socket holds (`ENOBUFS`, the event `notifications_lost`);
//! - a socket to the kernel that fails: it is opened anew (the event `netlink_reconnected` where it is the one that changes things);
//! - a datagram that is refused as a firewall refuses it (`EPERM`), which legacy iptables gives no other notice of;
//! - the end of a sleep.
//!
//! Measured on two cores in a virtual machine: rules and routes are back 17 to 60 ms after the command that took them
//! away, 20 of which are the time in which notices that belong together are gathered (`tests/lab_load/laptop.rs` prints it).
//!
//! # States
//!
//! ```text
//!             no usable link                        a link, an address, a way onwards
//!  started ------------------> waiting  ------------------------------------------->  ready
//!     \                           ^                                                   |   ^ |
//!      \                          +--- uplink_lost: rules go, media is in the VPN ----+   +-+ uplink_changed
//!       +------------------------------------------------------------------------------^
//! ```
//!
//! A service manager is told READY in `waiting` as well, with the status "waiting for an uplink": a laptop that is
//! started in a train is no fault of the service. `voicelane status` says `uplink none` then, and why.
//!
//! # Timers
//!
//! | timer | value | reason |
//! |---|---|---|
//! | gathering | 20 ms from the first notice | a VPN makes a dozen changes in a row |
//! | rest after a look | 10 ms, or four times the processor's time that the look took, up to 1 s | a machine whose routes never stand still must not be kept busy by us; one that is busy with other things is no reason to wait |
//! | proof of a better uplink | 2 s, doubled with each loss of that uplink within 10 minutes, up to 64 s | a cable has a carrier before its network works, and a bad one comes and goes; until then the present one works |
//! | corrections without a rest | 20 in a row, and 2 a second | a VPN that starts, somebody who tidies up |
//! | rest in a contest | 0.5 s, doubled up to 16 s | two programs that undo each other's work help no call |
//! | end of a contest | 30 s of peace after the rest | so that a rival who comes back at once is not a new one |
//! | retry of what the kernel refused | 1 s, doubled up to 30 s, or the next notice | it mostly refuses because something is on its way |
//! | calendar | 1 min | a policy's dates are days |
//!
//! # The uplink
//!
//! Usable is a link that is up, has a carrier, an address that reaches beyond the link, and a way onwards; that is no
//! tunnel; and that `[uplink] exclude` does not name. Among the usable ones `prefer` decides, then the evidence (the
//! default routes of the main table, a host route through a gateway as VPNs make it to their server, default routes of
//! other tables), then the metric. `interface` pins one, whatever it is.
//!
//! Each family has the best uplink of its own, as it has routes of its own: a cable may bring IPv4 alone, and the Wi-Fi
//! IPv6 besides. Mostly it is the same link; where it is not, `voicelane status` shows both, and an event says which
//! family it is about. A family that no link has a way for is not captured, and its media is in the VPN. The next hop is
//! the link's own.
//!
//! A lost uplink is left at once for the next best. A better one must prove itself first (see the timers): the present
//! one works meanwhile. One family's gains and losses are nothing to the other.
//!
//! # What a change means for calls
//!
//! | change | sockets |
//! |---|---|
//! | another link for a family, or another one under the same name | those of that family are replaced |
//! | an address of the family has gone from the link | likewise, when there is a way again |
//! | an address has come, a lease was renewed, another gateway | stay as they are |
//! | the uplink was gone and is the same again | stay as they are; calls that fell into the VPN meanwhile leave it at once |
//!
//! Replaced means closed and opened anew, on the same port where it is free; never bound a second time. From the change on
//! nothing is sent by the former one. With many mappings those get theirs first that send, and a former socket is heard
//! until then: the link may deliver for another moment, and the peer has heard of no other address. The mapping and
//! its inside endpoint stay, so the application sees the same peer, and the peer sees a new address, for which ICE has
//! connectivity checks (RFC 8445) and consent (RFC 7675). TCP connections cannot move and are reset.
//!
//! In the lab a call of a packet each 20 ms that moves from cable to Wi-Fi is silent for 70 ms at most in each direction,
//! carrier loss and metric change alike (`tests/lab_load/laptop.rs`).
//!
//! # Programs that want what we do not want
//!
//! A correction is a look that had to change something although nothing else was wanted than before. Each is an event,
//! `rules_restored`, with who it was: the foreign rule that appeared (priority, table, protocol number and whose number that
//! usually is), or the process that took ours away, by the netlink port in the kernel's notice. Too many corrections are
//! a conflict (`rules_contested`, and a warning in the status); they become rarer, and media is where the other program puts
//! it meanwhile. What to do is for people: end the other program, or let it spare rules of protocol 118
//! (systemd-networkd: `ManageForeignRoutingPolicyRules=no`, `ManageForeignRoutes=no`).
//!
//! # Sleep
//!
//! logind's `PrepareForSleep` is listened to where there is a system bus (feature `logind`). The truth is in the clock: a
//! timer on the wall clock is cancelled by the kernel when that clock jumps, and what `CLOCK_BOOTTIME` has gained on
//! `CLOCK_MONOTONIC` is the time slept. After it everything is read anew, and sockets move if what they use has gone.
//! All other timers, a mapping's life among them, stand still in sleep.
//!
//! # Settings of others
//!
//! Of settings that are not the TUN's, one is touched: `rp_filter` of the uplink, where it is strict, with its value in
//! the journal. When the uplink changes, the former gets its value back. The global ones ("all", "default", `ip_forward`,
//! `arp_*`) are never written; `tests/lab_load/laptop.rs` compares all of them before, while running, after a change and after
//! the end.
//!
//! # The soak
//!
//! `tests/lab_load/soak.rs` lets random things happen beside two running calls: carriers that come and go, one uplink or both
//! lost, rules and routes flushed, foreign rules, a VPN that restarts, addresses and metrics that change. After each,
//! both calls must be back within 3 s, media outside the VPN, the rest in it, and nothing else marked; in the end
//! nothing may be left over. 40 events by default; the long run:
//!
//! ```text
//! VOICELANE_SOAK_EVENTS=1000 cargo nextest run --features lab --test lab_load soak:: --no-capture
//! ```
//!
//! It prints its seed; `VOICELANE_SOAK_SEED` repeats a course, and `VOICELANE_SOAK_KIND=BothLost` has all events of one kind.
//! Measured in a course of 1,000 events (seed 1795385997) on a machine that compiled beside it: calls are back 13 to 15 ms
//! after most events, and 2.0 s at most after the home router's links were set down and up: of those, a second is until
//! Linux notices a carrier, and another that router's IPv6 neighbour discovery. 69 times a refusal sent a call into the
//! VPN for as long as it took to follow to another link, ten datagrams in all. Memory grew by 1.9 MiB.
//!
//! # What shows it
//!
//! Tests are named by file and name; `tests/pure/manual.rs` sees to it that each is there.
//!
//! | what happens | shown by |
//! |---|---|
//! | `ip rule flush`, routes flushed, networkd tidies up, somebody gets ahead: put right at once, and it is said who | `laptop::what_others_take_away_is_back_at_once_and_they_are_named` |
//! | two programs fight: slower and slower, the other is named | `laptop::two_programs_that_fight_slow_down_and_the_other_is_named`, `daemon::conflict::twenty_in_a_row_and_two_each_second_are_no_contest` |
//! | notices are lost, sockets to the kernel fail | `laptop::more_notices_than_the_socket_holds_lead_to_a_full_look`, `kernel_faults::what_cuts_the_steward_off_from_the_kernel_is_made_up_for` |
//! | the machine is busy with other things | `kernel_faults::a_look_that_had_to_wait_holds_up_no_other`, `daemon::schedule::a_rest_is_long_for_what_cost_much_and_bounded` |
//! | a VPN starts, stops, starts again, replaces the default route | `vpn::voicelane_then_openvpn_replacing_the_default_route`, `coexistence::openconnect_with_vpnc_script`, and every row of [`super::vpns`] |
//! | a lease is renewed, or brings another address | `laptop::a_renewed_lease_moves_nothing_and_a_new_address_costs_no_call` |
//! | an address vanishes and comes back | `kernel_faults::an_address_that_goes_and_comes_back_takes_the_calls_along` |
//! | cable to Wi-Fi and back, by carrier, metric and link: the gap below 1 s, the inside endpoint the same, new sockets | `laptop::a_call_goes_from_cable_to_wifi_and_back_with_its_inside_endpoint`, `daemon::uplink_binding::sockets_move_when_what_they_use_has_gone` |
//! | a link that comes and goes | `laptop::a_link_that_comes_and_goes_is_not_followed`, `route::hold::who_was_lost_must_prove_more` |
//! | no network at the start, IPv6 later | `laptop::it_starts_without_a_network_and_comes_up_by_itself` |
//! | IPv4 by one link and IPv6 by another, and later by the same | `laptop::each_family_leaves_by_its_own_link_and_moves_alone`, `route::uplink::each_family_leaves_by_its_own_best_link` |
//! | suspend and resume, elsewhere | `sleep::a_call_survives_a_sleep_from_which_the_laptop_wakes_with_another_address`, `daemon::sleep::what_the_clock_of_the_machine_gained_was_slept` |
//! | prefer, pin, exclude | `laptop::configuration_prefers_excludes_and_never_takes_a_tunnel`, `route::uplink::the_user_prefers_and_excludes` |
//! | a captive portal or a firewall on the way that drops media: less than 3 s, and back when it carries again | `fallback::silence_costs_less_than_three_seconds_with_wg_quick`, `fallback::silence_costs_less_than_three_seconds_with_openvpn`, `engine::fallback::a_dead_way_costs_a_call_less_than_three_seconds` |
//! | a router that refuses, a firewall of this machine's that refuses | `fallback::a_router_that_says_no_is_believed`, `fallback::a_firewall_on_this_machine_costs_nothing` |
//! | first a mapping, then the whole uplink; hysteresis; the probe for the way back | `engine::fallback::two_mappings_in_a_row_take_the_uplink_with_them_and_only_their_family`, `engine::fallback::a_healed_way_is_taken_again_and_a_fickle_one_later_each_time`, `engine::fallback::trials_on_a_dead_way_bring_nobody_back`, `engine::fallback::an_uplink_that_is_back_is_taken_again_at_once`, `laptop::a_call_that_fell_while_its_link_was_gone_is_back_with_the_link` |
//! | `fallback = none` | `fallback::without_fallback_a_call_stays_where_it_is` |
//! | whole prefixes, the rest back into the VPN | `prefix::the_rest_of_a_prefix_arrives_at_the_far_end_of_the_vpn`, `prefix::what_lets_media_by_lets_nothing_else_out` |
//! | a kill switch is found, named and obeyed, with and without nftables, at the start and later | `coexistence::the_kill_switch_of_wg_quick_is_named_and_obeyed`, `coexistence::the_firewall_of_mullvad_is_named_and_obeyed`, `coexistence::a_kill_switch_of_legacy_iptables_is_obeyed_though_not_named`, `coexistence::legacy_iptables_that_comes_later_is_found_by_its_first_refusal` |
//! | the VPN's marks, where IT says so | `coexistence::with_the_vpns_mark_calls_pass_the_kill_switch_of_wg_quick`, `coexistence::with_the_connection_mark_calls_pass_the_firewall_of_mullvad` |
//! | a network that lies: routes, ranges, spoofed packets, ARP | `hostile_network::a_route_for_the_media_range_does_not_choose_our_next_hop`, `hostile_network::a_lan_that_claims_the_media_range_gets_no_media`, `hostile_network::what_the_network_says_adds_nothing_to_what_leaves`, `hostile_network::nobody_on_the_lan_reaches_the_tun_or_an_alias` |
//! | settings of others stay | `laptop::no_setting_but_those_of_our_tun_and_the_uplink_is_touched` |
//! | events outlive the service and the machine's sleep, within a bound | `lifecycle::events_outlive_a_crash_and_a_reboot`, `daemon::events::store::it_keeps_the_newest_within_its_bound`, `daemon::events::store::a_torn_last_line_costs_one_event` |
//! | anything, in any order | `soak::calls_survive_whatever_the_network_does` |
