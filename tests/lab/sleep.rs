//! A laptop falls asleep and wakes up elsewhere, and logind says so on a bus of the test's own.
#![cfg(feature = "logind")]

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::addresses as at;
use crate::support::call::Call;
use crate::support::caller::Family;
use crate::support::namespace::require;
use crate::support::program::{PATIENCE, Program};
use crate::support::voicelane::{CONFIG, Home};
use crate::support::{Lab, UPLINK};
use nix::sys::signal::{Signal, kill};
use tempfile::TempDir;
use voicelane::control::EventKind;
use zbus::Connection;

const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=ADDRESS</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow own="*"/><allow send_destination="*"/><allow send_type="signal"/><allow receive_sender="*"/>
  </policy>
</busconfig>"#;

/// Sends the signal to each connection of the bus, as any program may, with any body.
async fn forge(forger: &Connection, body: &(impl serde::Serialize + zbus::zvariant::DynamicType)) {
    let bus = "org.freedesktop.DBus";
    let path = "/org/freedesktop/DBus";
    let names = forger.call_method(Some(bus), path, Some(bus), "ListNames", &());
    let names = names.await.expect("the bus answers");
    let names: Vec<String> = names.body().deserialize().expect("names");
    for name in names.iter().filter(|name| name.starts_with(':')) {
        let (path, interface) = ("/org/freedesktop/login1", "org.freedesktop.login1.Manager");
        let to = Some(name.as_str());
        let sent = forger.emit_signal(to, path, interface, "PrepareForSleep", body);
        sent.await.expect("the bus takes it");
    }
}

async fn say(logind: &Connection, asleep: bool) {
    let (path, interface) = ("/org/freedesktop/login1", "org.freedesktop.login1.Manager");
    let body = (asleep,);
    let said = logind.emit_signal(None::<&str>, path, interface, "PrepareForSleep", &body);
    said.await.expect("the bus takes it");
}

#[test]
fn a_call_survives_a_sleep_and_a_new_address() {
    require(&[("dbus-daemon", "dbus-daemon")]);
    let files = TempDir::new().expect("the temporary directory is writable");
    let (socket, config) = (files.path().join("bus"), files.path().join("bus.conf"));
    let address = format!("unix:path={}", socket.display());
    fs::write(
        &config,
        BUS.replace("ADDRESS", &socket.display().to_string()),
    )
    .expect("writable");
    let mut bus = Program::start(
        "dbus-daemon",
        Command::new("dbus-daemon")
            .args(["--nofork", "--print-address", "--config-file"])
            .arg(&config),
    );
    bus.wait_for("unix:path");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let logind = runtime.block_on(async {
        let logind = zbus::connection::Builder::address(address.as_str());
        let logind = logind.name("org.freedesktop.login1");
        logind.build().await.expect("the bus is there")
    });

    let lab = Lab::new();
    let environment = [
        ("DBUS_SYSTEM_BUS_ADDRESS", address.as_str()),
        ("VOICELANE_LOG", "debug"),
    ];
    let mut voicelane = Home::new(&lab.laptop, CONFIG).launch(&environment);
    voicelane.wait_for("ready");
    voicelane.wait_for("receiving sleep signals from logind");
    let call = Call::start(&lab, SocketAddr::new(Family::V4.unspecified(), 0));
    call.resumes_after(Instant::now(), PATIENCE, "the start");

    // Another program's signals are ignored, and a body of another kind from logind itself is no end.
    runtime.block_on(async {
        let forger = zbus::connection::Builder::address(address.as_str());
        let forger = forger.build().await.expect("the bus is there");
        forge(&forger, &(true,)).await;
        forge(&logind, &("not a boolean",)).await;
    });
    voicelane.wait_for("ignored a sleep signal that is not from logind");
    voicelane.wait_for("ignored a sleep signal with another body");
    let kinds = voicelane.events();
    assert!(
        kinds.iter().all(|event| event.kind != EventKind::Sleeping),
        "{kinds:#?}"
    );
    runtime.block_on(say(&logind, true));
    voicelane.event_after(0, EventKind::Sleeping);
    kill(voicelane.pid(), Signal::SIGSTOP).expect("it runs");
    lab.laptop.ip(&format!(
        "link set {UPLINK} down\naddr flush dev {UPLINK}\naddr add 192.168.7.88/24 dev {UPLINK}"
    ));
    lab.laptop.run("ip rule flush protocol 118");
    sleep(Duration::from_millis(500));
    lab.laptop.ip(&format!(
        "link set {UPLINK} up\nroute add default via {}",
        at::HOME.v4
    ));
    kill(voicelane.pid(), Signal::SIGCONT).expect("it waits");
    let awake = Instant::now();
    runtime.block_on(say(&logind, false));
    voicelane.event_after(0, EventKind::Resumed);
    let back = call.resumes_after(awake, Duration::from_secs(3), "the end of sleep");
    println!("the call was back {back:?} after waking up");
    let status = voicelane.status();
    let mappings = status["status"]["mappings"].to_string();
    assert!(mappings.contains("192.168.7.88:"), "{mappings}");
    voicelane.stop();
}
