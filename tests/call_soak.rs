//! Many calls for a long time beside reloads, changes of links and calls that end and begin: each has answers again
//! within three seconds, nothing but marked media leaves the VPN, and in the end nothing has grown or is left over.
//!
//! `VOICELANE_CALLS` says how many calls there are at a time, `VOICELANE_CALL_SECONDS` for how long, and
//! `VOICELANE_CALL_RATE` how many packets each sends in a second. From [`FULL_MEASURE`] on it also waits for the end of
//! all mappings, which takes their lifetime. What is measured on the way is printed.

#[path = "support/lab/mod.rs"]
mod lab;

use std::collections::BTreeMap;
use std::env;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use lab::addresses as at;
use lab::caller::{Family, udp};
use lab::echo::Echo;
use lab::namespace::Namespace;
use lab::program::PATIENCE;
use lab::voicelane::{CONFIG, Home, TUN, Voicelane};
use lab::vpn::VpnKind;
use lab::{CABLE, Lab, MEDIA_PORT, UPLINK};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use voicelane::control::EventKind;

/// What CI has time for.
const FEW_CALLS: usize = 100;
const FEW_SECONDS: u64 = 20;

/// Packets that a call sends in a second. Voice has 50, but here one machine of two cores is laptop, home, internet and
/// agent at once: 2,000 calls are 20,000 packets a second each way at this rate.
const RATE: usize = 10;

/// How long a call may be gone.
const LONGEST_LOSS: Duration = Duration::from_secs(3);

/// The shortest life that a mapping may be given.
const LIFETIME: Duration = Duration::from_mins(2);

/// Runs of this length see their first mappings end before the warm-up is over, and wait for the last ones.
const FULL_MEASURE: Duration = Duration::from_mins(15);

/// The media server's ports for RTP and RTCP, which nothing else serves.
const PORTS: [u16; 2] = [MEDIA_PORT + 1, MEDIA_PORT + 2];

/// Turns between two RTCP packets of a call: five seconds.
const RTCP_TURNS: u64 = 50;

/// How much more memory the service may hold than after the warm-up, and the kernel in slabs, beside what its sockets
/// take. What one of 18,000 mappings or of 300,000 sockets left behind, 300 bytes each, would be more.
const GROWTH: u64 = 4 << 20;
const SLAB_GROWTH: u64 = 64 << 20;

/// Memory that a mapping may take, the kernel's part included.
const PER_MAPPING: u64 = 3_500;

/// Another policy that captures the same media: a range more, other ports.
const OTHER_SERVICE: &str = r#"
[[service]]
name = "lab-other"
description = "More of the lab's media gateways"
role = "media"
protocol = "udp"
prefixes = ["2001:db8:99::/48", "198.18.7.0/24"]
ports = ["5000-6000"]
dscp = "EF"
allow_special_purpose = true
"#;

fn config(services: &str) -> String {
    let seconds = LIFETIME.as_secs();
    format!("{CONFIG}{services}\n[nat]\nmapping_lifetime_seconds = {seconds}\n")
}

/// What happens, by turns. It is the lost link that moves media: one that comes back is on probation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    OtherPolicy,
    CableLost,
    AddressChanged,
    CableBack,
    CallsReplaced,
    FirstPolicy,
    WifiLost,
    WifiBack,
}

use Happening::{
    AddressChanged, CableBack, CableLost, CallsReplaced, FirstPolicy, OtherPolicy, WifiBack,
    WifiLost,
};

const COURSE: [Happening; 8] = [
    OtherPolicy,
    CableLost,
    AddressChanged,
    CableBack,
    CallsReplaced,
    FirstPolicy,
    WifiLost,
    WifiBack,
];

/// A call on the laptop: RTP, and RTCP for every other pair.
struct Call {
    sockets: Vec<UdpSocket>,
    family: Family,
    turns: u64,
    /// When something came last, and the longest wait for it of late.
    heard: Instant,
    silence: Duration,
    /// How long after the last event a packet that was sent after it was answered.
    back: Option<Duration>,
}

impl Call {
    /// Opens a call's sockets, as a browser has them: bound to no address. Inside the laptop only.
    fn new(number: usize) -> Self {
        let family = Family::BOTH[number % 2];
        let sockets = 1 + number / 2 % 2;
        let socket = |_| {
            let socket = UdpSocket::bind((family.unspecified(), 0)).expect("ports are free");
            socket.set_nonblocking(true).expect("it is a socket");
            socket
        };
        Self {
            sockets: (0..sockets).map(socket).collect(),
            family,
            turns: 0,
            heard: Instant::now(),
            silence: Duration::ZERO,
            back: None,
        }
    }
}

/// What was sent in a phase of the course, and what of it was answered.
#[derive(Clone, Copy, Default)]
struct Tally {
    sent: u64,
    answered: u64,
}

impl Tally {
    fn plus(self, other: Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            answered: self.answered + other.answered,
        }
    }
}

impl Display for Tally {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let Self { sent, answered } = self;
        let percent = 100.0 * (sent - answered) as f64 / *sent as f64;
        write!(
            f,
            "{} of {sent} packets lost ({percent:.3} %)",
            sent - answered
        )
    }
}

/// All calls, and the thread's way to wait for them.
struct Switchboard {
    calls: Vec<Call>,
    epoll: Epoll,
    /// Of all times that packets tell.
    origin: Instant,
    /// Packets a second, of all calls together.
    rate: f64,
    /// Packets that were due, the first of `since`.
    due: u64,
    since: Instant,
    /// First the start, then by turns one in which nothing happens and one with an event.
    phases: Vec<Tally>,
    /// The end of the last event.
    mark: Instant,
}

/// A packet's content: the RTP header's first byte, the phase, when it was sent.
fn payload(phase: u32, time: Duration, length: usize) -> Vec<u8> {
    let mut payload = vec![0x80; length];
    let nanos = u64::try_from(time.as_nanos()).expect("centuries");
    payload[4..8].copy_from_slice(&phase.to_be_bytes());
    payload[8..16].copy_from_slice(&nanos.to_be_bytes());
    payload
}

impl Switchboard {
    fn new(calls: Vec<Call>, rate: usize) -> Self {
        let now = Instant::now();
        let rate = (rate * calls.len()) as f64;
        let mut board = Self {
            calls: Vec::new(),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("descriptors are free"),
            origin: now,
            rate,
            due: 0,
            since: now,
            phases: vec![Tally::default()],
            mark: now,
        };
        for (number, call) in calls.into_iter().enumerate() {
            board.listen(number, &call);
            board.calls.push(call);
        }
        board
    }

    fn listen(&self, number: usize, call: &Call) {
        for (at, socket) in call.sockets.iter().enumerate() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, (number * 2 + at) as u64);
            self.epoll.add(socket, event).expect("it is new");
        }
    }

    fn phase(&mut self) -> &mut Tally {
        self.phases.last_mut().expect("there is always one")
    }

    /// Sends what is due. Who was held up does not send all of it at once, for no agent does: the TUN's queue is short.
    fn speak(&mut self) {
        let count = self.calls.len() as u64;
        let due = (self.since.elapsed().as_secs_f64() * self.rate) as u64;
        let at_once = (self.rate / 400.0) as u64 + 1;
        if due - self.due > (self.rate / 10.0) as u64 + count {
            (self.due, self.since) = (0, Instant::now());
            return;
        }
        let phase = u32::try_from(self.phases.len() - 1).expect("few");
        for turn in self.due..due.min(self.due + at_once) {
            let number = usize::try_from(turn % count).expect("it is below their count");
            let call = &mut self.calls[number];
            let now = self.origin.elapsed();
            let mut sent = 0;
            for (at, socket) in call.sockets.iter().enumerate() {
                if at == 0 || call.turns.is_multiple_of(RTCP_TURNS) {
                    let length = [172, 80][at];
                    let to = at::MEDIA.at(call.family, PORTS[at]);
                    // What cannot leave is lost.
                    let _ = socket.send_to(&payload(phase, now, length), to);
                    sent += 1;
                }
            }
            call.turns += 1;
            self.phase().sent += sent;
            self.due += 1;
        }
    }

    /// Takes what has come.
    fn hear(&mut self) {
        let mut events = [EpollEvent::empty(); 256];
        let mut buffer = [0; 256];
        loop {
            let ready = self.epoll.wait(&mut events, EpollTimeout::ZERO);
            let ready = ready.unwrap_or_default();
            for event in &events[..ready] {
                let token = usize::try_from(event.data()).expect("it was one");
                let call = &mut self.calls[token / 2];
                // Errors of a link that is gone come this way as well.
                while let Ok(length) = call.sockets[token % 2].recv(&mut buffer) {
                    let Some((phase, sent)) = parse(&buffer[..length]) else {
                        panic!("{length} bytes that nobody sent: {:?}", &buffer[..length]);
                    };
                    self.phases[phase].answered += 1;
                    if token % 2 == 0 {
                        call.silence = call.silence.max(call.heard.elapsed());
                        call.heard = Instant::now();
                        if self.origin + sent >= self.mark {
                            call.back.get_or_insert_with(|| self.mark.elapsed());
                        }
                    }
                }
            }
            if ready == 0 {
                return;
            }
        }
    }
}

fn parse(payload: &[u8]) -> Option<(usize, Duration)> {
    let phase = u32::from_be_bytes(payload.get(4..8)?.try_into().ok()?);
    let nanos = u64::from_be_bytes(payload.get(8..16)?.try_into().ok()?);
    Some((phase as usize, Duration::from_nanos(nanos)))
}

/// The calls with the thread that carries them on; they end with this value.
struct Calls {
    board: Arc<Mutex<Switchboard>>,
    runs: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Calls {
    fn start(laptop: &Namespace, count: usize, rate: usize) -> Self {
        let calls = laptop.enter(|| (0..count).map(Call::new).collect());
        let board = Arc::new(Mutex::new(Switchboard::new(calls, rate)));
        let runs = Arc::new(AtomicBool::new(true));
        let thread = {
            let (board, runs) = (Arc::clone(&board), Arc::clone(&runs));
            thread::spawn(move || {
                while runs.load(Ordering::Relaxed) {
                    let mut board = board.lock().expect("no thread panics");
                    board.speak();
                    board.hear();
                    drop(board);
                    sleep(Duration::from_millis(1));
                }
            })
        };
        let thread = Some(thread);
        Self {
            board,
            runs,
            thread,
        }
    }

    fn board(&self) -> MutexGuard<'_, Switchboard> {
        self.board.lock().expect("no thread panics")
    }

    fn sockets(&self) -> usize {
        let board = self.board();
        board.calls.iter().map(|call| call.sockets.len()).sum()
    }

    /// Ends some calls and lets others begin in their place, by ports of their own.
    fn replace(&self, laptop: &Namespace, numbers: &[usize]) {
        let fresh: Vec<_> = laptop.enter(|| numbers.iter().map(|&it| Call::new(it)).collect());
        let mut board = self.board();
        for (&number, call) in numbers.iter().zip(fresh) {
            board.listen(number, &call);
            board.calls[number] = call;
        }
    }

    /// Ends all calls but the first ones.
    fn keep(&self, count: usize) {
        let mut board = self.board();
        board.rate = board.rate / board.calls.len() as f64 * count as f64;
        board.calls.truncate(count);
        (board.due, board.since) = (0, Instant::now());
    }

    /// What is sent from now on belongs together.
    fn begin_phase(&self) {
        let mut board = self.board();
        board.phases.push(Tally::default());
        for call in &mut board.calls {
            call.silence = Duration::ZERO;
        }
    }

    /// From now on calls must be back.
    fn mark(&self) {
        let mut board = self.board();
        board.mark = Instant::now();
        for call in &mut board.calls {
            call.back = None;
        }
    }

    /// Waits until all calls are back after the mark; answers how long the last one took, and the longest silence since
    /// the phase began.
    ///
    /// # Errors
    /// The calls that are not.
    fn are_back_within(&self, patience: Duration) -> Result<(Duration, Duration), String> {
        loop {
            let board = self.board();
            let back = board.calls.iter().map(|call| call.back);
            if let Some(back) = back.collect::<Option<Vec<_>>>() {
                let silences = board.calls.iter().map(|call| call.silence);
                return Ok((
                    back.into_iter().max().unwrap_or_default(),
                    silences.max().unwrap_or_default(),
                ));
            }
            if board.mark.elapsed() > patience {
                let gone = board.calls.iter().filter(|call| call.back.is_none());
                let gone: Vec<_> = gone
                    .map(|call| (call.family, &call.sockets[0], call.heard.elapsed()))
                    .collect();
                let few = &gone[..gone.len().min(5)];
                return Err(format!(
                    "{} calls are not back after {patience:?}: {few:?}",
                    gone.len()
                ));
            }
            drop(board);
            sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        self.runs.store(false, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The world: the lab with a VPN and a cable, and witnesses that only count.
struct World {
    lab: Lab,
    /// The Wi-Fi's IPv4 address ends with it.
    host: u8,
}

impl World {
    fn new() -> Self {
        let mut lab = Lab::new();
        lab.plug_in();
        // Captures could not keep up.
        lab.stop_captures();
        let (media, vpn) = (at::MEDIA, at::VPN_SERVER);
        let [first, last] = PORTS;
        lab.home.nft(&format!(
            "table inet witness {{
                 counter marked {{}}
                 counter unmarked {{}}
                 counter stray {{}}
                 chain pass {{
                     type filter hook forward priority 0
                     iifname != \"lan*\" accept
                     ip daddr {0} udp dport {first}-{last} ip dscp ef counter name marked accept
                     ip6 daddr {1} udp dport {first}-{last} ip6 dscp ef counter name marked accept
                     ip daddr {0} counter name unmarked accept
                     ip6 daddr {1} counter name unmarked accept
                     ip daddr {2} accept
                     ip6 daddr {3} accept
                     counter name stray
                 }}
             }}",
            media.v4, media.v6, vpn.v4, vpn.v6
        ));
        lab.gateway.nft(&format!(
            "table inet witness {{
                 counter media {{}}
                 counter other {{}}
                 chain pass {{
                     type filter hook forward priority 0
                     oifname != wan0 accept
                     ip daddr {0} udp dport {first}-{last} counter name media
                     ip6 daddr {1} udp dport {first}-{last} counter name media
                     ip daddr {2} counter name other
                     ip6 daddr {3} counter name other
                 }}
             }}",
            media.v4,
            media.v6,
            at::OTHER.v4,
            at::OTHER.v6
        ));
        Self { lab, host: 10 }
    }

    /// What a network manager does to a link's default routes when its carrier goes, and when it comes.
    fn route(&self, link: &str, via: Option<(at::Dual, u32)>) {
        self.lab.laptop.ip(&match via {
            None => format!("route del default dev {link}\nroute del ::/0 dev {link}"),
            Some((at::Dual { v4, v6 }, metric)) => format!(
                "route add default via {v4} dev {link} metric {metric}\n\
                 route add ::/0 via {v6} dev {link} metric {metric}"
            ),
        });
    }

    /// Lets it happen, to its end.
    fn undergo(&mut self, what: Happening, turn: usize, calls: &Calls, voicelane: &Voicelane) {
        let (laptop, home) = (&self.lab.laptop, &self.lab.home);
        match what {
            OtherPolicy | FirstPolicy => {
                voicelane.configure(&config(match what {
                    OtherPolicy => OTHER_SERVICE,
                    _ => "",
                }));
                let said = voicelane.reload();
                assert!(said.status.success(), "{said:?}");
            }
            CallsReplaced => {
                let count = calls.board().calls.len();
                let part = turn / COURSE.len() % 10;
                let numbers: Vec<_> = (0..count).skip(part).step_by(10).collect();
                calls.replace(laptop, &numbers);
            }
            CableLost => {
                home.ip("link set lan1 down");
                self.route(CABLE, None);
            }
            CableBack => {
                home.ip("link set lan1 up");
                self.route(CABLE, Some((at::HOME_CABLE, 100)));
            }
            WifiLost => {
                home.ip("link set lan0 down");
                self.route(UPLINK, None);
            }
            WifiBack => {
                home.ip("link set lan0 up");
                self.route(UPLINK, Some((at::HOME, 600)));
            }
            AddressChanged => {
                let old = self.host;
                self.host = 10 + (old + 1) % 200;
                let (next, via) = (self.host, at::HOME);
                laptop.ip(&format!(
                    "addr del 192.168.7.{old}/24 dev {UPLINK}\n\
                     addr add 192.168.7.{next}/24 dev {UPLINK}\n\
                     route replace default via {} dev {UPLINK} metric 600",
                    via.v4
                ));
            }
        }
    }
}

/// A counter of a namespace's witness.
fn count(namespace: &Namespace, name: &str) -> u64 {
    let text = namespace.run(&format!("nft -j list counter inet witness {name}"));
    let said: Value = serde_json::from_str(&text).expect("nft writes JSON");
    let all = said["nftables"].as_array().expect("a list");
    let found = all.iter().find_map(|it| it["counter"]["packets"].as_u64());
    found.unwrap_or_else(|| panic!("no counter {name}: {text}"))
}

/// What the service and the kernel hold at a time.
#[derive(Clone, Copy, Debug)]
struct Holdings {
    /// The service's resident memory, in bytes.
    memory: u64,
    descriptors: u64,
    /// UDP sockets of the laptop beside the calls', in either family.
    sockets: u64,
    /// Slabs of the whole machine that the kernel cannot do without, in bytes.
    slab: u64,
}

impl Holdings {
    fn now(laptop: &Namespace, voicelane: &Voicelane, own: usize) -> Self {
        let open = fs::read_dir(format!("/proc/{}/fd", voicelane.pid()));
        let descriptors = open.expect("the service runs").count() as u64;
        Self {
            memory: voicelane.memory(),
            descriptors,
            sockets: udp_sockets(laptop) - own as u64,
            slab: field("/proc/meminfo", "SUnreclaim:"),
        }
    }
}

impl Display for Holdings {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let (memory, slab) = (mib(self.memory), mib(self.slab));
        let (files, sockets) = (self.descriptors, self.sockets);
        write!(
            f,
            "memory {memory:.1} MiB, {files} descriptors, {sockets} sockets, slab {slab:.1} MiB"
        )
    }
}

/// A number of kilobytes in a file of the kernel's, in bytes.
fn field(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).expect("every Linux has it");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    let number: Option<u64> = number.and_then(|it| it.parse().ok());
    number.unwrap_or_else(|| panic!("{file} has no {name}")) << 10
}

fn udp_sockets(namespace: &Namespace) -> u64 {
    let text = namespace.run("cat /proc/net/sockstat /proc/net/sockstat6");
    let lines = text.lines().filter(|line| line.starts_with("UDP"));
    let counts = lines.filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
    counts.sum()
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn number<T: FromStr>(name: &str, default: T) -> T {
    env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number"))
    })
}

/// How a kind of event went at its worst.
#[derive(Default)]
struct Fate {
    times: u32,
    back: Duration,
    silence: Duration,
    phases: Vec<usize>,
}

impl Display for Fate {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let Self {
            times,
            back,
            silence,
            ..
        } = self;
        write!(
            f,
            "{times} times, all back after {back:.0?}, longest silence {silence:.0?}"
        )
    }
}

/// Whether all of the course has happened equally often.
fn is_whole(turn: usize) -> bool {
    turn.is_multiple_of(COURSE.len())
}

/// The status without its thousands of mappings.
fn account(voicelane: &Voicelane) -> String {
    let mut status = voicelane.status()["status"].take();
    status["mappings"] = Value::Null;
    let events = voicelane.events();
    let events = &events[events.len().saturating_sub(30)..];
    format!("{status:#}\n{events:#?}")
}

#[test]
fn calls_survive_a_long_day() {
    let agents = number("VOICELANE_CALLS", FEW_CALLS);
    let time = Duration::from_secs(number("VOICELANE_CALL_SECONDS", FEW_SECONDS));
    let rate = number("VOICELANE_CALL_RATE", RATE);
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("every process has it");
    let needed = agents as u64 * 2 + 100;
    assert!(
        most >= needed,
        "`ulimit -Hn` is {most}: the test needs {needed}"
    );
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("up to the hard limit");
    println!("{agents} calls, {rate} packets a second of each, {time:?}");

    let mut world = World::new();
    let _vpn = world.lab.start_vpn(VpnKind::WgQuick);
    let before = world.lab.laptop.dump();
    let [rtp, rtcp] = PORTS.map(|port| at::MEDIA.both(port));
    let _echo = Echo::start(&world.lab.internet, &[rtp, rtcp].concat(), &[]);
    let bare = udp_sockets(&world.lab.laptop);
    let voicelane = Home::new(&world.lab.laptop, &config("")).start();
    let idle = Holdings::now(&world.lab.laptop, &voicelane, 0);
    let others = Family::BOTH.map(|family| {
        let any = SocketAddr::new(family.unspecified(), 0);
        let to = at::OTHER.at(family, MEDIA_PORT);
        (udp(&world.lab.laptop, any), to)
    });

    let calls = Calls::start(&world.lab.laptop, agents, rate);
    let start = Instant::now();
    let holdings = |world: &World| {
        let own = calls.sockets() + others.len();
        Holdings::now(&world.lab.laptop, &voicelane, own)
    };
    if let Err(how) = calls.are_back_within(PATIENCE) {
        panic!("the start: {how}\n{}", account(&voicelane));
    }

    let pause = (time / 400).clamp(Duration::from_millis(500), Duration::from_secs(5));
    let mut fates = BTreeMap::<Happening, Fate>::new();
    let (mut samples, mut others_answered, mut turn) = (Vec::new(), [0; 2], 0);
    while start.elapsed() < time || !is_whole(turn) {
        // A while in which nothing happens but that mappings end.
        calls.begin_phase();
        let tunnelled = count(&world.lab.gateway, "media");
        for (socket, to) in &others {
            // The VPN may not be there yet.
            let _ = socket.send_to(b"no media", to);
        }
        sleep(pause);
        assert_eq!(
            count(&world.lab.gateway, "media"),
            tunnelled,
            "media went into the VPN for no reason, before turn {turn}"
        );
        for ((socket, _), answered) in others.iter().zip(&mut others_answered) {
            *answered += u32::from(socket.recv(&mut [0; 9]).is_ok());
        }
        if is_whole(turn) {
            let now = holdings(&world);
            println!("{:5} s: {now}", start.elapsed().as_secs());
            // Warm is who has gone through all of it, and for long enough.
            if turn > 0 && start.elapsed() >= time / 10 {
                samples.push(now);
            }
        }

        calls.begin_phase();
        let happening = COURSE[turn % COURSE.len()];
        world.undergo(happening, turn, &calls, &voicelane);
        calls.mark();
        let back = calls.are_back_within(LONGEST_LOSS);
        let (back, silence) = back.unwrap_or_else(|how| {
            panic!("turn {turn}, {happening:?}: {how}\n{}", account(&voicelane))
        });
        // What comes of it in a moment belongs to it.
        sleep(Duration::from_millis(300));
        let fate = fates.entry(happening).or_default();
        fate.times += 1;
        fate.back = fate.back.max(back);
        fate.silence = fate.silence.max(silence);
        fate.phases.push(calls.board().phases.len() - 1);
        let [unmarked, stray] = ["unmarked", "stray"].map(|name| count(&world.lab.home, name));
        assert_eq!((unmarked, stray), (0, 0), "turn {turn}, {happening:?}");
        turn += 1;
    }
    samples.push(holdings(&world));

    sleep(Duration::from_millis(500));
    let phases = calls.board().phases.clone();
    let sum = |numbers: &[usize]| {
        let of_them = numbers.iter().map(|&number| phases[number]);
        of_them.fold(Tally::default(), Tally::plus)
    };
    let [all, quiet] = [1, 2].map(|step| (1..phases.len()).step_by(step).collect::<Vec<_>>());
    println!("{turn} events, {}", sum(&all));
    println!("nothing happens: {}", sum(&quiet));
    for (happening, fate) in &fates {
        println!("{happening:?}: {fate}, {}", sum(&fate.phases));
    }
    let seen = ["marked", "unmarked", "stray"].map(|name| count(&world.lab.home, name));
    let inside = ["media", "other"].map(|name| count(&world.lab.gateway, name));
    println!("past the VPN: {seen:?} (media with and without its mark, no media)");
    println!("in the VPN: {inside:?} (media, no media), answers {others_answered:?} of {turn}");
    let status = voicelane.status()["status"].take();
    for key in ["outbound", "inbound", "refusals", "fallback", "scheduling"] {
        println!("{key}: {}", status[key]);
    }
    assert!(seen[0] > 0, "the witness sees nothing");
    assert!(
        !others_answered.contains(&0),
        "what is no media is answered through the VPN, when that has found its way again"
    );

    // Most calls end; two go on, and are not held up by the end of the others' mappings.
    calls.keep(2);
    calls.begin_phase();
    if time >= FULL_MEASURE {
        let deadline = Instant::now() + LIFETIME + PATIENCE;
        let kept = idle.descriptors + calls.sockets() as u64;
        while holdings(&world).descriptors > kept {
            assert!(Instant::now() < deadline, "{}", holdings(&world));
            sleep(Duration::from_millis(200));
        }
        let board = calls.board();
        let silence = board.calls.iter().map(|call| call.silence).max();
        let tally = board.phases.last().expect("there is always one");
        println!("all mappings ended: longest silence of the others {silence:?}, {tally}");
        assert!(silence < Some(LONGEST_LOSS));
    }
    let end = holdings(&world);
    let high = field(&format!("/proc/{}/status", voicelane.pid()), "VmHWM:");
    let warm = samples[0];
    println!(
        "idle: {idle}\nwarm: {warm}\nend:  {end}; memory at the highest {:.1} MiB",
        mib(high)
    );
    if time >= FULL_MEASURE {
        let kept = calls.sockets() as u64;
        assert_eq!(end.descriptors, idle.descriptors + kept);
        assert_eq!(end.sockets, idle.sockets + kept);
    }
    samples.push(end);
    for now in &samples {
        let more = now.descriptors.saturating_sub(warm.descriptors);
        let grown = now.memory.saturating_sub(warm.memory);
        assert!(grown <= GROWTH + more * PER_MAPPING, "{now} after {warm}");
        let grown = now.slab.saturating_sub(warm.slab);
        assert!(
            grown <= SLAB_GROWTH + more * PER_MAPPING,
            "{now} after {warm}"
        );
    }
    let contests = voicelane.events().into_iter();
    let contests = contests.filter(|event| event.kind == EventKind::Contested);
    assert_eq!(contests.count(), 0, "nobody fought");

    drop((calls, others));
    voicelane.stop();
    assert_eq!(udp_sockets(&world.lab.laptop), bare);
    let left = world.lab.laptop.changes_since(&before);
    let ours = ["proto 118", "protocol 118", TUN, "rp_filter", "3031"];
    let is_ours = |line: &&String| ours.iter().any(|ours| line.contains(ours));
    let left: Vec<_> = left.iter().filter(is_ours).collect();
    assert!(left.is_empty(), "{left:#?}");
}
