//! The generator and the echo: one thread that never sleeps, on a core of its own.
//!
//! Open loop: each packet is due at a time that no answer changes, and its round trip counts from then, so that a
//! stalled relay is seen with all that it held up. Every flow has a phase of its own, as calls do.
//!
//! A machine has more to do than this. When the thread itself was kept from its core, nothing can be said of the relay: round
//! trips that were under way, and those of packets sent late or in a rush to catch up, do not count.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;

use crate::burst::{BURST, Port};
use crate::frame::{self, EF, End, Mac, Stamp};

/// The most flows.
pub const FLOWS: u32 = 2_000;

/// How long after the last packet answers are waited for.
const PATIENCE: Duration = Duration::from_millis(200);

/// How long nothing may come before a run, for what an earlier one left in queues.
const SILENCE: Duration = Duration::from_millis(30);

/// A turn of the loop takes some 200 us at most: after a longer one, the thread was kept from its core. In nanoseconds.
const HELD_UP: u64 = 500_000;

/// Set when somebody wants the benchmark to end.
pub static INTERRUPTED: std::sync::LazyLock<std::sync::Arc<AtomicBool>> =
    std::sync::LazyLock::new(Default::default);

/// What a run sends.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// The number of calls.
    pub flows: u32,
    /// Packets a second, of all calls together.
    pub rate: f64,
    /// For how long.
    pub time: Duration,
    /// How long the cards gather packets before they interrupt; not at all when it is zero.
    pub gathering: Duration,
}

/// What became of it.
pub struct Outcome {
    /// Packets sent.
    pub sent: u64,
    /// Packets that were answered in time.
    pub answered: u64,
    /// Packets sent a second: less than wanted if the generator was too slow.
    pub offered: f64,
    /// Answers a second, between the first fifth of the time and its end: the queues are full then.
    pub goodput: f64,
    /// Round trips in nanoseconds, from when the packet was due; without those that fell into a time in which the generator
    /// was held up.
    pub round_trips: Histogram<u64>,
}

impl Outcome {
    /// Whether hardly a packet was lost (one in a thousand), and the generator was fast enough.
    pub fn is_clean(&self, load: Load) -> bool {
        self.answered as f64 >= 0.999 * self.sent as f64 && self.offered >= 0.98 * load.rate
    }
}

/// Where the frames go.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    /// The card of the client and the one that it sends to.
    pub macs: (Mac, Mac),
    /// The client's address, without a host behind it.
    pub client: IpAddr,
    /// The first of the servers' addresses.
    pub server: IpAddr,
    /// Whom the server must see, of that the relay is not passed by.
    pub seen: IpAddr,
    /// The TOS byte that the server must see.
    pub tos: u8,
}

/// The addresses of servers that the calls are spread over.
const SERVERS: u32 = 100;

/// The port of every server.
const PORT: u16 = 20_000;

/// Generator and echo of a relay.
pub struct Traffic {
    client: Port,
    server: Port,
    course: Course,
    /// The frame of each flow, and how many packets it has sent.
    flows: Vec<(Box<[u8]>, u32)>,
    /// When in its period each flow sends, of 1, ascending.
    phases: Vec<f64>,
    /// Which flow has each of them.
    turns: Vec<u32>,
    run: u32,
    clock: Instant,
    answered: Vec<bool>,
}

impl Traffic {
    /// Makes it of two sockets, on the client's and the server's card.
    pub fn new(client: Port, server: Port, course: Course) -> Self {
        let flow = |number: u32| {
            let from = End {
                address: course.client,
                port: PORT + number as u16,
            };
            let to = End {
                address: nth(course.server, number % SERVERS),
                port: PORT,
            };
            (frame::new(course.macs, from, to, number), 0)
        };
        Self {
            client,
            server,
            course,
            flows: (0..FLOWS).map(flow).collect(),
            phases: Vec::new(),
            turns: Vec::new(),
            run: 0,
            clock: Instant::now(),
            answered: vec![false; FLOWS as usize],
        }
    }

    /// Lets each of the first flows have its way: sends until all were answered in one run.
    ///
    /// # Errors
    /// When some are never answered, or the sockets fail.
    pub fn warm(&mut self, flows: u32) -> Result<()> {
        let load = Load {
            flows,
            rate: 2_000.0_f64.min(f64::from(flows) * 20.0),
            gathering: Duration::ZERO,
            time: Duration::from_millis(1_050).min(Duration::from_millis(u64::from(flows) * 51)),
        };
        for _ in 0..10 {
            self.answered.fill(false);
            self.spread(flows);
            self.turns.sort_unstable();
            self.run(load)?;
            if self.answered[..flows as usize]
                .iter()
                .all(|&answered| answered)
            {
                self.shuffle();
                return Ok(());
            }
        }
        let some = self.answered.iter().filter(|&&answered| answered).count();
        bail!("only {some} of {flows} calls are answered")
    }

    /// Sends a load and waits for its answers.
    ///
    /// # Errors
    /// When the sockets fail, the relay was passed by, or somebody interrupts.
    pub fn run(&mut self, load: Load) -> Result<Outcome> {
        self.settle()?;
        self.run += 1;
        self.spread(load.flows);
        let total = (load.rate * load.time.as_secs_f64()) as u64;
        let period = f64::from(load.flows) / load.rate * 1e9;
        let start = self.now() + 1_000_000;
        let window = start + (load.time.as_nanos() / 5) as u64;
        let mut outcome = Outcome {
            sent: 0,
            answered: 0,
            offered: 0.0,
            goodput: 0.0,
            round_trips: Histogram::new(3).expect("3 digits are allowed"),
        };
        let (mut in_window, mut end) = (0_u64, None::<u64>);
        let (mut last, mut sound) = (start, start);
        let (gathering, mut next) = (load.gathering.as_nanos() as u64, start);
        loop {
            ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
            while self.now() < next {
                std::hint::spin_loop();
            }
            next = self.now().max(next + gathering);
            self.echo()?;
            let taken = self.client.receive().context("the client's socket")?;
            let now = self.now();
            if now > last + HELD_UP {
                sound = now + (now - last);
            }
            last = now;
            for at in 0..taken {
                let Some((stamp, ..)) = frame::read(self.client.received(at)) else {
                    continue;
                };
                if stamp.run == self.run {
                    outcome.answered += 1;
                    in_window += u64::from(now >= window && end.is_none());
                    if stamp.due >= sound {
                        let _ = outcome.round_trips.record(now.saturating_sub(stamp.due));
                    }
                    self.answered[stamp.flow as usize] = true;
                }
            }
            if let Some(end) = end {
                if outcome.answered == outcome.sent || now > end + PATIENCE.as_nanos() as u64 {
                    break;
                }
                continue;
            }
            let mut count = 0;
            while count < BURST && outcome.sent < total {
                let (turn, at) = (
                    outcome.sent / u64::from(load.flows),
                    (outcome.sent % u64::from(load.flows)) as usize,
                );
                let offset = (turn as f64 + self.phases[at]) * period;
                let due = start + offset as u64;
                if due > now {
                    break;
                }
                let flow = self.turns[at];
                let (template, sequence) = &mut self.flows[flow as usize];
                let outgoing = self.client.outgoing(count);
                outgoing.copy_from_slice(template);
                let run = self.run;
                frame::stamp(outgoing, *sequence, Stamp { run, flow, due });
                *sequence = sequence.wrapping_add(1);
                outcome.sent += 1;
                count += 1;
            }
            if count > 0 {
                self.client.send(count).context("the client's socket")?;
            }
            // A generator that cannot keep up ends in time as well; what it has not sent it has not offered.
            if outcome.sent == total || now > start + load.time.as_nanos() as u64 {
                end = Some(self.now());
            }
        }
        let seconds = |nanoseconds: u64| nanoseconds.max(1) as f64 / 1e9;
        let end = end.expect("the loop ends after it is set");
        outcome.offered = outcome.sent as f64 / seconds(end - start).max(load.time.as_secs_f64());
        outcome.goodput = in_window as f64 / seconds(end.saturating_sub(window));
        Ok(outcome)
    }

    /// Waits until nothing comes any more.
    fn settle(&mut self) -> Result<()> {
        let mut silent = Instant::now();
        while silent.elapsed() < SILENCE {
            ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
            let asked = self.echo()?;
            let taken = self.client.receive().context("the client's socket")?;
            let answered = (0..taken).any(|at| frame::read(self.client.received(at)).is_some());
            if asked > 0 || answered {
                silent = Instant::now();
            }
        }
        Ok(())
    }

    /// Answers what has come to the server.
    fn echo(&mut self) -> Result<usize> {
        let taken = self.server.receive().context("the server's socket")?;
        let mut count = 0;
        for at in 0..taken {
            // What else is on the wire, such as the router's own multicast, is not asked of the server.
            let Some((_, [from, _], tos)) = frame::read(self.server.received(at)) else {
                continue;
            };
            let Course {
                seen, tos: wanted, ..
            } = self.course;
            ensure!(
                from.address == seen && tos == wanted,
                "the server saw {} with TOS {tos:#x}, not {seen} with {wanted:#x}: who has relayed that?",
                from.address
            );
            let (received, outgoing) = self.server.pair(at, count);
            outgoing.copy_from_slice(received);
            frame::reflect(outgoing);
            count += 1;
        }
        if count > 0 {
            self.server.send(count).context("the server's socket")?;
        }
        Ok(count)
    }

    /// Draws the flows' phases, the same for everybody.
    fn spread(&mut self, flows: u32) {
        if self.phases.len() == flows as usize {
            return;
        }
        self.phases = draws().take(flows as usize).collect();
        self.phases.sort_by(f64::total_cmp);
        self.shuffle();
    }

    /// Has flows speak in another order than the one in which they began, as calls do: otherwise what a relay has of them would
    /// lie in memory in the order in which it is needed.
    fn shuffle(&mut self) {
        let mut draws = draws();
        self.turns = (0..self.phases.len() as u32).collect();
        self.turns
            .sort_by_cached_key(|_| draws.next().map(f64::to_bits));
    }

    fn now(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }
}

/// The address so many behind another.
fn nth(first: IpAddr, number: u32) -> IpAddr {
    match first {
        IpAddr::V4(first) => IpAddr::V4((u32::from(first) + number).into()),
        IpAddr::V6(first) => IpAddr::V6((u128::from(first) + u128::from(number)).into()),
    }
}

/// The TOS byte of a relay that marks as voice is marked, or of one that does not.
pub fn tos(marks: bool) -> u8 {
    if marks { EF } else { 0 }
}

/// RoutingIds from 0 to 1, always the same.
fn draws() -> impl Iterator<Item = f64> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(move || {
        // xorshift64*: any will do.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    })
}
