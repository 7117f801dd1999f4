//! The policy in the words of other programs, and who has judged each.
//!
//! `voicelane policy export FORMAT` writes what a vendor asks IT to set up elsewhere. The code is
//! [`policy::export`](crate::policy::export): one file for each target, and a table of them.
//!
//! # What is exported
//!
//! The services that are active on the day; with `--service`, those of these names, even if they are switched off. A
//! service that is over or has not begun is refused by name, because dates are facts of the vendor. The header names
//! voicelane's version, the day, the services with the vendor's source, and the policy's identity: a hash of the rules
//! alone, so that two exports of different days can be told to say the same.
//!
//! # What a target cannot say
//!
//! It becomes a note, in the text where the target has comments, and on standard error. Three kinds:
//!
//! - *Wider.* VPN exclusions know addresses and neither protocol nor ports; IPsec policies of Linux and Meraki's
//!   exclusions know single ports and no ranges. The exclusion then takes more out of the VPN than the policy names,
//!   TCP 443 above all, which can lock agents out where a vendor allow-lists the VPN's address. Where that matters,
//!   voicelane on the laptop is the narrower tool.
//! - *Less.* Meraki's requests take IPv4 only. OpenVPN 2.6 does not know `net_gateway_ipv6` on Linux: it warns, and puts
//!   the route into the tunnel; so its IPv6 is left out.
//! - *Other.* A PUT that replaces a list; a browser that has no addresses to set.
//!
//! # Who has judged it
//!
//! | format | judge |
//! |---|---|
//! | `nftables`, `openwrt` | `nft` loads it, twice, and as a part of another table; read back, it is the policy |
//! | `iptables` | `iptables-restore` and `ip6tables-restore` load it, each its family; read back, it is the policy |
//! | `openvpn`, `openvpn-server` | a client runs with it, and the kernel is asked for its routes |
//! | `wireguard` | `wg-quick` runs with it, and the kernel is asked; with the policy it is the whole address space |
//! | `swanctl` | charon loads it, and the kernel is asked for its policies; read back, it is the policy |
//! | `windows-qos`, `windows-routes` | a grammar of PowerShell; the first is read back. Not tried on Windows |
//! | `cisco-ios`, `mikrotik` | read back, they are the policy. Not tried on a device |
//! | `meraki`, `warp`, `globalprotect`, `cisco-asa`, `chrome`, `edge` | golden files, after the vendors' documents. Not tried |
//! | `cidr`, `json` | golden files |
//!
//! Read back means: at every edge of every prefix and port range, a property test finds the export and
//! [`Policy::evaluate`](crate::policy::Policy::evaluate) of one mind (`tests/export`). The golden files are in
//! tests/golden/export; policy.toml there says how they are renewed.
//!
//! # WireGuard
//!
//! Without a /0 in AllowedIPs, wg-quick sets up neither its mark nor its rules, and the tunnel's own packets would enter
//! the tunnel. The export brings both, as lines of the interface. AllowedIPs is the complement of the policy, in as few
//! prefixes as there are.
