//! The translator's behaviour, requirement by requirement.
//!
//! Tests are named by file and name: `engine` is `tests/engine.rs` with what lies in `tests/engine/` (packets and instants
//! in, outbox out), `model` is `tests/model.rs` (random courses against a reference model; the fuzz targets of the same
//! names play the same), `path_mtu`, `mapping` and `vpn` are namespace tests with the kernel on both sides. What is met
//! by construction says by which.
//!
//! # UDP (RFC 4787)
//!
//! | requirement | what we do | shown by |
//! |---|---|---|
//! | REQ-1 endpoint-independent mapping | one unconnected socket per inside endpoint, whoever it sends to | `model::the_engine_does_what_the_model_does`, `engine::one_mapping_serves_every_remote` |
//! | REQ-2 address pooling paired | an uplink's sockets all send from the uplink's address; when the uplink changes, all mappings move together | `vpn`: the source seen on the physical link; `model` (moves) |
//! | REQ-3 no port overloading | the kernel's port table: two sockets never share a port | `mapping::a_free_source_port_is_kept_and_a_taken_one_is_not_shared` |
//! | REQ-3a, 3b port ranges | a preserved port is the port; another one is of the kernel's range, 1024 or above | by construction (`relay::bind`) |
//! | REQ-4 port parity | recommended, and taken back by RFC 7857 section 8: not kept unless the port is | |
//! | REQ-5 mapping timer at least 2 minutes | 300 s; a configuration below 120 s is refused | `config` tests, `engine::a_mapping_lives_by_outbound_packets_alone` |
//! | REQ-6 outbound refresh; inbound may | outbound always; inbound from contacts alone, and only with `inbound_refresh = true` | `model`, `engine::limits::by_configuration_known_peers_refresh_a_mapping_and_strangers_never` |
//! | REQ-7 inside and outside address ranges that collide | both sides are this machine's own addresses and sockets: nothing is decided by which range an address is in. The TUN's one address is nobody's (RFC 7600) | by construction |
//! | REQ-8 filtering | address-dependent; the other two by configuration | `engine::only_whom_the_application_asked_may_answer`, `model`, `mapping::a_stranger_does_not_get_in` |
//! | REQ-9 hairpinning, 9a external source | a datagram in the TUN for a mapping's outside endpoint is turned back, from the sender's outside endpoint, through the receiver's filter; see "Not met" for where it cannot get there | `engine::limits::neighbours_reach_each_other_by_their_outside_endpoints`, `model` |
//! | REQ-10 application-level gateways off | none; payload is never looked into to change it | by construction |
//! | REQ-11 deterministic | a mapping's behaviour depends on neither load nor history | `model` |
//! | REQ-12 ICMP does not end a mapping | errors are passed on; they neither end a mapping nor refresh it | `engine::an_error_of_the_path_reaches_the_application`, `engine::limits::an_error_refreshes_nothing`, fuzz target `returned` |
//! | REQ-13 DF and too big | the DF bit goes along as the socket's path-MTU mode; what does not fit comes back as "fragmentation needed" or "packet too big", about the very datagram, with the MTU | `engine::sizes::the_wish_not_to_be_fragmented_goes_along`, `path_mtu::what_the_uplink_cannot_carry_comes_back_with_its_mtu`, `path_mtu::what_a_router_cannot_carry_comes_back_with_its_mtu` |
//! | REQ-14, 14a fragments, in and out of order | from the TUN: put together within bounds of memory and time (`engine::reassembly`); from the uplink: the kernel does it | `engine::sizes::fragments_in_any_order_become_one_datagram`, `model::reassembly_does_what_the_model_does`, `path_mtu::what_came_in_fragments_goes_out_in_fragments_and_back` |
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
//! | REQ-1, 2 queries and their sessions | none are captured: rules name UDP and TCP, so an echo to a captured prefix takes the VPN as it would without us. An echo that is forced into the TUN is answered "administratively prohibited": an echo reply of ours would say that a host is there which nobody has asked | `engine::limits::an_echo_that_is_forced_in_is_prohibited_at_once` |
//! | REQ-3 validate errors | the kernel verifies checksum and embedded packet before an error reaches a socket's queue; then it must name a remote that the mapping has sent to, of its own family, under any filtering | `engine::limits::no_stranger_is_believed_an_error_under_any_filtering`, `engine::a_forged_error_changes_nothing`, fuzz target `returned` |
//! | REQ-4, 5 errors from outside to inside | translated to the application's own datagram, from the reporter's address | `engine::an_error_of_the_path_reaches_the_application`, `mapping::an_unreachable_port_is_told_to_the_application` |
//! | REQ-6 no mapping ends by an error | as REQ-12 above | as above |
//! | REQ-7 hairpinned errors | none arise: a hairpinned datagram is delivered or dropped here | by construction |
//! | REQ-8 "administratively prohibited" when resources are spent | table full, address's share used, contacts full, no descriptor, no port | `engine::a_full_table_rejects_and_says_so`, `engine::limits::one_inside_address_leaves_room_for_others`, `engine::limits::what_waits_for_a_socket_that_cannot_be_opened_is_answered` |
//! | REQ-10 errors of our own: unreachable, time exceeded | the policy's and the limits' "prohibited"; time exceeded when the hop limit ends here, and when parts of a datagram do not come in time | `engine::a_last_hop_ends_here`, `engine::sizes::a_part_that_never_comes_is_waited_for_15_seconds` |
//! | RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f) rate | 50 in a row, 100 in a second; one bucket for ours and one for those passed on | `engine::limits::errors_keep_to_a_pace_and_one_kind_does_not_silence_the_other` |
//!
//! # Updates (RFC 7857) and what a provider's NAT owes its subscribers (RFC 6888)
//!
//! | requirement | what we do | shown by |
//! |---|---|---|
//! | RFC 7857 section 7 inbound refresh off where filtering is endpoint-independent | off everywhere; where it is on, strangers that the filter lets in refresh nothing | `engine::limits::by_configuration_known_peers_refresh_a_mapping_and_strangers_never` |
//! | RFC 7857 section 8 port parity off | see REQ-4 above | |
//! | RFC 7857 section 10, RFC 6864 IPv4 identification | the kernel's on the uplink; in the TUN a count that starts where nobody can guess | by construction |
//! | RFC 6888 REQ-4, 5 limits for each subscriber | 8,192 mappings of an inside address, of 32,768 in all; 1 MiB of waiting fragments of a source, of 4 MiB | `engine::limits::one_inside_address_leaves_room_for_others`, `engine::limits::a_flood_of_fragments_of_one_source_leaves_room_for_others` |
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
//! | connections and their windows | 4,096 times 128 KiB |
//! | outbox | what 64 packets and 64 datagrams make of themselves in one wake-up: below 20 MiB |
//! | errors found while sending | what the sockets' error queues hold (`rmem_default` each), of the sockets that one wake-up used |
//! | counters by reason | the reasons; refusals of the kernel: its error numbers |
//!
//! Hash tables are keyed with a secret of the process, so that endpoints cannot be chosen to collide.
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
//! Each is counted by reason and explained in status (`daemon::troubles`).
//!
//! # TCP (RFC 5382)
//!
//! A proxy carries it, see `engine::tcp`. The tests are those of `tests/tcp.rs`, in simulated time, and of
//! `tests/tcp_proxy.rs`, with the kernel's stack on both sides.
//!
//! | requirement | what we do | shown by |
//! |---|---|---|
//! | REQ-2 all valid sequences | two whole stacks: smoltcp towards the application, the kernel's towards the far side; half-close and reset pass both ways, and nothing is accepted before the far side has accepted | `the_application_may_end_first`, `the_far_side_may_end_first`, `a_reset_*`, `nothing_is_accepted_before_the_far_side_has_accepted` |
//! | REQ-3 filtering | address-and-port-dependent: a connected socket | by construction (`relay::tcp`) |
//! | REQ-5 idle time-outs | 2 h 4 min established or half closed, 4 min opening or closing | `an_idle_connection_ends_after_two_hours_and_four_minutes`, `a_closing_connection_ends_after_four_minutes`, `a_connection_that_is_given_up_before_the_answer_is_given_up` |
//! | REQ-6 no application-level gateways | none; bytes are carried, never read | by construction |
//! | REQ-7 no port overloading | the kernel's port table | by construction |
//! | REQ-9 ICMP destination unreachable | while connecting it becomes the same error about the application's SYN | `an_unreachable_far_side_is_an_icmp_error_about_the_syn`, `an_unreachable_host_is_told_by_icmp` |
//! | REQ-10 ICMP ends no connection | soft errors once it stands (RFC 5461); an error ends an attempt, as it does on any host | by construction: the sockets have no `IP_RECVERR` |
//!
//! When its 4,096 connections are taken, a new one is prohibited by ICMP and counted (`a_full_table_says_so`). A
//! connection never holds more than its two windows of 64 KiB (`a_slow_reader_slows_the_writer_and_nothing_grows`).
//! When a policy no longer relays a connection, or the uplink changes, it is reset on both sides.
//!
//! # Not met
//!
//! - RFC 5382 REQ-1, endpoint-independent mapping for TCP: each connection has a port of its own. Only hole punching
//!   between peers would need it; a policy's TCP goes to servers.
//! - RFC 5382 REQ-2, simultaneous open from the application's side: its SYN is answered by ours, never crossed by the far
//!   side's, for the same reason.
//! - RFC 5382 REQ-4, silence for 6 s to an unsolicited SYN: it meets this machine's own stack, or its firewall, not us.
//! - RFC 4787 REQ-9 and RFC 5382 REQ-8, hairpinning, on a laptop: an outside endpoint is an address of this machine, and
//!   the kernel delivers what is sent to one of those before any rule of ours is asked. So such datagrams do not enter the
//!   TUN, and no TCP hairpins. Where they do enter, UDP is turned back if the socket is bound to an address; one on every
//!   address (the usual case when the application is bound to the VPN's) has no endpoint of its own to be recognised by.
//!   The first datagram of a mapping to a neighbour is dropped: its socket, and so its source, is not there yet.
//! - RFC 5508 REQ-1 and REQ-2, mappings of ICMP queries: see the table.
//! - RFC 6888 REQ-8, quarantine of a port for 120 s: the kernel gives a port back at once. Filtering is what keeps a
//!   mapping's late packets from the next one: it admits nobody whom the new one has not sent to.
//! - RFC 6888 REQ-15, unguessable ports: preserved ports are the application's choice; the kernel's are random.
//! - ECN of fragments that are put together is the first one's; nothing is carried to the uplink of it anyway.
