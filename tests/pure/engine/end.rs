//! The end of a call: an ending that is no failure, and that only the application's silence permits.

use std::time::Duration;

use voicelane::engine::{EndCause, EngineEvent, SocketCommand};
use voicelane::wire::IcmpError;

use super::call::{Call, Habits};
use super::world::World;

const BROWSER: Habits = Habits {
    talks: true,
    plays: true,
    checks: Some(Duration::from_millis(2_500)),
};
const WITHOUT_STUN: Habits = Habits {
    checks: None,
    ..BROWSER
};

/// Passes the state of the application to the engine. Returns how the mapping ended, if it did.
fn ended(call: &mut Call, has_application: bool) -> Option<EndCause> {
    let (mapping, now) = (call.mapping(), call.world.now);
    let World { engine, outbox, .. } = &mut call.world;
    outbox.clear();
    engine.handle_application_state(mapping, has_application, now, outbox);
    match outbox.events() {
        [] => None,
        &[
            EngineEvent::Ended {
                cause,
                media_remote,
                ..
            },
        ] => {
            assert_eq!(outbox.commands(), [SocketCommand::Close { mapping }]);
            assert!(media_remote.is_some(), "a call has ended");
            assert_eq!((engine.mappings(), &call.failovers[..]), (0, &[][..]));
            Some(cause)
        }
        other => panic!("{other:?}"),
    }
}

fn peer_refuses(call: &mut Call) {
    call.report(call.peer(), IcmpError::PortUnreachable);
}

#[test]
fn a_call_ends_with_its_application() {
    for mut call in Call::for_both_families(BROWSER) {
        assert_eq!(ended(&mut call, false), None, "the application sends");
        call.application_is_there = false;
        call.run(Duration::from_millis(2_900));
        assert_eq!(ended(&mut call, false), None);
        call.run(Duration::from_millis(200));
        assert_eq!(ended(&mut call, true), None, "its socket is open");
        assert_eq!(ended(&mut call, false), Some(EndCause::ApplicationClosed));
    }
}

#[test]
fn a_refusal_by_the_peer_ends_a_call_after_its_application_stops() {
    for mut call in Call::for_both_families(WITHOUT_STUN) {
        call.peer_is_there = false;
        for _ in 0..60 {
            peer_refuses(&mut call);
            call.run(Duration::from_secs(1));
            assert_eq!(ended(&mut call, true), None, "the application sends");
        }
        call.application_is_there = false;
        call.run(Duration::from_secs(9));
        assert_eq!(ended(&mut call, true), None);
        call.run(Duration::from_secs(2));
        assert_eq!(ended(&mut call, true), Some(EndCause::PeerClosed));
    }
}

#[test]
fn a_forged_refusal_ends_no_call_that_is_answered() {
    for mut call in Call::for_both_families(WITHOUT_STUN) {
        peer_refuses(&mut call);
        // The agent is muted; the peer's media comes in.
        call.application_is_there = false;
        call.run(Duration::from_mins(1));
        assert_eq!(ended(&mut call, true), None);
    }
}

#[test]
fn silence_of_both_sides_ends_a_call_with_checks() {
    for (habits, expected) in [(BROWSER, Some(EndCause::Silent)), (WITHOUT_STUN, None)] {
        for mut call in Call::for_both_families(habits) {
            call.application_is_there = false;
            call.run(Duration::from_secs(40));
            assert_eq!(ended(&mut call, true), None, "the peer sends");
            call.peer_is_there = false;
            call.run(Duration::from_secs(29));
            assert_eq!(ended(&mut call, true), None);
            call.run(Duration::from_secs(2));
            assert_eq!(ended(&mut call, true), expected);
        }
    }
}

#[test]
fn a_report_names_the_call_and_its_last_answer() {
    for mut call in Call::for_both_families(BROWSER) {
        call.peer_is_there = false;
        call.run(Duration::from_millis(500));
        let engine = &call.world.engine;
        let reports: Vec<_> = engine.mapping_reports(0..8, call.world.now).collect();
        let [report] = &reports[..] else {
            panic!("{reports:?}")
        };
        let rule = report.service.and_then(|rule| engine.policy().rule(rule));
        assert_eq!((report.is_call, report.remote), (true, Some(call.peer())));
        assert_eq!(rule.map(|rule| &*rule.service.name), Some("media"));
        let age = report.last_answer.expect("it was answered");
        assert!((400..=500).contains(&age.as_millis()), "{age:?}");
    }
}
