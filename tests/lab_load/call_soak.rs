//! Many calls for a long time beside reloads, changes of links and calls that end and begin: each has answers again
//! within three seconds, nothing but marked media leaves the VPN, and in the end nothing has grown or is left over.
//!
//! `VOICELANE_CALLS` says how many calls there are at a time, `VOICELANE_CALL_SECONDS` for how long, and
//! `VOICELANE_CALL_RATE` how many packets each sends in a second. Where there is time for it (`FULL_MEASURE`), the test
//! also waits for the end of all mappings. What is measured on the way is printed.

mod calls;
mod holdings;
mod world;

use std::collections::BTreeMap;
use std::env;
use std::str::FromStr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::program::PATIENCE;
use crate::support::voicelane::{CONFIG, Home, TUN, Voicelane};
use calls::{Calls, Tally};
use holdings::{Holdings, most_memory, udp_sockets};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use voicelane::control::EventKind;
use world::{COURSE, Happening, World};

/// What CI has time for.
const FEW_CALLS: usize = 100;
const FEW_SECONDS: u64 = 12;

/// Packets that a call sends in a second. Voice has 50, but here one machine is laptop, home, internet and all agents at
/// once: 2,000 calls are 20,000 packets a second each way at this rate, and pass eight network stacks on two cores.
const RATE: u64 = 10;

/// How long a call may be gone.
const LONGEST_LOSS: Duration = Duration::from_secs(3);

/// The shortest life that a mapping may be given.
const LIFETIME: Duration = Duration::from_mins(2);

/// In a tenth of this time, the warm-up, nearly as many mappings stand as ever will: it is time then to see them end.
const FULL_MEASURE: Duration = Duration::from_mins(20);

/// The lab's configuration with these services besides.
fn config(services: &str) -> String {
    let seconds = LIFETIME.as_secs();
    format!("{CONFIG}{services}\n[nat]\nmapping_lifetime_seconds = {seconds}\n")
}

fn number<T: FromStr>(name: &str, default: T) -> T {
    env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number"))
    })
}

/// The service in its world, with calls.
struct Soak {
    world: World,
    voicelane: Voicelane,
    calls: Calls,
    /// What was held before the calls.
    idle: Holdings,
}

/// How a kind of event went at its worst, and the phases that it had.
#[derive(Default)]
struct Fate {
    back: Duration,
    silence: Duration,
    phases: Vec<usize>,
}

impl Soak {
    fn holdings(&self) -> Holdings {
        let own = self.calls.sockets() + 2;
        Holdings::now(&self.world.lab.laptop, &self.voicelane, own)
    }

    /// What a person would look at first: the status without its thousands of mappings, and the last events.
    fn account(&self) -> String {
        let mut status = self.voicelane.status()["status"].take();
        status["mappings"] = Value::Null;
        let events = self.voicelane.events();
        let events = &events[events.len().saturating_sub(30)..];
        format!("{status:#}\n{events:#?}")
    }

    /// Everything happens, over and over; prints how it went, and answers what was held from the warm-up on.
    fn run(&mut self, time: Duration) -> Vec<Holdings> {
        let start = Instant::now();
        let pause = (time / 400).clamp(Duration::from_millis(500), Duration::from_secs(5));
        let (mut quiet, mut fates) = (Vec::new(), BTreeMap::<Happening, Fate>::new());
        let (mut held, mut answers) = (Vec::new(), [0; 2]);
        while start.elapsed() < time || held.is_empty() {
            for happening in COURSE {
                quiet.push(self.calls.begin_phase());
                let [tunnelled, _] = self.world.in_the_vpn();
                self.world.ask_others();
                sleep(pause);
                let [media, _] = self.world.in_the_vpn();
                assert_eq!(
                    media, tunnelled,
                    "in the VPN for no reason: {happening:?} is next"
                );
                for (all, more) in answers.iter_mut().zip(self.world.answers_of_others()) {
                    *all += more;
                }

                let phase = self.calls.begin_phase();
                let fate = fates.entry(happening).or_default();
                self.world.undergo(happening, &self.calls, &self.voicelane);
                self.calls.mark();
                let back = self.calls.are_back_within(LONGEST_LOSS);
                fate.back = fate.back.max(back.unwrap_or_else(|how| {
                    let nth = fate.phases.len();
                    panic!(
                        "{happening:?}, {nth} times before: {how}\n{}",
                        self.account()
                    )
                }));
                // What comes of it in a moment belongs to it.
                sleep(Duration::from_millis(300));
                fate.silence = fate.silence.max(self.calls.silence());
                fate.phases.push(phase);
                let [_, unmarked, other] = self.world.past_the_vpn();
                assert_eq!([unmarked, other], [0, 0], "{happening:?}");
            }
            // Somebody looks at everything: what that takes is held for no longer.
            let status = self.voicelane.status();
            let mappings = status["status"]["mappings"].as_array().map(Vec::len);
            assert!(mappings.is_some_and(|count| count >= self.calls.sockets()));
            let now = self.holdings();
            println!("{:5} s: {now}", start.elapsed().as_secs());
            if start.elapsed() >= time / 10 {
                held.push(now);
            }
        }
        let phases = self.calls.phases();
        let sum = |numbers: &[usize]| {
            let of_them = numbers.iter().map(|&number| phases[number]);
            of_them.fold(Tally::default(), Tally::plus)
        };
        println!("{} calls replaced meanwhile", self.world.replaced);
        println!("nothing happens, {} times: {}", quiet.len(), sum(&quiet));
        for (happening, fate) in &fates {
            println!(
                "{happening:?}, {} times: all back after {:.0?}, silence {:.0?}, {}",
                fate.phases.len(),
                fate.back,
                fate.silence,
                sum(&fate.phases)
            );
        }
        let (past, inside) = (self.world.past_the_vpn(), self.world.in_the_vpn());
        println!("past the VPN: {past:?} (media with and without its mark, other)");
        println!("in the VPN: {inside:?} (media, other); answers {answers:?}");
        assert!(past[0] > 0, "the witness is blind");
        // It finds its way after some changes and not after others, which is its own affair.
        assert!(!answers.contains(&0), "nobody is answered in the VPN");
        held
    }

    /// All calls but two end, and then their mappings: all at once, which holds up nobody.
    fn wind_down(&self) {
        self.calls.keep(2);
        let phase = self.calls.begin_phase();
        let kept = self.calls.sockets() as u64;
        let (descriptors, sockets) = (self.idle.descriptors + kept, self.idle.sockets + kept);
        let deadline = Instant::now() + LIFETIME + PATIENCE;
        let left = || {
            let now = self.holdings();
            (now.descriptors, now.sockets)
        };
        while left() != (descriptors, sockets) {
            let account = || self.account();
            assert!(Instant::now() < deadline, "{:?}: {}", left(), account());
            sleep(Duration::from_millis(500));
        }
        let (silence, tally) = (self.calls.silence(), self.calls.phases()[phase]);
        println!("all mappings end: silence {silence:.0?}, {tally}");
        assert!(silence < LONGEST_LOSS);
    }
}

#[test]
fn calls_survive_a_long_day() {
    let count = number("VOICELANE_CALLS", FEW_CALLS);
    let time = Duration::from_secs(number("VOICELANE_CALL_SECONDS", FEW_SECONDS));
    let rate = number("VOICELANE_CALL_RATE", RATE);
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("every process has it");
    let needed = count as u64 * 2 + 100;
    assert!(
        most > needed,
        "`ulimit -Hn` is {most}: the test needs {needed}"
    );
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("up to the hard limit");
    println!("{count} calls for {time:?}, {rate} packets a second of each");

    let world = World::new();
    let before = world.lab.laptop.dump();
    let bare = udp_sockets(&world.lab.laptop);
    let voicelane = Home::new(&world.lab.laptop, &config("")).start();
    let idle = Holdings::now(&world.lab.laptop, &voicelane, 2);
    let calls = Calls::start(&world.lab.laptop, count, rate);
    let mut soak = Soak {
        world,
        voicelane,
        calls,
        idle,
    };
    if let Err(how) = soak.calls.are_back_within(PATIENCE) {
        panic!("the start: {how}\n{}", soak.account());
    }

    let mut held = soak.run(time);
    let mut status = soak.voicelane.status()["status"].take();
    for key in [
        "outbound",
        "inbound",
        "kernel_errors",
        "failover",
        "scheduling",
    ] {
        println!("{key}: {}", status[key].take());
    }
    if time >= FULL_MEASURE {
        soak.wind_down();
    }
    held.push(soak.holdings());
    let (warm, end) = (held[0], held[held.len() - 1]);
    let most = most_memory(&soak.voicelane);
    println!("idle: {idle}\nwarm: {warm}\nend: {end}\nmost memory {most} KiB");
    for now in &held {
        now.assert_as_flat_as(&warm);
    }
    let mut events = soak.voicelane.events().into_iter();
    let contest = events.find(|event| event.kind == EventKind::RulesContested);
    assert!(contest.is_none(), "{contest:?}");

    let Soak {
        world,
        voicelane,
        calls,
        ..
    } = soak;
    drop(calls);
    voicelane.stop();
    assert_eq!(udp_sockets(&world.lab.laptop), bare);
    let left = world.lab.laptop.changes_since(&before);
    let ours = ["proto 118", "protocol 118", TUN, "rp_filter", "3031"];
    let is_ours = |line: &&String| ours.iter().any(|ours| line.contains(ours));
    let left: Vec<_> = left.iter().filter(is_ours).collect();
    assert!(left.is_empty(), "{left:#?}");
}
