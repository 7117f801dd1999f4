//! A branch gateway: one voicelane for all machines behind the VPN router of a site.
//!
//! `[gateway] interfaces` names interfaces. Media of the machines behind them (clients) is captured like this machine's own,
//! relayed from the uplink and marked EF, over IPv4 and IPv6. All other traffic of clients is routed as before. The tests
//! are in `tests/lab/gateway.rs`.
//!
//! # Capture
//!
//! ```text
//!  client --- lan0 --> whole datagrams --> marked 0x74000000, untracked --> rule: iif lan0, the mark, ports --> TUN
//!                          (defrag)          (nft, prerouting -280)              (ip rule, priority 100)
//!  client <-- lan0 <----------- routed by the main table, untracked <---------------------------------- TUN
//! ```
//!
//! - **Whole datagrams.** Ports are in the first fragment only, and rules with ports match no fragment of forwarded traffic.
//!   So an nftables expression activates the kernel's reassembly (`nf_defrag`). The kernel fragments the datagram again on
//!   output, into the TUN or into the VPN.
//! - **A mark and a rule.** nftables matches link, source, prefix and ports, and sets the mark. The rule matches link, mark and
//!   ports. The nftables table dies with the process, so the next packet is an ordinary one.
//! - **No spoofing.** A packet is captured only if the route to its source leads to the link of arrival. This strict reverse
//!   path check (RFC 3704 section 2.2) does not depend on `rp_filter`. Within its LAN a client can still use a neighbour's address, as without
//!   voicelane. A LAN with asymmetric routing is not served.
//!
//! *Decision: no connection tracking (`notrack`).* Most gateways translate addresses towards the VPN, once per connection.
//! A tracked call that once entered the TUN would, after a kill, continue untranslated into the VPN, where nobody answers.
//! Untracked, it is a new connection after the kill and is translated. A separate conntrack zone lost: it enables tracking
//! where it was off, and address translation would still hide which client sent a packet.
//!
//! # Clients
//!
//! Endpoints of two clients with the same port are two mappings; one of them keeps the port outside. Each client may have
//! `mappings_per_client` mappings and `connections_per_client` connections (RFC 6888 REQ-4, REQ-5). Further ones are
//! rejected as "prohibited" and counted, and other clients are not affected.
//!
//! `remark` sets the DSCP of media towards clients, because providers often clear it. ECN stays. Traffic from the VPN keeps
//! its DSCP.
//!
//! The gateway and the translator each take one off the hop limit. ICMP errors of the path and of this machine reach the
//! client. The client's own ICMP takes the VPN. Packets towards clients are fragmented to the smallest MTU of their
//! interfaces.
//!
//! # What IT must prepare
//!
//! | prerequisite | if missing |
//! |---|---|
//! | forwarding: `net.ipv4.ip_forward`, `net.ipv6.conf.all.forwarding` | a warning. voicelane does not enable it, because forwarding turns a machine into a router |
//! | a firewall that accepts media between the clients' interface and the TUN, both directions | a warning with rule and remedy; that family of that interface stays in the VPN |
//! | the interface | a warning |
//!
//! The firewall needs rules for both directions, because untracked packets are never "established":
//!
//! ```text
//! nft insert rule inet filter forward iifname lan0 oifname voicelane0 accept
//! nft insert rule inet filter forward iifname voicelane0 oifname lan0 accept
//! ```
//!
//! Docker's chain FORWARD drops by policy; there, insert them into `DOCKER-USER`.
//!
//! A probe cannot arrive by a LAN. Instead one packet per second of each interface, family and direction is traced through
//! the firewall. When a rule drops it, or two traced packets in a row vanish, media of that family and interface goes into
//! the VPN. It is tried again every minute and after `voicelane reload`. Each try costs calls some 30 ms of packets. Not
//! detected: drops at the prerouting hook and behind the postrouting hook.
//!
//! # Kill and reload
//!
//! After SIGKILL the mark, the TUN and its routes are gone. The remaining rules match a mark that nothing sets. Media is in
//! the VPN with the next packet (`gateway::client_calls_use_the_vpn_after_the_gateway_is_killed`).
//!
//! A reload changes the interfaces. Switching the gateway on or off, the limits and `remark` need a restart.
//!
//! # Limits
//!
//! - No hairpinning between clients (RFC 4787 REQ-9, RFC 6888 REQ-1). An outside endpoint is a local address, and the kernel
//!   delivers packets to it before it looks up rules. Clients of one site can use their own addresses or the media server.
//! - A smaller MTU behind a client's link: its "too big" message takes the VPN and is lost. Voice packets are far smaller.
//! - For an interface that is a bridge port, name the bridge.
//! - While another program deletes the rules, clients' media is untracked and untranslated in the VPN: 20 to 60 ms, longer
//!   in a conflict ([`super::laptop`]).
//! - With `[route] capture = "prefix"`, packets into the VPN have this machine's address there.
