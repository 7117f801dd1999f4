//! A branch gateway: one voicelane for everybody behind the VPN router of a site.
//!
//! With `[gateway] interfaces` the media of the machines behind these interfaces (clients) is captured besides this
//! machine's own, relayed from the uplink and marked EF, over IPv4 and IPv6. All else of theirs goes where it went.
//! Tests are those of `tests/gateway.rs`: clients behind a bridge, wg-quick on the gateway, and a firewall that translates
//! whatever leaves.
//!
//! # Capture
//!
//! ```text
//!  client --- lan0 --> whole datagrams --> marked 0x74000000, untracked --> rule: iif lan0, the mark, ports --> TUN
//!                          (defrag)          (nft, prerouting -280)              (ip rule, priority 100)
//!  client <-- lan0 <----------- routed by the main table, untracked <---------------------------------- TUN
//! ```
//!
//! - **Whole datagrams.** Ports stand in the first fragment alone, and a routing rule that names ports looks into no
//!   fragment of forwarded traffic, not even that. So an expression of ours that no packet reaches has the kernel put
//!   together what it forwards (`nf_defrag`, as connection tracking does on most gateways anyway; here without it). On its
//!   way out a datagram is parted again as it was, into the TUN or into the VPN.
//! - **A mark and a rule.** Both must agree: nftables sees the link, the source, the prefix and the ports, and marks; the
//!   rule asks for link, mark and ports, and its table has the prefixes. The mark (a third one within `0xff000000`, the
//!   other bits stay) is made by our nftables table alone. That table goes with the process at the very moment it dies,
//!   before or after the TUN: either way the next packet is an ordinary one.
//! - **Untracked.** Gateways mostly translate addresses into the VPN. Connection tracking decides once per connection
//!   whether it is translated: a call that it has seen going into the TUN would, after a kill, go on into the VPN with the
//!   client's own address, which nobody there answers, for as long as it lasts. So what is captured is no connection to
//!   it (`notrack`), nor are the answers out of the TUN; after a kill the call is a new connection, translated as any. It
//!   was tried without: the tests of the kill and of the clients' shares fail. Marking all that in a zone of its own would
//!   keep firewalls' "established", but has connection tracking on where it was off, and a rule that translates whatever
//!   leaves would still take the clients' addresses, by which the engine tells them apart.
//! - **No spoofing.** A packet is captured only if routing leads back to its source by the link that it came in by (the
//!   strict reverse path of RFC 3704 section 2.2), whatever `rp_filter` says. So a client can use the addresses of its own
//!   LAN only; within that LAN it can use its neighbour's, as it can without us: port security is the switch's. A LAN whose
//!   way back leads elsewhere than its way here is not served.
//!
//! # Clients
//!
//! Each has the endpoints that it has: inside endpoints of two clients with the same port are two mappings, and only one
//! of them keeps the port outside. A client's share is `mappings_per_client` and `connections_per_client` (RFC 6888
//! REQ-4, 5): one more is answered "prohibited" and counted, and its neighbours do not notice. 32,768 mappings are
//! enough for 128 clients at their limit.
//!
//! `remark` gives media's answers a code point on their way to the client, for providers mostly clear it and the LAN's
//! switches go by it. ECN stays. Only what the policy relays is marked; what stays in the VPN is as it comes.
//!
//! The gateway is one router on the way, and the translator another: the kernel takes one off the hop limit each way and
//! tells the client itself of a last hop (RFC 1812 section 5.3.1). ICMP errors of the path and of this machine reach the
//! client. ICMP of the client's own takes the VPN. Towards clients nothing is larger than the smallest MTU of their
//! interfaces (as `net/ipv6/conf/*/mtu` says it): what is goes in fragments.
//!
//! # What IT must have done
//!
//! | what | if not |
//! |---|---|
//! | forwarding: `net.ipv4.ip_forward`, `net.ipv6.conf.all.forwarding` | a warning. It is not switched on: that makes a router of a machine. Our own TUN is set to forward |
//! | a firewall that lets clients' media between their interface and the TUN, both ways | a warning with rule and remedy, and that family of that interface stays in the VPN |
//! | the interface itself | a warning |
//!
//! The remedy names both ways, because what is untracked is not "established" to a firewall:
//!
//! ```text
//! nft insert rule inet filter forward iifname lan0 oifname voicelane0 accept
//! nft insert rule inet filter forward iifname voicelane0 oifname lan0 accept
//! ```
//!
//! With Docker, whose chain FORWARD drops by policy, they belong into its chain `DOCKER-USER`.
//!
//! No packet can be made to come in by a LAN, so there is no probe like those of [`super::operating`]: one packet in a
//! second of each interface, family and direction is traced through the firewall instead, beginning with the very first.
//! When one is dropped, by a rule (which the trace names) or by something that cannot be traced, media goes into the VPN
//! at once, and is tried again every minute, and after `voicelane reload`. A trial costs a call what is sent within some
//! 30 ms. Not seen: what drops at the prerouting hook, and what lies behind the postrouting hook.
//!
//! # When it dies
//!
//! After SIGKILL the mark, the TUN and its routes are gone; what stays is rules that ask empty tables for a mark that nobody
//! makes. Media is in the VPN with the next packet (`gateway::a_killed_gateway_leaves_clients_calls_to_the_vpn`).
//!
//! # Reload
//!
//! Interfaces follow a reload. Whether there are any, the shares and the mark want a restart.
//!
//! # Not met
//!
//! - Hairpinning between clients (RFC 4787 REQ-9, RFC 6888 REQ-1): an outside endpoint is an address of this machine, and
//!   what is sent there is delivered here before any rule is asked, where the relay's sockets, bound to the uplink, do not
//!   take it. Clients of one site have better ways: their own addresses, or the media server.
//! - A link beyond a client's own that takes less than the interface (a second router behind it): its "too big" goes to the
//!   media server by the VPN, and is not heard. Voice is far below any MTU.
//! - An interface that is a port of a bridge: name the bridge.
//! - While others take our rules away, clients' media is untracked in the VPN, and so untranslated: for the 20 to 60 ms
//!   until the rules are back. In a contest (see [`super::laptop`]) for longer.
//! - With `[route] capture = "prefix"`, what goes back into the VPN comes from this machine's own address there, and the
//!   remote sees one machine for all clients.
