//! Metrics before programs that judge them, and what is built on them before the metrics. Wants root, to be somebody
//! else.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use tokio::sync::mpsc;
use voicelane::control::metrics::{MetricsFormat, write};
use voicelane::control::{
    Access, ConnectionStatus, Exporter, FailoverStatus, METRICS_SOCKET, MediaStatus,
    MetricsEndpoint, MetricsInput, Status, TrafficStatus, UplinkStatus, VpnStatus,
};

const RULES: &str = include_str!("../../config/voicelane.rules.yml");
const DASHBOARD: &str = include_str!("../../config/grafana.json");

/// Metrics of which none is empty.
fn measured() -> MetricsInput {
    let counts = |names: &[&str]| -> BTreeMap<String, u64> {
        names.iter().map(|name| ((*name).to_owned(), 7)).collect()
    };
    let traffic = |drops: &[&str]| TrafficStatus {
        packets: 1 << 60,
        bytes: 1_500,
        drops: counts(drops),
    };
    let connection = ConnectionStatus {
        inside: "10.8.0.2:50000".parse().expect("an endpoint"),
        remote: "168.86.128.1:443".parse().expect("an endpoint"),
        state: "established".into(),
        bytes_out: 1,
        bytes_in: 1,
        age_seconds: 1,
        idle_seconds: 1,
    };
    let uplink = UplinkStatus {
        interface: "wlan0".to_owned(),
        gateway_v4: Some("192.168.1.1".to_owned()),
        ..UplinkStatus::default()
    };
    let media = MediaStatus {
        egress: "direct".into(),
        reason: None,
    };
    let status = Status {
        program_version: "0.1.0 \"quoted\\\n".to_owned(),
        uptime_seconds: 9,
        uplink: Some(uplink),
        vpns: vec![VpnStatus::default()],
        captured: ["ipv4".to_owned()].into(),
        media: [("ipv4".to_owned(), media)].into(),
        connections: vec![connection],
        tcp: counts(&["accepted", "bytes_out"]),
        outbound: traffic(&["not_in_policy", "send_failed"]),
        inbound: traffic(&["unsolicited"]),
        failover: FailoverStatus {
            failovers: counts(&["no_traffic"]),
            failbacks: counts(&["probes_answered"]),
            ..FailoverStatus::default()
        },
        kernel_errors: counts(&["send_eperm"]),
        ..Status::default()
    };
    MetricsInput {
        status: status.with_state(),
        mappings: 7_900,
        connections: 1,
    }
}

/// Hands a text to a program and answers what it says; nothing when it is content.
fn judge(program: &str, args: &[&str], text: &str) -> String {
    let mut judge = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}: scripts/setup installs it"));
    let mut input = judge.stdin.take().expect("it is a pipe");
    input.write_all(text.as_bytes()).expect("it reads all");
    drop(input);
    let output = judge.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if output.status.success() && said.is_empty() {
        return said;
    }
    format!("{said}({})\n{text}", output.status)
}

#[test]
fn prometheus_lint_reports_nothing() {
    for measured in [measured(), MetricsInput::default()] {
        let text = write(&measured, MetricsFormat::Text);
        assert_eq!(judge("promtool", &["check", "metrics"], &text), "");
    }
}

#[test]
fn a_strict_openmetrics_parser_accepts_the_output() {
    const READ: &str = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = list(text_string_to_metric_families(sys.stdin.read()))
assert len(families) > 12, families
";
    for measured in [measured(), MetricsInput::default()] {
        let text = write(&measured, MetricsFormat::OpenMetrics);
        assert_eq!(judge("/usr/bin/python3", &["-c", READ], &text), "");
    }
}

#[test]
fn no_address_is_a_label() {
    let text = write(&measured(), MetricsFormat::OpenMetrics);
    for private in ["10.8.0.2", "192.168.1.1", "wlan0"] {
        assert!(!text.contains(private), "{text}");
    }
}

#[test]
fn prometheus_loads_the_alerts_and_they_fire() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    for args in [
        ["check", "rules", "voicelane.rules.yml"],
        ["test", "rules", "voicelane.rules.test.yml"],
    ] {
        let mut promtool = Command::new("promtool");
        let output = promtool.current_dir(&config).args(args).output();
        let output = output.expect("scripts/setup installs promtool");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("SUCCESS"),
            "{said}"
        );
    }
}

/// Every mention of a metric: its name, and the labels that it is asked for by their whole value.
fn mentions(text: &str) -> Vec<(String, Vec<String>)> {
    let text = text.replace("\\\"", "\"");
    let mentions = text.match_indices("voicelane_").map(|(at, _)| {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name: String = text[at..].chars().take_while(|c| is_word(*c)).collect();
        let selector = text[at + name.len()..].strip_prefix('{');
        let selector = selector.and_then(|rest| rest.split('}').next());
        let labels = selector.unwrap_or_default().split(',').map(str::trim);
        let labels = labels.filter(|label| label.contains("=\""));
        (name, labels.map(str::to_owned).collect())
    });
    mentions.collect()
}

#[test]
fn every_metric_of_dashboard_and_alerts_exists() {
    let metrics = write(&measured(), MetricsFormat::Text);
    let samples: Vec<_> = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let has = |(name, labels): &(String, Vec<String>)| {
        let mut samples = samples.iter();
        samples.any(|sample| {
            sample.split(['{', ' ']).next() == Some(name)
                && labels.iter().all(|label| sample.contains(label.as_str()))
        })
    };
    for (what, text, least) in [("alerts", RULES, 7), ("dashboard", DASHBOARD, 14)] {
        let mentioned = mentions(text);
        assert!(mentioned.len() >= least, "{what}: {mentioned:?}");
        for mention in mentioned {
            assert!(has(&mention), "{what}: {mention:?} is not among\n{metrics}");
        }
    }
    for missing in ["voicelane_nothing > 0", "voicelane_state{state=\"merry\"}"] {
        assert!(!has(&mentions(missing)[0]), "{missing}");
    }
}

/// A panel's expressions, for Prometheus to parse as the rules of a file.
#[test]
fn prometheus_accepts_the_queries_of_the_dashboard() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("a list").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().expect("a list"));
    let mut rules = String::from("groups:\n  - name: dashboard\n    rules:\n");
    let mut count = 0;
    for target in targets {
        let question = target["expr"].as_str().expect("a text");
        let question = question
            .replace("$__rate_interval", "5m")
            .replace('\'', "''");
        write!(
            rules,
            "      - record: panel_{count}\n        expr: '{question}'\n"
        )
        .expect("a string takes everything");
        count += 1;
    }
    let dir = tempfile::TempDir::new().expect("the temporary directory is writable");
    let file = dir.path().join("dashboard.yml");
    fs::write(&file, rules).expect("it is ours");
    let mut promtool = Command::new("promtool");
    let output = promtool.args(["check", "rules"]).arg(file).output();
    let output = output.expect("scripts/setup installs promtool");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains(&format!("SUCCESS: {count} rules found")),
        "{said}"
    );
}

/// Serves metrics there until the test ends.
fn export(site: MetricsEndpoint, dir: &Path, access: Access) {
    let dir = dir.to_owned();
    let (listening, listens) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(async {
            let exporter = Exporter::listen(site, &dir, access).await;
            let exporter = exporter.expect("nobody else is there");
            listening.send(()).expect("the test waits");
            let (readers, mut waiting) = mpsc::channel(1);
            tokio::spawn(exporter.serve(readers));
            while let Some(reader) = waiting.recv().await {
                reader.send(measured()).expect("the exporter waits");
            }
        });
    });
    listens.recv().expect("the exporter listens");
}

fn read(mut stream: impl Read + Write, accept: &str) -> String {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("UTF-8");
    answer
}

/// The lines of a text: series stand in no order.
fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn metrics_are_read_on_loopback() {
    let free = TcpListener::bind("[::1]:0").and_then(|it| it.local_addr());
    let address: SocketAddr = free.expect("loopback has IPv6");
    let dir = tempfile::TempDir::new().expect("the temporary directory is writable");
    let (access, _) = Access::of_groups(None, None);
    export(MetricsEndpoint::Loopback(address), dir.path(), access);
    let connect = || TcpStream::connect(address).expect("it listens");
    let text = read(connect(), "*/*");
    assert!(
        text.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"),
        "{text}"
    );
    let (_, body) = text.split_once("\r\n\r\n").expect("head and body");
    assert_eq!(
        sorted(body),
        sorted(&write(&measured(), MetricsFormat::Text))
    );
    let open = read(connect(), "application/openmetrics-text; version=1.0.0");
    assert!(
        open.contains("\r\nContent-Type: application/openmetrics-text"),
        "{open}"
    );
    assert!(open.ends_with("# EOF\n"), "{open}");
    // Half-open requests of any local user keep nobody out.
    let half_open: Vec<_> = (0..100).map(|_| connect()).collect();
    assert_eq!(sorted(&read(connect(), "*/*")), sorted(&text));
    drop(half_open);
    // A website whose name resolves to a loopback address (DNS rebinding).
    let mut rebound = connect();
    let head = "GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    rebound.write_all(head.as_bytes()).expect("it reads");
    let mut answer = String::new();
    rebound.read_to_string(&mut answer).expect("UTF-8");
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
    assert!(!answer.contains("voicelane_"), "{answer}");
}

#[test]
fn metrics_on_a_unix_socket_require_read_access() {
    let dir = tempfile::TempDir::new().expect("the temporary directory is writable");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("it is ours");
    let (access, warnings) = Access::of_groups(Some("daemon"), Some("adm"));
    assert_eq!(warnings, [""; 0], "Debian's groups");
    export(MetricsEndpoint::Unix, dir.path(), access);
    let socket = dir.path().join(METRICS_SOCKET);
    let root = UnixStream::connect(&socket).expect("it listens");
    assert!(read(root, "*/*").contains("\nvoicelane_state{state=\"working\"} 1\n"));
    let as_nobody = |group: &str| {
        let ask = "
import socket, sys
with socket.socket(socket.AF_UNIX) as s:
    s.connect(sys.argv[1])
    s.sendall(b'GET /metrics HTTP/1.1\\r\\n\\r\\n')
    try:
        sys.stdout.write(s.makefile().read())
    except ConnectionError:
        pass
";
        let output = Command::new("setpriv")
            .args(["--reuid", "65534", "--regid", "65534", "--groups", group])
            .args(["/usr/bin/python3", "-c", ask])
            .arg(&socket)
            .output()
            .expect("setpriv is there: apt-get install util-linux");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    assert!(as_nobody("daemon").contains("voicelane_packets_total"));
    assert_eq!(as_nobody("games"), "");
}
