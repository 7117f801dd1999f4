//! Relays that differ in nothing but how they learn what there is to read.
//!
//! A TUN, a connected socket for each flow, a full queue drops. IPv4 and UDP only, no policy, no limits, nothing ends: what a
//! relay of this kind costs at least.

mod async_fd;
mod plain;
mod tasks;
mod uring;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};
use tun_tap::{Iface, Mode};

use crate::frame::EF;

/// Sockets that are read in a wake-up, and packets from the TUN: the same for both directions.
const BUDGET: usize = 64;

/// Room for a packet.
const ROOM: usize = 2048;

/// The length of the headers that are written before a datagram.
const HEADERS: usize = 28;

/// An inside endpoint and its remote, which has a socket of its own.
type Ends = (SocketAddrV4, SocketAddrV4);

/// How a relay learns what there is to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Readiness {
    /// The thread waits for one epoll set.
    Plain,
    /// A runtime waits for that set, and the set is asked.
    AsyncFd,
    /// A runtime has a task for each flow, and one for the TUN.
    Tasks,
    /// The same, but the task of the TUN goes on while there is a packet.
    GreedyTasks,
    /// The kernel reads by itself, and completes.
    Uring,
}

/// Relays what comes out of a new TUN of this name to an uplink, until it is killed.
///
/// # Errors
/// When the TUN, a socket or what the loop waits by cannot be had.
pub fn run(readiness: Readiness, tun: &str, uplink: &str) -> Result<()> {
    let tun = Iface::without_packet_info(tun, Mode::Tun).context("the TUN")?;
    tun.set_non_blocking()?;
    match readiness {
        Readiness::Plain => plain::run(tun, uplink),
        Readiness::AsyncFd => async_fd::run(tun, uplink),
        Readiness::Tasks => tasks::run(tun, uplink, false),
        Readiness::GreedyTasks => tasks::run(tun, uplink, true),
        Readiness::Uring => uring::run(&tun, uplink),
    }
}

/// The flows, each at a place of its own.
struct Flows {
    uplink: String,
    transmit_count: HashMap<Ends, usize>,
    sockets: Vec<(Ends, Socket)>,
}

impl Flows {
    fn new(uplink: &str) -> Self {
        Self {
            uplink: uplink.to_owned(),
            transmit_count: HashMap::new(),
            sockets: Vec::new(),
        }
    }

    /// The place of a flow; a new one is shown to `opened`, which is to see that it is read.
    fn place(
        &mut self,
        ends: Ends,
        opened: impl FnOnce(usize, &Socket) -> Result<()>,
    ) -> Result<usize> {
        if let Some(&place) = self.transmit_count.get(&ends) {
            return Ok(place);
        }
        let (place, socket) = (self.sockets.len(), open(&self.uplink, ends.1)?);
        opened(place, &socket)?;
        self.sockets.push((ends, socket));
        self.transmit_count.insert(ends, place);
        Ok(place)
    }
}

fn open(uplink: &str, remote: SocketAddrV4) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(uplink.as_bytes()))?;
    socket.set_tos_v4(u32::from(EF))?;
    socket.connect(&remote.into())?;
    Ok(socket)
}

fn read(packet: &[u8]) -> Option<(Ends, &[u8])> {
    if packet.len() < HEADERS || packet[0] != 0x45 || packet[9] != 17 {
        return None;
    }
    let end = |address: usize, port: usize| {
        let octets: [u8; 4] = packet[address..address + 4].try_into().expect("4 bytes");
        let port = u16::from_be_bytes([packet[port], packet[port + 1]]);
        SocketAddrV4::new(Ipv4Addr::from(octets), port)
    };
    Some(((end(12, 20), end(16, 22)), &packet[HEADERS..]))
}

/// Writes the headers of an answer before its payload.
fn write_headers(packet: &mut [u8], (to, from): Ends) {
    let total = packet.len() as u16;
    packet[..12].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[12..16].copy_from_slice(&from.ip().octets());
    packet[16..20].copy_from_slice(&to.ip().octets());
    let sum = checksum(&packet[..20], 0);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet[20..22].copy_from_slice(&from.port().to_be_bytes());
    packet[22..24].copy_from_slice(&to.port().to_be_bytes());
    packet[24..26].copy_from_slice(&(total - 20).to_be_bytes());
    packet[26..28].fill(0);
    let sum = checksum(&packet[12..], 17 + u64::from(total - 20));
    packet[26..28].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
}

fn checksum(bytes: &[u8], start: u64) -> u16 {
    let words = bytes.chunks(2);
    let mut sum = words.fold(start, |sum, word| {
        sum + u64::from(u16::from_be_bytes([
            word[0],
            word.get(1).copied().unwrap_or(0),
        ]))
    });
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
