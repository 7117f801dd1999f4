//! Which VPNs were tested, how each takes the traffic, and what IT must add where a firewall blocks media.
//!
//! # Tested VPNs
//!
//! Each row is a test in `tests/lab/coexistence.rs` or `tests/lab/vpn.rs`, over IPv4 and IPv6 and in both start orders. A call leaves
//! directly, marked EF, from sockets bound to no address and to the VPN's address. Other ports, hosts and protocols stay in
//! the VPN. The same holds after a restart of the VPN, and voicelane leaves nothing behind.
//!
//! *Real* is the program itself. *Imitated* is its routing, and its firewall where it matters, over a real WireGuard tunnel:
//! Debian does not package the program, or it needs a desktop.
//!
//! | VPN | | how it takes the traffic | what voicelane does |
//! |---|---|---|---|
//! | OpenVPN `redirect-gateway def1` | real | two halves of the address space in `main` | its rules are ahead of `main` |
//! | OpenVPN `redirect-gateway` | real | replaces the default route | the direct table keeps the uplink's; the gateway comes from the host route to the server |
//! | OpenVPN `block-local` | real | takes the home network too, except its router | as with def1 |
//! | wg-quick | real | `not fwmark 51820 lookup 51820` without a priority, and an anti-spoofing rule | moves its rules ahead; replaces the reply source |
//! | wg-quick with the kill switch of its manual | real | rejects unmarked packets outside the tunnel | detects and names it, keeps media in the VPN; passes with an exclude or `vpn_mark` |
//! | NetworkManager's WireGuard | imitated | mark and table 51820 to 52319, rules at 30768 to 31767 | its rules are ahead |
//! | strongSwan, `kernel-libipsec` | real | table 220 by rule 220, a TUN | its rules are ahead |
//! | strongSwan, kernel IPsec | imitated | policies that take packets after routing | IPsec bypass of sockets and TUN |
//! | openconnect with ocserv and vpnc-script | real | replaces the default routes | as with OpenVPN |
//! | Tailscale exit node | imitated | rules 5210 to 5270, table 52 | its rules are ahead |
//! | Mullvad | imitated | rules without a priority; chains that drop by default | detects and names it; passes with an exclude or `conntrack_mark` |
//! | Cloudflare WARP, routing | imitated | a rule without a priority, added later | moves its rules ahead |
//!
//! Kernel IPsec is imitated because the test machine's kernel has no ESP. The policies are real: they drop packets like
//! those of a tunnel without an association. Not tested: the firewalls of WARP, Cisco Secure Client, GlobalProtect and
//! Zscaler, whose rules are not published.
//!
//! # What IT must add
//!
//! voicelane does not edit foreign firewalls. Where one blocks media, `voicelane status` names table, chain and rule, and
//! prints the exclude. For the kill switch of wg-quick, as `PostUp` lines:
//!
//! ```text
//! iptables -I OUTPUT -o voicelane0 -j ACCEPT
//! iptables -I OUTPUT -o wlan0 -m mark --mark 0x76000000 -j ACCEPT
//! ```
//!
//! and the same with `ip6tables`. Over IPv6 that kill switch also blocks neighbour discovery, so the router is not found: add
//! `-o wlan0 -p icmpv6 --icmpv6-type neighbour-solicitation` and `neighbour-advertisement`. In nftables syntax:
//!
//! ```text
//! nft insert rule inet mullvad output oifname voicelane0 accept
//! nft insert rule inet mullvad output oifname wlan0 meta mark 0x76000000 accept
//! ```
//!
//! A chain at the input hook that drops unknown packets needs the same for replies, with `iifname wlan0` and `iifname
//! voicelane0`. Probes do not detect such a chain.
//!
//! Prefer an exclude of the VPN itself, because it survives updates of the VPN:
//!
//! | VPN | exclude |
//! |---|---|
//! | OpenVPN | `route 168.86.128.0 255.255.192.0 net_gateway`, pushed or in the client's file |
//! | strongSwan | a connection with `mode = pass` and `start_action = trap` for the policy's prefixes |
//! | Cisco Secure Client | a split-exclude list on the gateway |
//! | GlobalProtect | exclude routes on the gateway |
//! | WARP | a split-tunnel exclude in the Zero Trust dashboard |
//! | Zscaler | VPN gateway bypass |
//!
//! # The VPN's own mark
//!
//! For IT that may change voicelane's file but not the firewall: `[uplink] vpn_mark` gives media the mark of the VPN's own
//! packets. `conntrack_mark` gives it the mark of connections that the firewall excludes (Mullvad: 0xf41). The relay's
//! sockets carry the mark. A chain at the output hook, priority -130, sets it on packets into the TUN. With `vpn_mark` the
//! chain also marks neighbour discovery on the uplink. The policy still decides which packets leave.
//!
//! The risk: the firewall cannot tell media from the VPN's packets. A kill switch that blocks everything while the VPN is
//! down then lets media out. Do not set the marks where that is unwanted.
//!
//! # Lookups without ports
//!
//! Capture rules match ports. Other programs make the kernel look up routes without ports, and media would then be lost:
//!
//! - A chain of type route changes the mark or the DSCP of outgoing packets: iptables mangle OUTPUT, application firewalls.
//! - A reverse-path check looks up the source of incoming packets: `fib saddr . mark . iif oif`, as firewalld installs it;
//!   `rpfilter --validmark`, as NixOS installs it.
//!
//! Where such a chain or rule exists, one more table, `voicelane-voicelane0-lookups`, marks media and its answers, and
//! routing rules match the mark. The relay's packets get their own mark back. A change of nftables takes effect at once, one
//! of legacy iptables within about a minute, because legacy iptables sends no notification. If only root may read which
//! legacy tables exist, the loaded modules count.
//!
//! Not passed: a check that ignores the mark, `rpfilter` without `--validmark` or `fib saddr . iif oif`. It drops answers on
//! the uplink. Add the mark to the check.
//!
//! | hooks | shown by |
//! |---|---|
//! | legacy and nft DSCP, whole and masked marks, early and late chains, both orders | `foreign_hooks::calls_pass_hooks_that_change_mark_or_dscp` |
//! | `fib` and `rpfilter` with the mark, legacy and nft, both orders | `foreign_hooks::calls_pass_reverse_path_checks_that_look_at_the_mark` |
//!
//! # Hostile networks
//!
//! `tests/lab/hostile_network.rs` holds the promises against TunnelCrack and TunnelVision (CVE-2024-3661):
//!
//! - Only prefixes and ports of the policy leave. No DNS answer, DHCP option or local route adds to them.
//! - The next hop is the uplink's default gateway. A more specific route for the media range does not change it, nor does
//!   a LAN that claims the media range.
//! - A packet that is forced into the TUN leaves by the policy alone.
//! - The TUN's address is not local: the kernel answers no ARP for it and accepts no packet spoofed to it. Reply sources
//!   are translated on the TUN only.
//! - Of other links only `rp_filter` of the uplink changes, if it is strict.
//!
//! Such routes redirect other traffic out of most VPNs, with and without voicelane. voicelane does not prevent that.
