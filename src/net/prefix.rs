//! An IP prefix without host bits.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, in the order of output.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// Returns the family of an address.
    #[must_use]
    pub const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Returns the unspecified address: 0.0.0.0 or `::`.
    #[must_use]
    pub const fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    /// Returns the value for this family.
    #[must_use]
    pub fn pick<T>(self, v4: T, v6: T) -> T {
        match self {
            Self::V4 => v4,
            Self::V6 => v6,
        }
    }

    /// Returns the number of bits of an address: 32 or 128.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// An IP prefix (RFC 4632, RFC 4291 section 2.3). Its host bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(IpNet);

/// An invalid prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// The length exceeds the bits of the address.
    #[error("a length of {len} is more than the {bits} bits of an {family} address", bits = family.bits())]
    Length {
        /// The length as written.
        len: u8,
        /// The address's family.
        family: Family,
    },
    /// Bits beyond the length are set.
    #[error("host bits are set: did you mean {meant}?")]
    HostBits {
        /// The prefix that contains the address.
        meant: Prefix,
    },
    /// Not of the form ADDRESS/LENGTH.
    #[error(
        "{0:?} is no prefix: expected ADDRESS/LENGTH, such as 168.86.128.0/18 or 2001:db8::/32"
    )]
    Syntax(String),
}

impl Prefix {
    /// Creates a prefix.
    ///
    /// # Errors
    /// [`PrefixError::Length`] or [`PrefixError::HostBits`].
    pub fn new(addr: IpAddr, len: u8) -> Result<Self, PrefixError> {
        let net = IpNet::new(addr, len).map_err(|_| PrefixError::Length {
            len,
            family: Family::of(addr),
        })?;
        let meant = Self(net.trunc());
        if meant.0 == net {
            Ok(meant)
        } else {
            Err(PrefixError::HostBits { meant })
        }
    }

    /// Returns the prefix of a single address.
    #[must_use]
    pub fn host(addr: IpAddr) -> Self {
        Self(IpNet::from(addr))
    }

    /// Returns the lowest address, with which the prefix is written.
    #[must_use]
    pub fn first(self) -> IpAddr {
        self.0.addr()
    }

    /// Returns the highest address.
    #[must_use]
    pub fn last(self) -> IpAddr {
        self.0.broadcast()
    }

    /// Returns the prefix length, 0 to 32 or 128.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a prefix length; no prefix is empty"
    )]
    pub fn len(self) -> u8 {
        self.0.prefix_len()
    }

    /// Returns the address family.
    #[must_use]
    pub fn family(self) -> Family {
        Family::of(self.first())
    }

    /// Returns the netmask: 255.255.192.0 for a /18.
    #[must_use]
    pub fn netmask(self) -> IpAddr {
        self.0.netmask()
    }

    /// Returns the inverted netmask: 0.0.63.255 for a /18.
    #[must_use]
    pub fn hostmask(self) -> IpAddr {
        self.0.hostmask()
    }

    /// Returns the two halves, one bit longer; `None` for a single address.
    #[must_use]
    pub fn halves(self) -> Option<[Self; 2]> {
        let mut halves = self.0.subnets(self.len() + 1).ok()?.map(Self);
        halves.next().zip(halves.next()).map(<[_; 2]>::from)
    }

    /// Returns the fewest prefixes with the same addresses, IPv4 first, in ascending order.
    #[must_use]
    pub fn aggregate(prefixes: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let nets: Vec<_> = prefixes.into_iter().map(IpNet::from).collect();
        IpNet::aggregate(&nets).into_iter().map(Self).collect()
    }

    /// Whether the prefix contains `addr`.
    #[must_use]
    pub fn contains(self, addr: IpAddr) -> bool {
        self.0.contains(&addr)
    }

    /// Whether the prefix contains every address of `other`.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.0.contains(&other.0)
    }

    /// Whether the two share an address.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl From<Prefix> for IpNet {
    fn from(prefix: Prefix) -> Self {
        prefix.0
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let syntax = || PrefixError::Syntax(text.to_owned());
        let (addr, len) = text.split_once('/').ok_or_else(syntax)?;
        let addr = addr.parse::<IpAddr>().map_err(|_| syntax())?;
        if len.is_empty() || !len.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(syntax());
        }
        Self::new(addr, len.parse::<u8>().unwrap_or(u8::MAX))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    #[test]
    fn errors_are_distinguished() {
        assert_eq!(
            "168.86.129.0/18".parse::<Prefix>(),
            Err(PrefixError::HostBits {
                meant: prefix("168.86.128.0/18")
            })
        );
        assert_eq!(
            "1.2.3.4/33".parse::<Prefix>(),
            Err(PrefixError::Length {
                len: 33,
                family: Family::V4
            })
        );
        assert!(matches!(
            "2001:db8::/129".parse::<Prefix>(),
            Err(PrefixError::Length { .. })
        ));
        for bad in [
            "",
            "1.2.3.4",
            "1.2.3/8",
            "/8",
            "1.2.3.4/",
            "1.2.3.4/+8",
            "1.2.3.4/ 8",
            "x/8",
        ] {
            assert!(
                matches!(bad.parse::<Prefix>(), Err(PrefixError::Syntax(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_family_never_holds_the_other() {
        assert!(!prefix("0.0.0.0/0").contains("::1".parse().expect("an address")));
        assert!(!prefix("::/0").covers(prefix("10.0.0.0/8")));
    }

    #[test]
    fn adjacent_prefixes_join_and_split() {
        let wide = prefix("198.18.0.0/15");
        let halves = wide.halves().expect("more than an address");
        assert_eq!(halves, [prefix("198.18.0.0/16"), prefix("198.19.0.0/16")]);
        assert_eq!(prefix("::1/128").halves(), None);
        assert_eq!(prefix("192.0.2.1/32").halves(), None);
        let [low, high] = halves;
        let list = ["2001:db8::/33", "198.18.7.0/24", "2001:db8:8000::/33"].map(prefix);
        assert_eq!(
            Prefix::aggregate(list.into_iter().chain([high, low])),
            [wide, prefix("2001:db8::/32")]
        );
        assert_eq!(wide.netmask().to_string(), "255.254.0.0");
        assert_eq!(wide.hostmask().to_string(), "0.1.255.255");
    }

    proptest! {
        #[test]
        fn bounds_and_membership_agree(addr: u128, v6: bool, len in 0u8..=128, probe: u128) {
            let ip = |bits: u128| if v6 {
                IpAddr::from(bits.to_be_bytes())
            } else {
                IpAddr::from(((bits >> 96) as u32).to_be_bytes())
            };
            let len = if v6 { len } else { len.min(32) };
            let prefix = match Prefix::new(ip(addr), len) {
                Ok(prefix) | Err(PrefixError::HostBits { meant: prefix }) => prefix,
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            };
            prop_assert!(prefix.contains(ip(addr)));
            prop_assert!(prefix.contains(prefix.first()) && prefix.contains(prefix.last()));
            let probe = ip(probe);
            prop_assert_eq!(prefix.contains(probe), prefix.first() <= probe && probe <= prefix.last());
            prop_assert_eq!(prefix.to_string().parse::<Prefix>(), Ok(prefix));
        }
    }
}
