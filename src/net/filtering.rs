//! Filtering behaviour of mappings.

use std::str::FromStr;

/// The remotes whose datagrams a mapping admits (RFC 4787 section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filtering {
    /// Every remote (REQ-8: the most transparent).
    EndpointIndependent,
    /// Any port of an address that the inside endpoint has sent to (REQ-8: more stringent; sufficient for ICE).
    #[default]
    AddressDependent,
    /// Endpoints that the inside endpoint has sent to.
    AddressAndPortDependent,
}

/// A text that names no filtering.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no filtering: expected \"address-dependent\", \"address-and-port-dependent\" or \"endpoint-independent\""
)]
pub struct UnknownFiltering(String);

impl FromStr for Filtering {
    type Err = UnknownFiltering;

    fn from_str(text: &str) -> Result<Self, UnknownFiltering> {
        match text {
            "endpoint-independent" => Ok(Self::EndpointIndependent),
            "address-dependent" => Ok(Self::AddressDependent),
            "address-and-port-dependent" => Ok(Self::AddressAndPortDependent),
            _ => Err(UnknownFiltering(text.to_owned())),
        }
    }
}
