//! Filtering: the remotes whose datagrams a mapping admits (RFC 4787 section 5).

use std::net::IpAddr;

use crate::net::{Endpoint, Filtering};

/// The remotes that a mapping has sent to, reduced to the fields that its filtering distinguishes; addresses if none.
///
/// A sorted list: a call has a handful of remotes. The latest one is kept beside it in full, because it is nearly always the
/// next.
#[derive(Clone, Debug, Default)]
pub struct PermittedRemotes {
    latest: Option<Endpoint>,
    sorted: Vec<(IpAddr, u16)>,
}

impl PermittedRemotes {
    /// Permits a remote that the inside endpoint sends to. Returns false if `limit` remotes are permitted already.
    pub fn insert(&mut self, filtering: Filtering, remote: Endpoint, limit: usize) -> bool {
        if self.latest == Some(remote) {
            return true;
        }
        let key = key(filtering, remote);
        match self.sorted.binary_search(&key) {
            Ok(_) => {}
            Err(_) if self.sorted.len() >= limit => return false,
            Err(at) => {
                if self.sorted.is_empty() {
                    // Most mappings have one remote only.
                    self.sorted.reserve_exact(1);
                }
                self.sorted.insert(at, key);
            }
        }
        self.latest = Some(remote);
        true
    }

    /// Whether a datagram from `remote` is admitted.
    #[must_use]
    pub fn admits(&self, filtering: Filtering, remote: Endpoint) -> bool {
        filtering == Filtering::EndpointIndependent || self.contains(filtering, remote)
    }

    /// Whether the inside endpoint has sent to `remote`, as far as the filtering distinguishes remotes.
    #[must_use]
    pub fn contains(&self, filtering: Filtering, remote: Endpoint) -> bool {
        self.latest == Some(remote) || self.sorted.binary_search(&key(filtering, remote)).is_ok()
    }

    /// Returns the remote of the latest datagram.
    #[must_use]
    pub(crate) fn latest(&self) -> Option<Endpoint> {
        self.latest
    }

    /// Returns the number of remotes, as far as the filtering distinguishes them.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.sorted.len()
    }
}

/// Returns the fields of a remote that the filtering distinguishes.
fn key(filtering: Filtering, remote: Endpoint) -> (IpAddr, u16) {
    match filtering {
        Filtering::EndpointIndependent | Filtering::AddressDependent => (remote.addr, 0),
        Filtering::AddressAndPortDependent => (remote.addr, remote.port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        text.parse::<std::net::SocketAddr>()
            .expect("an endpoint")
            .into()
    }

    #[test]
    fn each_filtering_admits_its_remotes() {
        let (sent, same_address, stranger) = (
            endpoint("168.86.128.1:3478"),
            endpoint("168.86.128.1:9"),
            endpoint("168.86.128.2:3478"),
        );
        for (filtering, expected) in [
            (Filtering::EndpointIndependent, [true, true, true]),
            (Filtering::AddressDependent, [true, true, false]),
            (Filtering::AddressAndPortDependent, [true, false, false]),
        ] {
            let mut remotes = PermittedRemotes::default();
            assert!(remotes.insert(filtering, sent, 8));
            let admitted =
                [sent, same_address, stranger].map(|from| remotes.admits(filtering, from));
            assert_eq!(admitted, expected, "{filtering:?}");
            assert!(remotes.contains(filtering, sent) && !remotes.contains(filtering, stranger));
        }
    }

    #[test]
    fn a_full_list_keeps_its_remotes_and_adds_none() {
        let mut remotes = PermittedRemotes::default();
        let remote = |n: u16| Endpoint::new("2001:db8::1".parse().expect("an address"), n);
        let filtering = Filtering::AddressAndPortDependent;
        assert!((1..=4).all(|n| remotes.insert(filtering, remote(n), 4)));
        assert!(!remotes.insert(filtering, remote(5), 4));
        assert!(
            remotes.insert(filtering, remote(1), 4),
            "a permitted remote needs no space"
        );
        assert!(!remotes.admits(filtering, remote(5)));
    }
}
