//! What the service answers.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Event, VERSION};

/// A reply as it stands on the wire, and as `--json` prints it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The version of the form.
    pub version: u32,
    /// The answer.
    #[serde(flatten)]
    pub body: Body,
}

/// The answer, tagged by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// To [`super::Request::Status`].
    Status(Box<Status>),
    /// To [`super::Request::Events`].
    Events(EventList),
    /// To [`super::Request::Reload`]: the configuration as it stands now is in force.
    Reloaded {},
    /// To [`super::Request::Reload`]: nothing has changed.
    NotReloaded {
        /// A sentence that says what is wrong with the configuration.
        error: String,
    },
    /// The request could not be met: a sentence that says why.
    Error(String),
}

impl Reply {
    /// Wraps an answer.
    #[must_use]
    pub const fn new(body: Body) -> Self {
        Self {
            version: VERSION,
            body,
        }
    }
}

/// How the service does, in a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Media leaves by the uplink, and nothing is to be said against it.
    Working,
    /// Media leaves by the uplink, and there are warnings.
    Degraded,
    /// No media leaves by the uplink: it is in the VPN.
    #[default]
    NotWorking,
}

impl State {
    /// Every state, the best first.
    pub const ALL: [Self; 3] = [Self::Working, Self::Degraded, Self::NotWorking];

    /// The stable word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Degraded => "degraded",
            Self::NotWorking => "not_working",
        }
    }
}

impl Status {
    /// Judges what the rest of the status says.
    #[must_use]
    pub fn judged(self) -> Self {
        let state = match (self.captured.is_empty(), self.warnings.is_empty()) {
            (true, _) => State::NotWorking,
            (false, false) => State::Degraded,
            (false, true) => State::Working,
        };
        Self { state, ..self }
    }
}

/// The state of the service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub program_version: String,
    /// How it does, in a word.
    #[serde(default)]
    pub state: State,
    /// Seconds since the service became ready.
    pub uptime_seconds: u64,
    /// The TUN's interface name.
    pub tun: String,
    /// The way out; without one nothing is captured, and media is in the VPN.
    pub uplink: Option<UplinkStatus>,
    /// The way out of IPv6, where it leaves by another interface than IPv4: then `uplink` is IPv4's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink_v6: Option<UplinkStatus>,
    /// The VPNs that take traffic: what media is taken past.
    #[serde(default)]
    pub vpns: Vec<VpnStatus>,
    /// The families of which media leaves by the uplink: `ipv4`, `ipv6`; not one that has fallen back into the VPN.
    #[serde(default)]
    pub captured: BTreeSet<String>,
    /// The priority of the capturing rules, when there are any.
    pub rule_priority: Option<u32>,
    /// The interfaces whose clients' media leaves by the uplink, where this machine is a gateway, and of which families.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clients: BTreeMap<String, BTreeSet<String>>,
    /// What is not as it should be: a sentence each, with what to do.
    pub warnings: Vec<String>,
    /// Every mapping.
    pub mappings: Vec<MappingStatus>,
    /// Every TCP connection.
    #[serde(default)]
    pub connections: Vec<ConnectionStatus>,
    /// What TCP connections carried in bytes, and what became of them, by name.
    #[serde(default)]
    pub tcp: BTreeMap<String, u64>,
    /// From applications to the internet.
    pub outbound: TrafficStatus,
    /// From the internet to applications.
    pub inbound: TrafficStatus,
    /// Packets answered with an ICMP error because they may not go out here.
    pub rejected: u64,
    /// Errors of the direct path, or of this machine's sockets, that were passed on to applications.
    pub errors_returned: u64,
    /// Errors that were left out because there were too many.
    #[serde(default)]
    pub errors_suppressed: u64,
    /// Datagrams from applications that were put together from fragments.
    #[serde(default)]
    pub reassembled: u64,
    /// Datagrams from one application to another by its outside endpoint.
    #[serde(default)]
    pub hairpinned: u64,
    /// Mappings without an answer that ended because a limit was reached.
    #[serde(default)]
    pub evicted: u64,
    /// How much is captured: "exact" or "prefix".
    #[serde(default)]
    pub capture_mode: String,
    /// Calls that go on in the VPN when their direct way fails, and what became of them.
    #[serde(default)]
    pub fallback: FallbackStatus,
    /// What the kernel refused to send or to open, by reason: `send_eperm`, `open_emfile`.
    #[serde(default)]
    pub kernel_errors: BTreeMap<String, u64>,
    /// How the thread that carries packets is scheduled.
    #[serde(default)]
    pub scheduling: SchedulingStatus,
}

/// The scheduling of the thread that carries packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulingStatus {
    /// `realtime`; or as any other program: `budget_exhausted` (its budget was used up a moment ago), `not_permitted`,
    /// `switched_off`.
    pub class: String,
    /// How often the budget was used up.
    pub budget_exhausted: u64,
    /// How often it went on nevertheless, for no thread could be made to stand in.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub fallback_thread_failed: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde wants it")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// What happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventList {
    /// The number of the newest event. Less than what was asked for means that the store was lost, and begins anew.
    pub last_sequence: u64,
    /// The events that are still known, the oldest first.
    pub events: Vec<Event>,
}

/// Falls into the VPN, and returns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FallbackStatus {
    /// The families whose uplink is given up: all their media is in the VPN.
    pub failed_uplinks: Vec<String>,
    /// Mappings that left the direct way, by cause.
    pub failovers: BTreeMap<String, u64>,
    /// Mappings that came back to it, by cause.
    pub failbacks: BTreeMap<String, u64>,
    /// Datagrams that went into the VPN.
    pub packets: u64,
    /// Checks of applications that were repeated.
    pub checks_repeated: u64,
    /// Checks that were sent the direct way as well.
    pub probes: u64,
}

/// The way out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UplinkStatus {
    /// Its interface name.
    pub interface: String,
    /// The IPv4 next hop; without one no IPv4 is captured.
    pub gateway_v4: Option<String>,
    /// The IPv6 next hop, likewise.
    pub gateway_v6: Option<String>,
    /// Why this one was chosen.
    pub reason: String,
}

/// A tunnel that routes lead into.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VpnStatus {
    /// Its interface name.
    pub interface: String,
    /// The kind of its link, if the kernel names one: `tun`, `wireguard`.
    pub kind: Option<String>,
    /// Whether it takes all of IPv4.
    pub full_tunnel_v4: bool,
    /// Whether it takes all of IPv6.
    pub full_tunnel_v6: bool,
}

/// One mapping. There may be tens of thousands: to tell of one takes no memory of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MappingStatus {
    /// The application's endpoint.
    pub inside: SocketAddr,
    /// The socket's endpoint, once it is open.
    pub outside: Option<SocketAddr>,
    /// The way of its media: "direct", or "tunnel" while it goes on in the VPN.
    #[serde(default)]
    pub egress: Cow<'static, str>,
    /// Why it is in the VPN, if it is.
    #[serde(default)]
    pub failover_cause: Option<Cow<'static, str>>,
    /// How many remotes it has sent to.
    pub remotes: usize,
    /// Seconds since its first packet.
    pub age_seconds: u64,
    /// Seconds since its last outbound packet.
    pub idle_seconds: u64,
}

/// One TCP connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// The application's endpoint.
    pub inside: SocketAddr,
    /// The far endpoint.
    pub remote: SocketAddr,
    /// How far along it is.
    pub state: Cow<'static, str>,
    /// Bytes handed to the far side.
    pub bytes_out: u64,
    /// Bytes that came from the far side.
    pub bytes_in: u64,
    /// Seconds since the first SYN.
    pub age_seconds: u64,
    /// Seconds since something moved.
    pub idle_seconds: u64,
}

/// One direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrafficStatus {
    /// Datagrams that went through.
    pub packets: u64,
    /// Their payload in bytes.
    pub bytes: u64,
    /// Packets that went no further, by reason.
    pub drops: BTreeMap<String, u64>,
}
