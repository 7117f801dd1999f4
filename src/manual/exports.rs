//! The policy in the syntax of other products, and how each export was verified.
//!
//! `voicelane policy export FORMAT` writes what a vendor asks IT to configure elsewhere. The code is
//! [`policy::export`](crate::policy::export): one file per target and a table of all targets.
//!
//! # Content
//!
//! The export contains the services that are active on the day. `--service` selects services by name, also disabled ones.
//! A service whose dates exclude the day is refused, because dates are facts of the vendor.
//!
//! The header names voicelane's version, the day, the services with their sources, and a hash of the rules. Equal hashes
//! mean equal rules, whatever the day of the export.
//!
//! # What a target cannot express
//!
//! Each difference becomes a note, in the text where the target has comments, and on standard error:
//!
//! - *Wider.* VPN exclusions contain addresses without protocol and ports. Linux IPsec policies and Meraki exclusions
//!   know single ports, no ranges. Such an exclusion takes more traffic out of the VPN than the policy, above all TCP 443.
//!   Where a vendor allow-lists the VPN's address, this can lock agents out. voicelane on the laptop is then more precise.
//! - *Narrower.* Meraki's API accepts IPv4 only. OpenVPN 2.6 on Linux does not implement `net_gateway_ipv6`: it warns and
//!   routes into the tunnel, so the export omits IPv6.
//! - *Other.* A PUT request that replaces a list; a browser that has no addresses to set.
//!
//! # Verification
//!
//! | format | verified by |
//! |---|---|
//! | `nftables`, `openwrt` | `nft` loads the export, twice and as part of another table; parsed back |
//! | `iptables` | `iptables-restore` and `ip6tables-restore` load it; parsed back |
//! | `openvpn`, `openvpn-server` | a client runs with it; the kernel's routes are compared |
//! | `wireguard` | `wg-quick` runs with it; the kernel's routes and the policy cover the address space |
//! | `swanctl` | charon loads it; the kernel's policies are compared; parsed back |
//! | `windows-qos`, `windows-routes` | a PowerShell grammar; the first is parsed back. Not tested on Windows |
//! | `cisco-ios`, `mikrotik` | parsed back. Not tested on a device |
//! | `meraki`, `warp`, `globalprotect`, `cisco-asa`, `chrome`, `edge` | golden files, after the vendors' documents. Not tested |
//! | `cidr`, `json` | golden files |
//!
//! Parsed back means: a property test compares the export with [`Policy::evaluate`](crate::policy::Policy::evaluate) at each
//! edge of each prefix and port range. The golden files are in `tests/golden/export`; its `policy.toml` says how to renew
//! them.
//!
//! # WireGuard
//!
//! The export sets AllowedIPs to the complement of the policy, in the fewest prefixes. Without a /0 in AllowedIPs, wg-quick
//! installs neither mark nor rules, and the tunnel's own packets would enter the tunnel. So the export contains both.
