//! The end of a call is no failure: whichever side ends it, the next call is direct from its first packet.

use std::thread;
use std::time::{Duration, Instant};

use voicelane_browser::peer::Ice;

use crate::stage::{Call, Stage};
use crate::support::caller::Family;
use crate::support::vpn::VpnKind;

/// How a call ends. The delay is the time until the browser hangs up too, in milliseconds.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// The server closes its socket; later packets are answered with ICMP "port unreachable".
    ServerCloses(u64),
    /// The server answers nothing any more.
    ServerFallsSilent(u64),
    /// The browser hangs up; the server goes on for a second.
    HangUp,
    /// The tab is closed; the server goes on for a second.
    TabClosed,
    /// The browser is killed; the server goes on for a second.
    BrowserKilled,
}

use Ending::{BrowserKilled, HangUp, ServerCloses, ServerFallsSilent, TabClosed};

const SERIES: [Ending; 12] = [
    ServerCloses(100),
    HangUp,
    ServerFallsSilent(2500),
    ServerCloses(1000),
    TabClosed,
    ServerCloses(2500),
    ServerFallsSilent(100),
    BrowserKilled,
    ServerFallsSilent(1000),
    HangUp,
    ServerCloses(500),
    TabClosed,
];

/// How long the server goes on after the browser is gone.
const OVERRUN: Duration = Duration::from_secs(1);

/// How long a failure may take to appear after the last call.
const AFTERMATH: Duration = Duration::from_secs(8);

fn end(stage: &Stage, call: &mut Call<'_>, ending: Ending) {
    match ending {
        ServerCloses(delay) | ServerFallsSilent(delay) => {
            if matches!(ending, ServerCloses(_)) {
                call.peer.close();
            } else {
                call.peer.fall_silent();
            }
            thread::sleep(Duration::from_millis(delay));
            call.hang_up();
            return;
        }
        HangUp => call.hang_up(),
        TabClosed => call.close_tab(),
        BrowserKilled => stage.chromium.kill(),
    }
    thread::sleep(OVERRUN);
}

/// The number of calls in a row: 12, or 100 if `VOICELANE_BROWSER` is `all`.
fn length() -> usize {
    match std::env::var("VOICELANE_BROWSER") {
        Ok(extent) if extent == "all" => 100,
        Ok(extent) => panic!("VOICELANE_BROWSER is {extent:?}: expected \"all\" or nothing"),
        Err(_) => SERIES.len(),
    }
}

/// Short calls in a row, which end in every way.
fn ended_calls_leave_no_failure(kind: VpnKind) {
    let mut stage = Stage::new(kind);
    let mut guilty = Vec::new();
    let mut last = 0;
    let kinds = [
        (Family::V4, Ice::Lite),
        (Family::V6, Ice::Lite),
        (Family::V4, Ice::Full),
        (Family::V6, Ice::Full),
    ];
    for (number, ending) in SERIES.into_iter().cycle().take(length()).enumerate() {
        let (family, ice) = kinds[number % kinds.len()];
        let mut call = stage.call(family, ice);
        call.exchange(50);
        end(&stage, &mut call, ending);
        call.assert_direct();
        drop(call);
        if matches!(ending, BrowserKilled) {
            stage.start_browser();
        }
        let failures = stage.failures(last);
        if !failures.is_empty() {
            guilty.push(format!(
                "after call {number}, {family:?} {ice:?} {ending:?}: {failures:#?}"
            ));
        }
        last = stage.last_event();
    }
    println!(
        "{} of {} ended calls left a failure behind",
        guilty.len(),
        length()
    );
    let deadline = Instant::now() + AFTERMATH;
    while Instant::now() < deadline && stage.failures(last).is_empty() {
        thread::sleep(Duration::from_millis(200));
    }
    stage.assert_no_failure(last);
    assert!(
        guilty.is_empty(),
        "{} of {} ended calls left a failure behind: {}",
        guilty.len(),
        length(),
        guilty.join("\n")
    );
    stage.assert_only_calls_leave();
}

#[test]
fn ended_calls_over_openvpn_leave_no_failure() {
    ended_calls_leave_no_failure(VpnKind::OpenVpnDef1);
}

#[test]
fn ended_calls_over_wg_quick_leave_no_failure() {
    ended_calls_leave_no_failure(VpnKind::WgQuick);
}
