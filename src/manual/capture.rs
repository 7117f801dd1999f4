//! How exactly the policy's packets get into the TUN, and how they stay on the direct path.
//!
//! # Capture is exact
//!
//! For each family and each distinct pair of protocol and port range in the active policy there is one routing table, whose routes are
//! that pair's prefixes by way of the TUN, and one rule per address family that leads there:
//!
//! ```text
//! 100:  from all fwmark 0/0xff000000 iif lo ipproto udp dport 3478        lookup 30317
//! 100:  from all fwmark 0/0xff000000 iif lo ipproto udp dport 10000-60000 lookup 30318
//! ```
//!
//! Rules grow with the number of port ranges, not of prefixes. A single table for all of them would have been smaller,
//! but would also have caught the port range of one service at the prefixes of another: such packets would have to be
//! rejected although the VPN would have carried them. So nothing enters the TUN that the policy does not relay, and what
//! comes in all the same (a program that binds itself to the TUN, a policy that has just changed) is rejected.
//!
//! A family for which the uplink has no way out is not captured: its media is better in the VPN than nowhere.
//!
//! `iif lo` means "sent by this machine". What other machines send through this one stays where it is, unless it is to be
//! their gateway ([`super::gateway`]). `fwmark
//! 0/0xff000000` means "without a mark of ours", see "The way into the VPN".
//!
//! # Whole prefixes
//!
//! With `[route] capture = "prefix"` all UDP and TCP to the prefixes of the active rules enters the TUN, by one rule and
//! one table for each protocol. The lookup table decides as ever: what a rule relays goes out directly, and the rest is
//! carried back into the VPN by sockets of ours, with the code point that its application gave it. It is for those who
//! want to see all traffic of a prefix in one place, and for policies of more port ranges than one would like to have
//! rules. It costs what "exact" does not: the rest of the prefix depends on our process, comes to the VPN from other
//! source ports, and TCP is terminated on the way. So it is off by default.
//!
//! What the relay cannot carry is not captured: an ICMP echo, and every protocol but these two, stays in the VPN by the
//! kernel's own routing. What comes into the TUN all the same is rejected by ICMP. When the process is killed, the
//! prefixes are the VPN's again like everything else.
//!
//! # The way into the VPN
//!
//! A mapping has a second socket when it needs one: for what is captured with its prefix, and for calls whose direct way
//! fails ([`super::nat`]). It must take the way that the application's packet would have taken without us, and it must
//! never meet our own captures, or its packets would go in circles through the TUN.
//!
//! Binding it to the VPN's interface would do the second, but the first only where there is one interface and where we
//! know which: a policy-based IPsec VPN has none, the two families may leave by different ones, and a VPN that reconnects
//! gets a new one. So it is bound to nothing, and carries a mark out of our octet; every capture rule asks for packets
//! without one. The
//! kernel decides about it as it decides about everything else, for each datagram anew: the VPN's rules, its firewall and
//! its IPsec policies apply, and without a VPN it goes out as it would have gone without us. There is no moment at which
//! rule order matters, because the exemption is a part of each capture rule itself. The direct rule (below) does not take
//! it, because it is bound to no uplink. And the mark is another one than that of direct sockets, 0x77000000 instead of
//! 0x76000000: a firewall that lets direct media by, or a mark that it borrows of the VPN ([`super::vpns`]), must not let
//! out what belongs into the VPN when the VPN is down.
//!
//! A VPN whose own rule wants packets without any mark would miss it; none is known. Where we add IPsec exemptions of our
//! own for IPv6 (below), they are for unmarked packets too, so that this socket's are IPsec's. Their inward halves are for
//! what comes out of our TUN alone, for an exemption refuses what came through an association, as answers in the VPN do.
//!
//! # The rules' priority is computed
//!
//! A rule that is added without a priority gets the one above the second rule of the list (`fib_default_rule_pref` in
//! net/core/fib_rules.c). wg-quick and others add theirs so, and thus land just ahead of ours when they start later.
//!
//! Priority 0 looks like the way out: later rules get 0 too and are placed behind ours. It was tried, and it breaks
//! wg-quick: its second rule (`table main suppress_prefixlength 0`, which keeps the LAN reachable) is meant to land
//! *ahead* of its first (`not fwmark 51820 lookup 51820`), and with equal priorities it lands behind. The LAN falls into
//! the tunnel, printers and name servers with it:
//!
//! ```text
//! 0:  from all lookup local
//! 0:  from all iif lo ipproto udp dport 10000-60000 lookup 30318
//! 0:  not from all fwmark 0xca6c lookup 51820
//! 0:  from all lookup main suppress_prefixlength 0      <- never reached
//! ```
//!
//! So our rules stand at 100 (a setting), and whenever a foreign rule appears ahead of them they move to one below the
//! lowest foreign priority: new ones are added first, then the old ones removed. For the milliseconds in between, media
//! goes into the VPN, as it would without us. When the foreign rules go, ours move back, so that a VPN that comes and
//! goes all day never drives them to the end of the scale.
//!
//! # The direct path
//!
//! Every socket of the relay is bound to the uplink's interface, which outranks all routing rules, and carries our mark:
//!
//! ```text
//! 100:  from all fwmark 0x76000000/0xff000000 oif wlan0 lookup 30316
//! ```
//!
//! Table 30316 holds nothing but the uplink's default route. Two things depend on it: a VPN that replaced the default
//! route in `main` has left no next hop there; and a route to the media range that a DHCP server or somebody else
//! slipped into `main` cannot choose our next hop (TunnelVision, CVE-2024-3661).
//!
//! # Settings of the kernel
//!
//! | setting | on | why |
//! |---|---|---|
//! | `disable_xfrm`, `disable_policy` | the TUN, IPv4 | an IPsec policy that catches everything must catch neither what goes into the TUN nor what we write back |
//! | `rp_filter` 2 | the TUN | the kernel takes the greater of this and of "all", so 2 is the one value that keeps a strict "all" away |
//! | the address 192.0.0.8/32, scope host, without its local route | the TUN | a link without an IPv4 address fails even the loose filter; this one is nobody's (RFC 7600), no socket gets it as its source, and nobody on the LAN gets an answer for it |
//! | `rp_filter` 2 | the uplink, only where it is strict | the route back to the media range is our TUN, so strict filtering would drop every reply; the old value is journalled and restored |
//!
//! IPv6 has no `disable_xfrm`. Where foreign IPv6 policies are found, allow policies for exactly the captured ports and
//! prefixes are added, as leases of a minute that the running service renews: after a kill they lapse by themselves. A
//! foreign policy at priority 0 that was there first cannot be outdone. Inward they want our mark, which a chain of ours
//! at the end of the input hook gives to what comes out of our TUN: so what comes by the uplink, whoever it claims to be
//! from, stays IPsec's (`tests/ipsec.rs`). Not tested, for the kernel of the test machine has no ESP: a whole call that
//! falls back into such a tunnel. Without nftables there is no mark, and that fall is silent over IPv6; the call then comes
//! back by its trials, and nothing leaks.
//!
//! # Addresses that must not be named
//!
//! A browser binds its ICE sockets to the VPN's address. wg-quick drops every packet to that address that did not come
//! through the tunnel, and our replies come through the TUN. We do not edit other programs' firewalls; instead the
//! engine writes such replies to an *alias* out of ranges that nobody routes (240.0.0.0/4, 100::/64), and a small
//! nftables table of our own, between the raw and the connection-tracking hook, writes the real address back. The table
//! belongs to our netlink socket (`NFT_TABLE_F_OWNER`): when the process dies, the kernel removes it.
