//! Calls by the hundreds, carried on by one thread.

use std::fmt::{self, Display, Formatter};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::support::MEDIA_PORT;
use crate::support::addresses as at;
use crate::support::caller::Family;
use crate::support::namespace::Namespace;

/// The media server's ports for RTP and RTCP, which nothing else serves.
pub(crate) const PORTS: [u16; 2] = [MEDIA_PORT + 1, MEDIA_PORT + 2];

/// The sizes of their packets.
const LENGTHS: [usize; 2] = [172, 80];

/// RTP packets of a call for one of RTCP.
const RTCP_TURNS: u64 = 50;

/// A call on the laptop: RTP, and RTCP for every other pair.
struct Call {
    family: Family,
    sockets: Vec<UdpSocket>,
    turns: u64,
    /// When something came last, and the longest wait for it in this phase.
    heard: Instant,
    silence: Duration,
    /// How long after the mark a packet that was sent after it was answered.
    back: Option<Duration>,
}

impl Call {
    /// Opens a call's sockets as a browser does, bound to no address. Inside the laptop only.
    fn new(number: usize) -> Self {
        let family = Family::BOTH[number % 2];
        let socket = |_| {
            let socket = UdpSocket::bind((family.unspecified(), 0)).expect("ports are free");
            socket.set_nonblocking(true).expect("it is a socket");
            socket
        };
        Self {
            family,
            sockets: (0..=number / 2 % 2).map(socket).collect(),
            turns: 0,
            heard: Instant::now(),
            silence: Duration::ZERO,
            back: None,
        }
    }
}

/// What was sent in a phase, and what of it was answered, now or later.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tally {
    sent: u64,
    answered: u64,
}

impl Tally {
    pub(crate) const fn plus(self, other: Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            answered: self.answered + other.answered,
        }
    }
}

impl Display for Tally {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let Self { sent, answered } = self;
        write!(
            f,
            "{} of {sent} packets lost",
            sent.saturating_sub(*answered)
        )
    }
}

/// What a packet tells of itself, behind where RTP has its first bytes.
struct Stamp {
    phase: usize,
    /// Since the switchboard was made.
    sent: Duration,
}

impl Stamp {
    fn write(&self, payload: &mut [u8]) {
        let phase = u32::try_from(self.phase).expect("phases take seconds");
        let sent = u64::try_from(self.sent.as_nanos()).expect("less than centuries");
        payload[4..8].copy_from_slice(&phase.to_be_bytes());
        payload[8..16].copy_from_slice(&sent.to_be_bytes());
    }

    fn read(payload: &[u8]) -> Option<Self> {
        let phase = u32::from_be_bytes(payload.get(4..8)?.try_into().ok()?);
        let sent = u64::from_be_bytes(payload.get(8..16)?.try_into().ok()?);
        Some(Self {
            phase: usize::try_from(phase).ok()?,
            sent: Duration::from_nanos(sent),
        })
    }
}

/// All calls, and what is known of them.
struct Switchboard {
    calls: Vec<Call>,
    epoll: Epoll,
    origin: Instant,
    /// RTP packets that a call sends in a second.
    rate: u64,
    /// RTP packets that were sent, the first of `since`. Calls take turns.
    turns: u64,
    since: Instant,
    phases: Vec<Tally>,
    /// Since when calls must be back.
    mark: Instant,
}

impl Switchboard {
    fn new(calls: Vec<Call>, rate: u64) -> Self {
        let now = Instant::now();
        let board = Self {
            calls,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("descriptors are free"),
            origin: now,
            rate,
            turns: 0,
            since: now,
            phases: vec![Tally::default()],
            mark: now,
        };
        (0..board.calls.len()).for_each(|number| board.listen(number));
        board
    }

    fn listen(&self, number: usize) {
        for (at, socket) in self.calls[number].sockets.iter().enumerate() {
            let token = u64::try_from(number * 2 + at).expect("it is small");
            let event = EpollEvent::new(EpollFlags::EPOLLIN, token);
            self.epoll.add(socket, event).expect("it is new");
        }
    }

    /// Sends what is due. What was held up is not sent all at once, for agents do not wait for each other.
    fn speak(&mut self) {
        let count = self.calls.len() as u64;
        let rate = u128::from(self.rate * count);
        let elapsed = self.since.elapsed().as_micros();
        let due = u64::try_from(elapsed * rate / 1_000_000).expect("less than centuries");
        if due > self.turns + 2 * count {
            (self.turns, self.since) = (0, Instant::now());
            return;
        }
        // Two and a half times what is due in a millisecond.
        let most = self.turns + self.rate * count / 400 + 1;
        let phase = self.phases.len() - 1;
        while self.turns < due.min(most) {
            let number = usize::try_from(self.turns % count).expect("it is below their count");
            let call = &mut self.calls[number];
            let with_rtcp = call.turns.is_multiple_of(RTCP_TURNS);
            for (at, socket) in call.sockets.iter().enumerate() {
                if at == 0 || with_rtcp {
                    let mut payload = [0x80; 172];
                    let sent = self.origin.elapsed();
                    Stamp { phase, sent }.write(&mut payload);
                    let to = at::MEDIA.at(call.family, PORTS[at]);
                    // What cannot leave is lost.
                    let _ = socket.send_to(&payload[..LENGTHS[at]], to);
                    self.phases[phase].sent += 1;
                }
            }
            call.turns += 1;
            self.turns += 1;
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
                let (call, at) = (&mut self.calls[token / 2], token % 2);
                while let Ok(length) = call.sockets[at].recv(&mut buffer) {
                    let stamp = Stamp::read(&buffer[..length]).expect("what is echoed was ours");
                    self.phases[stamp.phase].answered += 1;
                    if at == 0 {
                        call.silence = call.silence.max(call.heard.elapsed());
                        call.heard = Instant::now();
                        if self.origin + stamp.sent >= self.mark {
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

/// Running calls; they end with this value.
pub(crate) struct Calls {
    board: Arc<Mutex<Switchboard>>,
    runs: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Calls {
    /// Starts so many, every second over IPv6, each with so many packets in a second. The first phase begins, and calls
    /// must be back from now on.
    pub(crate) fn start(laptop: &Namespace, count: usize, rate: u64) -> Self {
        let calls = laptop.enter(|| (0..count).map(Call::new).collect());
        let board = Arc::new(Mutex::new(Switchboard::new(calls, rate)));
        let runs = Arc::new(AtomicBool::new(true));
        let thread = thread::spawn({
            let (board, runs) = (Arc::clone(&board), Arc::clone(&runs));
            move || {
                while runs.load(Ordering::Relaxed) {
                    let mut board = board.lock().expect("nobody panics with it");
                    board.speak();
                    board.hear();
                    drop(board);
                    sleep(Duration::from_millis(1));
                }
            }
        });
        Self {
            board,
            runs,
            thread: Some(thread),
        }
    }

    fn board(&self) -> MutexGuard<'_, Switchboard> {
        self.board.lock().expect("the calls go on")
    }

    /// How many sockets the calls have.
    pub(crate) fn sockets(&self) -> usize {
        let board = self.board();
        board.calls.iter().map(|call| call.sockets.len()).sum()
    }

    /// Ends every `step`th call and begins another in its place, by ports of its own; says how many.
    pub(crate) fn replace(&self, laptop: &Namespace, first: usize, step: usize) -> usize {
        let count = self.board().calls.len();
        let numbers: Vec<_> = (first..count).step_by(step).collect();
        let fresh: Vec<_> = laptop.enter(|| numbers.iter().map(|&it| Call::new(it)).collect());
        let mut board = self.board();
        for (&number, call) in numbers.iter().zip(fresh) {
            board.calls[number] = call;
            board.listen(number);
        }
        numbers.len()
    }

    /// Ends all calls but the first ones.
    pub(crate) fn keep(&self, count: usize) {
        let mut board = self.board();
        board.calls.truncate(count);
        (board.turns, board.since) = (0, Instant::now());
    }

    /// What is sent from now on belongs together; answers the phase's number. Silences begin to be measured.
    pub(crate) fn begin_phase(&self) -> usize {
        let mut board = self.board();
        board.phases.push(Tally::default());
        for call in &mut board.calls {
            call.silence = Duration::ZERO;
        }
        board.phases.len() - 1
    }

    /// All phases so far.
    pub(crate) fn phases(&self) -> Vec<Tally> {
        self.board().phases.clone()
    }

    /// The longest wait of a call for a packet in this phase.
    pub(crate) fn silence(&self) -> Duration {
        let board = self.board();
        let silences = board.calls.iter().map(|call| call.silence);
        silences.max().unwrap_or_default()
    }

    /// From now on calls must be back.
    pub(crate) fn mark(&self) {
        let mut board = self.board();
        board.mark = Instant::now();
        for call in &mut board.calls {
            call.back = None;
        }
    }

    /// Waits until of each call a packet that was sent after the mark is answered; answers how long the last one took.
    ///
    /// # Errors
    /// How many are not back after the patience, and some of them.
    pub(crate) fn are_back_within(&self, patience: Duration) -> Result<Duration, String> {
        loop {
            let board = self.board();
            let back: Option<Vec<_>> = board.calls.iter().map(|call| call.back).collect();
            if let Some(back) = back {
                return Ok(back.into_iter().max().unwrap_or_default());
            }
            if board.mark.elapsed() > patience {
                let gone = board.calls.iter().filter(|call| call.back.is_none());
                let gone: Vec<_> = gone
                    .map(|call| (call.family, &call.sockets[0], call.heard.elapsed()))
                    .collect();
                let (count, few) = (gone.len(), &gone[..gone.len().min(5)]);
                return Err(format!(
                    "{count} calls are not back after {patience:?}, among them {few:#?}"
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
