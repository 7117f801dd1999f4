//! What forbids media its way, in sentences: who it is and what IT must add.

use std::fmt;

use crate::net::{Family, Fwmark};

/// How every sentence on an blocked begins.
pub const BLOCKS: &str = "a firewall on this machine forbids";

/// What stands in it between the rule and what IT must add.
pub const REMEDY: &str = "; media stays in the VPN until IT adds: ";

/// A way that media takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaPath {
    /// From applications into our TUN.
    Captured,
    /// From the relay out of the uplink.
    Direct,
    /// From the kernel to the neighbours on the uplink, the router among them.
    Neighbours,
    /// From a gateway's clients into our TUN, and back.
    Forwarded,
}

/// A rule that forbids a way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockingRule {
    /// The family of its table, in the words of nft(8): "inet", "ip" or "ip6".
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// Its handle, as `nft --handle list ruleset` shows it; none when it is the chain's policy.
    pub handle: Option<u64>,
}

/// A way that the firewall forbids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockedPath {
    /// Whose packets.
    pub family: Family,
    /// Which way.
    pub path: MediaPath,
    /// The link at its end.
    pub link: String,
    /// The link of the clients whose packets they are; none when they are this machine's own.
    pub clients: Option<String>,
    /// The mark that they bear, if any.
    pub mark: Option<Fwmark>,
    /// Who forbids it; none when it is no rule of nftables.
    pub rule: Option<BlockingRule>,
}

impl BlockingRule {
    /// Whether iptables-nft made the table: by the names that it gives.
    fn is_iptables(&self) -> bool {
        let tables = ["filter", "mangle", "nat", "raw", "security"];
        self.family != "inet" && tables.contains(&self.table.as_str())
    }

    /// What the maker of the rule offers itself, where it is known by its names.
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
    /// The command by which IT lets this way through, ahead of the rule that forbids it.
    #[must_use]
    pub fn exclude(&self) -> String {
        let Self {
            family, link, mark, ..
        } = self;
        let neighbours = self.path == MediaPath::Neighbours;
        // A firewall that knows connections knows these not: both directions want a rule.
        let both_ways = self.clients.iter().flat_map(|clients| {
            let there = (clients.as_str(), link.as_str());
            [there, (there.1, there.0)]
        });
        let program = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        if self.path == MediaPath::Forwarded {
            let rules = both_ways.map(|(from, to)| match &self.rule {
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
            let let_out =
                |what: &str| format!("{program}{variant} -I {chain} -o {link}{what} -j ACCEPT");
            match mark {
                Some(mark) => let_out(&format!(" -m mark --mark {:#x}", mark.0)),
                None if neighbours => ["solicitation", "advertisement"]
                    .map(|kind| let_out(&format!(" -p icmpv6 --icmpv6-type neighbour-{kind}")))
                    .join("; "),
                None => let_out(""),
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
        let way = match self.path {
            MediaPath::Captured => "applications' media into",
            MediaPath::Direct => "the direct path by",
            MediaPath::Neighbours => "to find neighbours by",
            MediaPath::Forwarded => "clients' media between here and",
        };
        let Self { family, link, .. } = self;
        let link = self.clients.as_ref().unwrap_or(link);
        write!(f, "{BLOCKS} {way} {link} ({family}): ")?;
        match &self.rule {
            Some(rule) => rule.fmt(f)?,
            None => f.write_str("no rule of nftables, so legacy iptables or a security module")?,
        }
        write!(f, "{REMEDY}{}", self.exclude())?;
        match self.rule.as_ref().and_then(BlockingRule::vendor_exclude) {
            Some(own) => write!(f, "; or: {own}"),
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
    fn it_is_told_what_to_add_in_the_words_of_what_forbids() {
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
            assert_eq!(blocked.exclude(), exclude);
            assert!(blocked.to_string().contains(exclude), "{blocked}");
        }
    }

    #[test]
    fn it_is_told_who_forbids_and_what_the_vpn_offers_itself() {
        let told = |table| blocked(Family::V4, MediaPath::Direct, Some(table)).to_string();
        let policy = told(("inet", "mullvad", "output"));
        assert!(
            policy.contains("(IPv4): the policy of the chain output in the table inet mullvad; ")
        );
        assert!(policy.contains("conntrack_mark = 0xf41"), "{policy}");
        let rule = told(("ip", "filter", "OUTPUT"));
        assert!(
            rule.contains("rule handle 7 of the chain OUTPUT in the table ip filter"),
            "{rule}"
        );
        assert!(!rule.contains("; or: "), "{rule}");
        assert!(told(("inet", "cloudflare-warp", "output")).contains("Zero Trust"));
        assert!(told(("ip", "filter", "ciscovpn")).contains("split-exclude"));
        let unread = blocked(Family::V6, MediaPath::Direct, None).to_string();
        assert!(
            unread.contains("legacy iptables or a security module"),
            "{unread}"
        );
    }
}
