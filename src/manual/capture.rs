//! How packets of the policy enter the TUN, and how relayed packets keep out of the VPN.
//!
//! # Exact capture
//!
//! Each distinct pair of protocol and port range in the active policy has one routing table. The table's routes are the
//! pair's prefixes via the TUN. One rule per address family looks up the table:
//!
//! ```text
//! 100:  from all fwmark 0/0xff000000 iif lo ipproto udp dport 3478        lookup 30317
//! 100:  from all fwmark 0/0xff000000 iif lo ipproto udp dport 10000-60000 lookup 30318
//! ```
//!
//! `iif lo` matches packets of this machine. Forwarded packets need [`super::gateway`]. `fwmark 0/0xff000000` matches
//! packets without a voicelane mark. A family without an uplink is not captured, so its media stays in the VPN.
//!
//! *Decision: a table per port range.* Rules grow with port ranges, not with prefixes. A single table would be smaller. It
//! lost because it combines the ports of one service with the prefixes of another: such packets would be rejected although
//! the VPN could carry them. Packets that enter the TUN without a matching rule of the policy are rejected.
//!
//! # Capture of whole prefixes
//!
//! With `[route] capture = "prefix"`, one rule and one table per protocol capture all UDP and TCP to the active prefixes.
//! The policy still decides: relayed rules leave directly. All other packets return into the VPN through voicelane's
//! sockets, with the DSCP that the application set. ICMP and other protocols are not captured.
//!
//! This mode shows all traffic of a prefix in one place, and suits policies with many port ranges. It is off by default: the
//! other traffic then depends on voicelane, has other source ports in the VPN, and TCP is proxied.
//!
//! # The tunnel path
//!
//! A mapping opens a second socket for packets into the VPN: for captured prefixes, and after a failover ([`super::nat`]).
//! Its packets must take the route that applies without voicelane, and must not be captured again.
//!
//! *Decision: an unbound socket with a mark of its own.* The kernel routes each datagram by the VPN's rules, firewall and
//! IPsec policies. Capture rules exclude the mark, so rule order does not matter. The mark is 0x77000000 while direct
//! sockets have 0x76000000: a firewall exclude for direct media must not release VPN traffic when the VPN is down. Binding
//! to the VPN's interface lost: a policy-based IPsec VPN has none, and a reconnect may create another.
//!
//! A VPN rule that matches only packets without any mark would miss the socket; no such VPN is known.
//!
//! # The priority of the rules
//!
//! The kernel places a rule without an explicit priority just ahead of the first rule after `local`
//! (`fib_default_rule_pref` in net/core/fib_rules.c). wg-quick and others thus land ahead of voicelane when they start later.
//!
//! *Decision: a computed priority.* The rules stand at 100 (`[route] priority`). When a foreign rule appears ahead of them,
//! they move to one below the lowest foreign priority: new rules are added before old ones are deleted. Media takes the VPN
//! for the milliseconds before the move. The rules return when the foreign rule goes.
//!
//! Priority 0 lost. Later rules get 0 too, in order of arrival, which reverses wg-quick's two rules. Its
//! `suppress_prefixlength 0` rule, which keeps the LAN reachable, is then never reached:
//!
//! ```text
//! 0:  from all lookup local
//! 0:  from all iif lo ipproto udp dport 10000-60000 lookup 30318
//! 0:  not from all fwmark 0xca6c lookup 51820
//! 0:  from all lookup main suppress_prefixlength 0      <- never reached
//! ```
//!
//! # The direct path
//!
//! Each direct socket is bound to the uplink's interface and carries a mark:
//!
//! ```text
//! 100:  from all fwmark 0x76000000/0xff000000 oif wlan0 lookup 30316
//! ```
//!
//! Table 30316 holds only the uplink's default route. So a VPN that replaces the default route of `main` does not remove the
//! next hop. A route to the media range that a DHCP server adds to `main` does not change it (TunnelVision, CVE-2024-3661).
//!
//! # Kernel settings
//!
//! | setting | on | reason |
//! |---|---|---|
//! | `disable_xfrm`, `disable_policy` | the TUN, IPv4 | a catch-all IPsec policy must not take packets into or out of the TUN |
//! | `rp_filter` 2 | the TUN | the kernel uses the maximum of this and "all"; 2 is the only value that overrides a strict "all" |
//! | address 127.118.0.8/32, scope host, without its local route | the TUN | loose filtering needs an IPv4 address on the link; no socket selects this one, and any socket can bind to it |
//! | link mode and state "dormant" | the TUN | browsers bind to each address of each running interface; they skip a dormant one, so ICE has no useless candidate |
//! | `rp_filter` 2 | the uplink, if it is strict | the route back to the media range is the TUN, so a strict filter drops every reply; the old value is saved and restored |
//!
//! # IPsec over IPv6
//!
//! IPv6 has no `disable_xfrm`. Beside foreign IPv6 policies, voicelane adds allow policies for exactly the captured ports
//! and prefixes. They expire after a minute unless the service renews them, so they end after a kill too.
//!
//! Outward they match unmarked packets, so IPsec still takes packets of the tunnel path. Inward they match a mark that an
//! nftables chain sets on packets from the TUN (`tests/lab/ipsec.rs`). So packets from the uplink stay subject to IPsec, whatever
//! their source address.
//!
//! Limits: a foreign policy of priority 0 that was there first cannot be overridden. Without nftables there is no mark, so
//! replies on the tunnel path are lost over IPv6. Failover into such an IPv6 tunnel is not tested, because the test machine's
//! kernel has no ESP.
//!
//! # Replies to the VPN's address
//!
//! A browser binds ICE sockets to the VPN's address. wg-quick drops packets to that address that arrive outside the tunnel,
//! and voicelane's replies arrive from the TUN.
//!
//! *Decision: reply source substitution.* The engine writes such replies to an address in an unrouted range (240.0.0.0/4,
//! 100::/64). An nftables table restores the real address between the raw and connection-tracking hooks. The table belongs
//! to voicelane's netlink socket (`NFT_TABLE_F_OWNER`), so the kernel removes it when the process dies. Editing the VPN's
//! firewall lost: voicelane does not change other programs' rules.
