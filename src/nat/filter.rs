//! Filtering: whose datagrams a mapping lets in (RFC 4787 section 5).

use std::net::IpAddr;

use crate::net::{Endpoint, Filtering};

/// The remotes that a mapping has sent to, reduced to what its filtering looks at; their addresses when it looks at
/// nothing.
///
/// Kept as a sorted list: a call has a handful of contacts. The one that was asked for last lies beside it, in the
/// mapping itself, and is nearly always the next one too.
#[derive(Clone, Debug, Default)]
pub struct PermittedRemotes {
    latest: Option<(IpAddr, u16)>,
    sorted: Vec<(IpAddr, u16)>,
}

impl PermittedRemotes {
    /// Notes that the inside endpoint has sent to `remote`. Answers whether there was room: at most `limit` contacts.
    pub fn note(&mut self, filtering: Filtering, remote: Endpoint, limit: usize) -> bool {
        let key = key(filtering, remote);
        if self.latest == Some(key) {
            return true;
        }
        match self.sorted.binary_search(&key) {
            Ok(_) => {}
            Err(_) if self.sorted.len() >= limit => return false,
            Err(at) => {
                if self.sorted.is_empty() {
                    // Many mappings never have another: no room for more is kept.
                    self.sorted.reserve_exact(1);
                }
                self.sorted.insert(at, key);
            }
        }
        self.latest = Some(key);
        true
    }

    /// Whether a datagram from `remote` may enter.
    #[must_use]
    pub fn admit(&self, filtering: Filtering, remote: Endpoint) -> bool {
        filtering == Filtering::EndpointIndependent || self.know(filtering, remote)
    }

    /// Whether the inside endpoint has sent to `remote`, as far as the filtering tells remotes apart.
    #[must_use]
    pub fn know(&self, filtering: Filtering, remote: Endpoint) -> bool {
        let key = key(filtering, remote);
        self.latest == Some(key) || self.sorted.binary_search(&key).is_ok()
    }

    /// The number of contacts, as far as the filtering tells them apart.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Whether nothing was sent yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }
}

/// What is kept of a remote.
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
    fn each_filtering_lets_in_its_own() {
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
            let mut permitted_remotes = PermittedRemotes::default();
            assert!(permitted_remotes.note(filtering, sent, 8));
            let admitted =
                [sent, same_address, stranger].map(|from| permitted_remotes.admit(filtering, from));
            assert_eq!(admitted, expected, "{filtering:?}");
            assert!(
                permitted_remotes.know(filtering, sent)
                    && !permitted_remotes.know(filtering, stranger)
            );
        }
    }

    #[test]
    fn a_full_list_takes_no_more_and_forgets_none() {
        let mut permitted_remotes = PermittedRemotes::default();
        let remote = |n: u16| Endpoint::new("2001:db8::1".parse().expect("an address"), n);
        let filtering = Filtering::AddressAndPortDependent;
        assert!((1..=4).all(|n| permitted_remotes.note(filtering, remote(n), 4)));
        assert!(!permitted_remotes.note(filtering, remote(5), 4));
        assert!(
            permitted_remotes.note(filtering, remote(1), 4),
            "a known contact needs no room"
        );
        assert!(!permitted_remotes.admit(filtering, remote(5)));
    }
}
