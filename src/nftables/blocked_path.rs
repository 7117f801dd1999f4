//! Blocked paths, described for a person: the rule that blocks media, and the rule that lets it pass.

use std::fmt;

use crate::net::{Family, Fwmark};

/// First words of the description of a blocked path.
pub const BLOCKS: &str = "a firewall on this machine blocks";

/// Separates the cause and the remedy in the description.
pub const REMEDY: &str = "; media stays in the VPN until an administrator runs: ";

/// A path of media packets through the firewall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaPath {
    /// From applications into the TUN.
    Captured,
    /// From the relay out of the uplink.
    Direct,
    /// From the kernel to neighbours on the uplink, the router among them.
    Neighbours,
    /// From a gateway's clients into the TUN, and back.
    Forwarded,
}

/// A rule that blocks a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockingRule {
    /// Family of the table in nft(8) syntax: "inet", "ip" or "ip6".
    pub family: &'static str,
    /// Table.
    pub table: String,
    /// Chain.
    pub chain: String,
    /// Handle, as `nft --handle list ruleset` shows it; none for the policy of the chain.
    pub handle: Option<u64>,
}

/// A path that a firewall blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockedPath {
    /// Family of the packets.
    pub family: Family,
    /// The path.
    pub path: MediaPath,
    /// Outgoing link.
    pub link: String,
    /// Link of a gateway's clients; none for this machine's own packets.
    pub clients: Option<String>,
    /// Mark of the packets, if any.
    pub mark: Option<Fwmark>,
    /// The rule that blocks it; none if it is no nftables rule.
    pub rule: Option<BlockingRule>,
}

impl BlockingRule {
    /// Whether iptables-nft created the table: its names tell.
    fn is_iptables(&self) -> bool {
        let tables = ["filter", "mangle", "nat", "raw", "security"];
        self.family != "inet" && tables.contains(&self.table.as_str())
    }

    /// Returns the exclude option of the VPN that created the rule, if the names are known.
    fn vendor_exclude(&self) -> Option<&'static str> {
        let Self { table, chain, .. } = self;
        if table == "mullvad" {
            Some(
                "[uplink] conntrack_mark = 0xf41 in voicelane's configuration, Mullvad's mark for what it excludes",
            )
        } else if table == "cloudflare-warp" {
            Some("a split-tunnel exclude of the policy's prefixes in the Zero Trust dashboard")
        } else if chain.starts_with("ciscovpn") {
            Some("a split-exclude list of the policy's prefixes on the VPN gateway")
        } else {
            None
        }
    }
}

impl fmt::Display for BlockingRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            family,
            table,
            chain,
            handle,
        } = self;
        match handle {
            Some(handle) => write!(f, "rule handle {handle} of the ")?,
            None => f.write_str("the policy of the ")?,
        }
        write!(f, "chain {chain} in the table {family} {table}")
    }
}

impl BlockedPath {
    /// Returns the command by which an administrator lets this path pass, ahead of the rule that blocks it.
    #[must_use]
    pub fn remedy(&self) -> String {
        let Self {
            family, link, mark, ..
        } = self;
        let neighbours = self.path == MediaPath::Neighbours;
        // Untracked packets are never "established", so both directions need a rule.
        let directions = self.clients.iter().flat_map(|clients| {
            let inwards = (clients.as_str(), link.as_str());
            [inwards, (inwards.1, inwards.0)]
        });
        let program = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        if self.path == MediaPath::Forwarded {
            let rules = directions.map(|(from, to)| match &self.rule {
                None => format!("{program}-legacy -I FORWARD -i {from} -o {to} -j ACCEPT"),
                Some(rule) if rule.is_iptables() => {
                    format!("{program} -I {} -i {from} -o {to} -j ACCEPT", rule.chain)
                }
                Some(BlockingRule { family, table, chain, .. }) => {
                    format!("nft insert rule {family} {table} {chain} iifname {from} oifname {to} accept")
                }
            });
            return rules.collect::<Vec<_>>().join("; ");
        }
        let iptables = |variant, chain: &str| {
            let accept =
                |what: &str| format!("{program}{variant} -I {chain} -o {link}{what} -j ACCEPT");
            match mark {
                Some(mark) => accept(&format!(" -m mark --mark {:#x}", mark.0)),
                None if neighbours => ["solicitation", "advertisement"]
                    .map(|kind| accept(&format!(" -p icmpv6 --icmpv6-type neighbour-{kind}")))
                    .join("; "),
                None => accept(""),
            }
        };
        match &self.rule {
            None => iptables("-legacy", "OUTPUT"),
            Some(rule) if rule.is_iptables() => iptables("", &rule.chain),
            Some(BlockingRule {
                family,
                table,
                chain,
                ..
            }) => {
                let what = match mark {
                    Some(mark) => format!(" meta mark {:#x}", mark.0),
                    None if neighbours => {
                        " icmpv6 type '{ nd-neighbor-solicit, nd-neighbor-advert }'".to_owned()
                    }
                    None => String::new(),
                };
                format!("nft insert rule {family} {table} {chain} oifname {link}{what} accept")
            }
        }
    }
}

impl fmt::Display for BlockedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match self.path {
            MediaPath::Captured => "applications' media into",
            MediaPath::Direct => "the direct path through",
            MediaPath::Neighbours => "neighbour discovery on",
            MediaPath::Forwarded => "clients' media from and to",
        };
        let Self { family, link, .. } = self;
        let link = self.clients.as_ref().unwrap_or(link);
        write!(f, "{BLOCKS} {path} {link} ({family}): ")?;
        match &self.rule {
            Some(rule) => rule.fmt(f)?,
            None => f.write_str(
                "no nftables rule drops it, so legacy iptables or a security module does",
            )?,
        }
        write!(f, "{REMEDY}{}", self.remedy())?;
        match self.rule.as_ref().and_then(BlockingRule::vendor_exclude) {
            Some(exclude) => write!(f, "; or: {exclude}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocked(
        family: Family,
        path: MediaPath,
        rule: Option<(&'static str, &str, &str)>,
    ) -> BlockedPath {
        let (link, mark) = match path {
            MediaPath::Captured | MediaPath::Forwarded => ("voicelane0", None),
            MediaPath::Direct => ("wlan0", Some(Fwmark(0x7600_0000))),
            MediaPath::Neighbours => ("wlan0", None),
        };
        BlockedPath {
            family,
            path,
            link: link.to_owned(),
            clients: (path == MediaPath::Forwarded).then(|| "lan0".to_owned()),
            mark,
            rule: rule.map(|(family, table, chain)| BlockingRule {
                family,
                table: table.to_owned(),
                chain: chain.to_owned(),
                handle: (chain != "output").then_some(7),
            }),
        }
    }

    #[test]
    fn the_remedy_is_in_the_syntax_of_the_blocking_firewall() {
        let filter = Some(("ip6", "filter", "OUTPUT"));
        let own = Some(("ip", "corp", "egress"));
        for (family, path, rule, exclude) in [
            (
                Family::V4,
                MediaPath::Captured,
                Some(("ip", "filter", "ciscovpn")),
                "iptables -I ciscovpn -o voicelane0 -j ACCEPT",
            ),
            (
                Family::V6,
                MediaPath::Direct,
                filter,
                "ip6tables -I OUTPUT -o wlan0 -m mark --mark 0x76000000 -j ACCEPT",
            ),
            (
                Family::V6,
                MediaPath::Neighbours,
                filter,
                "ip6tables -I OUTPUT -o wlan0 -p icmpv6 --icmpv6-type neighbour-solicitation -j ACCEPT; \
                 ip6tables -I OUTPUT -o wlan0 -p icmpv6 --icmpv6-type neighbour-advertisement -j ACCEPT",
            ),
            (
                Family::V4,
                MediaPath::Direct,
                own,
                "nft insert rule ip corp egress oifname wlan0 meta mark 0x76000000 accept",
            ),
            (
                Family::V6,
                MediaPath::Neighbours,
                Some(("inet", "corp", "egress")),
                "nft insert rule inet corp egress oifname wlan0 \
                 icmpv6 type '{ nd-neighbor-solicit, nd-neighbor-advert }' accept",
            ),
            (
                Family::V4,
                MediaPath::Captured,
                None,
                "iptables-legacy -I OUTPUT -o voicelane0 -j ACCEPT",
            ),
            (
                Family::V6,
                MediaPath::Forwarded,
                Some(("ip6", "filter", "DOCKER-FORWARD")),
                "ip6tables -I DOCKER-FORWARD -i lan0 -o voicelane0 -j ACCEPT; \
                 ip6tables -I DOCKER-FORWARD -i voicelane0 -o lan0 -j ACCEPT",
            ),
            (
                Family::V4,
                MediaPath::Forwarded,
                Some(("inet", "office", "forward")),
                "nft insert rule inet office forward iifname lan0 oifname voicelane0 accept; \
                 nft insert rule inet office forward iifname voicelane0 oifname lan0 accept",
            ),
        ] {
            let blocked = blocked(family, path, rule);
            assert_eq!(blocked.remedy(), exclude);
            assert!(blocked.to_string().contains(exclude), "{blocked}");
        }
    }

    #[test]
    fn the_description_names_the_rule_and_the_vpns_own_exclude() {
        let describe = |table| blocked(Family::V4, MediaPath::Direct, Some(table)).to_string();
        let policy = describe(("inet", "mullvad", "output"));
        assert!(
            policy.contains("(IPv4): the policy of the chain output in the table inet mullvad; ")
        );
        assert!(policy.contains("conntrack_mark = 0xf41"), "{policy}");
        let rule = describe(("ip", "filter", "OUTPUT"));
        assert!(
            rule.contains("rule handle 7 of the chain OUTPUT in the table ip filter"),
            "{rule}"
        );
        assert!(!rule.contains("; or: "), "{rule}");
        assert!(describe(("inet", "cloudflare-warp", "output")).contains("Zero Trust"));
        assert!(describe(("ip", "filter", "ciscovpn")).contains("split-exclude"));
        let without_rule = blocked(Family::V6, MediaPath::Direct, None).to_string();
        assert!(
            without_rule.contains("legacy iptables or a security module"),
            "{without_rule}"
        );
    }
}
