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
//! # Not met yet
//!
//! - REQ-9 hairpinning: two inside endpoints that address each other's outside endpoint. Neither lies in a policy's
//!   prefixes, so such packets do not reach the TUN on a laptop.
//! - REQ-14 fragments from the TUN are dropped and counted. A local socket routes before it fragments, so its fragments
//!   do arrive in the TUN; media datagrams are far below the MTU.
//! - ICMP errors are not rate-limited.
