//! A capture of every packet on every interface of one namespace.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use nix::net::if_::if_indextoname;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::frame::{Direction, Frame, probe};
use super::namespace::Namespace;
use super::program::PATIENCE;

/// `sll_pkttype` of a packet that this host sends (`PACKET_OUTGOING` of packet(7)).
const OUTGOING: u8 = 4;
/// `ETH_P_IP` and `ETH_P_IPV6`: what a capture keeps.
const IP: [u16; 2] = [0x0800, 0x86dd];

/// A running capture.
///
/// One packet socket that is bound to no interface sees all of them, in order; without a link-layer header, so that a
/// TUN and an Ethernet look alike.
pub struct Capture {
    frames: Arc<Mutex<Vec<Frame>>>,
    marker: UdpSocket,
}

impl Capture {
    /// Starts to capture; every packet from now on is seen.
    pub fn start(namespace: &Namespace) -> Self {
        let (packets, marker) = namespace.enter(|| {
            let packets = socket(
                AddressFamily::Packet,
                SockType::Datagram,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            );
            let marker = UdpSocket::bind("127.0.0.1:0");
            (
                packets.expect("root may capture"),
                marker.expect("loopback is up"),
            )
        });
        setsockopt(&packets, sockopt::RcvBufForce, &(16 << 20)).expect("root may");
        setsockopt(
            &packets,
            sockopt::ReceiveTimeout,
            &TimeVal::milliseconds(200),
        )
        .expect("it is a socket");
        let frames = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::downgrade(&frames);
        // Inside, because an interface's name is only known there.
        namespace.thread(move || read(&packets, &sink));
        Self { frames, marker }
    }

    /// Forgets everything and looks no more, for a test that moves more than a witness can remember.
    pub fn stop(&mut self) {
        // The reader ends when it finds the old ones gone.
        self.frames = Arc::default();
    }

    /// All packets up to now that `wanted` accepts.
    ///
    /// A marker over the loopback interface goes through the same queue: once it is seen, so is all before it.
    pub fn frames(&self, wanted: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        let marker = probe();
        let own = self.marker.local_addr().expect("it is bound");
        self.marker
            .send_to(marker.as_bytes(), own)
            .expect("loopback is up");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let frames = self.frames.lock().expect("no reader panics");
            if frames.iter().rev().any(|frame| frame.carries(&marker)) {
                return frames
                    .iter()
                    .filter(|frame| wanted(frame))
                    .cloned()
                    .collect();
            }
            drop(frames);
            assert!(Instant::now() < deadline, "the capture stands still");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// All packets up to now that carry the probe in clear, on whichever interface but loopback.
    pub fn carrying(&self, payload: &str) -> Vec<Frame> {
        self.frames(|frame| frame.interface != "lo" && frame.carries(payload))
    }
}

/// Moves packets from the socket to the sink until the capture is dropped.
fn read(packets: &OwnedFd, sink: &Weak<Mutex<Vec<Frame>>>) {
    let mut names = HashMap::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let received = recvfrom::<LinkAddr>(packets.as_raw_fd(), &mut buffer);
        let Some(frames) = sink.upgrade() else { return };
        let Ok((length, Some(link))) = received else {
            continue;
        };
        if !IP.contains(&u16::from_be(link.protocol())) {
            continue;
        }
        let name = names
            .entry(link.ifindex())
            .or_insert_with(|| name_of(link.ifindex()));
        let direction = match link.pkttype() {
            OUTGOING => Direction::Out,
            _ => Direction::In,
        };
        let frame = Frame::parse(name, direction, &buffer[..length]);
        frames.lock().expect("no reader panics").extend(frame);
    }
}

fn name_of(index: usize) -> String {
    let index = u32::try_from(index).expect("the kernel's are 32 bits");
    if_indextoname(index).map_or_else(
        |_| format!("#{index}"),
        |name| name.to_string_lossy().into_owned(),
    )
}
