//! Which VPNs voicelane was tested with, how each takes the traffic, and what IT must add where one forbids.
//!
//! # The matrix
//!
//! Each row is a test in `tests/coexistence.rs` or `tests/vpn.rs`, over IPv4 and IPv6 and in both orders: a call leaves
//! directly, marked EF, from sockets bound to nothing and to the VPN's address; other ports, other hosts and other
//! protocols stay in the VPN; after the VPN has stopped and started again under a running voicelane it is the same; and
//! what voicelane leaves behind is nothing. *Real* is the program itself. *Imitated* is its routing, and its firewall
//! where that matters, over a real WireGuard tunnel: the program is not packaged for Debian, or wants a desktop around it.
//!
//! | VPN | | how it takes the traffic | what we do |
//! |---|---|---|---|
//! | OpenVPN `redirect-gateway def1` | real | two halves of the address space in `main` | our rules ask our tables first |
//! | OpenVPN `redirect-gateway` | real | replaces the default route | our table keeps the uplink's; the gateway is read off the host route to the server |
//! | OpenVPN `block-local` | real | pulls the home network in too, but its router | as with def1 |
//! | wg-quick | real | `not fwmark 51820 lookup 51820`, without a priority, and an anti-spoofing rule | our rules move ahead of it; replies to the VPN's address by an alias |
//! | wg-quick with the kill switch of its manual | real | rejects what is unmarked and not by the tunnel | found out, named, obeyed; passes with an exclude or `vpn_mark` |
//! | NetworkManager's WireGuard | imitated | mark and table 51820 to 52319, rules at 30768 to 31767 | our rules are ahead |
//! | strongSwan, `kernel-libipsec` | real | table 220 by rule 220, a TUN | our rules are ahead |
//! | strongSwan, kernel IPsec | imitated | policies that take packets after routing | sockets (as soon as there is a policy) and TUN are exempt, see [`crate::route::xfrm`] |
//! | openconnect with ocserv and vpnc-script | real | replaces the default routes | as with OpenVPN |
//! | Tailscale exit node | imitated | rules 5210 to 5270, table 52 | our rules are ahead |
//! | Mullvad | imitated | rules without a priority; chains whose last word is drop | found out, named, obeyed; passes with an exclude or `conntrack_mark` |
//! | Cloudflare WARP, routing | imitated | a rule without a priority, added after us | our rules move ahead of it |
//!
//! Kernel IPsec is imitated because the kernel of the machine where this was tested has no ESP: charon says "received
//! netlink error: Protocol not supported (93)", "unable to add SAD entry". Its policies are real; they swallow packets, as
//! those of a real tunnel whose association is not up. Not tested: the firewalls of WARP, of Cisco Secure Client, of
//! GlobalProtect and of Zscaler, whose rules are not published.
//!
//! # What IT must add
//!
//! We edit nobody's firewall. Where one forbids media, `voicelane status` says which rule of which chain does, and what to
//! add. For the kill switch of wg-quick, which knows the VPN's packets by their mark, that is, as `PostUp` lines:
//!
//! ```text
//! iptables -I OUTPUT -o voicelane0 -j ACCEPT
//! iptables -I OUTPUT -o wlan0 -m mark --mark 0x76000000 -j ACCEPT
//! ```
//!
//! and the same with `ip6tables`, with neighbour discovery besides (`-o wlan0 -p icmpv6 --icmpv6-type
//! neighbour-solicitation` and `neighbour-advertisement`), which that kill switch forbids on IPv6: without it the router
//! is not found. In nftables' words:
//!
//! ```text
//! nft insert rule inet mullvad output oifname voicelane0 accept
//! nft insert rule inet mullvad output oifname wlan0 meta mark 0x76000000 accept
//! ```
//!
//! A chain at the input hook that drops what it does not know needs the like for answers, `iifname wlan0` and `iifname
//! voicelane0`: probes do not see that.
//!
//! Where the VPN has an exclude of its own, that is better, for it survives the VPN's updates:
//!
//! | VPN | its own exclude |
//! |---|---|
//! | OpenVPN | `route 168.86.128.0 255.255.192.0 net_gateway`, pushed or in the client's file |
//! | strongSwan | a connection with `mode = pass` and `start_action = trap` for the policy's prefixes |
//! | Cisco Secure Client | a split-exclude list on the gateway |
//! | GlobalProtect | exclude routes on the gateway |
//! | WARP | a split-tunnel exclude in the Zero Trust dashboard |
//! | Zscaler | VPN gateway bypass |
//!
//! # Borrowing the VPN's mark
//!
//! Where IT may change voicelane's file but not the firewall: `[uplink] vpn_mark` gives media the mark of the VPN's own
//! packets, `conntrack_mark` the mark of connections that the firewall excludes (Mullvad's is 0xf41). The relay's sockets
//! bear it, and a chain of ours at the output hook, priority -150, gives it to what goes into our TUN; with `vpn_mark`,
//! to neighbour discovery on the uplink too. The policy still decides what leaves.
//!
//! The risk: the firewall can no longer tell media from the VPN. A kill switch that is there so that *nothing* leaves
//! when the VPN is down then lets media leave when the VPN is down. Whoever wants that not must not set it.
//!
//! # A network that lies
//!
//! `tests/hostile_network.rs` holds the duties that TunnelCrack and TunnelVision (CVE-2024-3661) teach:
//!
//! - What leaves is the policy's prefixes and ports. No DNS answer, no DHCP option and no local route adds to it.
//! - The next hop is the uplink's default gateway. A more specific route for the media range, by the same link or by
//!   another, does not choose it; nor does a LAN that claims the media range for itself.
//! - What is forced into the TUN leaves by the policy alone.
//! - The TUN's address is not local: no ARP for it is answered, and nothing spoofed to it arrives. Aliases mean something
//!   on our TUN only.
//! - No setting of another link changes but `rp_filter` of the uplink, where it is strict.
//!
//! Not ours to mend: such routes lead other traffic out of most VPNs, with and without us.
