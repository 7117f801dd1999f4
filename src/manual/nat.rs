//! The translator's behaviour, requirement by requirement, and failover into the VPN.
//!
//! Tests are named by file and name. `engine` and `tcp` use simulated packets and time. `model` compares random sequences
//! with a reference model; the fuzz targets of the same names do the same. `judges` uses independent programs. The other
//! tests use namespaces with the kernel on both sides. `tests/pure/manual.rs` checks that each test exists and names its
//! requirement.
//!
//! # UDP (RFC 4787)
//!
//! | requirement | what we do | shown by |
//! |---|---|---|
//! | REQ-1 endpoint-independent mapping | one unconnected socket per inside endpoint, for all remotes | `model::the_engine_does_what_the_model_does`, `engine::one_mapping_serves_every_remote`, `judges::coturn_finds_address_dependent_filtering` |
//! | REQ-2 address pooling paired | all sockets send from the uplink's address; after a change of uplink no mapping sends by the former one | `engine::uplink::nothing_leaves_by_a_former_uplink`, `kernel_faults::calls_follow_an_address_that_goes_and_returns` |
//! | REQ-3 no port overloading | the kernel's port table: two sockets never share a port | `mapping::a_free_source_port_is_kept_and_a_taken_one_is_not_shared`, `kernel_faults::exhausted_ports_are_refused_and_never_shared` |
//! | REQ-3a port ranges | the preserved port, or one of the kernel's range, 1024 or above | `mapping::a_free_source_port_is_kept_and_a_taken_one_is_not_shared` |
//! | REQ-4 port parity | withdrawn by RFC 7857 section 8: kept only if the port is preserved | none is due |
//! | REQ-5 mapping timer at least 2 minutes | 300 s; configurations below 120 s are refused. 30 s before the first answer: see below | `engine::only_outbound_packets_refresh_a_mapping`, `engine::an_unanswered_mapping_expires_after_thirty_seconds`, `config::tests::settings::invalid_settings_are_rejected` |
//! | REQ-6 outbound refresh; inbound may | outbound always; inbound from contacts alone, and only with `inbound_refresh = true` | `engine::only_outbound_packets_refresh_a_mapping`, `model::the_engine_does_what_the_model_does`, `engine::limits::inbound_refresh_is_configurable_and_excludes_strangers` |
//! | REQ-7 inside and outside address ranges that collide | both sides are this machine's own addresses and sockets, so ranges decide nothing. The TUN's address is assigned to nobody (RFC 7600) | `engine::steady::equal_inside_and_outside_addresses_do_not_conflict` |
//! | REQ-8 filtering | address-dependent; the other two by configuration | `engine::inbound_datagrams_pass_the_configured_filtering`, `model::the_engine_does_what_the_model_does`, `mapping::unsolicited_packets_are_dropped`, `judges::no_unsolicited_packet_of_a_hundred_thousand_passes`, `judges::strict_and_lax_filtering_behave_as_documented`, `judges::coturn_finds_address_and_port_dependent_filtering`, `judges::coturn_finds_endpoint_independent_filtering` |
//! | REQ-9 hairpinning, 9a external source | a datagram in the TUN to a mapping's outside endpoint is turned back, from the sender's outside endpoint, through the receiver's filter; see "Not met" for limits | `engine::limits::neighbours_reach_each_other_by_their_outside_endpoints`, `model::the_engine_does_what_the_model_does` |
//! | REQ-10 application-level gateways off | none; payload is never changed | `engine::steady::payloads_are_relayed_unchanged` |
//! | REQ-11 deterministic | a mapping's behaviour does not depend on load, history, or whether its port was free | `engine::steady::other_mappings_do_not_affect_a_mapping`, `model::the_engine_does_what_the_model_does`, `mapping::a_free_source_port_is_kept_and_a_taken_one_is_not_shared` |
//! | REQ-12 ICMP does not end a mapping | errors of any reporter are passed on (12a); they neither end nor refresh a mapping | `engine::an_icmp_error_of_the_path_reaches_the_application`, `engine::limits::an_error_refreshes_no_mapping`, `mapping::an_unreachable_port_is_reported_to_the_application` |
//! | REQ-13, 13a DF and too big | DF sets the socket's path-MTU mode. A datagram that does not fit causes "fragmentation needed" or "packet too big" with the MTU. Without DF the kernel fragments | `engine::sizes::dont_fragment_is_preserved`, `path_mtu::a_datagram_too_big_for_the_uplink_returns_its_mtu`, `path_mtu::a_datagram_too_big_for_a_router_returns_its_mtu`, `path_mtu::fragmented_datagrams_stay_fragmented_both_ways` |
//! | REQ-14, 14a fragments, in and out of order, under attack | from the TUN: reassembled within bounds of memory and time (`engine::reassembly`); from the uplink: reassembled by the kernel | `engine::sizes::fragments_in_any_order_become_one_datagram`, `engine::limits::a_flood_of_fragments_of_one_source_leaves_room_for_others`, `model::reassembly_does_what_the_model_does`, `path_mtu::fragmented_datagrams_stay_fragmented_both_ways` |
//!
//! The source port is preserved where it is free (section 4.2.1). A local application that is bound to no address holds its
//! port on every address, also the uplink's. The kernel then selects another port.
//!
//! Sizes: a datagram may have 0 to 65,507 bytes over IPv4 and 65,527 over IPv6
//! (`engine::sizes::datagrams_of_every_size_are_returned`). Replies larger than the TUN's MTU are fragmented. A checksum may be
//! missing over IPv4 only; voicelane always writes one. IPv4 options are skipped and not relayed
//! (`engine::sizes::a_missing_checksum_and_options_are_valid_over_ipv4`). Overlapping fragments invalidate their datagram
//! (RFC 5722, RFC 1858: `engine::sizes::overlapping_fragments_discard_their_datagram`). The policy evaluates whole datagrams
//! (`engine::sizes::the_policy_is_applied_to_the_whole_datagram`).
//!
//! # ICMP (RFC 5508)
//!
//! | requirement | what we do | shown by |
//! |---|---|---|
//! | REQ-1 queries | overridden by local policy, as the RFC permits: rules name UDP and TCP, so an echo to a captured prefix takes the VPN. An echo that enters the TUN is rejected as "administratively prohibited", because a reply by voicelane would claim that the host answered | `engine::limits::a_captured_echo_request_is_prohibited`, `vpn::wg_quick_then_voicelane` |
//! | REQ-3 validate errors | the kernel verifies the checksum and finds the socket by the embedded packet. The error must then name a permitted remote of the same family, under any filtering | `engine::limits::an_error_about_a_stranger_is_dropped_under_any_filtering`, `engine::a_forged_error_changes_nothing`, `judges::forged_and_truncated_errors_change_nothing` |
//! | REQ-4 errors from outside to inside | translated to the application's datagram, type and code unchanged, from the reporter's address | `engine::an_icmp_error_of_the_path_reaches_the_application`, `mapping::an_unreachable_port_is_reported_to_the_application` |
//! | REQ-5 errors from inside to outside | an application's "port unreachable" for a late datagram is not captured and takes the VPN. In the TUN it is dropped, because no error answers an error | `engine::limits::an_icmp_error_from_the_application_is_dropped` |
//! | REQ-6 an error neither ends nor refreshes a mapping | as REQ-12 above | `engine::limits::an_error_refreshes_no_mapping` |
//! | REQ-8 "administratively prohibited" when resources are spent | limits of mappings, of an address, of remotes, of connections; no descriptor; no port | `engine::a_full_mapping_table_rejects_with_an_icmp_error`, `engine::limits::one_inside_address_leaves_room_for_others`, `engine::limits::datagrams_queued_for_a_failed_socket_are_rejected`, `tcp::a_full_connection_table_rejects_with_an_icmp_error` |
//! | REQ-10 errors of our own: unreachable, time exceeded | "prohibited" of policy and limits; time exceeded at the last hop and for incomplete fragments | `engine::a_packet_at_its_last_hop_gets_time_exceeded`, `engine::sizes::a_missing_fragment_times_out_after_15_seconds` |
//! | RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f) rate | burst 50, 100 per second; separate buckets for own and relayed errors | `engine::limits::icmp_errors_are_rate_limited_per_kind` |
//!
//! # Updates (RFC 7857) and requirements of carrier-grade NAT (RFC 6888)
//!
//! | requirement | what we do | shown by |
//! |---|---|---|
//! | RFC 7857 section 7 inbound refresh off where filtering is endpoint-independent | off by default; if on, only permitted remotes refresh | `engine::limits::inbound_refresh_is_configurable_and_excludes_strangers` |
//! | RFC 7857 section 8 port parity off | see REQ-4 above | none is due |
//! | RFC 7857 section 10, RFC 6864 IPv4 identification | the kernel's on the uplink; in the TUN a counter with a random start | by construction |
//! | RFC 6888 REQ-4, 5 limits for each subscriber, of ports and of memory | per inside address 8,192 of 32,768 mappings and 2,048 of 4,096 TCP connections; on a gateway 256 of each ([`super::gateway`]), configurable; per source 1 of 4 MiB of fragments | `engine::limits::one_inside_address_leaves_room_for_others`, `tcp::one_inside_address_leaves_connections_for_others`, `gateway::a_client_has_a_limit_and_answers_are_remarked`, `engine::limits::a_flood_of_fragments_of_one_source_leaves_room_for_others` |
//! | RFC 6888 REQ-12 destinations are not logged | addresses are logged at the level DEBUG only | by construction |
//!
//! # Bounds
//!
//! | what | bound |
//! |---|---|
//! | mappings, their indices, sockets and epoll entries | 32,768; 8,192 per inside address |
//! | permitted remotes of a mapping | 1,024 |
//! | queued deadlines of mappings | one per mapping, and one per mapping that an uplink change ended, until its time |
//! | fragments | 4 MiB, 1 MiB per source, including tables and allocations; 15 s |
//! | connections and their windows | 4,096 times 128 KiB; 2,048 per inside address |
//! | outbox | the results of 64 packets and 64 datagrams: below 20 MiB |
//! | errors of sent datagrams | the error queues (`rmem_default` each) of the sockets of one wake-up |
//! | counters by reason | the number of reasons, and of kernel error codes |
//!
//! Hash tables use a random key per process, so remote parties cannot cause collisions
//! (`nat::mapping::tests::each_table_has_its_own_hash_key`). `voicelane status` warns for one minute of a limit that
//! was reached, and says what to do.
//!
//! Ten million mutated packets cause no panic, and no packet leaves that the policy does not relay
//! (`mutation::mutated_packets_cause_no_panic_and_leak_nothing`). The full measure is
//! `VOICELANE_MUTATED_PACKETS=10000000 cargo test --test pure mutation:: -- --nocapture`, which `scripts/check` runs. Malformed packets
//! of scapy enter the TUN of a running service (`judges::malformed_packets_do_no_harm`).
//!
//! # Refusals by the kernel
//!
//! | error | what happens |
//! |---|---|
//! | `EMFILE`, `ENFILE`, `EADDRINUSE` (no free port) | the mapping ends, the datagram is rejected as "prohibited", the next one tries again |
//! | `EPERM` from a firewall | rejected as "prohibited"; the mapping stays |
//! | `ENETUNREACH`, `EADDRNOTAVAIL`, `ENODEV`, `ENETDOWN` | rejected as "network unreachable"; the mapping stays |
//! | `EHOSTUNREACH` | rejected as "host unreachable" |
//! | `ENOBUFS`, `EAGAIN` | the datagram is dropped, as by a router with a full queue |
//!
//! Each refusal is counted by reason and explained in the status. The warning ends ten seconds after
//! the last refusal, with the next datagram that is sent or socket that is opened. Shown by
//! `kernel_faults::without_descriptors_the_service_lives_and_reports_it`,
//! `kernel_faults::exhausted_ports_are_refused_and_never_shared`, `kernel_faults::a_firewall_that_blocks_sends_is_named`,
//! `kernel_faults::a_lost_path_is_reported_to_the_application_and_no_call_ends`,
//! `kernel_faults::a_full_uplink_queue_loses_datagrams_but_no_call`.
//!
//! # TCP (RFC 5382)
//!
//! A proxy relays TCP, see `engine::tcp`. `tests/pure/tcp.rs` uses simulated time, `tests/lab/tcp_proxy.rs` the kernel's stack.
//!
//! | requirement | what we do | shown by |
//! |---|---|---|
//! | REQ-1 endpoint-independent mapping | connections of one inside endpoint share an outside port while any of them is open, for all remotes | `tcp_proxy::an_inside_endpoint_has_one_outside_port_of_its_own` |
//! | REQ-2, 2a all valid sequences, simultaneous open | two complete stacks: smoltcp towards the application, the kernel's towards the far side, which may open simultaneously. Half-close and reset pass in both directions. The application's connection is accepted after the far side accepted | `tcp::the_engine_accepts_only_after_the_remote`, `tcp_proxy::a_simultaneous_open_is_one_connection`, `tcp::the_application_may_close_first`, `tcp::the_remote_may_close_first`, `tcp::a_reset_of_the_application_reaches_the_remote`, `tcp::a_reset_of_the_remote_follows_its_data`, `tcp_proxy::a_reset_arrives_after_the_data_before_it`, `tcp_proxy::a_refused_connection_is_refused_to_the_client` |
//! | REQ-3 filtering | address-and-port-dependent: a connected socket | by construction (`relay::tcp`) |
//! | REQ-5 idle time-outs | 2 h 4 min established or half closed, 4 min opening or closing | `tcp::an_idle_connection_ends_after_two_hours_and_four_minutes`, `tcp::a_closing_connection_ends_after_four_minutes`, `tcp::an_unanswered_connection_ends_after_four_minutes` |
//! | REQ-6 no application-level gateways | none; bytes are relayed, never read | `tcp::ten_megabytes_arrive_intact_in_each_direction_over_a_lossy_link` |
//! | REQ-7 no port overloading | the port is bound before `connect`, because `connect` may select a port that another connection uses | `tcp_proxy::an_inside_endpoint_has_one_outside_port_of_its_own`, `kernel_faults::exhausted_ports_are_refused_and_never_shared` |
//! | REQ-9 ICMP destination unreachable | during connect, the same error is sent about the application's SYN | `tcp::an_unreachable_remote_returns_an_icmp_error_about_the_syn`, `tcp_proxy::an_unreachable_host_is_reported_by_icmp` |
//! | REQ-10 ICMP ends no connection | soft errors of established connections (RFC 5461); an error ends an attempt, as on any host | by construction: the sockets have no `IP_RECVERR` |
//!
//! Connections beyond the limits are rejected as "prohibited" and counted (`tcp::a_full_connection_table_rejects_with_an_icmp_error`). A connection holds at
//! most its two windows of 64 KiB (`tcp::a_slow_reader_slows_the_writer_within_bounded_memory`,
//! `tcp_load::slow_readers_do_not_grow_memory`). Long transfers over a lossy path arrive intact
//! (`tcp_load::a_long_transfer_over_a_path_with_loss_arrives_intact`, with `VOICELANE_TRANSFER_BYTES=1000000000` in full), and so
//! do a thousand connections at once (`tcp_load::a_thousand_connections_at_once`). A connection is reset on both sides when
//! the policy no longer relays it or the uplink changes.
//!
//! # Failover into the VPN
//!
//! When the direct path of a mapping fails, its datagrams continue on its socket in the VPN. `engine::failover` has the
//! states, the checks and the verdict on an uplink.
//!
//! - **Only a comparison counts.** Music on hold, a muted agent, a closed browser and a peer that hung up are silent on a
//!   working path. So a call fails over only when the same STUN check is answered in the VPN and not on the direct path.
//!   Without any answer the peer is gone, and the VPN would not help. (Unanswered checks alone were tried first: every
//!   normal hang-up looked like a failed uplink.)
//! - **Evidence cannot be forged from outside.** A response counts if its transaction id is that of a request that passed
//!   through the mapping. A router's ICMP error starts a comparison and decides nothing. Media decides nothing.
//! - **No packet is invented.** What is compared is the latest check that the peer answered, byte for byte, while the
//!   application itself goes on sending. It starts when a check of the application is unanswered, or after one second
//!   without expected traffic. A repeated check changes nothing at the peer, and ICE ignores a second response (RFC 8489
//!   section 6.3.3). Requests with effects (TURN Allocate, Refresh) are never repeated.
//! - **One-way failure.** Media that arrives proves nothing about what the application sends. So a call whose last
//!   response is a second old repeats its check while the application sends: one datagram per second and call.
//! - **A new call on a dead path** has no answered check. After half a second its own checks are copied into the VPN.
//! - **The uplink fails** with two calls to different regions that had answers before, unless a call was answered within
//!   the last second. A mapping that never had an answer is no evidence: anybody can send to an address that is silent.
//! - **A flow without checks** fails over only after refusals, or with its uplink.
//! - **The peer learns the new address.** A peer accepts a new source address only at a check, and a browser's next one may
//!   be 2.5 s away. So after a switch, and on another uplink or address, the check is repeated at once. On an uplink it is
//!   repeated up to five times, 50 ms apart, until it is answered: routes may be late. ICE finds a peer-reflexive
//!   candidate. A TURN allocation belongs to the old address; there the application must restart ICE. An allocation
//!   that is requested while calls on the uplink get no answers starts in the VPN.
//! - **Probes.** Some checks of a failed-over mapping go out on both paths, the direct copy first. Responses on the direct
//!   socket cause the failback.
//! - **Refusals lose nothing.** A datagram that the kernel refuses (EPERM, ENETUNREACH) goes into the VPN in the same
//!   wake-up. An error of the peer itself is passed on.
//! - **Only the VPN is heard.** Linux accepts a datagram to any of its addresses on any link. If the route to a remote leads
//!   into a tunnel, its datagrams count on no other link (`hostile_network::no_lan_host_is_heard_by_a_mapping_in_openvpn`,
//!   `hostile_network::no_lan_host_is_heard_by_a_mapping_in_openconnect`). The socket is not bound to the VPN's device, because
//!   it must survive a restart of the VPN. IPsec policies have no device; the kernel checks their datagrams.
//! - **TCP** cannot move. A connection attempt that is refused, or unanswered for the same time, is made through the VPN.
//!
//! The policy decides about every datagram on the direct path, also about repeated checks
//! (`engine::prefix::only_traffic_in_the_policy_goes_direct`). The tests are in `engine::failover`, `failover` and
//! `prefix`.
//!
//! # Not met
//!
//! - RFC 4787 REQ-5 for mappings that nobody has answered: they end after 30 s without an outbound packet. At a limit, the
//!   oldest of them of the same inside address gives its place to the next (`engine::calls_replace_unanswered_mappings`).
//!   Otherwise thousands of sockets of one program could keep calls from starting for five minutes.
//! - RFC 4787 REQ-5 for mappings that are over. No mapping ends while its application sends. After 3 s without an outbound
//!   packet it ends if no socket of this machine receives at its inside endpoint, as `sock_diag` reports; after 10 s if the
//!   peer's port is closed and nothing was received since; after 30 s without packets of either side if it had answered
//!   checks (RFC 7675). A client of a gateway has no socket here, and the first rule does not concern it (`engine::end`).
//! - RFC 5382 REQ-2, simultaneous open by the application: its SYN receives a SYN-ACK, never a SYN. The connection is still
//!   established. A connection that only the far side opens has no destination, because applications listen on this
//!   machine's own addresses.
//! - RFC 5382 REQ-4, 6 s of silence to an unsolicited SYN: the SYN reaches this machine's own stack or firewall, which
//!   refuses it at once, as without voicelane.
//! - RFC 5382 REQ-10 during connect: an ICMP error ends the attempt, as on any host.
//! - TCP (smoltcp 0.14): a FIN that overtakes data is forgotten until its retransmission. This needs loss on the way into the
//!   TUN, which neither reorders nor delays.
//! - RFC 4787 REQ-9 and RFC 5382 REQ-8, hairpinning on a laptop: an outside endpoint is a local address, and the kernel
//!   delivers to it before it looks up rules. UDP that does enter the TUN is turned back if the receiver's socket is bound to
//!   an address. The first datagram of a mapping to a neighbour is dropped, because its socket is not open yet.
//! - RFC 5508 REQ-1, REQ-2 and REQ-5, ICMP of the application: see the table.
//! - RFC 5508 REQ-3a, the checksum of the embedded IP header: the kernel does not verify it. It verifies the embedded source
//!   address only of sockets bound to an address. Port and destination must match a mapping.
//! - RFC 5508 REQ-7, hairpinned errors: only the application's own kernel could send one; as REQ-5.
//! - RFC 6888 REQ-8, quarantine of a port for 120 s: the kernel reuses a port at once. Filtering protects the next mapping
//!   from late packets.
//! - RFC 6888 REQ-15, unpredictable ports: preserved ports are the application's choice; the kernel's are random.
