//! The settings besides the policy: uplink, TUN, routing numbers, NAT, gateway, control socket, metrics. Each default gives its reason.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use toml::de::DeValue;

use super::diagnostic_kind::DiagnosticKind;
use super::raw::{Collector, RawTable, Spanned, boolean, choice, number, text};
use super::service::dscp;
use crate::net::{
    CaptureMode, Dscp, Filtering, Fwmark, InterfacePattern, RouteTable, RulePriority,
};

/// A network interface's name that the kernel accepts: 1 to 15 letters, digits, '-', '_' and '.'.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InterfaceName(String);

/// A text that is no interface's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no interface name: expected 1 to 15 of A-Z, a-z, 0-9, '-', '_' and '.', other than \".\" and \"..\""
)]
pub struct InterfaceNameError(String);

impl InterfaceName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = InterfaceNameError;

    /// Narrower than the kernel's own rule (`dev_valid_name`), which lets through `%`, a template for TUN names.
    fn from_str(name: &str) -> Result<Self, InterfaceNameError> {
        let fits = (1..=15).contains(&name.len()) && is_word(name) && name != "." && name != "..";
        if fits {
            Ok(Self(name.to_owned()))
        } else {
            Err(InterfaceNameError(name.to_owned()))
        }
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

fn is_word(text: &str) -> bool {
    text.bytes()
        .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
}

/// `[uplink]`: the way out for what leaves the VPN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UplinkSettings {
    /// The interface; without one the best physical default route is found and followed, as laptops roam.
    pub interface: Option<InterfaceName>,
    /// The interfaces to take first, the dearest first. None: the kernel's metrics decide, as the administrator set them.
    pub prefer: Vec<InterfacePattern>,
    /// The interfaces never to take, such as a metered modem.
    pub exclude: Vec<InterfacePattern>,
    /// The VPN's mark, for media to bear where its kill switch lets nothing else out. None: whoever installs a kill
    /// switch means it, so passing it is IT's decision.
    pub vpn_mark: Option<VpnMark>,
    /// The mark of connections that the VPN's firewall lets pass, for the same reason. None.
    pub conntrack_mark: Option<Fwmark>,
}

/// The mark of a VPN's own packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VpnMark {
    /// The one that a rule of the VPN excepts, as wg-quick's does; while there is none, none.
    Auto,
    /// This one.
    Is(Fwmark),
}

/// `[tun]`: where the captured packets enter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunSettings {
    /// The interface's name; `voicelane0`, so that `ip link` says whose it is.
    pub name: InterfaceName,
}

impl Default for TunSettings {
    fn default() -> Self {
        Self {
            name: InterfaceName("voicelane0".into()),
        }
    }
}

/// `[route]`: the numbers that tell our rules, tables and sockets from other programs'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSettings {
    /// The table of the direct way out; each captured port range takes one table above it. 30316, which no VPN known
    /// to us uses.
    pub table: RouteTable,
    /// The priority of our rules. 100, ahead of every VPN's (the lowest known is strongSwan's 220) and behind 0, where
    /// a later wg-quick would put its own two in the wrong order.
    pub priority: RulePriority,
    /// The mark of our own sockets, within [`RouteSettings::MASK`]. 0x76000000, clear of the marks of wg-quick,
    /// `NetworkManager`, Tailscale, Mullvad and WARP.
    pub mark: Fwmark,
    /// What enters the TUN. Exactly what leaves the VPN, so that everything else never meets us.
    pub capture: CaptureMode,
}

impl RouteSettings {
    /// The bits of a mark that are ours to set: the upper octet, which Tailscale's mask leaves free.
    pub const MASK: Fwmark = Fwmark(0xff00_0000);
}

impl Default for RouteSettings {
    fn default() -> Self {
        Self {
            table: RouteTable(30316),
            priority: RulePriority(100),
            mark: Fwmark(0x7600_0000),
            capture: CaptureMode::default(),
        }
    }
}

/// `[nat]`: how a mapping behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatSettings {
    /// How long a mapping lives without an outbound packet, 120 s to a day. 300 s, as RFC 4787 REQ-5 recommends.
    pub mapping_lifetime: Duration,
    /// Whose answers it lets in.
    pub filtering: Filtering,
    /// Whether answers of remotes that it has sent to keep it alive as well. They do not: RFC 4787 REQ-6 allows it and
    /// RFC 7857 section 7 warns of it.
    pub inbound_refresh: bool,
}

impl Default for NatSettings {
    fn default() -> Self {
        Self {
            mapping_lifetime: Duration::from_mins(5),
            filtering: Filtering::default(),
            inbound_refresh: false,
        }
    }
}

/// `[fallback]`: what becomes of a call whose direct way fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FallbackSettings {
    /// Whether it goes on in the VPN. It does: a call in the VPN is better than none.
    pub to_tunnel: bool,
    /// How long the direct way may bring no answer, 1 to 30 s. 2 s, so that a dead uplink costs a call less than 3 s.
    pub silence: Duration,
    /// How long a call stays in the VPN before the direct way is tried again, 1 s to an hour. 10 s; it doubles, up to
    /// five minutes, for who falls again at once.
    pub retry: Duration,
}

impl Default for FallbackSettings {
    fn default() -> Self {
        Self {
            to_tunnel: true,
            silence: Duration::from_secs(2),
            retry: Duration::from_secs(10),
        }
    }
}

/// `[gateway]`: whose media this machine carries besides its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewaySettings {
    /// The interfaces whose clients are served. None: a laptop carries nobody else's.
    pub interfaces: Vec<InterfaceName>,
    /// The mappings of one client. 256: a call takes two to ten, each for five minutes after its end.
    pub mappings_per_client: usize,
    /// The TCP connections of one client. 256: a browser opens some dozen.
    pub connections_per_client: usize,
    /// The code point of media towards clients. None: the one that it arrives with.
    pub remark: Option<Dscp>,
}

impl Default for GatewaySettings {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            mappings_per_client: 256,
            connections_per_client: 256,
            remark: None,
        }
    }
}

/// `[relay]`: how packets are carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelaySettings {
    /// Whether the thread that carries packets is scheduled in real time, where that is permitted. It is: on a busy
    /// machine nothing else keeps a call in time.
    pub realtime: bool,
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self { realtime: true }
    }
}

/// `[control]`: who may ask the running service, and who may change it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlSettings {
    /// The group whose members may look; without one only root may.
    pub group: Option<String>,
    /// The group whose members may look and change; without one only root may.
    pub admin_group: Option<String>,
}

/// `[metrics]`: where a monitoring system may read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricsSettings {
    /// The span; without one there is none.
    pub listen: Option<MetricsListen>,
}

/// Where metrics may be read. Never from another machine: they say who is on the phone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsListen {
    /// A socket in the runtime directory, for those who may look at the service.
    Unix,
    /// A loopback address, for everybody on this machine.
    Loopback(SocketAddr),
}

/// Reads the tables `[uplink]` and `[tun]`.
pub(super) fn interfaces(
    root: &mut RawTable<'_>,
    collector: &mut Collector,
) -> (UplinkSettings, TunSettings) {
    let (uplink, preferences, marks) = root.section(collector, "uplink", |section, collector| {
        let mut patterns = |key| {
            let expected = "a list of patterns, such as [\"eth*\", \"wlan0\"]";
            let list = section.list(collector, key, expected, pattern);
            let list = list.map_or_else(Vec::new, |list| list.value);
            list.into_iter().map(|entry| entry.value).collect()
        };
        let (prefer, exclude) = (patterns("prefer"), patterns("exclude"));
        let interface = section.optional(collector, "interface", interface);
        let marks = (
            section.optional(collector, "vpn_mark", vpn_mark),
            section.optional(collector, "conntrack_mark", any_mark),
        );
        (interface, (prefer, exclude), marks)
    });
    let ((prefer, exclude), (vpn_mark, conntrack_mark)) = (preferences, marks);
    let tun = root.section(collector, "tun", |section, collector| {
        section.optional(collector, "name", interface)
    });
    let name = tun.map_or_else(|| TunSettings::default().name, |tun| tun.value);
    if let Some(uplink) = uplink.as_ref().filter(|uplink| uplink.value == name) {
        collector
            .diagnostics
            .push(uplink.diagnostic(None, DiagnosticKind::UplinkIsTun));
    }
    let uplink = UplinkSettings {
        interface: uplink.map(|uplink| uplink.value),
        prefer,
        exclude,
        vpn_mark: vpn_mark.map(|mark| mark.value),
        conntrack_mark: conntrack_mark.map(|mark| mark.value),
    };
    (uplink, TunSettings { name })
}

/// Reads the table `[route]`; the span of the base table goes with it.
pub(super) fn route(
    root: &mut RawTable<'_>,
    collector: &mut Collector,
) -> (RouteSettings, Option<Spanned<u32>>) {
    root.section(collector, "route", |section, collector| {
        let default = RouteSettings::default();
        let table = section.optional(collector, "table", number(1, u32::MAX, "choose another, e.g. 30316"));
        let priority = section.optional(
            collector,
            "priority",
            number(
                1,
                32_765,
                "stay ahead of the main table's rule at 32766; at 0, a later wg-quick orders its rules wrongly",
            ),
        );
        let mark = section.optional(collector, "mark", mark);
        let capture = section.optional(
            collector,
            "capture",
            choice(&["exact", "prefix"], "what to capture, such as \"exact\""),
        );
        let route = RouteSettings {
            table: table.as_ref().map_or(default.table, |table| RouteTable(table.value)),
            priority: priority.map_or(default.priority, |priority| RulePriority(priority.value)),
            mark: mark.map_or(default.mark, |mark| mark.value),
            capture: capture.map_or(default.capture, |capture| capture.value),
        };
        (route, table)
    })
}

/// Reads the table `[nat]`.
pub(super) fn nat(root: &mut RawTable<'_>, collector: &mut Collector) -> NatSettings {
    root.section(collector, "nat", |section, collector| {
        let lifetime = section.optional(
            collector,
            "mapping_lifetime_seconds",
            number(
                120,
                86_400,
                "a mapping must outlive two minutes of silence (RFC 4787 REQ-5); 300 is recommended",
            ),
        );
        let filtering = section.optional(
            collector,
            "filtering",
            choice(
                &["endpoint-independent", "address-dependent", "address-and-port-dependent"],
                "a filtering behaviour, such as \"address-dependent\"",
            ),
        );
        let inbound_refresh = section.optional(collector, "inbound_refresh", boolean);
        let default = NatSettings::default();
        NatSettings {
            mapping_lifetime: lifetime.map_or(default.mapping_lifetime, |seconds| {
                Duration::from_secs(u64::from(seconds.value))
            }),
            filtering: filtering.map_or(default.filtering, |filtering| filtering.value),
            inbound_refresh: inbound_refresh
                .map_or(default.inbound_refresh, |refreshes| refreshes.value),
        }
    })
}

/// Reads the table `[fallback]`.
pub(super) fn fallback(root: &mut RawTable<'_>, collector: &mut Collector) -> FallbackSettings {
    root.section(collector, "fallback", |section, collector| {
        let to = section.optional(
            collector,
            "to",
            choice(
                &["tunnel", "none"],
                "where failing calls go, such as \"tunnel\"",
            ),
        );
        let to = to.map(|to: Spanned<Toward>| to.value);
        let silence = section.optional(
            collector,
            "silence_seconds",
            number(1, 30, "2 keeps the gap in a call below 3 seconds"),
        );
        let retry = section.optional(
            collector,
            "retry_seconds",
            number(1, 3_600, "10 is recommended"),
        );
        let default = FallbackSettings::default();
        let seconds = |at: Option<Spanned<u32>>, default| {
            at.map_or(default, |at| Duration::from_secs(u64::from(at.value)))
        };
        FallbackSettings {
            to_tunnel: to.map_or(default.to_tunnel, |Toward(is_tunnel)| is_tunnel),
            silence: seconds(silence, default.silence),
            retry: seconds(retry, default.retry),
        }
    })
}

/// Reads the table `[gateway]`. What is the way out, or our own, has no clients.
pub(super) fn gateway(
    root: &mut RawTable<'_>,
    (uplink, tun): (&UplinkSettings, &TunSettings),
    collector: &mut Collector,
) -> GatewaySettings {
    root.section(collector, "gateway", |section, collector| {
        let expected = "a list of interfaces, such as [\"lan0\"]";
        let interfaces = section.list(collector, "interfaces", expected, interface);
        let interfaces = interfaces.map_or_else(Vec::new, |list| list.value);
        for one in &interfaces {
            if one.value == tun.name || uplink.interface.as_ref() == Some(&one.value) {
                collector
                    .diagnostics
                    .push(one.diagnostic(None, DiagnosticKind::ClientsAtUplink));
            }
        }
        let mut limit = |key, most| {
            let reason = "256 is ample for a person's calls";
            let limit = section.optional(collector, key, number(1, most, reason));
            limit.and_then(|it| usize::try_from(it.value).ok())
        };
        let mappings = limit("mappings_per_client", 32_768);
        let connections = limit("connections_per_client", 4_096);
        let remark = section.optional(collector, "remark", remark);
        let default = GatewaySettings::default();
        GatewaySettings {
            interfaces: interfaces.into_iter().map(|one| one.value).collect(),
            mappings_per_client: mappings.unwrap_or(default.mappings_per_client),
            connections_per_client: connections.unwrap_or(default.connections_per_client),
            remark: remark.map_or(default.remark, |remark| remark.value),
        }
    })
}

/// Reads the table `[relay]`.
pub(super) fn relay(root: &mut RawTable<'_>, collector: &mut Collector) -> RelaySettings {
    root.section(collector, "relay", |section, collector| {
        let realtime = section.optional(collector, "realtime", boolean);
        RelaySettings {
            realtime: realtime.map_or(RelaySettings::default().realtime, |wanted| wanted.value),
        }
    })
}

/// Reads the table `[control]`.
pub(super) fn control(root: &mut RawTable<'_>, collector: &mut Collector) -> ControlSettings {
    root.section(collector, "control", |section, collector| {
        let mut named = |key| {
            let name = section.optional(collector, key, group);
            name.map(|name| name.value)
        };
        ControlSettings {
            group: named("group"),
            admin_group: named("admin_group"),
        }
    })
}

/// Reads the table `[metrics]`.
pub(super) fn metrics(root: &mut RawTable<'_>, collector: &mut Collector) -> MetricsSettings {
    root.section(collector, "metrics", |section, collector| MetricsSettings {
        listen: section
            .optional(collector, "listen", listen)
            .map(|listen| listen.value),
    })
}

fn group(value: &DeValue<'_>) -> Result<String, DiagnosticKind> {
    let name = text("a group's name, such as \"voicelane\"")(value)?;
    let fits = (1..=32).contains(&name.len()) && is_word(&name) && !name.starts_with(['-', '.']);
    if fits {
        Ok(name)
    } else {
        Err(DiagnosticKind::GroupName)
    }
}

fn listen(value: &DeValue<'_>) -> Result<MetricsListen, DiagnosticKind> {
    let span = text("\"unix\", or an address and port such as \"127.0.0.1:9764\"")(value)?;
    if span == "unix" {
        return Ok(MetricsListen::Unix);
    }
    let address = span.parse::<SocketAddr>().ok();
    address
        .filter(|address| address.ip().is_loopback() && address.port() != 0)
        .map(MetricsListen::Loopback)
        .ok_or(DiagnosticKind::MetricsPlace)
}

fn interface(value: &DeValue<'_>) -> Result<InterfaceName, DiagnosticKind> {
    let name = text("an interface's name, such as \"wlan0\"")(value)?;
    name.parse().map_err(|_| DiagnosticKind::InterfaceName)
}

fn pattern(value: &DeValue<'_>) -> Result<InterfacePattern, DiagnosticKind> {
    let text = text("a pattern of interface names, such as \"eth*\"")(value)?;
    text.parse().map_err(|_| DiagnosticKind::InterfacePattern)
}

fn remark(value: &DeValue<'_>) -> Result<Option<Dscp>, DiagnosticKind> {
    match value {
        DeValue::String(word) if word == "keep" => Ok(None),
        value => dscp(value).map(Some),
    }
}

fn vpn_mark(value: &DeValue<'_>) -> Result<VpnMark, DiagnosticKind> {
    match value {
        DeValue::String(_) => choice(&["auto"], "a mark, such as 0xca6c, or \"auto\"")(value)
            .map(|Auto| VpnMark::Auto),
        number => any_mark(number).map(VpnMark::Is),
    }
}

/// The one word that a mark may be.
struct Auto;

impl FromStr for Auto {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        (word == "auto").then_some(Self).ok_or(())
    }
}

/// A mark of another program's choice.
fn any_mark(value: &DeValue<'_>) -> Result<Fwmark, DiagnosticKind> {
    let reason = "0 is no mark; `wg show IFACE fwmark` and `ip rule` tell the VPN's";
    number(1, u32::MAX, reason)(value).map(Fwmark)
}

/// Whether a word names the tunnel.
struct Toward(bool);

impl FromStr for Toward {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        match word {
            "tunnel" => Ok(Self(true)),
            "none" => Ok(Self(false)),
            _ => Err(()),
        }
    }
}

fn mark(value: &DeValue<'_>) -> Result<Fwmark, DiagnosticKind> {
    let mask = RouteSettings::MASK.0;
    match number(0, u32::MAX, "write e.g. 0x76000000")(value) {
        Ok(mark) if mark == 0 || mark & !mask != 0 => Err(DiagnosticKind::Mark { mask }),
        mark => mark.map(Fwmark),
    }
}
