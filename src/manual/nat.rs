//! The translator's behaviour, requirement by requirement.
//!
//! The numbers are those of RFC 4787 (UDP). The tests' names are those of the unit, property and namespace tests.
//!
//! | requirement | what we do | shown by |
//! |---|---|---|
//! | REQ-1 endpoint-independent mapping | one unconnected socket per inside endpoint, whoever it sends to | `nat::mapping::tests::the_table_does_what_the_model_does` |
//! | REQ-2 address pooling paired | an uplink's sockets all send from the uplink's address | `vpn_*` tests: the source seen on the physical link |
//! | REQ-3 no port overloading | the kernel's port table: two sockets never share a port | by construction (`relay::bind`) |
//! | REQ-5 mapping timer at least 2 minutes | 300 s; configuration below 120 s is refused | `config` tests |
//! | REQ-6 outbound refresh | outbound packets refresh, inbound ones never | the same property test |
//! | REQ-8 filtering | address-dependent; the other two by configuration | `nat::filter::tests::each_filtering_lets_in_its_own` |
//! | REQ-10 no application-level gateways | none; payload is never looked into to change it | by construction |
//! | REQ-11 deterministic | a mapping's behaviour does not depend on load or history | the same property test |
//! | REQ-12 ICMP does not end a mapping | errors are passed on, the mapping stands | `engine::tests::an_error_of_the_path_reaches_the_application` |
//! | REQ-13 too big | EMSGSIZE comes back through the error queue as "packet too big" | `relay` |
//!
//! The source port is preserved where it is free (section 4.2.1). An application on this machine that is bound to no
//! address holds its port on every address, the uplink's included: then the kernel chooses another.
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
//! # Not met yet
//!
//! - RFC 5382 REQ-1, endpoint-independent mapping for TCP: each connection has a port of its own. Only hole punching
//!   between peers would need it; a policy's TCP goes to servers.
//! - RFC 5382 REQ-2, simultaneous open from the application's side: its SYN is answered by ours, never crossed by the far
//!   side's, for the same reason.
//! - RFC 5382 REQ-4, silence for 6 s to an unsolicited SYN: it meets this machine's own stack, or its firewall, not us.
//! - RFC 5382 REQ-8, hairpinning: as with UDP below.
//!
//! - REQ-9 hairpinning: two inside endpoints that address each other's outside endpoint. Neither lies in a policy's
//!   prefixes, so such packets do not reach the TUN on a laptop.
//! - REQ-14 fragments from the TUN are dropped and counted. A local socket routes before it fragments, so its fragments
//!   do arrive in the TUN; media datagrams are far below the MTU.
//! - ICMP errors are not rate-limited.
