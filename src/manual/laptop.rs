//! Networks that change: states, timers, uplinks, sleep, programs in conflict.
//!
//! # One reaction to every change
//!
//! The reconciler (`daemon::reconciler`) is a loop. A kernel notification, a new day, a resume or a timer triggers the same
//! steps: read links, addresses, routes and rules, select the uplink, plan, apply. The content of a notification is used only
//! to name the program that caused it, so a lost notification does no harm. All these cases need no code of their own:
//!
//! - `ip rule flush`, or systemd-networkd deleting foreign rules and routes;
//! - a VPN that starts, stops, reconnects or replaces the default route;
//! - a renewed lease, a new or lost address, IPv6 that arrives late;
//! - another network, a cable beside the Wi-Fi, a recreated link of the same name;
//! - more notifications than the socket holds (`ENOBUFS`, event `notifications_lost`);
//! - a failed netlink socket (event `netlink_reconnected`);
//! - a datagram refused with `EPERM`, the only sign of a change in legacy iptables;
//! - a resume.
//!
//! Rules and routes are back 17 to 60 ms after their deletion. 20 ms of that collect notifications that belong together.
//!
//! # States
//!
//! ```text
//!             no usable link                        a link, an address, a next hop
//!  started ------------------> waiting  ------------------------------------------->  ready
//!     \                           ^                                                   |   ^ |
//!      \                          +--- uplink_lost: rules go, media is in the VPN ----+   +-+ uplink_changed
//!       +------------------------------------------------------------------------------^
//! ```
//!
//! The service manager receives READY in `waiting` too, with the status "waiting for an uplink". A laptop without a network is
//! no fault of the service.
//!
//! # Timers
//!
//! | timer | value | reason |
//! |---|---|---|
//! | settle time | 20 ms from the first notification | a VPN makes a dozen changes in a row |
//! | pause after a reconciliation | 10 ms, or four times its CPU time, up to 1 s | frequent route changes must not keep the machine busy |
//! | hysteresis of a better uplink | 2 s, doubled with each loss of that uplink within 10 minutes, up to 64 s | a cable has a carrier before its network works, and a bad one flaps |
//! | corrections without back-off | 20 at once, and 2 per second | a VPN that starts |
//! | back-off in a conflict | 0.5 s, doubled up to 16 s | two programs that undo each other help no call |
//! | end of a conflict | 30 s without a correction after the back-off | a program that returns at once is the same conflict |
//! | retry after a kernel error | 1 s, doubled up to 30 s, or the next notification | most errors are temporary |
//! | calendar, and firewalls without notifications | 1 min | a policy's dates are days |
//!
//! # The uplink
//!
//! A link is usable if it is up, has a carrier, an address that is valid beyond the link, and a next hop. Tunnels and links
//! that `[uplink] exclude` names are not usable. `prefer` decides first, then the evidence, then the metric. The evidence is,
//! in this order: default routes of the main table, a host route through a gateway (VPNs add one to their server), default
//! routes of other tables. `interface` pins a link of any kind.
//!
//! Each family has its own uplink, because a cable may carry IPv4 only and the Wi-Fi both. `voicelane status` shows both
//! where they differ. A family without an uplink is not captured.
//!
//! A lost uplink is left at once. A better one must be stable first (hysteresis), because the present one works meanwhile.
//!
//! # What a change means for calls
//!
//! | change | sockets |
//! |---|---|
//! | another link for a family, or a recreated one | those of that family are replaced |
//! | an address of the family is removed from the link | replaced, as soon as there is an uplink |
//! | an address is added, a lease is renewed, another gateway | stay |
//! | the uplink was lost and returns unchanged | stay; calls that failed over meanwhile fail back at once |
//!
//! A replaced socket is closed and opened again, on the same port if it is free. From the change on, nothing is sent by the
//! former uplink. Mappings that send receive their sockets first; until then the former socket still receives. The mapping
//! and its inside endpoint stay. The peer sees a new address, which ICE connectivity checks (RFC 8445) and consent (RFC
//! 7675) handle. TCP connections cannot move and are reset. A call that moves from cable to Wi-Fi is silent for 70 ms at most.
//!
//! # Conflicts with other programs
//!
//! A correction is a reconciliation that changed something although the desired state was the same. Each correction is an
//! event, `rules_restored`. The event names the foreign rule that appeared (priority, table, protocol), or the process that
//! deleted voicelane's rules, by the netlink port of the notification.
//!
//! Too many corrections are a conflict: `rules_contested`, and a warning in the status. Corrections then back off, and media
//! takes the route that the other program installed. The remedy: stop the other program, or make it keep rules of protocol 118
//! (systemd-networkd: `ManageForeignRoutingPolicyRules=no`, `ManageForeignRoutes=no`).
//!
//! # Sleep
//!
//! logind's `PrepareForSleep` announces sleep where there is a system bus (feature `logind`). The clock decides: the kernel
//! cancels a wall-clock timer when that clock jumps, and the gain of `CLOCK_BOOTTIME` over `CLOCK_MONOTONIC` is the time
//! slept. A resume triggers a reconciliation. All other timers, also lifetimes of mappings, stand still during sleep.
//!
//! # Foreign settings
//!
//! Besides the TUN's own sysctls, voicelane changes only `rp_filter` of the uplink, if it is strict. The former value is
//! saved, and restored when the uplink changes. Global sysctls ("all", "default", `ip_forward`, `arp_*`) are never written.
//!
//! # The soak test
//!
//! `tests/lab_load/soak.rs` applies random changes beside two running calls: carriers, lost uplinks, flushed rules and routes, foreign
//! rules, a restarted VPN, addresses and metrics. After each change both calls must be back within 3 s, media outside the
//! VPN and marked, all other traffic inside. The default is 40 changes. The long run:
//!
//! ```text
//! VOICELANE_SOAK_EVENTS=1000 cargo nextest run --features lab --test lab_load soak:: --no-capture
//! ```
//!
//! `VOICELANE_SOAK_SEED` repeats a printed seed. `VOICELANE_SOAK_KIND=BothLost` selects one kind of change. In a run of 1,000
//! changes, calls were back within 15 ms after most of them. The maximum was 2.0 s, most of which is Linux noticing the
//! carrier and the router's IPv6 neighbour discovery.
//!
//! # Tests
//!
//! `tests/pure/manual.rs` checks that each test exists.
//!
//! | what happens | shown by |
//! |---|---|
//! | `ip rule flush`, flushed routes, networkd deletes rules, a foreign rule ahead: restored at once, the program is named | `laptop::removed_rules_are_restored_at_once_and_the_remover_is_named` |
//! | two programs in conflict: corrections back off, the other program is named | `laptop::a_conflict_slows_down_and_the_other_program_is_named`, `daemon::conflict_backoff::twenty_corrections_at_once_and_two_per_second_are_no_conflict` |
//! | lost notifications, failed netlink sockets | `laptop::lost_notifications_lead_to_a_full_resync`, `kernel_faults::the_reconciler_recovers_from_a_closed_kernel_connection` |
//! | a busy machine | `kernel_faults::a_delayed_reconciliation_does_not_delay_the_next`, `daemon::schedule::a_pause_grows_with_the_cpu_time_and_is_bounded` |
//! | a VPN starts, stops, restarts, replaces the default route | `vpn::voicelane_then_openvpn_replacing_the_default_route`, `coexistence::openconnect_with_vpnc_script`, and every row of [`super::vpns`] |
//! | a lease is renewed, with the same or another address | `laptop::a_renewed_lease_moves_no_call_and_a_new_address_ends_none` |
//! | an address is removed and returns | `kernel_faults::calls_follow_an_address_that_goes_and_returns` |
//! | cable to Wi-Fi and back, by carrier, metric and link: gap below 1 s, same inside endpoint, new sockets | `laptop::a_call_moves_from_cable_to_wifi_and_back`, `daemon::uplink_binding::sockets_are_replaced_when_their_link_or_address_is_gone` |
//! | a flapping link | `laptop::a_flapping_link_is_not_followed`, `route::hysteresis::a_lost_uplink_must_be_stable_for_longer` |
//! | no network at the start, IPv6 later | `laptop::the_service_starts_without_a_network_and_recovers` |
//! | IPv4 and IPv6 by different links, later by the same | `laptop::each_family_uses_its_own_link_and_moves_alone`, `route::uplink::each_family_leaves_by_its_own_best_link` |
//! | suspend, and resume in another network | `sleep::a_call_survives_a_sleep_and_a_new_address`, `daemon::sleep::the_clocks_show_the_time_slept` |
//! | prefer, pin, exclude | `laptop::configuration_prefers_and_excludes_links_and_ignores_tunnels`, `route::uplink::links_are_preferred_and_excluded_by_configuration` |
//! | a captive portal or firewall on the path drops media: failover below 3 s, failback when the path works | `failover::a_dead_path_costs_less_than_three_seconds_with_wg_quick`, `failover::a_dead_path_costs_less_than_three_seconds_with_openvpn`, `engine::failover::a_dead_path_interrupts_a_call_for_less_than_three_seconds` |
//! | a router rejects; a firewall of this machine rejects | `failover::a_router_that_rejects_causes_a_failover`, `failover::a_local_firewall_causes_an_immediate_failover` |
//! | failover of a mapping, then of the uplink; hysteresis; probes; failback | `engine::uplink_failure::two_failed_calls_to_two_regions_fail_the_uplink_of_their_family`, `engine::failover::a_healed_path_fails_back_and_a_flapping_one_later_each_time`, `engine::failover::probes_on_a_dead_path_fail_no_call_back`, `engine::uplink_failure::a_restored_uplink_is_used_at_once`, `laptop::a_call_fails_back_when_its_link_returns` |
//! | `failover = none` | `failover::without_failover_a_call_stays_direct` |
//! | whole prefixes; other traffic returns into the VPN | `prefix::other_traffic_of_a_prefix_arrives_through_the_vpn`, `prefix::the_bypass_for_media_lets_nothing_else_out` |
//! | a kill switch is detected, named and respected, with and without nftables, at the start and later | `coexistence::the_wg_quick_kill_switch_is_named_and_obeyed`, `coexistence::the_mullvad_firewall_is_named_and_obeyed`, `coexistence::a_legacy_iptables_kill_switch_is_obeyed_but_not_named`, `coexistence::a_later_legacy_iptables_rule_is_found_by_its_first_rejection` |
//! | no firewall probe leaves the machine, whatever rules change mark, DSCP or priority | `foreign_hooks::no_probe_leaves_the_machine_whatever_rules_change_on_it` |
//! | the VPN's marks, if IT configures them | `coexistence::calls_with_the_vpn_mark_pass_the_wg_quick_kill_switch`, `coexistence::calls_with_the_connection_mark_pass_the_mullvad_firewall` |
//! | a hostile network: routes, ranges, spoofed packets, ARP | `hostile_network::a_dhcp_route_for_the_media_range_is_ignored`, `hostile_network::a_lan_with_the_media_range_gets_no_media`, `hostile_network::no_network_message_adds_direct_traffic`, `hostile_network::no_lan_host_reaches_the_tun_or_a_reply_source` |
//! | foreign sysctls stay | `laptop::only_settings_of_the_tun_and_the_uplink_change` |
//! | events survive a crash and a reboot, within a bound | `lifecycle::events_outlive_a_crash_and_a_reboot`, `daemon::events::store::it_keeps_the_newest_within_its_bound`, `daemon::events::store::a_torn_last_line_costs_one_event` |
//! | random changes in random order | `soak::calls_survive_random_network_events` |
