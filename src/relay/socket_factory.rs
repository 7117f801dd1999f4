//! The socket factory: the only place that creates outside sockets.
//!
//! The steps for a direct socket, in this order for both families:
//!
//! 1. `SO_BINDTODEVICE`: the uplink. It overrides every routing rule. A process without `CAP_NET_RAW` may set it only on a
//!    socket that is bound to no device yet.
//! 2. `SO_MARK`: selects the direct routing table.
//! 3. On a machine with IPsec policies, a per-socket policy "allow" in both directions (`IP_XFRM_POLICY`), as IKE daemons
//!    set it. Otherwise a catch-all policy of an IPsec VPN captures the datagrams after routing.
//! 4. `IP_TOS` / `IPV6_TCLASS`: the DSCP.
//! 5. `SO_PRIORITY`: after the TOS, which resets it over IPv4.
//! 6. UDP: error queue, TOS and overflow count of received datagrams; then `bind`, to the inside endpoint's port if that is
//!    free (RFC 4787 section 4.2.1). The address stays open, so that each datagram has the source that its route prefers
//!    (RFC 6724). If another socket has the port on every address, it may be free on that one.
//! 7. TCP: `TCP_NODELAY`, because the application's stack already delays small segments; then `bind`, to a port that only
//!    connections of the same inside endpoint share (RFC 5382 REQ-1 and REQ-7); then `connect`.
//!
//! A tunnel socket skips steps 1 and 3, so that the system routes it. Its mark only keeps it out of voicelane's own capture
//! (see [`crate::manual::capture`]). The kernel chooses its port, and reports the link of each datagram: one that the VPN did
//! not deliver is dropped (`arrival`).

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

/// Descriptors reserved for the rest of the service, for control requests and netlink.
const RESERVED: u64 = 32;

/// Settings shared by the sockets of one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketFactory {
    /// The uplink's interface name.
    pub device: String,
    /// The mark of direct sockets. It selects the direct routing table; a VPN's firewall may accept it.
    pub mark: Fwmark,
    /// The mark of tunnel sockets, which capture rules exclude.
    pub tunnel_mark: Fwmark,
}

/// The socket factory of each family; families may have different uplinks. `None`: no sockets of that family.
pub type SocketFactories = PerFamily<Option<SocketFactory>>;

/// The step of a socket's setup that the kernel refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupStep {
    /// Creating the socket.
    Create,
    /// Binding it to the uplink's device.
    Device,
    /// Setting its mark.
    Mark,
    /// Setting the IPsec bypass.
    IpsecBypass,
    /// Setting DSCP and priority.
    Treatment,
    /// Enabling the error queue, and the TOS and link of received packets.
    Reception,
    /// Binding it to a port.
    Port,
    /// Connecting it.
    Connect,
    /// Adding it to the epoll set.
    Watch,
}

/// A socket could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("could not open a socket on {device}: {step:?} failed")]
pub struct SocketSetupError {
    /// The uplink.
    pub device: String,
    /// The step that failed.
    pub step: SetupStep,
    /// The kernel's error.
    #[source]
    pub source: io::Error,
}

impl SocketFactory {
    /// Opens a UDP socket of a mapping, and returns it with its outside endpoint: the source of datagrams to `to`, if that is
    /// given and has a route. `bypass_ipsec` concerns direct sockets.
    ///
    /// # Errors
    /// [`SocketSetupError`] with the step that failed; no socket remains.
    pub fn open_udp(
        &self,
        egress: Egress,
        inside: Inside<Endpoint>,
        to: Option<Endpoint>,
        treatment: Treatment,
        bypass_ipsec: bool,
    ) -> Result<(Socket, Outside<Endpoint>), SocketSetupError> {
        let family = Family::of(inside.0.addr);
        let kind = (Type::DGRAM, Protocol::UDP);
        let socket = self.create(egress, family, kind, treatment, bypass_ipsec)?;
        enable_reception(&socket, family, egress).map_err(self.at(SetupStep::Reception))?;
        let source = to.and_then(|to| self.preferred_source(egress, to).ok());
        let bound = match egress {
            Egress::Direct => bind_port(&socket, family, source, inside.0.port),
            Egress::Tunnel => socket.bind(&SocketAddr::new(family.unspecified(), 0).into()),
        };
        bound.map_err(self.at(SetupStep::Port))?;
        let local = local_endpoint(&socket).map_err(self.at(SetupStep::Port))?;
        let outside = Endpoint::new(source.unwrap_or(local.addr), local.port);
        Ok((socket, Outside(outside)))
    }

    /// Returns the source address that the route to `to` prefers. A connected socket has it; nothing is sent.
    fn preferred_source(&self, egress: Egress, to: Endpoint) -> io::Result<IpAddr> {
        let socket = new_socket(Family::of(to.addr), (Type::DGRAM, Protocol::UDP))?;
        if egress == Egress::Direct {
            socket.bind_device(Some(self.device.as_bytes()))?;
        }
        socket.set_mark(self.mark_of(egress).0)?;
        socket.connect(&SocketAddr::from(to).into())?;
        Ok(local_endpoint(&socket)?.addr)
    }

    const fn mark_of(&self, egress: Egress) -> Fwmark {
        match egress {
            Egress::Direct => self.mark,
            Egress::Tunnel => self.tunnel_mark,
        }
    }

    /// Opens a TCP socket and starts to connect it. `port` is the port that other connections of the same inside endpoint
    /// use; `None` chooses a free one. `bypass_ipsec` concerns direct sockets.
    ///
    /// # Errors
    /// [`SocketSetupError`] with the step that failed: [`SetupStep::Connect`] if there is no route.
    pub fn open_tcp(
        &self,
        egress: Egress,
        to: Endpoint,
        port: Option<u16>,
        treatment: Treatment,
        bypass_ipsec: bool,
    ) -> Result<Socket, SocketSetupError> {
        let kind = (Type::STREAM, Protocol::TCP);
        let family = Family::of(to.addr);
        let socket = self.create(egress, family, kind, treatment, bypass_ipsec)?;
        socket
            .set_tcp_nodelay(true)
            .map_err(self.at(SetupStep::Treatment))?;
        // SO_REUSEADDR shares a named port with sockets that set it too; a port chosen by the kernel is never shared.
        let local = SocketAddr::new(family.unspecified(), port.unwrap_or(0));
        socket
            .set_reuse_address(true)
            .and_then(|()| socket.bind(&local.into()))
            .map_err(self.at(SetupStep::Port))?;
        match socket.connect(&SocketAddr::from(to).into()) {
            Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => {
                Err(self.at(SetupStep::Connect)(error))
            }
            _ => Ok(socket),
        }
    }

    /// Creates a socket with the options that UDP and TCP share.
    fn create(
        &self,
        egress: Egress,
        family: Family,
        (kind, protocol): (Type, Protocol),
        treatment: Treatment,
        bypass_ipsec: bool,
    ) -> Result<Socket, SocketSetupError> {
        let socket = new_socket(family, (kind, protocol))
            .and_then(keep_reserve)
            .map_err(self.at(SetupStep::Create))?;
        if egress == Egress::Direct {
            socket
                .bind_device(Some(self.device.as_bytes()))
                .map_err(self.at(SetupStep::Device))?;
        }
        let mark = self.mark_of(egress);
        socket.set_mark(mark.0).map_err(self.at(SetupStep::Mark))?;
        if bypass_ipsec && egress == Egress::Direct {
            socket_option::bypass_ipsec(&socket, family)
                .map_err(self.at(SetupStep::IpsecBypass))?;
        }
        set_treatment(&socket, family, treatment, Ecn::NotEct)
            .map_err(self.at(SetupStep::Treatment))?;
        Ok(socket)
    }

    /// Returns a conversion of the kernel's error at a step.
    pub(super) fn at(&self, step: SetupStep) -> impl FnOnce(io::Error) -> SocketSetupError {
        move |source| SocketSetupError {
            device: self.device.clone(),
            step,
            source,
        }
    }
}

fn new_socket(family: Family, (kind, protocol): (Type, Protocol)) -> io::Result<Socket> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let socket = Socket::new(domain, kind.nonblocking().cloexec(), Some(protocol))?;
    if family == Family::V6 {
        // The two families have separate ports.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn local_endpoint(socket: &Socket) -> io::Result<Endpoint> {
    let local = socket.local_addr()?.as_socket();
    Ok(local.ok_or(io::ErrorKind::InvalidData)?.into())
}

/// Binds to `port` on every address, otherwise on the preferred source, otherwise to a port that the kernel chooses.
///
/// If an application has the port on the VPN's address, a bind to every address fails, and one to the source succeeds.
fn bind_port(socket: &Socket, family: Family, source: Option<IpAddr>, port: u16) -> io::Result<()> {
    let any = family.unspecified();
    for addr in std::iter::once(any).chain(source) {
        match socket.bind(&SocketAddr::new(addr, port).into()) {
            Err(error) if is_port_specific(&error) => {}
            done => return done,
        }
    }
    socket.bind(&SocketAddr::new(any, 0).into())
}

/// Returns the socket unless too few descriptors remain. The kernel numbers descriptors from below.
fn keep_reserve(socket: Socket) -> io::Result<Socket> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let number = u64::from(socket.as_raw_fd().unsigned_abs());
    if number + RESERVED < limit {
        Ok(socket)
    } else {
        Err(Errno::EMFILE.into())
    }
}

/// Whether another port or address may succeed: this one is taken, privileged or gone.
fn is_port_specific(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
    matches!(
        error.kind(),
        AddrInUse | AddrNotAvailable | PermissionDenied
    )
}

/// Sets DSCP, ECN and priority of the datagrams that the socket sends from now on.
pub(super) fn set_treatment(
    socket: &Socket,
    family: Family,
    treatment: Treatment,
    ecn: Ecn,
) -> io::Result<()> {
    let dscp = treatment.dscp;
    let octet = u32::from(TrafficClass { dscp, ecn }.octet());
    match family {
        Family::V4 => socket.set_tos_v4(octet)?,
        Family::V6 => socket.set_tclass_v6(octet)?,
    }
    debug_assert!(treatment.dscp == Dscp::DF || octet != 0);
    socket.set_priority(u32::from(treatment.priority))
}

fn enable_reception(socket: &Socket, family: Family, egress: Egress) -> io::Result<()> {
    setsockopt(socket, sockopt::RxqOvfl, &1)?;
    match (egress, family) {
        (Egress::Direct, _) => {}
        (Egress::Tunnel, Family::V4) => setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?,
        (Egress::Tunnel, Family::V6) => setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?,
    }
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
