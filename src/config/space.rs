//! Which addresses a policy may name: how wide a prefix may be, and the special-purpose blocks.
//!
//! A prefix too many in the policy is traffic that leaves the VPN, so the border is narrow. Widths: the widest range
//! that a voice vendor is known to publish is a /14 (IPv4) or a /38 (IPv6); a /12 and a /32 leave a little room above
//! them, yet are 1/4096 of the IPv4 space and what a single IPv6 provider is allocated. Blocks: the IANA IPv4 and IPv6
//! Special-Purpose Address Registries (RFC 6890), with multicast and site-local, which are registered elsewhere.

use std::sync::LazyLock;

use crate::net::{Family, Prefix};

use super::problem::Problem;

/// The shortest prefix length that a policy may name.
#[must_use]
pub const fn shortest(family: Family) -> u8 {
    match family {
        Family::V4 => 12,
        Family::V6 => 32,
    }
}

/// A block of addresses with a purpose of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The block, in text.
    pub prefix: &'static str,
    /// What the registry calls it.
    pub name: &'static str,
    /// Where it is defined.
    pub source: &'static str,
    /// Whether no entry may name it, because no packet to it can be routed through a TUN.
    pub never: bool,
}

const fn block(prefix: &'static str, name: &'static str, source: &'static str) -> Block {
    Block {
        prefix,
        name,
        source,
        never: false,
    }
}

const fn never(prefix: &'static str, name: &'static str, source: &'static str) -> Block {
    Block {
        prefix,
        name,
        source,
        never: true,
    }
}

/// The registries.
const BLOCKS: &[Block] = &[
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

/// The registries, their prefixes parsed.
static SPACES: LazyLock<Vec<(Prefix, Block)>> = LazyLock::new(|| {
    let space = |block: &Block| {
        (
            block.prefix.parse().expect("a prefix, tested below"),
            *block,
        )
    };
    BLOCKS.iter().map(space).collect()
});

/// Lets a prefix through that a policy may name.
///
/// # Errors
/// [`Problem::TooWide`] or [`Problem::SpecialPurpose`]; the latter for loopback, multicast, unspecified and link-local
/// space even when `allow_special_purpose` is set.
pub(super) fn admit(prefix: Prefix, allow_special_purpose: bool) -> Result<Prefix, Problem> {
    let shortest = shortest(prefix.family());
    if prefix.len() < shortest {
        return Err(Problem::TooWide { prefix, shortest });
    }
    let refused = |block: &Block| block.never || !allow_special_purpose;
    match SPACES
        .iter()
        .find(|(space, block)| space.overlaps(prefix) && refused(block))
    {
        Some(&(_, block)) => Err(Problem::SpecialPurpose { prefix, block }),
        None => Ok(prefix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(text: &str, allow: bool) -> Result<Prefix, Problem> {
        admit(text.parse().expect("a prefix"), allow)
    }

    #[test]
    fn every_block_is_refused_and_most_can_be_allowed() {
        for (space, block) in SPACES.iter() {
            for addr in [space.first(), space.last()] {
                let host = Prefix::host(addr);
                assert!(admit(host, false).is_err(), "{host}");
                let broadcast = host.to_string() == "255.255.255.255/32";
                assert_eq!(
                    admit(host, true).is_err(),
                    block.never || broadcast,
                    "{host}"
                );
            }
        }
    }

    #[test]
    fn a_prefix_around_a_block_is_refused_like_one_inside() {
        assert!(matches!(
            admitted("192.0.0.0/12", false),
            Err(Problem::SpecialPurpose { .. })
        ));
        assert!(
            matches!(admitted("169.240.0.0/12", true), Err(Problem::SpecialPurpose { block, .. }) if block.never)
        );
    }

    #[test]
    fn what_vendors_publish_passes() {
        for text in [
            "168.86.128.0/18",
            "52.112.0.0/14",
            "2603:1063::/38",
            "3.126.75.106/32",
        ] {
            assert!(admitted(text, false).is_ok(), "{text}");
        }
        for text in [
            "0.0.0.0/0",
            "52.0.0.0/11",
            "::/0",
            "2600::/31",
            "10.0.0.0/8",
        ] {
            assert!(
                matches!(admitted(text, true), Err(Problem::TooWide { .. })),
                "{text}"
            );
        }
        assert!(admitted("198.18.0.0/15", true).is_ok());
        assert!(admitted("2001:db8::/32", true).is_ok());
    }
}
