//! What an operator sees of a running service: which line is in force, how it does, who is on the phone.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::support::addresses as at;
use crate::support::caller::{Family, udp};
use crate::support::program::{PATIENCE, Program};
use crate::support::voicelane::CONFIG;
use crate::support::vpn::VpnKind;
use crate::support::{Lab, MEDIA_PORT, PathTaken};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use tempfile::TempDir;

/// A configuration's directory and a runtime directory.
struct Desk<'a> {
    lab: &'a Lab,
    files: TempDir,
}

impl<'a> Desk<'a> {
    fn new(lab: &'a Lab) -> Self {
        let files = TempDir::new().expect("the temporary directory is writable");
        let desk = Self { lab, files };
        fs::create_dir_all(desk.path("etc/conf.d")).expect("it was just made");
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("the directory is there");
    }

    /// A command of the program, with a setting by environment.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.lab.laptop.command(env!("CARGO_BIN_EXE_voicelane"));
        command
            .args(arguments)
            .env("VOICELANE_CONFIG_DIR", self.path("etc"))
            .env("VOICELANE_RUNTIME_DIR", self.path("run"))
            .env("VOICELANE_TUN", "desk0");
        command
    }

    fn tell(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let output = self.command(arguments).output().expect("it is there");
        (output.status.code(), json(&output))
    }
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn scrape(socket: &Path) -> String {
    let mut stream = UnixStream::connect(socket).expect("metrics can be read");
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\n\r\n")
        .expect("the service listens");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("UTF-8");
    text
}

/// The value that `config show` tells of a key: value, layer, file, line.
fn told<'a>(shown: &'a Value, table: &str, key: &str) -> [&'a Value; 4] {
    let sections = shown["sections"].as_array().expect("a list");
    let mut sections = sections.iter();
    let section = sections.find(|section| section["table"] == table);
    let mut values = section.expect("a table")["values"]
        .as_array()
        .expect("a list")
        .iter();
    let value = values.find(|value| value["key"] == key).expect("a key");
    ["value", "layer", "file", "line"].map(|field| &value[field])
}

#[test]
fn an_operator_sees_what_is_in_force_and_how_it_does() {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::WgQuick);
    let desk = Desk::new(&lab);
    desk.write("etc/voicelane.toml", CONFIG);
    let drop_in =
        "version = 1\n[metrics]\nlisten = 'unix'\n[nat]\nmapping_lifetime_seconds = 600\n";
    desk.write("etc/conf.d/50-desk.toml", drop_in);

    let (code, shown) = desk.tell(&["config", "show", "--effective", "--json"]);
    assert_eq!(code, Some(0));
    let file = desk.path("etc/conf.d/50-desk.toml");
    let [value, layer, place, line] = told(&shown, "nat", "mapping_lifetime_seconds");
    assert_eq!(
        (value, layer, line),
        (&600.into(), &"drop-in".into(), &5.into())
    );
    assert_eq!(place.as_str(), file.to_str());
    let [value, layer, place, _] = told(&shown, "tun", "name");
    assert_eq!((value, layer), (&"desk0".into(), &"command-line".into()));
    assert_eq!(place, "VOICELANE_TUN");

    let mut program = Program::start("voicelane", &mut desk.command(&["run"]));
    program.wait_for("ready");
    let socket = udp(&lab.laptop, SocketAddr::new(Family::V4.unspecified(), 0));
    let (path, _) = lab.exchange(&socket, at::MEDIA.at(Family::V4, MEDIA_PORT));
    assert_eq!(path, PathTaken::Direct);

    let (code, reply) = desk.tell(&["status", "--json"]);
    let status = &reply["status"];
    assert_eq!(
        (&status["state"], code),
        (&"working".into(), Some(0)),
        "{reply}"
    );
    assert_eq!(status["tun"], "desk0");
    assert_eq!(status["captured"], serde_json::json!(["ipv4", "ipv6"]));
    // The lab's WireGuard runs in user space.
    let vpn = &status["vpns"][0];
    assert_eq!(
        (&vpn["kind"], &vpn["full_tunnel_v4"]),
        (&"tun".into(), &true.into()),
        "{reply}"
    );
    let (_, listed) = desk.tell(&["mappings", "--json"]);
    assert_eq!(endpoints(&listed), endpoints(status));
    assert_eq!(endpoints(&listed).len(), 1);

    let metrics = scrape(&desk.path("run/metrics.sock"));
    for line in [
        "voicelane_mappings 1",
        "voicelane_captured{family=\"ipv6\"} 1",
        "voicelane_state{state=\"working\"} 1",
    ] {
        assert!(
            metrics.lines().any(|told| told == line),
            "{line}\n{metrics}"
        );
    }

    let mut mappings = Watcher::start(&desk, &["mappings", "--watch", "--json"]);
    mappings.next(|it| endpoints(it) == endpoints(status));
    let other = udp(&lab.laptop, SocketAddr::new(Family::V6.unspecified(), 0));
    lab.exchange(&other, at::MEDIA.at(Family::V6, MEDIA_PORT));
    mappings.next(|it| endpoints(it).len() == 2);
    let mut events = Watcher::start(&desk, &["events", "--follow", "--json"]);
    events.next(|it| it["kind"] == "ready");
    assert!(program.end(nix::sys::signal::Signal::SIGTERM).success());
    events.next(|it| it["kind"] == "stopped");
    assert!(!desk.path("run/metrics.sock").exists());
    let output = desk.command(&["status"]).output().expect("it is there");
    assert_eq!(output.status.code(), Some(3));
}

/// The endpoints of listed mappings, inside and outside. Their ages differ from reply to reply.
fn endpoints(reply: &Value) -> Vec<[&Value; 2]> {
    let mappings = reply["mappings"].as_array().expect("a list");
    let endpoints = mappings
        .iter()
        .map(|mapping| [&mapping["inside"], &mapping["outside"]]);
    endpoints.collect()
}

/// A command that prints an object a line until it is dropped.
struct Watcher(Child, Receiver<Value>);

impl Watcher {
    fn start(desk: &Desk<'_>, arguments: &[&str]) -> Self {
        let mut command = desk.command(arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it is there");
        let lines = BufReader::new(child.stdout.take().expect("it is a pipe")).lines();
        let (sender, objects) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let object = serde_json::from_str(&line).expect("an object a line");
                if sender.send(object).is_err() {
                    break;
                }
            }
        });
        Self(child, objects)
    }

    /// Waits for an object that fits.
    fn next(&mut self, fits: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut unfit = Value::Null;
        while let Ok(object) = self
            .1
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            if fits(&object) {
                return;
            }
            unfit = object;
        }
        panic!("none of the objects fits, the last is {unfit}");
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.kill().expect("it is ours");
        self.0.wait().expect("it was ours");
    }
}

/// What the service answers is made anew each time, and all of its memory is given back.
#[test]
fn looking_at_thousands_of_mappings_leaves_no_memory_taken() {
    const MAPPINGS: u16 = 6_000;
    const GROWTH: u64 = 1 << 20;
    let lab = Lab::new();
    let desk = Desk::new(&lab);
    let config = format!("{CONFIG}\n[metrics]\nlisten = 'unix'\n");
    desk.write("etc/voicelane.toml", &config);
    let mut program = Program::start("voicelane", &mut desk.command(&["run"]));
    program.wait_for("ready");

    // The mapping of a socket that is closed ends.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit");
    let sockets: Vec<_> = (0..MAPPINGS)
        .map(|number| {
            let family = Family::BOTH[usize::from(number % 2)];
            let socket = udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0));
            (socket, at::MEDIA.at(family, MEDIA_PORT))
        })
        .collect();
    let call_all = || {
        for (number, (socket, to)) in sockets.iter().enumerate() {
            socket.send_to(b"media", to).expect("there is a route");
            if number % 64 == 0 {
                sleep(Duration::from_millis(5));
            }
        }
    };
    // Each mapping has a descriptor; to ask would be to look.
    let open = format!("/proc/{}/fd", program.pid());
    let descriptors = || fs::read_dir(&open).expect("it runs").count();
    let deadline = Instant::now() + PATIENCE;
    while descriptors() < MAPPINGS.into() {
        assert!(Instant::now() < deadline, "not all mappings came to stand");
        call_all();
    }
    // Not all of them are of mappings: here come the last.
    call_all();
    let before = program.memory();
    let grown = [(); 10].map(|()| {
        let (_, listed) = desk.tell(&["mappings", "--json"]);
        let listed = listed["mappings"].as_array().map(Vec::len);
        assert_eq!(listed, Some(MAPPINGS.into()));
        let metrics = scrape(&desk.path("run/metrics.sock"));
        assert!(metrics.contains(&format!("\nvoicelane_mappings {MAPPINGS}\n")));
        program.memory().saturating_sub(before)
    });
    println!("{before} bytes, and after each look more by {grown:?}");
    assert!(grown[9] < GROWTH, "{before} bytes, and then {grown:?} more");
    assert!(program.end(nix::sys::signal::Signal::SIGTERM).success());
}

#[test]
fn a_drop_in_that_others_could_write_is_not_obeyed() {
    let lab = Lab::new();
    let desk = Desk::new(&lab);
    let before = lab.laptop.dump();
    let file = desk.path("etc/conf.d/50-desk.toml");
    desk.write("etc/conf.d/50-desk.toml", "version = 1\n");
    fs::set_permissions(&file, Permissions::from_mode(0o666)).expect("it is ours");
    let output = desk.command(&["run"]).output().expect("it ends by itself");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains(&format!("chmod go-w {}", file.display())),
        "{said}"
    );
    assert_eq!(lab.laptop.changes_since(&before), crate::support::NOTHING);
}
