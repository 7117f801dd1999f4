//! A call during a test: a packet every 20 ms in each direction, with times of arrival, and STUN checks on request.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::addresses as at;
use super::caller::{Family, udp};
use super::namespace::Namespace;
use super::{Lab, MEDIA_PORT};
use voicelane::call::stun::{
    StunClass, StunMessage, TransactionId, binding_request, binding_success,
};

/// The time between two packets of a direction.
pub const PACE: Duration = Duration::from_millis(20);

/// The media server's port for calls, which nothing else serves.
pub const PORT: u16 = MEDIA_PORT + 1;

/// The time between two checks of a browser on its selected pair.
const CHECK_INTERVAL: Duration = Duration::from_millis(2_500);

type Arrivals = Arc<Mutex<Vec<Instant>>>;

/// How the server learns the caller's address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Learns {
    /// From each packet.
    FromMedia,
    /// From each check alone, as a peer with ICE does; media from another address is dropped.
    FromChecks,
}

/// A running call. Its drop ends it.
pub struct Call {
    runs: Arc<AtomicBool>,
    near: Arrivals,
    far: Arrivals,
    checks: Arrivals,
    threads: Vec<JoinHandle<()>>,
}

impl Call {
    /// Calls the media server from an address of the laptop. The server answers the latest source address.
    pub fn start(lab: &Lab, from: SocketAddr) -> Self {
        Self::open(lab, from, Learns::FromMedia)
    }

    /// The same with a check every 2.5 s. The server takes a new source address only at a check, as ICE demands.
    pub fn with_checks(lab: &Lab, from: SocketAddr) -> Self {
        Self::open(lab, from, Learns::FromChecks)
    }

    fn open(lab: &Lab, from: SocketAddr, learns: Learns) -> Self {
        let family = Family::of(from.ip());
        let server = at::MEDIA.at(family, PORT);
        let mut call = Self {
            runs: Arc::new(AtomicBool::new(true)),
            near: Arc::default(),
            far: Arc::default(),
            checks: Arc::default(),
            threads: Vec::new(),
        };
        let far = Arc::clone(&call.far);
        call.spawn(&lab.internet, server, None, learns, far);
        let near = Arc::clone(&call.near);
        call.spawn(&lab.laptop, from, Some(server), learns, near);
        call
    }

    fn spawn(
        &mut self,
        namespace: &Namespace,
        at: SocketAddr,
        mut to: Option<SocketAddr>,
        learns: Learns,
        arrivals: Arrivals,
    ) {
        let socket = namespace
            .enter(|| UdpSocket::bind(at))
            .unwrap_or_else(|e| panic!("a call at {at}: {e}"));
        let is_server = to.is_none();
        let (runs, checks) = (Arc::clone(&self.runs), Arc::clone(&self.checks));
        self.threads.push(thread::spawn(move || {
            let (mut next, mut next_check, mut count) = (Instant::now(), Instant::now(), 0_u32);
            let mut buffer = [0; 200];
            while runs.load(Ordering::Relaxed) {
                let now = Instant::now();
                if learns == Learns::FromChecks && !is_server && now >= next_check {
                    let mut id = [0x5a; 12];
                    id[..4].copy_from_slice(&count.to_be_bytes());
                    // The receiver detects a lost packet.
                    let _ = socket
                        .send_to(&binding_request(TransactionId(id)), to.expect("the server"));
                    (next_check, count) = (now + CHECK_INTERVAL, count + 1);
                }
                if now >= next {
                    if let Some(to) = to {
                        let _ = socket.send_to(&[0x80; 172], to);
                    }
                    next = now.max(next + PACE);
                }
                let wait = (next - now.min(next)).max(Duration::from_millis(1));
                socket.set_read_timeout(Some(wait)).expect("not zero");
                let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                let message = StunMessage::parse(&buffer[..length]);
                if let Some(check) = message.as_ref().filter(|it| it.class == StunClass::Request) {
                    let _ = socket.send_to(&binding_success(check.transaction, from.into()), from);
                    to = Some(from);
                } else if message.is_some() {
                    checks.lock().expect("no panic").push(Instant::now());
                } else if is_server && learns == Learns::FromMedia {
                    to = Some(from);
                    arrivals.lock().expect("no panic").push(Instant::now());
                } else if to == Some(from) {
                    arrivals.lock().expect("no panic").push(Instant::now());
                }
            }
        }));
    }

    /// Waits until the next check of the application was answered: the one after it is more than 2 s away.
    pub fn await_check(&self) {
        let answered = || self.checks.lock().expect("no panic").len();
        let (before, deadline) = (answered(), Instant::now() + 4 * CHECK_INTERVAL);
        while answered() == before {
            assert!(Instant::now() < deadline, "no check is answered");
            thread::sleep(PACE);
        }
    }

    /// The longest time without a packet since `start`: at the server, and at the laptop.
    pub fn gaps_since(&self, start: Instant) -> [Duration; 2] {
        [&self.far, &self.near].map(|arrivals| {
            let arrivals = arrivals.lock().expect("no panic");
            let later = arrivals.iter().copied().filter(|at| *at >= start);
            let ends: Vec<_> = [start]
                .into_iter()
                .chain(later)
                .chain([Instant::now()])
                .collect();
            let gaps = ends.windows(2).map(|pair| pair[1] - pair[0]);
            gaps.max().unwrap_or_default()
        })
    }

    /// Waits until both directions have carried ten packets in a row after `start`. Returns the time from `start` to the
    /// first of them. Panics after `patience`.
    pub fn resumes_after(&self, start: Instant, patience: Duration, what: &str) -> Duration {
        self.try_resumes_after(start, patience)
            .unwrap_or_else(|how| panic!("{what}: {how}"))
    }

    /// As [`Self::resumes_after`], without a panic.
    ///
    /// # Errors
    /// The state of the call after `patience`.
    pub fn try_resumes_after(
        &self,
        start: Instant,
        patience: Duration,
    ) -> Result<Duration, String> {
        let first = |arrivals: &Arrivals| {
            let arrivals = arrivals.lock().expect("no panic");
            let later: Vec<_> = arrivals.iter().copied().filter(|at| *at >= start).collect();
            let flows = |run: &&[Instant]| run[9] - run[0] < PACE * 20;
            later.windows(10).find(flows).map(|run| run[0] - start)
        };
        loop {
            if let (Some(far), Some(near)) = (first(&self.far), first(&self.near)) {
                return Ok(far.max(near));
            }
            if start.elapsed() >= patience {
                let [far, near] = [first(&self.far), first(&self.near)];
                return Err(format!(
                    "the call is not back after {patience:?}: at the server {far:?}, at the laptop {near:?}"
                ));
            }
            thread::sleep(PACE);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.runs.store(false, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Answers checks and echoes everything else, as a media server without a call of its own, for as long as
/// the test runs.
pub fn serve_checks(namespace: &Namespace, at: SocketAddr) {
    let socket = udp(namespace, at);
    thread::spawn(move || {
        let mut buffer = [0; 2_048];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            let bytes = &buffer[..length];
            let check = StunMessage::parse(bytes).filter(|it| it.class == StunClass::Request);
            let answer = check.map_or(bytes.into(), |check| {
                binding_success(check.transaction, from.into())
            });
            // An answer that cannot leave is one that does not arrive.
            let _ = socket.send_to(&answer, from);
        }
    });
}
