//! The routing and the firewalls of programs that Debian does not package, or that need a desktop.

use super::wireguard::Routing;

/// `NetworkManager`'s `WireGuard` (nm-device-wireguard.c): mark and table are one number of 51820 to 52319. Its two rules
/// have a fixed even priority of 30768 to 31766, and the next one.
pub const NETWORK_MANAGER: Routing = Routing {
    mark: 52037,
    up: "route add %a dev %i table 52037 metric 50
         rule add priority 31202 lookup main suppress_prefixlength 0 protocol static
         rule add priority 31203 not fwmark 52037 lookup 52037 protocol static",
    down: "rule del priority 31202
           rule del priority 31203",
    firewall: "",
    table: None,
};

/// Tailscale with an exit node and access to the LAN (`wgengine/router`). Its own marked packets look up the main and
/// default tables only. All others look up table 52, which has `throw` routes for the LAN.
pub const TAILSCALE: Routing = Routing {
    mark: 0x80000,
    up: "route add %a dev %i table 52
         route add throw %l table 52
         rule add priority 5210 fwmark 0x80000/0xff0000 lookup main
         rule add priority 5230 fwmark 0x80000/0xff0000 lookup default
         rule add priority 5250 fwmark 0x80000/0xff0000 type unreachable
         rule add priority 5270 lookup 52",
    down: "route flush table 52
           rule del priority 5210
           rule del priority 5230
           rule del priority 5250
           rule del priority 5270",
    firewall: "",
    table: None,
};

/// Mullvad (talpid-routing and talpid-core's firewall): rules without a priority. Chains accept the tunnel, the mark of
/// excluded connections, the tunnel's own packets and the LAN, and reject other traffic. Excluded connections get the
/// address of their link.
pub const MULLVAD: Routing = Routing {
    mark: 0x6d6f_6c65,
    up: "route add %a dev %i table 1836018789
         rule add not fwmark 0x6d6f6c65 lookup 1836018789
         rule add lookup main suppress_prefixlength 0",
    down: "rule del not fwmark 0x6d6f6c65 lookup 1836018789
           rule del lookup main suppress_prefixlength 0",
    firewall: "table inet mullvad {
         chain output {
             type filter hook output priority filter; policy drop;
             oifname lo accept
             ct mark 0x00000f41 accept
             udp dport 53 reject
             udp dport 51820 meta mark 0x6d6f6c65 accept
             ip6 daddr fe80::/10 accept
             icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } accept
             ip daddr 192.168.0.0/16 accept
             ip6 daddr 2001:db8:7::/64 accept
             oifname %i accept
             reject
         }
         chain input {
             type filter hook input priority filter; policy drop;
             iifname lo accept
             ct mark 0x00000f41 accept
             udp sport 51820 accept
             icmpv6 type { nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept
             ip saddr 192.168.0.0/16 accept
             ip6 saddr 2001:db8:7::/64 accept
             iifname %i accept
         }
         chain nat {
             type nat hook postrouting priority srcnat; policy accept;
             oifname != lo ct mark 0x00000f41 masquerade
         }
     }",
    table: Some("inet mullvad"),
};

/// Cloudflare WARP: one rule without a priority, and a table of its own without the LAN.
pub const WARP: Routing = Routing {
    mark: 0x100cf,
    up: "route add %a dev %i table 65743
         route add throw %l table 65743
         rule add not fwmark 0x100cf lookup 65743",
    down: "route flush table 65743
           rule del not fwmark 0x100cf lookup 65743",
    firewall: "",
    table: None,
};
