//! The control socket against real peers: who may look, who may change, what a rude peer gets. Wants root, to be
//! somebody else.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc as plain};
use std::thread;

use tempfile::TempDir;
use tokio::sync::mpsc;
use voicelane::control::{Access, Body, Request, SOCKET, Server, State, Status, Summary};

/// Sends what its first argument says to the socket that its second names, and prints what comes back.
const ASK: &str = "
import socket, sys
with socket.socket(socket.AF_UNIX) as s:
    s.connect(sys.argv[2])
    s.sendall(sys.argv[1].encode())
    sys.stdout.write(s.makefile().read())
";

/// A server with a service that knows its own name, in a directory that everybody may enter.
struct Service {
    dir: TempDir,
    /// The requests that came through to the service.
    asked: Arc<AtomicUsize>,
}

impl Service {
    fn start(readers: Option<&str>, admins: Option<&str>) -> Self {
        Self::start_in(State::Working, readers, admins)
    }

    fn start_in(state: State, readers: Option<&str>, admins: Option<&str>) -> Self {
        let dir = TempDir::new().expect("the temporary directory is writable");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("it is ours");
        let program = dir.path().join("voicelane");
        fs::copy(env!("CARGO_BIN_EXE_voicelane"), program).expect("there is room for a copy");
        let path = dir.path().to_owned();
        let (access, warnings) = Access::of_groups(readers, admins);
        assert_eq!(warnings, [""; 0]);
        let (listening, listens) = plain::channel();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        thread::spawn(move || serve(&path, access, state, &count, &listening));
        listens.recv().expect("the server listens");
        Self { dir, asked }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join(SOCKET)
    }

    fn mode(&self) -> u32 {
        let metadata = fs::metadata(self.socket()).expect("the socket is there");
        metadata.permissions().mode() & 0o777
    }

    /// Runs a program as user and group 65534 with further groups.
    fn run_as_nobody(groups: &[u32], program: &Path, args: &[&str]) -> Output {
        let listed: Vec<_> = groups.iter().map(u32::to_string).collect();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534"]);
        if groups.is_empty() {
            command.arg("--clear-groups");
        } else {
            command.args(["--groups", &listed.join(",")]);
        }
        let output = command.arg(program).args(args).output();
        output.expect("setpriv is there: apt-get install util-linux")
    }

    /// Asks for the status as nobody with further groups, with the program that users have.
    fn ask_as(&self, groups: &[u32]) -> Output {
        let dir = self.dir.path().to_str().expect("UTF-8");
        let args = ["status", "--json", "--runtime-dir", dir];
        Self::run_as_nobody(groups, &self.dir.path().join("voicelane"), &args)
    }

    /// Sends a line as nobody with further groups, and answers what came back.
    fn tell_as(&self, groups: &[u32], line: &str) -> String {
        let socket = self.socket();
        let socket = socket.to_str().expect("UTF-8");
        let args = ["-c", ASK, line, socket];
        let output = Self::run_as_nobody(groups, Path::new("/usr/bin/python3"), &args);
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Asks as root.
    fn ask(&self, args: &[&str]) -> Output {
        let mut command = Command::new(self.dir.path().join("voicelane"));
        command.args(args).arg("--runtime-dir").arg(self.dir.path());
        command.output().expect("it is there")
    }

    /// Sends raw bytes and answers what came back.
    fn tell(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.socket()).expect("the server listens");
        // A server that has read enough may hang up before all is written.
        let _ = stream.write_all(bytes);
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .expect("an answer in UTF-8");
        answer
    }
}

fn serve(
    dir: &Path,
    access: Access,
    state: State,
    asked: &AtomicUsize,
    listening: &plain::Sender<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let server = Server::listen(dir, access).expect("the directory is ours");
        listening.send(()).expect("the test waits");
        let (requests, mut pending) = mpsc::channel(1);
        tokio::spawn(server.serve(requests));
        while let Some(request) = pending.recv().await {
            asked.fetch_add(1, Ordering::Relaxed);
            let status = Status {
                program_version: "test".to_owned(),
                state,
                ..Status::default()
            };
            let body = match request.request {
                Request::Summary => Body::Summary(Summary {
                    program_version: "test".to_owned(),
                    state,
                    ..Summary::default()
                }),
                _ => Body::Status(Box::new(status)),
            };
            // A peer that was hung up on meanwhile waits no more.
            let _ = request.reply.send(body);
        }
    });
}

fn gid(group: &str) -> u32 {
    let group = nix::unistd::Group::from_name(group).expect("a readable /etc/group");
    group.expect("one of Debian's groups").gid.as_raw()
}

fn said(output: &Output) -> String {
    // With --json, an error is on standard output.
    let both = [&output.stderr[..], &output.stdout].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[test]
fn without_a_group_others_get_a_summary_and_nothing_else() {
    let service = Service::start(None, None);
    assert_eq!(service.mode(), 0o666);
    let root = service.ask(&["status", "--json"]);
    assert!(root.status.success(), "{}", said(&root));
    assert!(String::from_utf8_lossy(&root.stdout).contains("\"mappings\""));
    let nobody = service.ask_as(&[gid("games")]);
    assert!(nobody.status.success(), "{}", said(&nobody));
    let summary: serde_json::Value = serde_json::from_slice(&nobody.stdout).expect("JSON");
    assert_eq!(summary["summary"]["state"], "working");
    assert_eq!(summary["status"], serde_json::Value::Null);
    let asked = service.asked.load(Ordering::Relaxed);
    for request in [
        r#""events","after":0"#,
        r#""reload""#,
        r#""pause","seconds":9"#,
        r#""resume""#,
    ] {
        let line = format!("{{\"version\":1,\"request\":{request}}}\n");
        let answer = service.tell_as(&[gid("games")], &line);
        assert!(answer.contains("denied"), "{answer}");
    }
    let answer = service.tell_as(&[gid("games")], "{\"version\":1,\"request\":\"stop\"}\n");
    assert!(answer.contains("\"error\""), "{answer}");
    assert_eq!(service.asked.load(Ordering::Relaxed), asked);
}

#[test]
fn the_members_of_a_group_look_and_change_nothing() {
    let service = Service::start(Some("daemon"), Some("adm"));
    for group in ["daemon", "adm"] {
        let member = service.ask_as(&[gid("games"), gid(group)]);
        assert!(member.status.success(), "{}", said(&member));
        assert!(String::from_utf8_lossy(&member.stdout).contains("\"status\""));
    }
    assert_eq!(service.asked.load(Ordering::Relaxed), 2);
    for change in ["reload", "resume", "stop", "disable", "policy"] {
        let line = format!("{{\"version\":1,\"request\":\"{change}\"}}\n");
        let answer = service.tell_as(&[gid("daemon")], &line);
        assert!(answer.contains("\"error\""), "{answer}");
    }
    assert_eq!(
        service.asked.load(Ordering::Relaxed),
        2,
        "only those who may were heard"
    );
}

#[test]
fn the_exit_code_says_how_the_service_does() {
    for (state, code) in [
        (State::Working, 0),
        (State::Degraded, 1),
        (State::NotWorking, 2),
    ] {
        let service = Service::start_in(state, None, None);
        assert_eq!(
            service.ask(&["status"]).status.code(),
            Some(code),
            "{state:?}"
        );
        let listed = service.ask(&["mappings", "--json"]);
        assert!(String::from_utf8_lossy(&listed.stdout).contains("\"mappings\": []"));
    }
    let nobody_home = TempDir::new().expect("the temporary directory is writable");
    for command in ["status", "mappings"] {
        let output = Command::new(env!("CARGO_BIN_EXE_voicelane"))
            .args([command, "--runtime-dir"])
            .arg(nobody_home.path())
            .output()
            .expect("it is there");
        assert_eq!(
            output.status.code(),
            Some(3),
            "{command}: {}",
            said(&output)
        );
    }
}

#[test]
fn who_asks_too_often_waits_and_root_does_not() {
    let service = Service::start(Some("daemon"), None);
    let socket = service.socket();
    let flood = "
import socket, sys
refused = 0
for n in range(1000):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(sys.argv[1])
        s.sendall(b'{\"version\":1,\"request\":\"status\"}\\n')
        try:
            refused += 'too many requests' in s.makefile().read()
        except ConnectionError:
            refused += 1
print(refused)
";
    let args = ["-c", flood, socket.to_str().expect("UTF-8")];
    let output = Service::run_as_nobody(&[gid("daemon")], Path::new("/usr/bin/python3"), &args);
    let refused = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let refused: usize = refused
        .parse()
        .unwrap_or_else(|_| panic!("{}", said(&output)));
    assert!(refused > 0, "1,000 requests in a row were all answered");
    let line = format!("{}\n", Request::Status.line());
    assert!((0..200).all(|_| {
        service
            .tell(line.as_bytes())
            .contains("\"program_version\"")
    }));
}

#[test]
fn silent_strangers_keep_neither_root_nor_members_out() {
    let service = Service::start(Some("daemon"), None);
    let crowd = "
import socket, subprocess, sys
peers = [socket.socket(socket.AF_UNIX) for n in range(30)]
for peer in peers:
    peer.connect(sys.argv[1])
print('there', flush=True)
sys.stdin.read()
";
    let mut crowd = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--groups"])
        .arg(gid("games").to_string())
        .args(["/usr/bin/python3", "-c", crowd])
        .arg(service.socket())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("setpriv is there: apt-get install util-linux");
    let mut there = [0; 5];
    let out = crowd.stdout.as_mut().expect("it is a pipe");
    out.read_exact(&mut there).expect("the crowd has come");
    let root = service.ask(&["status"]);
    assert!(root.status.success(), "{}", said(&root));
    let member = service.ask_as(&[gid("daemon")]);
    assert!(member.status.success(), "{}", said(&member));
    drop(crowd.stdin.take());
    assert!(crowd.wait().expect("it ends").success());
}

#[test]
fn rude_peers_get_a_sentence_and_the_next_one_an_answer() {
    let service = Service::start(None, None);
    for (bytes, sentence) in [
        (&b"\n"[..], "invalid request"),
        (b"{}\n", "invalid request"),
        (b"\xff\xfe\n", "invalid request"),
        (br#"{"version":9,"request":"status"}"#, "version 9"),
        (&vec![b'x'; 100_000], "invalid request"),
    ] {
        let answer = if bytes.ends_with(b"\n") {
            service.tell(bytes)
        } else {
            service.tell(&[bytes, b"\n"].concat())
        };
        assert!(
            answer.contains("\"error\"") && answer.contains(sentence),
            "{answer}"
        );
    }
    assert!(
        service
            .tell(b"{\"version\":1,\"request\":\"status\"}\n")
            .contains("\"program_version\":\"test\"")
    );
}
