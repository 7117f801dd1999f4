//! The control socket against real peers: who may ask, and what a rude peer gets. Wants root, to be somebody else.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

use tempfile::TempDir;
use tokio::sync::mpsc;
use voicelane::control::{Access, Body, SOCKET, Server, Status};

/// A user and a group that own nothing.
const NOBODY: u32 = 65_534;

/// A server with a service that knows its own name, in a directory that everybody may enter.
struct Service {
    dir: TempDir,
}

impl Service {
    fn start(group: Option<&str>) -> Self {
        let dir = TempDir::new().expect("the temporary directory is writable");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("it is ours");
        let path = dir.path().to_owned();
        let access = Access::of_group(group).expect("the group exists");
        let (listening, listens) = std::sync::mpsc::channel();
        thread::spawn(move || serve(&path, access, &listening));
        listens.recv().expect("the server listens");
        Self { dir }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join(SOCKET)
    }

    fn mode(&self) -> u32 {
        let metadata = fs::metadata(self.socket()).expect("the socket is there");
        metadata.permissions().mode() & 0o777
    }

    /// Asks as another user, with the program that users have.
    fn ask_as(&self, uid: u32, gid: u32) -> Output {
        self.invoke_as(uid, gid, &["status", "--json"])
    }

    fn invoke_as(&self, uid: u32, gid: u32, arguments: &[&str]) -> Output {
        let program = self.dir.path().join("voicelane");
        fs::copy(env!("CARGO_BIN_EXE_voicelane"), &program).expect("there is room for a copy");
        let mut command = Command::new(program);
        command
            .args(arguments)
            .arg("--runtime-dir")
            .arg(self.dir.path());
        // A child with another user gets no supplementary groups of ours (std::os::unix::process::CommandExt).
        command.uid(uid).gid(gid);
        command
            .output()
            .expect("this test wants root: run it with sudo")
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

fn serve(dir: &Path, access: Access, listening: &std::sync::mpsc::Sender<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let server = Server::listen(dir, access).expect("the directory is ours");
        listening.send(()).expect("the test waits");
        let (requests, mut pending) = mpsc::channel(1);
        tokio::spawn(server.serve(requests));
        while let Some(request) = pending.recv().await {
            let status = Status {
                program: "test".to_owned(),
                ..Status::default()
            };
            request
                .reply
                .send(Body::Status(Box::new(status)))
                .expect("the server waits");
        }
    });
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn without_a_group_only_the_owner_asks() {
    let service = Service::start(None);
    assert_eq!(service.mode(), 0o600);
    let root = service.ask_as(0, 0);
    assert!(root.status.success(), "{}", said(&root));
    assert!(String::from_utf8_lossy(&root.stdout).contains("\"program\": \"test\""));
    let nobody = service.ask_as(NOBODY, NOBODY);
    assert_eq!(nobody.status.code(), Some(1), "{}", said(&nobody));
    assert!(said(&nobody).contains("no permission"), "{}", said(&nobody));
}

#[test]
fn a_file_mode_alone_opens_nothing() {
    let service = Service::start(None);
    fs::set_permissions(service.socket(), Permissions::from_mode(0o666)).expect("it is ours");
    let nobody = service.ask_as(NOBODY, NOBODY);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(
        said(&nobody).contains("permission denied"),
        "{}",
        said(&nobody)
    );
}

#[test]
fn the_members_of_a_group_ask() {
    let service = Service::start(Some("daemon"));
    assert_eq!(service.mode(), 0o660);
    let daemon = nix::unistd::Group::from_name("daemon")
        .expect("a readable /etc/group")
        .expect("Debian's group");
    let member = service.ask_as(NOBODY, daemon.gid.as_raw());
    assert!(member.status.success(), "{}", said(&member));
    let stranger = service.ask_as(NOBODY, NOBODY);
    assert_eq!(stranger.status.code(), Some(1));

    // They look, and change nothing.
    let reload = service.invoke_as(NOBODY, daemon.gid.as_raw(), &["reload"]);
    assert_eq!(reload.status.code(), Some(1));
    assert!(said(&reload).contains("only root"), "{}", said(&reload));
}

#[test]
fn a_group_that_is_not_there_is_named() {
    let error = Access::of_group(Some("no-such-group")).expect_err("no such group");
    assert!(
        error
            .to_string()
            .contains("groupadd --system no-such-group"),
        "{error}"
    );
}

#[test]
fn rude_peers_get_a_sentence_and_the_next_one_an_answer() {
    let service = Service::start(None);
    for (bytes, sentence) in [
        (&b"\n"[..], "not a request"),
        (b"{}\n", "not a request"),
        (b"\xff\xfe\n", "not a request"),
        (br#"{"version":9,"request":"status"}"#, "version 9"),
        (&vec![b'x'; 100_000], "not a request"),
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
            .contains("\"program\":\"test\"")
    );
}
