//! The settings besides the policy: uplink, TUN, routing numbers, NAT, gateway, control socket, metrics. Each default gives its reason.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use toml::de::DeValue;

use super::problem::Problem;
use super::raw::{At, Findings, Section, boolean, choice, number, text};
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
pub struct Uplink {
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
pub struct Tun {
    /// The interface's name; `voicelane0`, so that `ip link` says whose it is.
    pub name: InterfaceName,
}

impl Default for Tun {
    fn default() -> Self {
        Self {
            name: InterfaceName("voicelane0".into()),
        }
    }
}

/// `[route]`: the numbers that tell our rules, tables and sockets from other programs'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The table of the direct way out; each captured port range takes one table above it. 30316, which no VPN known
    /// to us uses.
    pub table: RouteTable,
    /// The priority of our rules. 100, ahead of every VPN's (the lowest known is strongSwan's 220) and behind 0, where
    /// a later wg-quick would put its own two in the wrong order.
    pub priority: RulePriority,
    /// The mark of our own sockets, within [`Route::MASK`]. 0x76000000, clear of the marks of wg-quick,
    /// `NetworkManager`, Tailscale, Mullvad and WARP.
    pub mark: Fwmark,
    /// What enters the TUN. Exactly what leaves the VPN, so that everything else never meets us.
    pub capture: CaptureMode,
}

impl Route {
    /// The bits of a mark that are ours to set: the upper octet, which Tailscale's mask leaves free.
    pub const MASK: Fwmark = Fwmark(0xff00_0000);
}

impl Default for Route {
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
pub struct Nat {
    /// How long a mapping lives without an outbound packet, 120 s to a day. 300 s, as RFC 4787 REQ-5 recommends.
    pub mapping_lifetime: Duration,
    /// Whose answers it lets in.
    pub filtering: Filtering,
    /// Whether answers of remotes that it has sent to keep it alive as well. They do not: RFC 4787 REQ-6 allows it and
    /// RFC 7857 section 7 warns of it.
    pub inbound_refresh: bool,
}

impl Default for Nat {
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
pub struct Fallback {
    /// Whether it goes on in the VPN. It does: a call in the VPN is better than none.
    pub to_tunnel: bool,
    /// How long the direct way may bring no answer, 1 to 30 s. 2 s, so that a dead uplink costs a call less than 3 s.
    pub silence: Duration,
    /// How long a call stays in the VPN before the direct way is tried again, 1 s to an hour. 10 s; it doubles, up to
    /// five minutes, for who falls again at once.
    pub retry: Duration,
}

impl Default for Fallback {
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
pub struct Gateway {
    /// The interfaces whose clients are served. None: a laptop carries nobody else's.
    pub interfaces: Vec<InterfaceName>,
    /// The mappings of one client. 256: a call takes two to ten, each for five minutes after its end.
    pub mappings_per_client: usize,
    /// The TCP connections of one client. 256: a browser opens some dozen.
    pub connections_per_client: usize,
    /// The code point of media towards clients. None: the one that it arrives with.
    pub remark: Option<Dscp>,
}

impl Default for Gateway {
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
pub struct Relay {
    /// Whether the thread that carries packets is scheduled in real time, where that is permitted. It is: on a busy
    /// machine nothing else keeps a call in time.
    pub realtime: bool,
}

impl Default for Relay {
    fn default() -> Self {
        Self { realtime: true }
    }
}

/// `[control]`: who may ask the running service, and who may change it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// The group whose members may look; without one only root may.
    pub group: Option<String>,
    /// The group whose members may look and change; without one only root may.
    pub admin_group: Option<String>,
}

/// `[metrics]`: where a monitoring system may read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// The place; without one there is none.
    pub listen: Option<Listen>,
}

/// Where metrics may be read. Never from another machine: they say who is on the phone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A socket in the runtime directory, for those who may look at the service.
    Unix,
    /// A loopback address, for everybody on this machine.
    Loopback(SocketAddr),
}

/// Reads the tables `[uplink]` and `[tun]`.
pub(super) fn interfaces(root: &mut Section<'_>, findings: &mut Findings) -> (Uplink, Tun) {
    let (uplink, preferences, marks) = root.section(findings, "uplink", |section, findings| {
        let mut patterns = |key| {
            let expected = "a list of patterns, such as [\"eth*\", \"wlan0\"]";
            let list = section.list(findings, key, expected, pattern);
            let list = list.map_or_else(Vec::new, |list| list.value);
            list.into_iter().map(|entry| entry.value).collect()
        };
        let (prefer, exclude) = (patterns("prefer"), patterns("exclude"));
        let interface = section.optional(findings, "interface", interface);
        let marks = (
            section.optional(findings, "vpn_mark", vpn_mark),
            section.optional(findings, "conntrack_mark", any_mark),
        );
        (interface, (prefer, exclude), marks)
    });
    let ((prefer, exclude), (vpn_mark, conntrack_mark)) = (preferences, marks);
    let tun = root.section(findings, "tun", |section, findings| {
        section.optional(findings, "name", interface)
    });
    let name = tun.map_or_else(|| Tun::default().name, |tun| tun.value);
    if let Some(uplink) = uplink.as_ref().filter(|uplink| uplink.value == name) {
        findings
            .faults
            .push(uplink.fault(None, Problem::UplinkIsTun));
    }
    let uplink = Uplink {
        interface: uplink.map(|uplink| uplink.value),
        prefer,
        exclude,
        vpn_mark: vpn_mark.map(|mark| mark.value),
        conntrack_mark: conntrack_mark.map(|mark| mark.value),
    };
    (uplink, Tun { name })
}

/// Reads the table `[route]`; the place of the base table goes with it.
pub(super) fn route(root: &mut Section<'_>, findings: &mut Findings) -> (Route, Option<At<u32>>) {
    root.section(findings, "route", |section, findings| {
        let default = Route::default();
        let table = section.optional(findings, "table", number(1, u32::MAX, "choose another, e.g. 30316"));
        let priority = section.optional(
            findings,
            "priority",
            number(
                1,
                32_765,
                "stay ahead of the main table's rule at 32766; at 0, a later wg-quick orders its rules wrongly",
            ),
        );
        let mark = section.optional(findings, "mark", mark);
        let capture = section.optional(
            findings,
            "capture",
            choice(&["exact", "prefix"], "what to capture, such as \"exact\""),
        );
        let route = Route {
            table: table.as_ref().map_or(default.table, |table| RouteTable(table.value)),
            priority: priority.map_or(default.priority, |priority| RulePriority(priority.value)),
            mark: mark.map_or(default.mark, |mark| mark.value),
            capture: capture.map_or(default.capture, |capture| capture.value),
        };
        (route, table)
    })
}

/// Reads the table `[nat]`.
pub(super) fn nat(root: &mut Section<'_>, findings: &mut Findings) -> Nat {
    root.section(findings, "nat", |section, findings| {
        let lifetime = section.optional(
            findings,
            "mapping_lifetime_seconds",
            number(
                120,
                86_400,
                "a mapping must outlive two minutes of silence (RFC 4787 REQ-5); 300 is recommended",
            ),
        );
        let filtering = section.optional(
            findings,
            "filtering",
            choice(
                &["endpoint-independent", "address-dependent", "address-and-port-dependent"],
                "a filtering behaviour, such as \"address-dependent\"",
            ),
        );
        let inbound_refresh = section.optional(findings, "inbound_refresh", boolean);
        let default = Nat::default();
        Nat {
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
pub(super) fn fallback(root: &mut Section<'_>, findings: &mut Findings) -> Fallback {
    root.section(findings, "fallback", |section, findings| {
        let to = section.optional(
            findings,
            "to",
            choice(
                &["tunnel", "none"],
                "where failing calls go, such as \"tunnel\"",
            ),
        );
        let to = to.map(|to: At<Toward>| to.value);
        let silence = section.optional(
            findings,
            "silence_seconds",
            number(1, 30, "2 keeps the gap in a call below 3 seconds"),
        );
        let retry = section.optional(
            findings,
            "retry_seconds",
            number(1, 3_600, "10 is recommended"),
        );
        let default = Fallback::default();
        let seconds = |at: Option<At<u32>>, default| {
            at.map_or(default, |at| Duration::from_secs(u64::from(at.value)))
        };
        Fallback {
            to_tunnel: to.map_or(default.to_tunnel, |Toward(is_tunnel)| is_tunnel),
            silence: seconds(silence, default.silence),
            retry: seconds(retry, default.retry),
        }
    })
}

/// Reads the table `[gateway]`. What is the way out, or our own, has no clients.
pub(super) fn gateway(
    root: &mut Section<'_>,
    (uplink, tun): (&Uplink, &Tun),
    findings: &mut Findings,
) -> Gateway {
    root.section(findings, "gateway", |section, findings| {
        let expected = "a list of interfaces, such as [\"lan0\"]";
        let interfaces = section.list(findings, "interfaces", expected, interface);
        let interfaces = interfaces.map_or_else(Vec::new, |list| list.value);
        for one in &interfaces {
            if one.value == tun.name || uplink.interface.as_ref() == Some(&one.value) {
                findings
                    .faults
                    .push(one.fault(None, Problem::ClientsAtUplink));
            }
        }
        let mut limit = |key, most| {
            let reason = "256 is ample for a person's calls";
            let limit = section.optional(findings, key, number(1, most, reason));
            limit.and_then(|it| usize::try_from(it.value).ok())
        };
        let mappings = limit("mappings_per_client", 32_768);
        let connections = limit("connections_per_client", 4_096);
        let remark = section.optional(findings, "remark", remark);
        let default = Gateway::default();
        Gateway {
            interfaces: interfaces.into_iter().map(|one| one.value).collect(),
            mappings_per_client: mappings.unwrap_or(default.mappings_per_client),
            connections_per_client: connections.unwrap_or(default.connections_per_client),
            remark: remark.map_or(default.remark, |remark| remark.value),
        }
    })
}

/// Reads the table `[relay]`.
pub(super) fn relay(root: &mut Section<'_>, findings: &mut Findings) -> Relay {
    root.section(findings, "relay", |section, findings| {
        let realtime = section.optional(findings, "realtime", boolean);
        Relay {
            realtime: realtime.map_or(Relay::default().realtime, |wanted| wanted.value),
        }
    })
}

/// Reads the table `[control]`.
pub(super) fn control(root: &mut Section<'_>, findings: &mut Findings) -> Control {
    root.section(findings, "control", |section, findings| {
        let mut named = |key| {
            let name = section.optional(findings, key, group);
            name.map(|name| name.value)
        };
        Control {
            group: named("group"),
            admin_group: named("admin_group"),
        }
    })
}

/// Reads the table `[metrics]`.
pub(super) fn metrics(root: &mut Section<'_>, findings: &mut Findings) -> Metrics {
    root.section(findings, "metrics", |section, findings| Metrics {
        listen: section
            .optional(findings, "listen", listen)
            .map(|listen| listen.value),
    })
}

fn group(value: &DeValue<'_>) -> Result<String, Problem> {
    let name = text("a group's name, such as \"voicelane\"")(value)?;
    let fits = (1..=32).contains(&name.len()) && is_word(&name) && !name.starts_with(['-', '.']);
    if fits {
        Ok(name)
    } else {
        Err(Problem::GroupName)
    }
}

fn listen(value: &DeValue<'_>) -> Result<Listen, Problem> {
    let place = text("\"unix\", or an address and port such as \"127.0.0.1:9764\"")(value)?;
    if place == "unix" {
        return Ok(Listen::Unix);
    }
    let address = place.parse::<SocketAddr>().ok();
    address
        .filter(|address| address.ip().is_loopback() && address.port() != 0)
        .map(Listen::Loopback)
        .ok_or(Problem::MetricsPlace)
}

fn interface(value: &DeValue<'_>) -> Result<InterfaceName, Problem> {
    let name = text("an interface's name, such as \"wlan0\"")(value)?;
    name.parse().map_err(|_| Problem::InterfaceName)
}

fn pattern(value: &DeValue<'_>) -> Result<InterfacePattern, Problem> {
    let text = text("a pattern of interface names, such as \"eth*\"")(value)?;
    text.parse().map_err(|_| Problem::InterfacePattern)
}

fn remark(value: &DeValue<'_>) -> Result<Option<Dscp>, Problem> {
    match value {
        DeValue::String(word) if word == "keep" => Ok(None),
        value => dscp(value).map(Some),
    }
}

fn vpn_mark(value: &DeValue<'_>) -> Result<VpnMark, Problem> {
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
fn any_mark(value: &DeValue<'_>) -> Result<Fwmark, Problem> {
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

fn mark(value: &DeValue<'_>) -> Result<Fwmark, Problem> {
    let mask = Route::MASK.0;
    match number(0, u32::MAX, "write e.g. 0x76000000")(value) {
        Ok(mark) if mark == 0 || mark & !mask != 0 => Err(Problem::Mark { mask }),
        mark => mark.map(Fwmark),
    }
}
