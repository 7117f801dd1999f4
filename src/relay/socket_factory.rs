//! The one place where a socket is made.
//!
//! For the direct way the order matters, and is the same for both families:
//!
//! 1. `SO_BINDTODEVICE`: the uplink. It outranks every routing rule, and it comes first because a process without
//!    `CAP_NET_RAW` may set it only on a socket that is bound to no device yet.
//! 2. `SO_MARK`: selects our direct table, whose next hop is the uplink's own.
//! 3. Where this machine has IPsec policies: a policy "allow" of the socket's own, both directions, as an IKE daemon sets
//!    for its own socket (`IP_XFRM_POLICY`): a catch-all policy of an IPsec VPN would swallow the datagrams after routing.
//! 4. `IP_TOS` / `IPV6_TCLASS`: the DSCP.
//! 5. `SO_PRIORITY`: after the TOS, which resets it on IPv4 (and never sets it on IPv6).
//! 6. Datagrams: what tells us of the way back, the error queue and the TOS of received packets; then `bind`, on the
//!    inside endpoint's port when that is free (RFC 4787 section 4.2.1).
//! 7. Streams: `TCP_NODELAY`, for the application's own stack has waited already if it wanted to; then `bind`, to a port
//!    that only connections of the same inside endpoint share (RFC 5382 REQ-1 and REQ-7: `connect` alone may choose a
//!    port that has a connection to another host); then `connect`.
//!
//! A socket for the tunnel is bound to no device (1) and exempt from no IPsec policy (3), so that it goes wherever the
//! system sends it. Its mark (2) is another one of ours, which keeps it out of our own captures and selects nothing: see
//! [`crate::manual::capture`].
//! The port of a mapping is the kernel's choice.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::net::{
    Dscp, Ecn, Egress, Endpoint, Family, Fwmark, Inside, Outside, PerFamily, TrafficClass,
    Treatment,
};

use super::socket_option;

/// Descriptors that these sockets leave to the rest of the service: with none, nobody could ask it what is wrong, and
/// nothing could be steered any more.
const RESERVED: u64 = 32;

/// What the sockets have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketFactory {
    /// The uplink's interface name.
    pub device: String,
    /// The uplink's addresses: tried when an application on this machine holds the port on all addresses but these.
    pub addresses: Vec<IpAddr>,
    /// The mark of direct sockets: it selects the direct table, and a VPN's firewall may know it.
    pub mark: Fwmark,
    /// The mark of sockets that lead into the VPN: no capture takes it, and no firewall knows it.
    pub tunnel_mark: Fwmark,
}

/// What the sockets of each family have in common: the families may leave by different links. Without it there is no
/// socket of that family.
pub type SocketFactories = PerFamily<Option<SocketFactory>>;

/// What was being done to a socket when the kernel refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupStep {
    /// Making it.
    Create,
    /// Binding it to the uplink.
    Device,
    /// Setting its mark.
    Mark,
    /// Exempting it from IPsec policies.
    IpsecBypass,
    /// Setting DSCP and priority.
    Treatment,
    /// Asking for errors and the TOS of received packets.
    Reception,
    /// Binding it to a port.
    Port,
    /// Connecting it.
    Connect,
    /// Watching it.
    Watch,
}

/// A socket could not be made fit for the direct path.
#[derive(Debug, thiserror::Error)]
#[error("could not open a socket on {device}: {step:?} failed")]
pub struct SocketSetupError {
    /// The uplink.
    pub device: String,
    /// What was being done.
    pub step: SetupStep,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

impl SocketFactory {
    /// Makes the socket of a mapping and tells which outside endpoint it got. `exempt`: from IPsec policies, on the direct
    /// way.
    ///
    /// # Errors
    /// [`SocketSetupError`] with the step that failed; no socket is left over.
    pub fn bind(
        &self,
        egress: Egress,
        inside: Inside<Endpoint>,
        treatment: Treatment,
        exempt: bool,
    ) -> Result<(Socket, Outside<Endpoint>), SocketSetupError> {
        let family = Family::of(inside.0.addr);
        let kind = (Type::DGRAM, Protocol::UDP);
        let socket = self.make(egress, family, kind, treatment, exempt)?;
        ask_for_reception(&socket, family).map_err(self.at(SetupStep::Reception))?;
        let bound = match egress {
            Egress::Direct => self.bind_port(&socket, family, inside.0.port),
            Egress::Tunnel => socket.bind(&SocketAddr::new(family.unspecified(), 0).into()),
        };
        bound.map_err(self.at(SetupStep::Port))?;
        let local = socket.local_addr().map_err(self.at(SetupStep::Port))?;
        let outside = local
            .as_socket()
            .expect("an internet socket has an internet address");
        Ok((socket, Outside(outside.into())))
    }

    /// Makes the socket of a TCP connection, which is under way when this returns; on `port`, which other connections of
    /// the same inside endpoint have, or else on one that nobody has. `exempt` as in [`SocketFactory::bind`].
    ///
    /// # Errors
    /// [`SocketSetupError`] with the step that failed, [`SetupStep::Connect`] when it is known already that there is no way.
    pub fn connect(
        &self,
        egress: Egress,
        to: Endpoint,
        port: Option<u16>,
        treatment: Treatment,
        exempt: bool,
    ) -> Result<Socket, SocketSetupError> {
        let kind = (Type::STREAM, Protocol::TCP);
        let family = Family::of(to.addr);
        let socket = self.make(egress, family, kind, treatment, exempt)?;
        socket
            .set_tcp_nodelay(true)
            .map_err(self.at(SetupStep::Treatment))?;
        // Who names a port may share it with others that say the same; who leaves it to the kernel never does.
        let own = SocketAddr::new(family.unspecified(), port.unwrap_or(0));
        socket
            .set_reuse_address(true)
            .and_then(|()| socket.bind(&own.into()))
            .map_err(self.at(SetupStep::Port))?;
        match socket.connect(&SocketAddr::from(to).into()) {
            Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => {
                Err(self.at(SetupStep::Connect)(error))
            }
            _ => Ok(socket),
        }
    }

    /// The steps that every socket has in common.
    fn make(
        &self,
        egress: Egress,
        family: Family,
        (kind, protocol): (Type, Protocol),
        treatment: Treatment,
        exempt: bool,
    ) -> Result<Socket, SocketSetupError> {
        let domain = match family {
            Family::V4 => Domain::IPV4,
            Family::V6 => Domain::IPV6,
        };
        let socket = Socket::new(domain, kind.nonblocking().cloexec(), Some(protocol))
            .and_then(leave_reserve)
            .map_err(self.at(SetupStep::Create))?;
        if family == Family::V6 {
            // Its ports are no business of the other family's.
            socket
                .set_only_v6(true)
                .map_err(self.at(SetupStep::Create))?;
        }
        if egress == Egress::Direct {
            socket
                .bind_device(Some(self.device.as_bytes()))
                .map_err(self.at(SetupStep::Device))?;
        }
        let mark = match egress {
            Egress::Direct => self.mark,
            Egress::Tunnel => self.tunnel_mark,
        };
        socket.set_mark(mark.0).map_err(self.at(SetupStep::Mark))?;
        if exempt && egress == Egress::Direct {
            socket_option::bypass_ipsec(&socket, family)
                .map_err(self.at(SetupStep::IpsecBypass))?;
        }
        treat(&socket, family, treatment).map_err(self.at(SetupStep::Treatment))?;
        Ok(socket)
    }

    /// Names the step at which the kernel refused.
    pub(super) fn at(&self, step: SetupStep) -> impl FnOnce(io::Error) -> SocketSetupError {
        move |source| SocketSetupError {
            device: self.device.clone(),
            step,
            source,
        }
    }

    /// Binds to `port` on every address, else on the uplink's own addresses, else to a port of the kernel's choice.
    ///
    /// The second try is for the application that sits on this machine: while it holds the port on the VPN's address,
    /// the port is taken on "every address" but free on the uplink's.
    fn bind_port(&self, socket: &Socket, family: Family, port: u16) -> io::Result<()> {
        let any = family.unspecified();
        let own = self
            .addresses
            .iter()
            .copied()
            .filter(|addr| Family::of(*addr) == family);
        for addr in std::iter::once(any).chain(own) {
            match socket.bind(&SocketAddr::new(addr, port).into()) {
                Err(error) if is_about_this_port(&error) => {}
                done => return done,
            }
        }
        socket.bind(&SocketAddr::new(any, 0).into())
    }
}

/// Gives the socket back when few descriptors are left beside it: the kernel numbers them from below.
fn leave_reserve(socket: Socket) -> io::Result<Socket> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let number = u64::from(socket.as_raw_fd().unsigned_abs());
    if number + RESERVED < limit {
        Ok(socket)
    } else {
        Err(Errno::EMFILE.into())
    }
}

/// Taken, reserved for root, or the address has just gone: another port or address may do.
fn is_about_this_port(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
    matches!(
        error.kind(),
        AddrInUse | AddrNotAvailable | PermissionDenied
    )
}

/// Marks what the socket sends from now on.
pub(super) fn treat(socket: &Socket, family: Family, treatment: Treatment) -> io::Result<()> {
    let octet = u32::from(
        TrafficClass {
            dscp: treatment.dscp,
            ecn: Ecn::NotEct,
        }
        .octet(),
    );
    match family {
        Family::V4 => socket.set_tos_v4(octet)?,
        Family::V6 => socket.set_tclass_v6(octet)?,
    }
    debug_assert!(treatment.dscp == Dscp::DF || octet != 0);
    socket.set_priority(u32::from(treatment.priority))
}

fn ask_for_reception(socket: &Socket, family: Family) -> io::Result<()> {
    setsockopt(socket, sockopt::RxqOvfl, &1)?;
    match family {
        Family::V4 => {
            socket.set_recv_tos_v4(true)?;
            setsockopt(socket, sockopt::Ipv4RecvErr, &true)?;
        }
        Family::V6 => {
            socket.set_recv_tclass_v6(true)?;
            setsockopt(socket, sockopt::Ipv6RecvErr, &true)?;
        }
    }
    Ok(())
}
