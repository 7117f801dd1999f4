//! A status as metrics, in OpenMetrics 1.0 and in the older text format of Prometheus.
//!
//! Labels have few values: directions, families and reasons. Addresses and mappings are no labels, because each call
//! would be a time series, and the metrics a record of all calls.

use std::collections::BTreeMap;
use std::fmt::Write;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::reply::{State, Status, TrafficStatus};

/// A metric's labels: names and values.
type Labels = Vec<(&'static str, String)>;

/// The text format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsFormat {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format of Prometheus, the default.
    Text,
}

impl MetricsFormat {
    /// The media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The input of the metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricsInput {
    /// The status. Its lists of mappings and connections are not used and may be empty.
    pub status: Status,
    /// The number of mappings.
    pub mappings: usize,
    /// The number of TCP connections.
    pub connections: usize,
}

/// Writes the metrics in a format.
#[must_use]
pub fn write(input: &MetricsInput, format: MetricsFormat) -> String {
    let mut text = String::new();
    encode(&mut text, &registry(input)).expect("a string takes everything");
    match format {
        MetricsFormat::OpenMetrics => text,
        MetricsFormat::Text => to_prometheus(&text),
    }
}

fn registry(input: &MetricsInput) -> Registry {
    let status = &input.status;
    let mut metrics = MetricsRegistry(Registry::with_prefix("voicelane"));
    let build = Info::new(vec![("version", status.program_version.clone())]);
    metrics.0.register("build", "The program's version", build);

    let states = State::ALL.map(|state| (label("state", state.name()), state == status.state));
    metrics.gauge(
        "state",
        "1 for the current state of the service",
        as_numbers(states),
    );
    let families = ["ipv4", "ipv6"];
    let captured = families.map(|it| (label("family", it), status.captured.contains(it)));
    metrics.gauge(
        "captured",
        "1 if media of the family leaves through the uplink",
        as_numbers(captured),
    );
    let classes = [
        "realtime",
        "budget_exhausted",
        "not_permitted",
        "switched_off",
    ];
    let current = classes.map(|class| (label("class", class), status.scheduling.class == class));
    metrics.gauge(
        "scheduling",
        "1 for the current scheduling of the packet thread",
        as_numbers(current),
    );
    let mut level = |name, help, count: usize| {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        metrics.0.register(name, help, gauge);
    };
    level("vpns", "VPN interfaces with routes", status.vpns.len());
    level(
        "warnings",
        "Current warnings of the service",
        status.warnings.len(),
    );
    level("mappings", "Current mappings", input.mappings);
    level(
        "calls_in_vpn",
        "Calls that failed over to the VPN and still send",
        status.calls_in_vpn,
    );
    level("connections", "Current TCP connections", input.connections);
    let uptime = usize::try_from(status.uptime_seconds).unwrap_or(usize::MAX);
    level(
        "uptime_seconds",
        "Time since the start of the service",
        uptime,
    );

    let both = |of: fn(&TrafficStatus) -> u64| {
        let directions = [("out", &status.outbound), ("in", &status.inbound)];
        directions.map(|(direction, traffic)| (label("direction", direction), of(traffic)))
    };
    metrics.counter(
        "packets",
        "Forwarded datagrams",
        both(|traffic| traffic.packets),
    );
    let bytes = both(|traffic| traffic.bytes);
    metrics.counter("payload_bytes", "Payload of forwarded datagrams", bytes);
    let drops = |direction: &'static str, traffic: &TrafficStatus| {
        let reasons = traffic.drops.clone().into_iter();
        reasons.map(move |(reason, count)| {
            (
                vec![("direction", direction.to_owned()), ("reason", reason)],
                count,
            )
        })
    };
    let dropped = drops("out", &status.outbound).chain(drops("in", &status.inbound));
    metrics.counter("drops", "Dropped packets", dropped);
    let errors = [
        ("returned", status.errors_returned),
        ("suppressed", status.errors_suppressed),
    ];
    let errors = errors.map(|(outcome, count)| (label("outcome", outcome), count));
    metrics.counter(
        "errors",
        "Path errors, returned to applications as ICMP or suppressed",
        errors,
    );
    let mut total = |name, help, count| {
        let counter = Counter::<u64>::default();
        counter.inc_by(count);
        metrics.0.register(name, help, counter);
    };
    total(
        "tunnelled_packets",
        "Datagrams sent through the VPN after a failover",
        status.failover.packets,
    );
    total(
        "realtime_budget_exhausted",
        "Times that the packet thread exhausted its real-time budget",
        status.scheduling.budget_exhausted,
    );
    total(
        "realtime_fallback_thread_failed",
        "Times that no fallback thread could be started, so that the real-time thread continued",
        status.scheduling.fallback_thread_failed,
    );
    total(
        "rejected",
        "Packets rejected with an ICMP error",
        status.rejected,
    );
    total(
        "reassembled",
        "Datagrams reassembled from fragments",
        status.reassembled,
    );
    total(
        "hairpinned",
        "Datagrams hairpinned to another application",
        status.hairpinned,
    );
    total(
        "evicted",
        "Mappings without an answer that ended because a limit was reached",
        status.evicted,
    );
    let failover = &status.failover;
    metrics.counter(
        "failovers",
        "Mappings that failed over to the VPN",
        by_label("cause", &failover.failovers),
    );
    metrics.counter(
        "failbacks",
        "Mappings that failed back to the direct path",
        by_label("cause", &failover.failbacks),
    );
    metrics.counter(
        "kernel_errors",
        "Errors of the kernel when sending or opening sockets",
        by_label("reason", &status.kernel_errors),
    );
    metrics.counter(
        "tcp",
        "TCP connections by outcome, and their bytes",
        by_label("event", &status.tcp),
    );
    metrics.0
}

/// A registry with helpers to fill it.
struct MetricsRegistry(Registry);

impl MetricsRegistry {
    fn gauge(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, i64)>) {
        let family = Family::<Labels, Gauge>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
        }
        self.0.register(name, help, family);
    }

    fn counter(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter<u64>>::default();
        for (labels, count) in values {
            family.get_or_create(&labels).inc_by(count);
        }
        self.0.register(name, help, family);
    }
}

fn label(name: &'static str, value: &str) -> Labels {
    vec![(name, value.to_owned())]
}

fn as_numbers<const N: usize>(values: [(Labels, bool); N]) -> [(Labels, i64); N] {
    values.map(|(labels, truth)| (labels, i64::from(truth)))
}

fn by_label(label: &'static str, counts: &BTreeMap<String, u64>) -> Vec<(Labels, u64)> {
    let counts = counts.iter();
    counts
        .map(|(name, count)| (vec![(label, name.clone())], *count))
        .collect()
}

/// Converts OpenMetrics into the older format: counters and infos have their suffix in the head, infos are gauges, and
/// units and the end mark are left out.
fn to_prometheus(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let kinds: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        let line = match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(head @ ("HELP" | "TYPE")), Some(name), Some(rest)) => {
                let (suffix, kind) = match kinds.get(name) {
                    Some(&"counter") => ("_total", "counter"),
                    Some(&"info") => ("_info", "gauge"),
                    Some(kind) => ("", *kind),
                    None => ("", "untyped"),
                };
                let rest = if head == "TYPE" { kind } else { rest };
                format!("# {head} {name}{suffix} {rest}")
            }
            (Some("#"), ..) => continue,
            _ => line.to_owned(),
        };
        writeln!(out, "{line}").expect("a string takes everything");
    }
    out
}
