//! The link by which a datagram may reach a tunnel socket.
//!
//! A tunnel socket is bound to no device, because the system routes it: a VPN may restart under a call, and each remote may
//! have a route of its own. Linux accepts a datagram to any of its addresses on any link. So a host on the LAN could send a
//! datagram with a media server's address into a call that is in the VPN (the class of CVE-2019-14899).

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use crate::net::{Endpoint, Fwmark, IfIndex};

/// The tunnel links of other programs, and their addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelLinks {
    /// The links.
    pub links: Vec<IfIndex>,
    /// Addresses that only these links have.
    pub addresses: Vec<IpAddr>,
    /// The mark of tunnel sockets: the route of their datagrams.
    pub mark: Fwmark,
}

impl Default for TunnelLinks {
    /// No tunnel.
    fn default() -> Self {
        Self {
            links: Vec::new(),
            addresses: Vec::new(),
            mark: Fwmark(0),
        }
    }
}

impl TunnelLinks {
    /// Whether a datagram from `from` that arrived by `link` belongs to the path of datagrams to `from`.
    ///
    /// It does not if the route to `from` leads into a tunnel, and `link` is none. A VPN without a device (IPsec policies) has
    /// its address on another link, and the kernel itself checks what arrives there.
    pub(super) fn admit(&self, link: IfIndex, from: Endpoint) -> bool {
        self.addresses.is_empty()
            || self.links.contains(&link)
            || !source_to(from, self.mark).is_ok_and(|addr| self.addresses.contains(&addr))
    }
}

/// Returns the source address that the kernel selects for a marked datagram. Sends nothing.
fn source_to(to: Endpoint, mark: Fwmark) -> io::Result<IpAddr> {
    let to = SocketAddr::from(to);
    let kind = Type::DGRAM.cloexec();
    let socket = Socket::new(Domain::for_address(to), kind, Some(Protocol::UDP))?;
    socket.set_mark(mark.0)?;
    socket.connect(&to.into())?;
    let local = socket.local_addr()?.as_socket();
    local
        .map(|it| it.ip())
        .ok_or(io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_tunnel_link_admits_what_the_route_takes_into_a_tunnel() {
        let [loopback, tunnel] = [IfIndex(1), IfIndex(7)];
        for addr in ["127.0.0.1", "::1"] {
            let addr: IpAddr = addr.parse().expect("an address");
            let from = Endpoint::new(addr, 20_000);
            // No mark: an ordinary user may not set one.
            let admits = |addresses: &[IpAddr], link| {
                let tunnels = TunnelLinks {
                    links: vec![tunnel],
                    addresses: addresses.to_vec(),
                    mark: Fwmark(0),
                };
                tunnels.admit(link, from)
            };
            assert!(admits(&[], loopback), "no tunnel");
            assert!(admits(
                &["192.0.2.1".parse().expect("an address")],
                loopback
            ));
            assert!(!admits(&[addr], loopback), "{addr} is a tunnel's");
            assert!(admits(&[addr], tunnel));
        }
    }
}
