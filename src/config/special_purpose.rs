//! Addresses that a policy may name: the shortest prefix length, and the special-purpose blocks.
//!
//! Each superfluous prefix is traffic outside the VPN, so the limits are narrow. Lengths: the widest prefixes
//! that a voice vendor is known to publish are a /14 (IPv4) and a /38 (IPv6). The limits /12 and /32 leave a little
//! room above them. Blocks: the IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890), and multicast and
//! site-local addresses, which other registries hold.

use std::sync::LazyLock;

use crate::net::{Family, Prefix};

/// Shortest prefix length that a policy may name.
const fn min_length(family: Family) -> u8 {
    match family {
        Family::V4 => 12,
        Family::V6 => 32,
    }
}

/// A block of a special-purpose address registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialPurposeBlock {
    /// The block, in CIDR notation.
    pub prefix: &'static str,
    /// Its name in the registry.
    pub name: &'static str,
    /// The RFC that defines it.
    pub source: &'static str,
    /// Whether no policy may name it, because no packet to it can be routed through a TUN.
    pub never: bool,
}

/// The reason why a policy may not name a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixRejection {
    /// The prefix is shorter than the limit of its family.
    #[error("{prefix} covers too many addresses to leave a VPN")]
    TooWide {
        /// The prefix.
        prefix: Prefix,
        /// The limit.
        min_length: u8,
    },
    /// The prefix overlaps a special-purpose block.
    #[error("{prefix} overlaps {} ({}, {})", block.prefix, block.name, block.source)]
    SpecialPurpose {
        /// The prefix.
        prefix: Prefix,
        /// The block.
        block: SpecialPurposeBlock,
    },
}

const fn block(
    prefix: &'static str,
    name: &'static str,
    source: &'static str,
) -> SpecialPurposeBlock {
    SpecialPurposeBlock {
        prefix,
        name,
        source,
        never: false,
    }
}

const fn never(
    prefix: &'static str,
    name: &'static str,
    source: &'static str,
) -> SpecialPurposeBlock {
    SpecialPurposeBlock {
        never: true,
        ..block(prefix, name, source)
    }
}

/// The registries.
const BLOCKS: &[SpecialPurposeBlock] = &[
    never("0.0.0.0/8", "this network", "RFC 791 section 3.2"),
    block("10.0.0.0/8", "private use", "RFC 1918"),
    block("100.64.0.0/10", "shared address space, CGN", "RFC 6598"),
    never("127.0.0.0/8", "loopback", "RFC 1122 section 3.2.1.3"),
    never("169.254.0.0/16", "link local", "RFC 3927"),
    block("172.16.0.0/12", "private use", "RFC 1918"),
    block(
        "192.0.0.0/24",
        "IETF protocol assignments",
        "RFC 6890 section 2.1",
    ),
    block("192.0.2.0/24", "documentation", "RFC 5737"),
    block("192.31.196.0/24", "AS112", "RFC 7535"),
    block("192.52.193.0/24", "AMT", "RFC 7450"),
    block("192.88.99.0/24", "6to4 relay anycast", "RFC 7526"),
    block("192.168.0.0/16", "private use", "RFC 1918"),
    block("192.175.48.0/24", "AS112", "RFC 7534"),
    block("198.18.0.0/15", "benchmarking", "RFC 2544"),
    block("198.51.100.0/24", "documentation", "RFC 5737"),
    block("203.0.113.0/24", "documentation", "RFC 5737"),
    never("224.0.0.0/4", "multicast", "RFC 5771"),
    never(
        "255.255.255.255/32",
        "limited broadcast",
        "RFC 919 section 7",
    ),
    block("240.0.0.0/4", "reserved", "RFC 1112 section 4"),
    never("::/128", "unspecified", "RFC 4291 section 2.5.2"),
    never("::1/128", "loopback", "RFC 4291 section 2.5.3"),
    never("::ffff:0:0/96", "IPv4-mapped", "RFC 4291 section 2.5.5.2"),
    block("64:ff9b::/96", "IPv4/IPv6 translation", "RFC 6052"),
    block("64:ff9b:1::/48", "IPv4/IPv6 translation", "RFC 8215"),
    block("100::/64", "discard only", "RFC 6666"),
    block("100:0:0:1::/64", "dummy", "RFC 9780"),
    block("2001::/23", "IETF protocol assignments", "RFC 2928"),
    block("2001:db8::/32", "documentation", "RFC 3849"),
    block("2002::/16", "6to4", "RFC 3056"),
    block("2620:4f:8000::/48", "AS112", "RFC 7534"),
    block("3fff::/20", "documentation", "RFC 9637"),
    block("5f00::/16", "segment routing SIDs", "RFC 9602"),
    block("fc00::/7", "unique local", "RFC 4193"),
    never("fe80::/10", "link local", "RFC 4291 section 2.5.6"),
    block("fec0::/10", "site local", "RFC 3879"),
    never("ff00::/8", "multicast", "RFC 4291 section 2.7"),
];

/// The registries with parsed prefixes.
static PARSED_BLOCKS: LazyLock<Vec<(Prefix, SpecialPurposeBlock)>> = LazyLock::new(|| {
    let parse = |block: &SpecialPurposeBlock| {
        let prefix = block.prefix.parse();
        (prefix.expect("a prefix, tested below"), *block)
    };
    BLOCKS.iter().map(parse).collect()
});

/// Checks that a policy may name the prefix.
///
/// # Errors
/// [`PrefixRejection`]. Blocks marked `never` are rejected even if `allow_special_purpose` is set.
pub(super) fn check(prefix: Prefix, allow_special_purpose: bool) -> Result<(), PrefixRejection> {
    let min_length = min_length(prefix.family());
    if prefix.len() < min_length {
        return Err(PrefixRejection::TooWide { prefix, min_length });
    }
    let rejected = |block: &SpecialPurposeBlock| block.never || !allow_special_purpose;
    match PARSED_BLOCKS
        .iter()
        .find(|(space, block)| space.overlaps(prefix) && rejected(block))
    {
        Some(&(_, block)) => Err(PrefixRejection::SpecialPurpose { prefix, block }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(text: &str, allow: bool) -> Result<(), PrefixRejection> {
        check(text.parse().expect("a prefix"), allow)
    }

    #[test]
    fn every_block_is_rejected_and_most_can_be_allowed() {
        for (space, block) in PARSED_BLOCKS.iter() {
            for addr in [space.first(), space.last()] {
                let host = Prefix::host(addr);
                assert!(check(host, false).is_err(), "{host}");
                let broadcast = host.to_string() == "255.255.255.255/32";
                assert_eq!(
                    check(host, true).is_err(),
                    block.never || broadcast,
                    "{host}"
                );
            }
        }
    }

    #[test]
    fn a_prefix_that_contains_a_block_is_rejected() {
        assert!(matches!(
            check_text("192.0.0.0/12", false),
            Err(PrefixRejection::SpecialPurpose { .. })
        ));
        assert!(
            matches!(check_text("169.240.0.0/12", true), Err(PrefixRejection::SpecialPurpose { block, .. }) if block.never)
        );
    }

    #[test]
    fn published_vendor_prefixes_are_accepted() {
        for text in [
            "168.86.128.0/18",
            "52.112.0.0/14",
            "2603:1063::/38",
            "3.126.75.106/32",
        ] {
            assert!(check_text(text, false).is_ok(), "{text}");
        }
        for text in [
            "0.0.0.0/0",
            "52.0.0.0/11",
            "::/0",
            "2600::/31",
            "10.0.0.0/8",
        ] {
            assert!(
                matches!(check_text(text, true), Err(PrefixRejection::TooWide { .. })),
                "{text}"
            );
        }
        assert!(check_text("198.18.0.0/15", true).is_ok());
        assert!(check_text("2001:db8::/32", true).is_ok());
    }
}
