//! The replies of the service.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Event, VERSION};

/// A reply, as sent on the wire and printed by `--json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The version of the format.
    pub version: u32,
    /// The content.
    #[serde(flatten)]
    pub body: Body,
}

/// The content of a reply, tagged by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// Reply to [`super::Request::Status`].
    Status(Box<Status>),
    /// Reply to [`super::Request::Summary`], and to a status without permission to read it.
    Summary(Summary),
    /// Reply to [`super::Request::Events`].
    Events(EventList),
    /// Reply to [`super::Request::Reload`]: the new configuration is active.
    Reloaded {},
    /// Reply to [`super::Request::Reload`]: the previous configuration stays active.
    NotReloaded {
        /// The errors of the configuration, as a sentence.
        error: String,
    },
    /// Reply to [`super::Request::Pause`]: all media is in the VPN.
    Paused {
        /// The end of the pause.
        until: Timestamp,
    },
    /// Reply to [`super::Request::Resume`]: there is no pause any more.
    Resumed {},
    /// The request failed; the reason, as a sentence.
    Error(String),
}

impl Reply {
    /// Wraps content in the current version.
    #[must_use]
    pub const fn new(body: Body) -> Self {
        Self {
            version: VERSION,
            body,
        }
    }
}

/// The state of the service: what happens to media of the families that the policy has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Media of every family leaves through an uplink, no call is in the VPN, and there are no warnings.
    Working,
    /// Media of a family leaves through an uplink, but a family or a call is in the VPN, or there are warnings.
    Degraded,
    /// No media leaves through an uplink.
    #[default]
    NotWorking,
}

impl State {
    /// Every state, best first.
    pub const ALL: [Self; 3] = [Self::Working, Self::Degraded, Self::NotWorking];

    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Degraded => "degraded",
            Self::NotWorking => "not_working",
        }
    }
}

/// The cause of a state, and its remedy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateReason {
    /// The stable name: `empty_policy`, `starting`, `paused`, `no_uplink`, `no_network`, `firewall_blocked`,
    /// `not_applied`, `uplink_failed`, `call_in_vpn` or `warning`.
    pub code: Cow<'static, str>,
    /// The cause, as a sentence.
    pub text: String,
    /// The remedy, as a sentence; empty if `text` has it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

/// The cause and the remedy.
impl fmt::Display for StateReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match self.remedy.as_str() {
            "" => Ok(()),
            remedy => write!(f, " {remedy}"),
        }
    }
}

/// The path of a family's media.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaStatus {
    /// "direct", "tunnel", or "none" if the family has neither an uplink nor a VPN.
    pub egress: Cow<'static, str>,
    /// The reason, if it is not "direct".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<StateReason>,
}

impl Status {
    /// Sets the state and its reason by the media of each family, the calls in the VPN and the warnings.
    #[must_use]
    pub fn with_state(mut self) -> Self {
        let media = || self.media.values();
        let is_direct = |it: &&MediaStatus| it.egress == "direct";
        let reason_of = |egress: &str| {
            let mut found = media().filter(|it| it.egress == egress);
            found.find_map(|it| it.reason.clone())
        };
        let state = |state, reason| (state, Some(reason));
        (self.state, self.reason) = if self.media.is_empty() {
            let reason = StateReason {
                code: "empty_policy".into(),
                text: "The policy has no active service, so no media is captured.".to_owned(),
                remedy: "`voicelane policy show` lists the services. Check `include`, `disable` and [[service]]."
                    .to_owned(),
            };
            state(State::NotWorking, reason)
        } else if !media().any(|it| is_direct(&it)) {
            let reason = reason_of("tunnel").or_else(|| reason_of("none"));
            state(State::NotWorking, reason.unwrap_or_default())
        } else if let Some(reason) = reason_of("tunnel") {
            state(State::Degraded, reason)
        } else if self.calls_in_vpn > 0 {
            let reason = StateReason {
                code: "call_in_vpn".into(),
                text: match self.calls_in_vpn {
                    1 => "1 call is in the VPN: its direct path failed.".to_owned(),
                    calls => format!("{calls} calls are in the VPN: their direct paths failed."),
                },
                remedy: "`voicelane mappings` and `voicelane events` show the causes. Calls return automatically."
                    .to_owned(),
            };
            state(State::Degraded, reason)
        } else if let Some(warning) = self.warnings.first() {
            let reason = StateReason {
                code: "warning".into(),
                text: warning.clone(),
                remedy: String::new(),
            };
            state(State::Degraded, reason)
        } else {
            (State::Working, None)
        };
        self
    }
}

/// The status of the service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub program_version: String,
    /// The state that follows from the media of each family, the calls in the VPN and the warnings.
    #[serde(default)]
    pub state: State,
    /// The reason, if the state is not "working".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<StateReason>,
    /// The path of the media of each family that the policy has: `ipv4`, `ipv6`.
    #[serde(default)]
    pub media: BTreeMap<String, MediaStatus>,
    /// Calls that failed over to the VPN and still send.
    #[serde(default)]
    pub calls_in_vpn: usize,
    /// Seconds since the start of the service.
    pub uptime_seconds: u64,
    /// The TUN's interface name.
    pub tun: String,
    /// The uplink. Without one, nothing is captured and media is in the VPN.
    pub uplink: Option<UplinkStatus>,
    /// The uplink of IPv6, if IPv4 uses another interface. Then `uplink` is the one of IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink_v6: Option<UplinkStatus>,
    /// The VPNs with routes. Captured media bypasses them.
    #[serde(default)]
    pub vpns: Vec<VpnStatus>,
    /// The families with media on the direct path: `ipv4`, `ipv6`. A family that failed over to the VPN is absent.
    #[serde(default)]
    pub captured: BTreeSet<String>,
    /// The end of a pause. Until then all media is in the VPN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_until: Option<Timestamp>,
    /// The priority of the capturing rules, if there are any.
    pub rule_priority: Option<u32>,
    /// On a gateway: the interfaces of clients with captured media, and the captured families.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clients: BTreeMap<String, BTreeSet<String>>,
    /// Warnings; each is a sentence with a remedy.
    pub warnings: Vec<String>,
    /// Every mapping.
    pub mappings: Vec<MappingStatus>,
    /// The calls that ended within the last 30 s, the latest first.
    #[serde(default)]
    pub ended_calls: Vec<EndedCallStatus>,
    /// Every TCP connection.
    #[serde(default)]
    pub connections: Vec<ConnectionStatus>,
    /// Bytes and outcomes of TCP connections, by name.
    #[serde(default)]
    pub tcp: BTreeMap<String, u64>,
    /// From applications to the internet.
    pub outbound: TrafficStatus,
    /// From the internet to applications.
    pub inbound: TrafficStatus,
    /// Packets that the policy does not permit, rejected with an ICMP error.
    pub rejected: u64,
    /// Errors of the direct path or of local sockets that were returned to applications.
    pub errors_returned: u64,
    /// Errors that the rate limit suppressed.
    #[serde(default)]
    pub errors_suppressed: u64,
    /// Datagrams from applications that were reassembled from fragments.
    #[serde(default)]
    pub reassembled: u64,
    /// Datagrams from one application to the outside endpoint of another (RFC 4787 section 6).
    #[serde(default)]
    pub hairpinned: u64,
    /// Mappings without an answer that ended because a limit was reached.
    #[serde(default)]
    pub evicted: u64,
    /// The capture mode: "exact" or "prefix".
    #[serde(default)]
    pub capture_mode: String,
    /// Failovers of calls to the VPN, and failbacks.
    #[serde(default)]
    pub failover: FailoverStatus,
    /// Errors of the kernel when sending or opening sockets, by reason: `send_eperm`, `open_emfile`.
    #[serde(default)]
    pub kernel_errors: BTreeMap<String, u64>,
    /// The scheduling of the packet thread.
    #[serde(default)]
    pub scheduling: SchedulingStatus,
}

/// What every user may know: no address and no call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The program's version.
    pub program_version: String,
    /// The state.
    pub state: State,
    /// The interface names of the uplinks.
    pub uplinks: BTreeSet<String>,
    /// The interface names of the VPNs with routes.
    pub vpns: BTreeSet<String>,
    /// The families with media on the direct path: `ipv4`, `ipv6`.
    pub captured: BTreeSet<String>,
    /// The warnings, without addresses and without details of the configuration.
    pub reasons: Vec<String>,
}

/// The scheduling of the packet thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulingStatus {
    /// `realtime`, or the reason for normal scheduling: `budget_exhausted`, `not_permitted` or `switched_off`.
    pub class: String,
    /// Times that the budget was exhausted.
    pub budget_exhausted: u64,
    /// Times that no fallback thread could be started, so that the real-time thread continued.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub fallback_thread_failed: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventList {
    /// The number of the newest event. A number below the requested one means that the store was lost.
    pub last_sequence: u64,
    /// The stored events, oldest first.
    pub events: Vec<Event>,
}

/// Failovers to the VPN, and failbacks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FailoverStatus {
    /// The families with a failed uplink. All their media is in the VPN.
    pub failed_uplinks: Vec<String>,
    /// Mappings that failed over to the VPN, by cause.
    pub failovers: BTreeMap<String, u64>,
    /// Mappings that failed back to the direct path, by cause.
    pub failbacks: BTreeMap<String, u64>,
    /// Datagrams sent through the VPN after a failover.
    pub packets: u64,
    /// STUN checks of applications that were repeated.
    pub checks_repeated: u64,
    /// STUN checks that were also sent on the direct path.
    pub probes: u64,
}

/// An uplink.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UplinkStatus {
    /// Its interface name.
    pub interface: String,
    /// The IPv4 next hop. Without one, no IPv4 is captured.
    pub gateway_v4: Option<String>,
    /// The IPv6 next hop. Without one, no IPv6 is captured.
    pub gateway_v6: Option<String>,
    /// The reason for the selection.
    pub reason: String,
}

/// A tunnel with routes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VpnStatus {
    /// Its interface name.
    pub interface: String,
    /// The kind of its link, if the kernel names one: `tun`, `wireguard`.
    pub kind: Option<String>,
    /// Whether its routes cover all of IPv4.
    pub full_tunnel_v4: bool,
    /// Whether its routes cover all of IPv6.
    pub full_tunnel_v6: bool,
}

/// One mapping. Labels are borrowed, because there may be tens of thousands of mappings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MappingStatus {
    /// The id, which events name.
    #[serde(default)]
    pub id: String,
    /// Whether it carries media. Other mappings are candidates of a call, or no call at all.
    #[serde(default)]
    pub is_call: bool,
    /// The remote endpoint of its media, otherwise the one that it sent to last.
    #[serde(default)]
    pub remote: Option<SocketAddr>,
    /// The name of the policy's service for that remote.
    #[serde(default)]
    pub service: Option<String>,
    /// Seconds since something was last received.
    #[serde(default)]
    pub last_answer_seconds: Option<u64>,
    /// The application's endpoint.
    pub inside: SocketAddr,
    /// The socket's endpoint, once it is open.
    pub outside: Option<SocketAddr>,
    /// The path of its media: "direct", or "tunnel" after a failover to the VPN.
    #[serde(default)]
    pub egress: Cow<'static, str>,
    /// The cause of the failover, if it is in the VPN.
    #[serde(default)]
    pub failover_cause: Option<Cow<'static, str>>,
    /// Number of remote endpoints that it has sent to.
    pub remotes: usize,
    /// Seconds since its first packet.
    pub age_seconds: u64,
    /// Seconds since its last outbound packet.
    pub idle_seconds: u64,
}

/// A call that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndedCallStatus {
    /// The id, which events name.
    pub id: String,
    /// The application's endpoint.
    pub inside: SocketAddr,
    /// The remote endpoint of its media.
    pub remote: SocketAddr,
    /// How it ended: "application_closed", "peer_closed", "silent", "expired", "evicted" or "no_socket".
    pub cause: Cow<'static, str>,
    /// Seconds between its first packet and its end.
    pub duration_seconds: u64,
    /// Seconds since its end.
    pub ended_seconds: u64,
}

/// One TCP connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// The application's endpoint.
    pub inside: SocketAddr,
    /// The remote endpoint.
    pub remote: SocketAddr,
    /// The state of the connection.
    pub state: Cow<'static, str>,
    /// Bytes sent to the remote endpoint.
    pub bytes_out: u64,
    /// Bytes received from the remote endpoint.
    pub bytes_in: u64,
    /// Seconds since the first SYN.
    pub age_seconds: u64,
    /// Seconds since the last transfer.
    pub idle_seconds: u64,
}

/// The traffic of one direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrafficStatus {
    /// Forwarded datagrams.
    pub packets: u64,
    /// Their payload in bytes.
    pub bytes: u64,
    /// Dropped packets, by reason.
    pub drops: BTreeMap<String, u64>,
}
