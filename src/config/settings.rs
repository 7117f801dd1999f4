//! The table of settings: each setting with its type, bounds, default and reason.
//!
//! This table drives the reader, the JSON schema, `config show`, the manual, `voicelane.toml(5)` and the commented
//! example. A new setting is one entry here; `cargo run --example pages -- --update` rewrites the generated files.

use std::time::Duration;

use super::Config;
use super::raw::{Collector, RawTable};
use super::setting::{SettingSpec, SettingsTable, settings_tables};
use super::value_type::{BOOLEAN, Choice, List, Number, Scalar};
use super::values::{
    ANY_MARK, GROUP, INTERFACE, InterfaceName, MARK_MASK, METRICS_LISTEN, MetricsListen, OWN_MARK,
    PATTERN, REMARK, VPN_MARK, VpnMark,
};
use crate::net::{
    CaptureMode, Dscp, Filtering, Fwmark, InterfacePattern, RouteTable, RulePriority,
};

const PATTERNS: List<Scalar<InterfacePattern>> = List {
    entry: PATTERN,
    expected: "a list of patterns, such as [\"eth*\", \"wlan0\"]",
    non_empty: false,
};

impl RouteSettings {
    /// The bits of a mark that voicelane may set.
    pub const MASK: Fwmark = MARK_MASK;
}

const fn seconds(min: u32, max: u32, advice: &'static str) -> Number<Duration> {
    Number {
        min,
        max,
        advice,
        convert: |seconds| Duration::from_secs(u64::from(seconds)),
    }
}

const fn limit(min: u32, max: u32, advice: &'static str) -> Number<usize> {
    Number {
        min,
        max,
        advice,
        convert: |limit| limit as usize,
    }
}

settings_tables! {
    /// The network connection through which media leaves the machine.
    [uplink] UplinkSettings {
        /// The interface through which media leaves the machine.
        ///
        /// Without it, voicelane selects the best default route that is not a tunnel. It follows the machine between
        /// cable and wireless.
        interface: Option<InterfaceName> {
            key: "interface",
            value: INTERFACE,
            example: "\"wlan0\"",
            reason: "a laptop changes its network",
            reload: true,
        }
        /// Preferred interfaces, most preferred first; `*` matches any text.
        ///
        /// They override the metrics of the routes.
        prefer: Vec<InterfacePattern> {
            key: "prefer",
            value: PATTERNS,
            default: "[]",
            example: "[\"eth*\", \"wlan0\"]",
            reason: "the administrator's route metrics decide",
            reload: true,
        }
        /// Interfaces that media never uses, such as metered mobile data.
        exclude: Vec<InterfacePattern> {
            key: "exclude",
            value: PATTERNS,
            default: "[]",
            example: "[\"wwan*\"]",
            reason: "voicelane already excludes tunnels unless `interface` names one",
            reload: true,
        }
        /// Mark of the VPN's own packets, with which media passes the VPN's kill switch.
        ///
        /// If a kill switch blocks the direct path, media stays in the VPN and `voicelane status` shows the rule. An
        /// exception in that firewall is the better solution. If IT cannot add one, media can carry this mark.
        /// "auto" uses the mark that a rule of the VPN excepts, as wg-quick's does.
        ///
        /// Risk: the firewall cannot tell media from the VPN and never blocks it, not even on purpose.
        vpn_mark: Option<VpnMark> {
            key: "vpn_mark",
            value: VPN_MARK,
            example: "0xca6c",
            reason: "a kill switch is deliberate, so passing it is IT's decision",
            reload: true,
        }
        /// Mark of connections that the VPN's firewall excludes, such as Mullvad's split tunnel.
        ///
        /// The risk is the same as with `vpn_mark`.
        conntrack_mark: Option<Fwmark> {
            key: "conntrack_mark",
            value: ANY_MARK,
            example: "0xf41",
            reason: "a kill switch is deliberate, so passing it is IT's decision",
            reload: true,
        }
    }

    /// The TUN interface that receives captured packets.
    [tun] TunSettings {
        /// Name of the TUN interface, up to 15 characters.
        name: InterfaceName {
            key: "name",
            value: INTERFACE,
            default: "\"voicelane0\"",
            reason: "the name shows the program that owns the interface",
            reload: false,
        }
    }

    /// The numbers that distinguish voicelane's rules, tables and sockets from those of other programs.
    [route] RouteSettings {
        /// Routing table of the direct path.
        ///
        /// Each port range of the policy uses one more table, counted up from this one.
        table: RouteTable {
            key: "table",
            value: Number {
                min: 1,
                max: u32::MAX,
                advice: "choose another table, such as 30316",
                convert: RouteTable,
            },
            default: "30316",
            reason: "0x766c, \"vl\": no known VPN uses it, and the kernel uses 253 to 255",
            reload: false,
        }
        /// Priority of voicelane's routing rules; the kernel looks up lower numbers first.
        ///
        /// If another program uses a lower priority, voicelane moves ahead of it. 0 is not allowed: a wg-quick that
        /// starts later would order its rules wrongly.
        priority: RulePriority {
            key: "priority",
            value: Number {
                min: 1,
                max: 32_765,
                advice: "stay ahead of the main table's rule at 32766; at 0, a later wg-quick orders its rules wrongly",
                convert: RulePriority,
            },
            default: "100",
            reason: "ahead of the rules of every known VPN; strongSwan's 220 is the lowest",
            reload: false,
        }
        /// Mark of voicelane's own sockets, within the mask 0xff000000.
        ///
        /// Change it if another program uses these bits.
        mark: Fwmark {
            key: "mark",
            value: OWN_MARK,
            default: "0x76000000",
            reason: "wg-quick, Tailscale, Mullvad, WARP, sing-box and kube-proxy use lower bits",
            reload: false,
        }
        /// The packets that enter the TUN.
        ///
        /// "exact": packets that leave the VPN, by address and port. "prefix": all UDP and TCP to the services'
        /// prefixes; voicelane returns packets of no service to the VPN.
        capture: CaptureMode {
            key: "capture",
            value: Choice {
                words: &[("exact", CaptureMode::Exact), ("prefix", CaptureMode::Prefix)],
                expected: "a capture mode, such as \"exact\"",
            },
            default: "\"exact\"",
            reason: "other traffic does not pass voicelane",
            reload: false,
        }
    }

    /// NAT mappings (RFC 4787).
    [nat] NatMappingSettings {
        /// Seconds that a mapping lives without an outbound packet.
        mapping_lifetime: Duration {
            key: "mapping_lifetime_seconds",
            value: seconds(
                120,
                86_400,
                "a mapping must outlive two minutes of silence (RFC 4787 REQ-5); 300 is recommended",
            ),
            default: "300",
            reason: "RFC 4787 REQ-5 recommends 5 minutes or more, because agents put calls on hold",
            reload: false,
        }
        /// The remote endpoints from which a mapping accepts packets.
        ///
        /// "address-dependent" accepts addresses to which the mapping has sent. "address-and-port-dependent" is
        /// stricter and breaks some ICE candidates. "endpoint-independent" accepts every remote endpoint.
        filtering: Filtering {
            key: "filtering",
            value: Choice {
                words: &[
                    ("endpoint-independent", Filtering::EndpointIndependent),
                    ("address-dependent", Filtering::AddressDependent),
                    ("address-and-port-dependent", Filtering::AddressAndPortDependent),
                ],
                expected: "a filtering behaviour, such as \"address-dependent\"",
            },
            default: "\"address-dependent\"",
            reason: "RFC 4787 REQ-8; a media server may respond from another port, an unknown host may not",
            reload: false,
        }
        /// Whether inbound packets extend the lifetime of a mapping (RFC 4787 REQ-6).
        inbound_refresh: bool {
            key: "inbound_refresh",
            value: BOOLEAN,
            default: "false",
            reason: "RFC 7857 section 7: a remote endpoint must not keep a port open by itself",
            reload: false,
        }
        /// Maximum number of NAT mappings of all inside addresses.
        ///
        /// Each mapping uses one port of the uplink's address. Choose less if other programs of the machine need ports.
        max_mappings: usize {
            key: "max_mappings",
            value: limit(256, 32_768, "a call uses two to ten mappings"),
            default: "32768",
            reason: "half of the ports of an address; a laptop needs ten",
            reload: false,
        }
    }

    /// Failover of calls whose direct path fails.
    [failover] MediaFailoverSettings {
        /// Where a call continues if its direct path fails.
        ///
        /// "tunnel": in the VPN. "none": the call stays, and the application receives the ICMP errors.
        to_tunnel: bool {
            key: "to",
            value: Choice {
                words: &[("tunnel", true), ("none", false)],
                expected: "where failing calls go, such as \"tunnel\"",
            },
            default: "\"tunnel\"",
            reason: "a call in the VPN is better than no call",
            reload: false,
        }
        /// Seconds without a response to a call's STUN checks, after which its direct path has failed.
        ///
        /// Only unanswered checks count: a call in which one side is silent does not fail over.
        silence: Duration {
            key: "silence_seconds",
            value: seconds(1, 30, "2 keeps the gap in a call below 3 seconds"),
            default: "2",
            reason: "a dead uplink costs a call less than 3 s, and Wi-Fi pauses for 1 s when it roams",
            reload: false,
        }
        /// Seconds that a call stays in the VPN before voicelane tries the direct path again.
        ///
        /// Doubled up to 5 minutes if the call fails over again within a minute.
        retry: Duration {
            key: "retry_seconds",
            value: seconds(1, 3_600, "10 is recommended"),
            default: "10",
            reason: "an unstable path interrupts the call at each switch",
            reload: false,
        }
    }

    /// Clients whose media this machine forwards, as the router of a site.
    [gateway] GatewaySettings {
        /// Interfaces of the clients.
        ///
        /// The machine must forward them already: voicelane does not enable forwarding. A reload applies a changed
        /// list, but not the first interface or the removal of the last one.
        interfaces: Vec<InterfaceName> {
            key: "interfaces",
            value: List {
                entry: INTERFACE,
                expected: "a list of interfaces, such as [\"lan0\"]",
                non_empty: false,
            },
            default: "[]",
            example: "[\"lan0\"]",
            reason: "a laptop forwards only its own media",
            reload: true,
        }
        /// Maximum number of NAT mappings of one client (RFC 6888 REQ-4).
        ///
        /// With `interfaces`, the limit applies to every address, including this machine's own.
        mappings_per_client: usize {
            key: "mappings_per_client",
            value: limit(1, 32_768, "256 is enough for one person's calls"),
            default: "256",
            reason: "a call uses two to ten, each until five minutes after its last packet",
            reload: false,
        }
        /// Maximum number of TCP connections of one client, if services over TCP are enabled.
        connections_per_client: usize {
            key: "connections_per_client",
            value: limit(1, 4_096, "256 is enough for one person's calls"),
            default: "256",
            reason: "a browser opens some dozen",
            reload: false,
        }
        /// DSCP of media towards clients; "keep" leaves it as received.
        ///
        /// Providers often clear it. Choose "EF" if the switches and access points of the LAN use it.
        remark: Option<Dscp> {
            key: "remark",
            value: REMARK,
            default: "\"keep\"",
            reason: "IT decides on the DSCPs of the LAN",
            reload: false,
        }
    }

    /// The thread that forwards packets.
    [relay] RelaySettings {
        /// Whether the thread has real-time priority, where that is permitted.
        ///
        /// On a busy machine, media then does not wait for other programs. If the thread exceeds its CPU budget, it
        /// returns to normal priority for a second.
        realtime: bool {
            key: "realtime",
            value: BOOLEAN,
            default: "true",
            reason: "on a busy machine, normal priority delays calls",
            reload: false,
        }
    }

    /// Access to the running service.
    [control] ControlSettings {
        /// The group whose members may read the state of the service (`voicelane status`).
        ///
        /// Without it only root may. Every user may read a summary without addresses.
        group: Option<String> {
            key: "group",
            value: GROUP,
            example: "\"voicelane\"",
            reason: "mappings show who is in a call, and with whom",
            reload: false,
        }
        /// The group whose members may read the state and change it.
        ///
        /// Without it only root may.
        admin_group: Option<String> {
            key: "admin_group",
            value: GROUP,
            example: "\"voicelane-admin\"",
            reason: "IT decides which traffic leaves the VPN",
            reload: false,
        }
    }

    /// Metrics for a monitoring system.
    [metrics] MetricsSettings {
        /// The address of the OpenMetrics endpoint.
        ///
        /// "unix": the socket metrics.sock in the runtime directory, for the groups of `[control]`. A loopback
        /// address and port: for every user of this machine.
        listen: Option<MetricsListen> {
            key: "listen",
            value: METRICS_LISTEN,
            example: "\"unix\"",
            reason: "an unused port is an unnecessary risk",
            reload: false,
        }
    }
}
