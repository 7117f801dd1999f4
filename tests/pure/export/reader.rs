//! Simple parsers of the exports.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use voicelane::net::{Dscp, PortRange, Prefix, Protocol};

/// One statement of a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    pub(crate) direction: Direction,
    pub(crate) protocol: Protocol,
    pub(crate) prefix: Prefix,
    pub(crate) ports: PortRange,
    pub(crate) dscp: Option<Dscp>,
}

/// The direction of a packet: to the servers, or from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToServer,
    FromServer,
}

fn parse<T: std::str::FromStr>(text: &str) -> T {
    let Ok(value) = text.parse() else {
        panic!("{text:?} is no {}", std::any::type_name::<T>())
    };
    value
}

/// Returns the word after `key` in a line.
fn after<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let mut words = line.split([' ', '=']);
    words.find(|word| *word == key)?;
    words.next()
}

fn port_list(text: &str) -> Vec<PortRange> {
    let ports = text.split(',').map(|ports| ports.trim().replace(':', "-"));
    ports.map(|ports| parse(&ports)).collect()
}

/// Returns the marked and the allowed traffic of a table.
pub(crate) fn nftables(text: &str) -> (Vec<Read>, Vec<Read>) {
    let mut sets: BTreeMap<&str, Vec<Prefix>> = BTreeMap::new();
    let (mut set, mut chain) = ("", "");
    let (mut mark, mut allow) = (Vec::new(), Vec::new());
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("set ") {
            set = name.trim_end_matches(" {");
        } else if let Some(name) = line.strip_prefix("chain ") {
            chain = name.trim_end_matches(" {");
        } else if let Ok(prefix) = line.trim_end_matches(',').parse::<Prefix>() {
            sets.entry(set).or_default().push(prefix);
        } else if let Some((addr, rest)) = line.split_once(" @") {
            let direction = if addr.ends_with("daddr") {
                Direction::ToServer
            } else {
                Direction::FromServer
            };
            let mut words = rest.splitn(4, ' ');
            let mut word = || words.next().expect("a rule has all fields");
            let (name, protocol, _, rest) = (word(), parse(word()), word(), word());
            let (ports, action) = match rest.strip_prefix("{ ") {
                Some(rest) => rest.split_once(" } ").expect("the braces close"),
                None => rest.split_once(' ').expect("there is an action"),
            };
            let (list, dscp) = match chain {
                "voicelane_mark" => (
                    &mut mark,
                    Some(parse(after(action, "set").expect("a mark"))),
                ),
                _ => (&mut allow, None),
            };
            assert_eq!(
                action.contains("established"),
                dscp.is_none() && direction == Direction::FromServer
            );
            for prefix in &sets[name] {
                for ports in port_list(ports) {
                    list.push(Read {
                        direction,
                        protocol,
                        prefix: *prefix,
                        ports,
                        dscp,
                    });
                }
            }
        }
    }
    (mark, allow)
}

/// Returns the marked and the allowed traffic of the chains.
pub(crate) fn iptables(text: &str) -> (Vec<Read>, Vec<Read>) {
    let rules = text.lines().filter(|line| line.starts_with("-A"));
    let rules = rules.map(|line| {
        let (direction, side, port) = match after(line, "-d") {
            Some(side) => (Direction::ToServer, side, "--dport"),
            None => (
                Direction::FromServer,
                after(line, "-s").expect("a side"),
                "--sport",
            ),
        };
        let prefix: Prefix = parse(side);
        assert_eq!(line.contains(" -6 "), side.contains(':'));
        assert_eq!(line.contains(" -4 "), side.contains('.'));
        Read {
            direction,
            prefix,
            protocol: parse(after(line, "-p").expect("a protocol")),
            ports: port_list(after(line, port).expect("ports"))[0],
            dscp: after(line, "--set-dscp").map(parse),
        }
    });
    rules.partition(|rule| rule.dscp.is_some())
}

/// Returns the marked traffic of the class maps.
pub(crate) fn ios(text: &str) -> Vec<Read> {
    let mut reads: Vec<Read> = Vec::new();
    let mut dscp = None;
    for line in text.lines() {
        if let Some((_, name)) = line.split_once("VOICELANE-") {
            dscp = name
                .split('-')
                .next()
                .and_then(|class| class.parse::<Dscp>().ok());
        }
        let Some(entry) = line.strip_prefix(" permit ") else {
            continue;
        };
        let mut words = entry.split(' ').peekable();
        let protocol = parse(words.next().expect("a protocol"));
        let direction = if words.next_if_eq(&"any").is_some() {
            Direction::ToServer
        } else {
            Direction::FromServer
        };
        let mut word = || words.next().expect("an entry has all fields");
        let prefix = match word() {
            "host" => Prefix::host(parse::<IpAddr>(word())),
            v6 if v6.contains('/') => parse(v6),
            v4 => {
                let free = parse::<Ipv4Addr>(word()).to_bits().count_ones();
                parse(&format!("{v4}/{}", 32 - free))
            }
        };
        let ports = match word() {
            "eq" => parse(word()),
            _ => parse(&format!("{}-{}", word(), word())),
        };
        reads.push(Read {
            direction,
            protocol,
            prefix,
            ports,
            dscp,
        });
    }
    reads
}

/// Returns the marked and the allowed traffic of the mangle and filter rules.
pub(crate) fn mikrotik(text: &str) -> (Vec<Read>, Vec<Read>) {
    let mut lists: BTreeMap<(&str, &str), Vec<Prefix>> = BTreeMap::new();
    let mut reads = Vec::new();
    for line in text.lines().filter(|line| line.contains(" add ")) {
        let menu = line.split(' ').next().expect("a menu");
        if let (Some(list), Some(prefix)) = (after(line, "list"), after(line, "address")) {
            lists.entry((menu, list)).or_default().push(parse(prefix));
            continue;
        }
        let (direction, side, port) = match after(line, "dst-address-list") {
            Some(list) => (Direction::ToServer, list, "dst-port"),
            None => (
                Direction::FromServer,
                after(line, "src-address-list").expect("a list"),
                "src-port",
            ),
        };
        for prefix in &lists[&(menu, side)] {
            reads.push(Read {
                direction,
                prefix: *prefix,
                protocol: parse(after(line, "protocol").expect("a protocol")),
                ports: parse(after(line, port).expect("ports")),
                dscp: after(line, "new-dscp").map(parse),
            });
        }
    }
    reads.into_iter().partition(|read| read.dscp.is_some())
}

/// Returns the marked traffic of the `QoS` policies.
pub(crate) fn windows(text: &str) -> Vec<Read> {
    let policies = text
        .lines()
        .filter(|line| line.starts_with("New-NetQosPolicy"));
    policies
        .map(|line| {
            let value = |key: &str| {
                after(line, key)
                    .expect("a policy has all fields")
                    .trim_matches('\'')
            };
            let ports =
                ["Start", "End"].map(|end| value(&format!("-IPDstPort{end}MatchCondition")));
            Read {
                direction: Direction::ToServer,
                protocol: parse(&value("-IPProtocolMatchCondition").to_lowercase()),
                prefix: parse(value("-IPDstPrefixMatchCondition")),
                ports: parse(&ports.join("-")),
                dscp: Some(parse(value("-DSCPAction"))),
            }
        })
        .collect()
}

/// Returns the traffic selectors of the children.
pub(crate) fn swanctl(text: &str) -> Vec<Read> {
    let lines = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("remote_ts = "));
    lines
        .flat_map(|selectors| selectors.split(", "))
        .map(|selector| {
            let (prefix, rest) = selector.split_once('[').expect("a selector has ports");
            let (protocol, ports) = rest
                .trim_end_matches(']')
                .split_once('/')
                .expect("a protocol");
            Read {
                direction: Direction::ToServer,
                protocol: parse(protocol),
                prefix: parse(prefix),
                ports: parse(ports),
                dscp: None,
            }
        })
        .collect()
}

/// Returns the prefixes of the tunnel.
pub(crate) fn allowed_ips(text: &str) -> Vec<Prefix> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("AllowedIPs = "));
    let prefixes = line.expect("a peer").split(", ");
    prefixes.map(parse).collect()
}
