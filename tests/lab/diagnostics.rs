//! `voicelane bugreport` has no identifying data, and `voicelane capture` has no payload by default.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::addresses as at;
use crate::support::call::Call;
use crate::support::caller::Family;
use crate::support::namespace::{require, run};
use crate::support::program::PATIENCE;
use crate::support::voicelane::{CONFIG, Home, Voicelane};
use crate::support::{Lab, UPLINK};
use nix::sys::signal::Signal;

/// The RTP payload of the lab's call, in bytes.
const PAYLOAD: u32 = 172 - 12;

/// A call each way of both families, until the end of the value.
fn calls(lab: &Lab) -> [Call; 2] {
    Family::BOTH.map(|family| {
        let call = Call::start(lab, SocketAddr::new(family.unspecified(), 0));
        call.resumes_after(Instant::now(), PATIENCE, "the start");
        call
    })
}

#[test]
fn an_archive_has_no_identifying_data() {
    require(&[("tar", "tar"), ("unshare", "util-linux")]);
    let lab = Lab::new();
    let secret = "Mallory's lap-4711.corp.example at /srv/people/mallory, 198.51.100.77";
    let config = CONFIG.replace("The lab's network test", secret);
    let voicelane = Home::new(&lab.laptop, &config).start();
    let home = voicelane.home();
    let _calls = calls(&lab);
    let file = |name: &str| home.dir().join(name).display().to_string();
    let archive = file("it.tar.gz");
    let (config, runtime) = (voicelane.config_file(), file("run"));
    let script = format!(
        "hostname lap-4711.corp.example
         mount -t tmpfs none /mnt
         (cat /etc/passwd; echo mallory:x:1234:1234::/srv/people/mallory:/bin/sh) > /mnt/passwd
         mount --bind /mnt/passwd /etc/passwd
         export HOME=/srv/people/mallory USER=mallory
         mkdir /mnt/credentials
         printf 'version = 1\n[nat]\nmapping_lifetime_seconds = 4242\n' > /mnt/credentials/voicelane.toml
         export CREDENTIALS_DIRECTORY=/mnt/credentials
         mkdir /mnt/etc
         cp {config} /mnt/etc/voicelane.toml
         set -- \"$1\" bugreport --output {archive} --config-dir /mnt/etc --runtime-dir {runtime}"
    );
    let output = home.invoke_from(&script, &[]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    run(
        Command::new("tar")
            .args(["-xzf", &archive, "-C"])
            .arg(home.dir()),
        "",
    );
    let folder = home.dir().join("voicelane-bugreport");
    let texts = fs::read_dir(&folder)
        .expect("it was unpacked")
        .map(|entry| {
            let path = entry.expect("it is there").path();
            let name = path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            (name, fs::read_to_string(path).expect("texts"))
        });
    let texts: Vec<_> = texts.collect();
    let whole = texts.iter().map(|(_, text)| text.to_lowercase());
    let whole = whole.collect::<Vec<_>>().join("\n");

    let hardware = lab
        .laptop
        .run(&format!("cat /sys/class/net/{UPLINK}/address"));
    let addresses = Family::BOTH.map(|family| at::LAPTOP.of(family).to_string());
    let routers = Family::BOTH.map(|family| at::HOME.of(family).to_string());
    let mut secrets = vec![
        "lap-4711",
        "corp.example",
        "mallory",
        "/srv/people",
        "198.51.100.77",
        hardware.trim(),
    ];
    secrets.extend(addresses.iter().chain(&routers).map(String::as_str));
    for secret in secrets {
        for (name, text) in &texts {
            let text = text.to_lowercase();
            let at = text.find(secret);
            assert_eq!(at, None, "{secret} in {name}: {text}");
        }
    }
    // They were there: each has its stand-in. The vendor's addresses stay.
    for kept in [
        "description = \"user-",
        "'s host-",
        " at home-",
        ", public4-",
        "address mac-",
        "via private4-",
        "via public6-",
        "168.86.128.0/18",
        "mapping_lifetime_seconds = \"withheld\"",
        "dev #",
        "voicelane0",
    ] {
        assert!(whole.contains(kept), "{kept}: {whole}");
    }
    // It lists itself, and programs read what is for programs.
    for (name, text) in &texts {
        assert!(said.contains(name.as_str()), "{name}: {said}");
        if Path::new(name).extension().is_some_and(|it| it == "json") {
            let json: serde_json::Value = serde_json::from_str(text).expect("still JSON");
            assert_eq!(json["version"], 1, "{name}");
        }
    }
    assert_eq!(texts.len(), 10, "{said}");
    let text = |wanted: &str| {
        texts
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, text)| text)
    };
    let firewall = text("firewall.txt").expect("it is listed");
    assert!(
        firewall.contains("proto 118") || firewall.contains("lookup"),
        "{firewall}"
    );
    assert!(
        text("service.txt")
            .expect("it is listed")
            .contains("$ journalctl")
    );
    // What is there is not written over.
    let output = home.invoke_from("", &["bugreport", "--output", &archive]);
    assert!(!output.status.success(), "{output:?}");
}

/// What tshark reads of a capture, packet by packet: source, SSRC, length, and what is left of it.
fn judged(file: &str) -> Vec<(String, String, u32, u32)> {
    let fields = ["_ws.col.Source", "rtp.ssrc", "frame.len", "frame.cap_len"];
    let mut command = Command::new("tshark");
    command.args(["-n", "-r", file, "-T", "fields", "-E", "separator=,"]);
    command.args(["-d", "udp.port==20001,rtp"]);
    command.args(fields.iter().flat_map(|field| ["-e", field]));
    let table = run(&mut command, "");
    let lines = table.lines().map(|line| {
        let cells: Vec<_> = line.split(',').collect();
        let [source, ssrc, length, kept] = cells[..] else {
            panic!("{line}")
        };
        let number = |text: &str| text.parse().expect("tshark writes a number");
        (
            source.to_owned(),
            ssrc.to_owned(),
            number(length),
            number(kept),
        )
    });
    lines.collect()
}

#[test]
fn a_capture_has_both_directions_and_no_payload() {
    require(&[("tshark", "tshark")]);
    let lab = Lab::new();
    let voicelane = Voicelane::start(&lab.laptop);
    let home = voicelane.home();
    let _calls = calls(&lab);
    let record = |name: &str, arguments: &[&str]| {
        let file = home.dir().join(name).display().to_string();
        let arguments = [&["capture", "--output", &file], arguments].concat();
        let run = home.dir().join("run").display().to_string();
        let arguments = [&arguments[..], &["--runtime-dir", &run]].concat();
        let output = home.invoke(&arguments);
        assert!(output.status.success(), "{output:?}");
        judged(&file)
    };
    let config = voicelane.config_file();
    let uplink = ["--seconds", "1", "--side", "uplink", "--config", &config];
    for (name, arguments, kept) in [
        ("headers.pcap", &["--seconds", "1"][..], 12),
        ("uplink.pcap", &uplink, 12),
        ("whole.pcap", &["--seconds", "1", "--payload"], 12 + PAYLOAD),
    ] {
        let packets = record(name, arguments);
        for (family, headers) in Family::BOTH.into_iter().zip([20 + 8, 40 + 8]) {
            let server = at::MEDIA.of(family).to_string();
            let of = |is_server: bool| {
                let is_meant = |it: &&(String, String, u32, u32)| {
                    let is_v4 = !it.0.contains(':');
                    is_v4 == (family == Family::V4) && (it.0 == server) == is_server
                };
                packets.iter().filter(is_meant).collect::<Vec<_>>()
            };
            for path in [of(true), of(false)] {
                assert!(path.len() >= 20, "{name} {family:?}: {packets:?}");
                for (_, ssrc, length, left) in path {
                    assert_eq!(ssrc, "0x80808080", "{name}");
                    assert_eq!((*length, *left), (headers + 172, headers + kept), "{name}");
                }
            }
        }
    }
    assert_eq!(record("ten.pcap", &["--packets", "10"]).len(), 10);
    voicelane.stop();
}

#[test]
fn an_interrupted_capture_is_complete() {
    require(&[("tshark", "tshark")]);
    let lab = Lab::new();
    let voicelane = Voicelane::start(&lab.laptop);
    let _calls = calls(&lab);
    let home = voicelane.home();
    let path = |name: &str| home.dir().join(name).display().to_string();
    let (file, run) = (path("it.pcap"), path("run"));
    let mut command = lab.laptop.command(env!("CARGO_BIN_EXE_voicelane"));
    command.args(["capture", "--runtime-dir", &run, "--output", &file]);
    let mut recorder = crate::support::program::Program::start("capture", &mut command);
    recorder.wait_for("Press Ctrl-C");
    let deadline = Instant::now() + PATIENCE;
    while fs::metadata(&file).map_or(0, |it| it.len()) < 10_000 {
        assert!(Instant::now() < deadline, "{}", recorder.log());
        thread::sleep(Duration::from_millis(20));
    }
    assert!(recorder.end(Signal::SIGINT).success());
    assert!(judged(&file).len() > 100);
}
