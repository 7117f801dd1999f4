//! The translator's behaviour, requirement by requirement.
//!
//! Tests are named by file and name: `engine` is `tests/pure/engine.rs` with what lies in `tests/pure/engine/` (packets and instants
//! in, outbox out), `tcp` likewise; `model` is `tests/pure/model.rs` (random courses against a reference model; the fuzz
//! targets of the same names play the same); the others are namespace tests with the kernel on both sides, and `judges`
//! has programs that know nothing of us. `tests/pure/manual.rs` sees to it that each test is there and says which requirement
//! it shows. What is met by construction says by which.
//!
//! # UDP (RFC 4787)
//!
//! | requirement | what we do | shown by |
//! |---|---|---|
//! | REQ-1 endpoint-independent mapping | one unconnected socket per inside endpoint, whoever it sends to | `model::the_engine_does_what_the_model_does`, `engine::one_mapping_serves_every_remote`, `judges::coturn_finds_address_dependent_filtering` |
//! | REQ-2 address pooling paired | an uplink's sockets all send from the uplink's address; when the uplink changes, no mapping sends by the former one any more | `engine::uplink::nothing_leaves_by_a_former_uplink`, `kernel_faults::an_address_that_goes_and_comes_back_takes_the_calls_along` |
//! | REQ-3 no port overloading | the kernel's port table: two sockets never share a port | `mapping::a_free_source_port_is_kept_and_a_taken_one_is_not_shared`, `kernel_faults::ports_that_are_spent_are_refused_and_never_shared` |
//! | REQ-3a port ranges | a preserved port is the port; another one is of the kernel's range, 1024 or above | `mapping::a_free_source_port_is_kept_and_a_taken_one_is_not_shared` |
//! | REQ-4 port parity | recommended, and taken back by RFC 7857 section 8: not kept unless the port is | none is due |
//! | REQ-5 mapping timer at least 2 minutes | 300 s; a configuration below 120 s is refused | `engine::a_mapping_lives_by_outbound_packets_alone`, `config::tests::settings::setting_faults` |
//! | REQ-6 outbound refresh; inbound may | outbound always; inbound from contacts alone, and only with `inbound_refresh = true` | `engine::a_mapping_lives_by_outbound_packets_alone`, `model::the_engine_does_what_the_model_does`, `engine::limits::by_configuration_known_peers_refresh_a_mapping_and_strangers_never` |
//! | REQ-7 inside and outside address ranges that collide | both sides are this machine's own addresses and sockets: nothing is decided by which range an address is in. The TUN's one address is nobody's (RFC 7600) | `engine::steady::addresses_that_are_the_same_on_both_sides_are_no_conflict` |
//! | REQ-8 filtering | address-dependent; the other two by configuration | `engine::only_whom_the_application_asked_may_answer`, `model::the_engine_does_what_the_model_does`, `mapping::a_stranger_does_not_get_in`, `judges::of_a_hundred_thousand_strangers_none_gets_in`, `judges::the_stricter_and_the_laxer_filtering_do_as_they_say`, `judges::coturn_finds_address_and_port_dependent_filtering`, `judges::coturn_finds_endpoint_independent_filtering` |
//! | REQ-9 hairpinning, 9a external source | a datagram in the TUN for a mapping's outside endpoint is turned back, from the sender's outside endpoint, through the receiver's filter; see "Not met" for where it cannot get there | `engine::limits::neighbours_reach_each_other_by_their_outside_endpoints`, `model::the_engine_does_what_the_model_does` |
//! | REQ-10 application-level gateways off | none; payload is never looked into to change it | `engine::steady::no_payload_is_looked_into` |
//! | REQ-11 deterministic | a mapping's behaviour depends on neither load nor history, nor on whether its port was free | `engine::steady::a_crowd_changes_nothing_for_a_mapping`, `model::the_engine_does_what_the_model_does`, `mapping::a_free_source_port_is_kept_and_a_taken_one_is_not_shared` |
//! | REQ-12 ICMP does not end a mapping | errors are passed on, whoever reports them (12a); they neither end a mapping nor refresh it | `engine::an_error_of_the_path_reaches_the_application`, `engine::limits::an_error_refreshes_nothing`, `mapping::an_unreachable_port_is_told_to_the_application` |
//! | REQ-13, 13a DF and too big | the DF bit goes along as the socket's path-MTU mode; what does not fit comes back as "fragmentation needed" or "packet too big", about the very datagram, with the MTU; without DF the kernel fragments | `engine::sizes::the_wish_not_to_be_fragmented_goes_along`, `path_mtu::what_the_uplink_cannot_carry_comes_back_with_its_mtu`, `path_mtu::what_a_router_cannot_carry_comes_back_with_its_mtu`, `path_mtu::what_came_in_fragments_goes_out_in_fragments_and_back` |
//! | REQ-14, 14a fragments, in and out of order, under attack | from the TUN: put together within bounds of memory and time (`engine::reassembly`); from the uplink: the kernel does it | `engine::sizes::fragments_in_any_order_become_one_datagram`, `engine::limits::a_flood_of_fragments_of_one_source_leaves_room_for_others`, `model::reassembly_does_what_the_model_does`, `path_mtu::what_came_in_fragments_goes_out_in_fragments_and_back` |
//!
//! The source port is preserved where it is free (section 4.2.1). An application on this machine that is bound to no
//! address holds its port on every address, the uplink's included: then the kernel chooses another.
//!
//! Sizes: a datagram may have 0 to 65,507 bytes over IPv4 and 65,527 over IPv6, either way
//! (`engine::sizes::datagrams_of_every_size_come_back`). What is larger than the TUN's MTU goes into it in fragments. A
//! checksum may be missing over IPv4 and may not over IPv6; what we write has one. IPv4 options are skipped and not
//! carried on (`engine::sizes::a_missing_checksum_and_options_are_no_fault_over_ipv4`). Fragments that overlap spoil their
//! datagram, over both families (RFC 5722, RFC 1858: `engine::sizes::overlapping_fragments_spoil_their_datagram`); what is
//! judged by the policy is the whole datagram (`engine::sizes::what_is_judged_is_the_whole_datagram`).
//!
//! # ICMP (RFC 5508)
//!
//! | requirement | what we do | shown by |
//! |---|---|---|
//! | REQ-1 queries | "unless explicitly overridden by local policy", and it is: rules name UDP and TCP, so an echo to a captured prefix takes the VPN as it would without us, and is answered from there. An echo that is forced into the TUN is answered "administratively prohibited": an echo reply of ours would say that a host is there which nobody has asked | `engine::limits::an_echo_that_is_forced_in_is_prohibited_at_once`, `vpn::wg_quick_then_voicelane` |
//! | REQ-3 validate errors | the kernel verifies the checksum and finds the socket by the embedded packet before an error reaches its queue; then it must name a remote that the mapping has sent to, of its own family, under any filtering | `engine::limits::no_stranger_is_believed_an_error_under_any_filtering`, `engine::a_forged_error_changes_nothing`, `judges::forged_and_truncated_errors_change_nothing` |
//! | REQ-4 errors from outside to inside | translated to the application's own datagram, type and code unchanged, from the reporter's address | `engine::an_error_of_the_path_reaches_the_application`, `mapping::an_unreachable_port_is_told_to_the_application` |
//! | REQ-5 errors from inside to outside | the application's kernel may say "port unreachable" of a datagram that came too late. No rule captures it, so it takes the VPN like any ICMP; forced into the TUN, it is dropped, for an error answers no error | `engine::limits::an_error_of_the_application_goes_nowhere` |
//! | REQ-6 no mapping ends by an error, nor is it refreshed | as REQ-12 above | `engine::limits::an_error_refreshes_nothing` |
//! | REQ-8 "administratively prohibited" when resources are spent | table full, address's share used, contacts full, connections full, no descriptor, no port | `engine::a_full_table_rejects_and_says_so`, `engine::limits::one_inside_address_leaves_room_for_others`, `engine::limits::what_waits_for_a_socket_that_cannot_be_opened_is_answered`, `tcp::a_full_table_says_so` |
//! | REQ-10 errors of our own: unreachable, time exceeded | the policy's and the limits' "prohibited"; time exceeded when the hop limit ends here, and when parts of a datagram do not come in time | `engine::a_last_hop_ends_here`, `engine::sizes::a_part_that_never_comes_is_waited_for_15_seconds` |
//! | RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f) rate | 50 in a row, 100 in a second; one bucket for ours and one for those passed on | `engine::limits::errors_keep_to_a_pace_and_one_kind_does_not_silence_the_other` |
//!
//! # Updates (RFC 7857) and what a provider's NAT owes its subscribers (RFC 6888)
//!
//! | requirement | what we do | shown by |
//! |---|---|---|
//! | RFC 7857 section 7 inbound refresh off where filtering is endpoint-independent | off everywhere; where it is on, strangers that the filter lets in refresh nothing | `engine::limits::by_configuration_known_peers_refresh_a_mapping_and_strangers_never` |
//! | RFC 7857 section 8 port parity off | see REQ-4 above | none is due |
//! | RFC 7857 section 10, RFC 6864 IPv4 identification | the kernel's on the uplink; in the TUN a count that starts where nobody can guess | by construction |
//! | RFC 6888 REQ-4, 5 limits for each subscriber, of ports and of memory | 8,192 mappings of an inside address, of 32,768 in all; 2,048 TCP connections, of 4,096; of each 256 on a gateway ([`super::gateway`]), by configuration; 1 MiB of waiting fragments of a source, of 4 MiB | `engine::limits::one_inside_address_leaves_room_for_others`, `tcp::one_inside_address_leaves_connections_for_others`, `gateway::a_client_has_its_share_and_answers_are_marked_anew`, `engine::limits::a_flood_of_fragments_of_one_source_leaves_room_for_others` |
//! | RFC 6888 REQ-12 destinations are not logged | addresses at the level DEBUG only | by construction |
//!
//! # What grows, and how far
//!
//! | what | bound |
//! |---|---|
//! | mappings, their indices, sockets and epoll entries | 32,768; 8,192 of an inside address |
//! | contacts of a mapping | 1,024 |
//! | queued deadlines of mappings | one of each mapping, and one of each that an uplink change ended, until its time |
//! | fragments | 4 MiB in all, 1 MiB of a source, allowances for tables and allocations included; 15 s |
//! | connections and their windows | 4,096 times 128 KiB; 2,048 of an inside address |
//! | outbox | what 64 packets and 64 datagrams make of themselves in one wake-up: below 20 MiB |
//! | errors found while sending | what the sockets' error queues hold (`rmem_default` each), of the sockets that one wake-up used |
//! | counters by reason | the reasons; refusals of the kernel: its error numbers |
//!
//! Hash tables are keyed with a secret of the process, so that endpoints cannot be chosen to collide
//! (`nat::mapping::tests::the_hash_is_keyed_anew_for_each_table`). A limit that refused something within the last minute is
//! among the warnings of `voicelane status`, with what to do.
//!
//! Ten million packets that are nearly right, of every kind, cause no panic and get nothing out that the policy does not
//! relay: `VOICELANE_MUTATED_PACKETS=10000000 cargo test --test pure mutation:: -- --nocapture`, which `scripts/check` runs
//! (`mutation::mutated_packets_at_length_cause_no_panic_and_get_nothing_out`); 20,000 more of each family, made by scapy, go
//! into the TUN of a running service (`judges::malformed_packets_harm_nobody`).
//!
//! # What the kernel refuses
//!
//! | error | what happens |
//! |---|---|
//! | `EMFILE`, `ENFILE`, `EADDRINUSE` (every port taken) | the mapping ends, the datagram is answered "prohibited", the next one tries again |
//! | `EPERM` from a firewall | answered "prohibited"; the mapping stands |
//! | `ENETUNREACH`, `EADDRNOTAVAIL`, `ENODEV`, `ENETDOWN` | answered "network unreachable"; the mapping stands |
//! | `EHOSTUNREACH` | answered "host unreachable" |
//! | `ENOBUFS`, `EAGAIN` | the datagram is dropped in silence, as a router does whose queue is full |
//!
//! Each is counted by reason and explained in status (`daemon::kernel_errors`). The warning ends when the kernel no longer
//! refuses: with the next datagram that is sent, or socket that is opened, once nothing was refused for ten seconds. Shown by
//! `kernel_faults::without_descriptors_the_service_lives_and_says_so`,
//! `kernel_faults::ports_that_are_spent_are_refused_and_never_shared`, `kernel_faults::a_firewall_that_forbids_sending_is_named`,
//! `kernel_faults::a_way_that_is_gone_is_told_to_the_application_and_no_call_ends`,
//! `kernel_faults::a_full_queue_of_the_uplink_loses_datagrams_and_no_call`.
//!
//! # TCP (RFC 5382)
//!
//! A proxy carries it, see `engine::tcp`. The tests are those of `tests/pure/tcp.rs`, in simulated time, and of
//! `tests/lab/tcp_proxy.rs`, with the kernel's stack on both sides.
//!
//! | requirement | what we do | shown by |
//! |---|---|---|
//! | REQ-1 endpoint-independent mapping | connections of one inside endpoint share a port outside while any of them stands, whomever they go to | `tcp_proxy::an_inside_endpoint_has_one_port_outside_and_shares_it_with_nobody` |
//! | REQ-2, 2a all valid sequences, simultaneous open | two whole stacks: smoltcp towards the application, the kernel's towards the far side, which may open at the same time; half-close and reset pass both ways, and nothing is accepted before the far side has accepted | `tcp::nothing_is_accepted_before_the_far_side_has_accepted`, `tcp_proxy::an_open_from_both_sides_at_once_is_one_connection`, `tcp::the_application_may_end_first`, `tcp::the_far_side_may_end_first`, `tcp::a_reset_of_the_application_reaches_the_far_side`, `tcp::a_reset_of_the_far_side_reaches_the_application_after_what_came_before`, `tcp_proxy::a_reset_is_a_reset_after_what_was_said`, `tcp_proxy::a_refusal_is_a_refusal` |
//! | REQ-3 filtering | address-and-port-dependent: a connected socket | by construction (`relay::tcp`) |
//! | REQ-5 idle time-outs | 2 h 4 min established or half closed, 4 min opening or closing | `tcp::an_idle_connection_ends_after_two_hours_and_four_minutes`, `tcp::a_closing_connection_ends_after_four_minutes`, `tcp::a_connection_that_is_given_up_before_the_answer_is_given_up` |
//! | REQ-6 no application-level gateways | none; bytes are carried, never read | `tcp::ten_megabytes_arrive_intact_each_way_over_a_bad_link` |
//! | REQ-7 no port overloading | a port is bound before `connect`, which by itself may choose one that has a connection to another host | `tcp_proxy::an_inside_endpoint_has_one_port_outside_and_shares_it_with_nobody`, `kernel_faults::ports_that_are_spent_are_refused_and_never_shared` |
//! | REQ-9 ICMP destination unreachable | while connecting it becomes the same error about the application's SYN | `tcp::an_unreachable_far_side_is_an_icmp_error_about_the_syn`, `tcp_proxy::an_unreachable_host_is_told_by_icmp` |
//! | REQ-10 ICMP ends no connection | soft errors once it stands (RFC 5461); an error ends an attempt, as it does on any host | by construction: the sockets have no `IP_RECVERR` |
//!
//! When its 4,096 connections are taken, a new one is prohibited by ICMP and counted (`tcp::a_full_table_says_so`), as
//! one that exceeds its address's share is. A connection never holds more than its two windows of 64 KiB
//! (`tcp::a_slow_reader_slows_the_writer_and_nothing_grows`,
//! `tcp_load::slow_readers_on_both_sides_leave_the_memory_as_it_is`). A long transfer over a path with loss arrives
//! intact (`tcp_load::a_long_transfer_over_a_path_with_loss_arrives_intact`; `VOICELANE_TRANSFER_BYTES=1000000000` is
//! the full measure), and a thousand connections at once do (`tcp_load::a_thousand_connections_at_once`). When a policy
//! no longer relays a connection, or the uplink changes, it is reset on both sides.
//!
//! # When the direct way fails
//!
//! A mapping's datagrams go on by its socket in the VPN, see `engine::path` for the states and `engine::fallback` for how
//! mappings and uplinks hang together. What is judged, and why so:
//!
//! - **Only questions count.** Music on hold, a muted agent, a supervisor who listens: silence in one direction is no
//!   fault. A call's STUN checks (ICE, and consent of RFC 7675) want an answer, and every way that works brings one. A flow
//!   that never asked anything is never judged by silence, only by refusals, or together with the whole uplink.
//! - **Nothing is invented.** Consent checks come every 5 s, which is too seldom for a judgement within 3 s. So the latest
//!   check that the peer has answered is repeated, word for word and to the same peer, when nothing came in for a second
//!   though something should have; a check changes nothing at the peer, and it answers each copy alike. On a way that works
//!   that is at most one more small packet in a second, and none while the peer sends media. Requests that do change
//!   something (TURN's Allocate, Refresh) are never repeated. Second answers are passed on; ICE ignores them (RFC 8489
//!   section 6.3.3).
//! - **The peer is told.** After a switch the check is repeated on the new way, so that ICE on the far side learns the new
//!   address at once, as a peer-reflexive candidate. A TURN allocation belongs to the old address; there the application has
//!   to restart ICE.
//! - **Trials.** While a mapping is in the VPN, some of its checks go both ways, the direct copy first, so that what the
//!   peer hears last is the copy in the VPN. Answers on the direct socket are what brings it back.
//! - **Refusals cost nothing.** A datagram that the kernel refuses (EPERM, ENETUNREACH) goes into the VPN in the same
//!   wake-up, and no ICMP error is written. An error of a router counts while nothing else comes in; one of the peer itself
//!   is about the peer, and is passed on.
//! - **TCP** cannot move. An attempt that is refused, or silent for as long as a mapping may be, is made through the VPN.
//!
//! It moves traffic into the VPN, or back to where the policy wants it; each datagram that goes out directly was judged by
//! the policy, and so is each repetition (`engine::prefix::nothing_but_what_the_policy_relays_ever_goes_directly`). Shown by
//! `engine::fallback` with a simulated peer, and by `fallback` and `prefix` with real VPNs.
//!
//! # Not met
//!
//! - RFC 5382 REQ-2, the application's side of a simultaneous open: its SYN is answered by a SYN-ACK, never crossed by a
//!   SYN. It gets its connection all the same. A connection that only the far side opens has nowhere to go: an application
//!   that listens, listens on this machine's own addresses.
//! - RFC 5382 REQ-4, silence for 6 s to an unsolicited SYN: it meets this machine's own stack, or its firewall, not us, and
//!   is refused at once, as it is without us. A peer that punches holes tries again.
//! - RFC 5382 REQ-10 while connecting: an ICMP error ends the attempt, and its mapping if it has no other connection. Any
//!   host's own stack gives up then too.
//! - TCP, by smoltcp 0.14: an application's FIN that overtakes data is forgotten, and the end waits for its retransmission.
//!   It takes a loss on the way into the TUN, which neither reorders nor delays.
//! - RFC 4787 REQ-9 and RFC 5382 REQ-8, hairpinning, on a laptop: an outside endpoint is an address of this machine, and
//!   the kernel delivers what is sent to one of those before any rule of ours is asked. So such datagrams do not enter the
//!   TUN, and no TCP hairpins. Where they do enter, UDP is turned back if the socket is bound to an address; one on every
//!   address (the usual case when the application is bound to the VPN's) has no endpoint of its own to be recognised by.
//!   The first datagram of a mapping to a neighbour is dropped: its socket, and so its source, is not there yet.
//! - RFC 5508 REQ-1, REQ-2 and REQ-5, ICMP of the application's own: see the table. What an error would tell a media server is
//!   that nobody listens any more, and that ends by itself.
//! - RFC 5508 REQ-3a, the checksum of the embedded IP header: the kernel does not look at it, nor at the embedded source
//!   address when the socket is bound to every one. The port must be that of a socket of ours, and the destination one that
//!   it has sent to.
//! - RFC 5508 REQ-7, hairpinned errors: a hairpinned datagram is delivered or dropped here, so only the application's own
//!   kernel could send one: as REQ-5.
//! - RFC 6888 REQ-8, quarantine of a port for 120 s: the kernel gives a port back at once. Filtering is what keeps a
//!   mapping's late packets from the next one: it admits nobody whom the new one has not sent to.
//! - RFC 6888 REQ-15, unguessable ports: preserved ports are the application's choice; the kernel's are random.
//! - ECN of fragments that are put together is the first one's; nothing is carried to the uplink of it anyway.
