//! Whether the applications of silent mappings still exist.
//!
//! Only the kernel knows whether a socket is open. It is asked on the second thread, and only about mappings whose
//! application has sent nothing for [`SILENT`]. Unknown counts as open: a client of a gateway, a container, an address that
//! this machine lost.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use nix::ifaddrs::getifaddrs;

use crate::engine::{MappingReport, SILENT};
use crate::net::{Endpoint, MappingId};
use crate::relay::SocketLookup;

/// A mapping, and whether it still has an application.
pub(super) type ApplicationState = (MappingId, bool);

/// Returns the state of each silent mapping.
pub(super) fn states(mappings: impl Iterator<Item = MappingReport>) -> Vec<ApplicationState> {
    let mut silent = mappings.filter(|mapping| mapping.idle >= SILENT).peekable();
    if silent.peek().is_none() {
        return Vec::new();
    }
    let local = local_addresses();
    let lookup = SocketLookup::connect().ok().filter(finds_known_socket);
    let has_application = |mapping: &MappingReport| {
        let inside = mapping.inside.0;
        let (Some(lookup), Some(remote)) = (&lookup, mapping.remote) else {
            return true;
        };
        !local.contains(&inside.addr) || !matches!(lookup.inode(inside, remote), Ok(None))
    };
    silent
        .map(|mapping| (mapping.id, has_application(&mapping)))
        .collect()
}

/// The addresses of this machine; empty if they cannot be read.
fn local_addresses() -> BTreeSet<IpAddr> {
    let interfaces = getifaddrs().into_iter().flatten();
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|it| it.ip().into());
        v4.or_else(|| address.as_sockaddr_in6().map(|it| it.ip().into()))
    });
    addresses.collect()
}

/// A kernel without `udp_diag` finds no socket at all.
fn finds_known_socket(lookup: &SocketLookup) -> bool {
    let known = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
    let local = known.as_ref().map(UdpSocket::local_addr);
    let Ok(Ok(local)) = local else { return false };
    let remote = Endpoint::new(Ipv4Addr::LOCALHOST.into(), 9);
    matches!(lookup.inode(local.into(), remote), Ok(Some(_)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::net::{Egress, Inside};

    fn report(inside: &str, idle: Duration) -> MappingReport {
        MappingReport {
            id: MappingId {
                slot: 0,
                generation: 0,
            },
            inside: Inside(endpoint(inside)),
            outside: None,
            egress: Egress::Direct,
            remote: Some(endpoint("192.0.2.1:20000")),
            is_call: true,
            service: None,
            last_answer: None,
            failover_cause: None,
            permitted_remotes: 1,
            age: idle,
            idle,
        }
    }

    fn endpoint(text: &str) -> Endpoint {
        let endpoint: std::net::SocketAddr = text.parse().expect("an endpoint");
        endpoint.into()
    }

    #[test]
    fn only_a_closed_socket_of_this_machine_is_gone() {
        let open = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let at = open.local_addr().expect("bound").to_string();
        let states = |inside: &str, idle| super::states([report(inside, idle)].into_iter());
        let has_application = |inside: &str| states(inside, SILENT).first().map(|it| it.1);
        assert_eq!(has_application(&at), Some(true));
        assert_eq!(has_application("203.0.113.77:5000"), Some(true), "a client");
        drop(open);
        assert_eq!(has_application(&at), Some(false));
        assert!(states(&at, SILENT / 2).is_empty(), "it has just sent");
    }
}
