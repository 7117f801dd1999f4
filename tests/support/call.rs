//! A call during a test: a packet every 20 ms in each direction, with times of arrival.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::addresses as at;
use super::caller::Family;
use super::namespace::Namespace;
use super::{Lab, MEDIA_PORT};

/// The time between two packets of a direction.
pub const PACE: Duration = Duration::from_millis(20);

/// The media server's port for calls, which nothing else serves.
const PORT: u16 = MEDIA_PORT + 1;

type Arrivals = Arc<Mutex<Vec<Instant>>>;

/// A running call. Its drop ends it.
pub struct Call {
    runs: Arc<AtomicBool>,
    near: Arrivals,
    far: Arrivals,
    threads: Vec<JoinHandle<()>>,
}

impl Call {
    /// Calls the media server from an address of the laptop. The server answers the latest source address, as a peer with
    /// ICE does.
    pub fn start(lab: &Lab, from: SocketAddr) -> Self {
        let family = Family::of(from.ip());
        let server = at::MEDIA.at(family, PORT);
        let mut call = Self {
            runs: Arc::new(AtomicBool::new(true)),
            near: Arc::default(),
            far: Arc::default(),
            threads: Vec::new(),
        };
        let far = Arc::clone(&call.far);
        call.spawn(&lab.internet, server, None, far);
        let near = Arc::clone(&call.near);
        call.spawn(&lab.laptop, from, Some(server), near);
        call
    }

    fn spawn(
        &mut self,
        namespace: &Namespace,
        at: SocketAddr,
        mut to: Option<SocketAddr>,
        arrivals: Arrivals,
    ) {
        let socket = namespace
            .enter(|| UdpSocket::bind(at))
            .unwrap_or_else(|e| panic!("a call at {at}: {e}"));
        let follows = to.is_none();
        let runs = Arc::clone(&self.runs);
        self.threads.push(thread::spawn(move || {
            let mut next = Instant::now();
            let mut buffer = [0; 200];
            while runs.load(Ordering::Relaxed) {
                let now = Instant::now();
                if now >= next {
                    if let Some(to) = to {
                        // The receiver detects a lost packet.
                        let _ = socket.send_to(&[0x80; 172], to);
                    }
                    next = now.max(next + PACE);
                }
                let wait = (next - now.min(next)).max(Duration::from_millis(1));
                socket.set_read_timeout(Some(wait)).expect("not zero");
                if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    arrivals.lock().expect("no panic").push(Instant::now());
                    if follows {
                        to = Some(from);
                    }
                }
            }
        }));
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
