//! A capture of every packet on every interface of one namespace.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc::PACKET_OUTGOING;
use nix::net::if_::if_indextoname;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::frame::{Frame, FrameDirection, probe};
use super::namespace::Namespace;

/// The EtherTypes that a capture keeps: IPv4 and IPv6.
const IP: [u16; 2] = [0x0800, 0x86dd];
/// The receive buffer of the packet socket, in bytes.
const BUFFER: usize = 16 << 20;
/// The longest time for which a capture may lag behind.
const LAG: Duration = Duration::from_secs(20);
/// The time after which an unseen marker is sent again.
const MARKER_REPEAT: Duration = Duration::from_millis(200);

/// A running capture.
///
/// The packet socket is bound to no interface, so it receives the packets of all of them in order. It delivers packets
/// without a link-layer header, so a TUN and an Ethernet interface look alike.
#[derive(Debug)]
pub struct FrameCapture {
    frames: Arc<Mutex<Vec<Frame>>>,
    marker: UdpSocket,
}

impl FrameCapture {
    /// Starts a capture, which sees every later packet. The namespace's loopback interface must be up.
    ///
    /// # Errors
    /// The packet socket, or the marker's socket, cannot be opened.
    pub fn start(namespace: &Namespace) -> io::Result<Self> {
        let (packets, marker) = namespace.enter(|| -> io::Result<_> {
            let packets = socket(
                AddressFamily::Packet,
                SockType::Datagram,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )?;
            Ok((packets, UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?))
        })?;
        // Only root may exceed net.core.rmem_max.
        setsockopt(&packets, sockopt::RcvBufForce, &BUFFER)
            .or_else(|_| setsockopt(&packets, sockopt::RcvBuf, &BUFFER))?;
        setsockopt(
            &packets,
            sockopt::ReceiveTimeout,
            &TimeVal::milliseconds(200),
        )?;
        let frames = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::downgrade(&frames);
        // Inside, because only there an index leads to the interface's name.
        namespace.thread(move || read(&packets, &sink));
        Ok(Self { frames, marker })
    }

    /// Ends the capture and forgets its packets.
    pub fn stop(&mut self) {
        // The reader ends when its sink is gone.
        self.frames = Arc::default();
    }

    /// Returns all packets up to now that `wanted` accepts.
    ///
    /// A marker over the loopback interface passes the same queue. Once the marker is seen, so is every earlier packet.
    ///
    /// # Panics
    /// When the capture lags behind for 20 seconds.
    pub fn frames(&self, wanted: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        let marker = probe();
        let own = self
            .marker
            .local_addr()
            .expect("the marker's socket is bound");
        let start = Instant::now();
        let mut next_marker = start;
        loop {
            if Instant::now() >= next_marker {
                let sent = self.marker.send_to(marker.as_bytes(), own);
                sent.expect("the loopback interface is up");
                next_marker += MARKER_REPEAT;
            }
            let frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
            if frames.iter().rev().any(|frame| frame.carries(&marker)) {
                let wanted = frames.iter().filter(|frame| wanted(frame));
                return wanted.cloned().collect();
            }
            drop(frames);
            assert!(start.elapsed() < LAG, "the capture stands still");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Returns all packets up to now that carry the probe in clear, except on loopback.
    #[must_use]
    pub fn carrying(&self, payload: &str) -> Vec<Frame> {
        self.frames(|frame| frame.interface != "lo" && frame.carries(payload))
    }
}

/// Moves packets from the socket to the sink until the sink is gone.
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
        let index = link.ifindex();
        let name = names.entry(index).or_insert_with(|| name_of(index));
        let direction = match link.pkttype() {
            PACKET_OUTGOING => FrameDirection::Out,
            _ => FrameDirection::In,
        };
        let frame = Frame::parse(name, direction, &buffer[..length]);
        let mut frames = frames.lock().unwrap_or_else(PoisonError::into_inner);
        frames.extend(frame);
    }
}

fn name_of(index: usize) -> String {
    let name = u32::try_from(index)
        .ok()
        .and_then(|it| if_indextoname(it).ok());
    name.map_or_else(
        || format!("#{index}"),
        |name| name.to_string_lossy().into_owned(),
    )
}
