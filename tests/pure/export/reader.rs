//! Reads exports back, as simply as their forms allow.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use voicelane::net::{Dscp, PortRange, Prefix, Protocol};

/// One thing that a line of an export says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    pub(crate) way: Way,
    pub(crate) protocol: Protocol,
    pub(crate) prefix: Prefix,
    pub(crate) ports: PortRange,
    pub(crate) dscp: Option<Dscp>,
}

/// Towards the servers, or from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Up,
    Down,
}

fn parse<T: std::str::FromStr>(text: &str) -> T {
    let Ok(value) = text.parse() else {
        panic!("{text:?} is no {}", std::any::type_name::<T>())
    };
    value
}

/// The words of a line, in pairs of one and the next.
fn after<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let mut words = line.split([' ', '=']);
    words.find(|word| *word == key)?;
    words.next()
}

fn port_list(text: &str) -> Vec<PortRange> {
    let ports = text.split(',').map(|ports| ports.trim().replace(':', "-"));
    ports.map(|ports| parse(&ports)).collect()
}

/// What a table marks and allows.
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
            let way = if addr.ends_with("daddr") {
                Way::Up
            } else {
                Way::Down
            };
            let mut words = rest.splitn(4, ' ');
            let mut word = || words.next().expect("a rule has them all");
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
                dscp.is_none() && way == Way::Down
            );
            for prefix in &sets[name] {
                for ports in port_list(ports) {
                    list.push(Read {
                        way,
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

/// What the chains mark and allow.
pub(crate) fn iptables(text: &str) -> (Vec<Read>, Vec<Read>) {
    let rules = text.lines().filter(|line| line.starts_with("-A"));
    let rules = rules.map(|line| {
        let (way, side, port) = match after(line, "-d") {
            Some(side) => (Way::Up, side, "--dport"),
            None => (Way::Down, after(line, "-s").expect("a side"), "--sport"),
        };
        let prefix: Prefix = parse(side);
        assert_eq!(line.contains(" -6 "), side.contains(':'));
        assert_eq!(line.contains(" -4 "), side.contains('.'));
        Read {
            way,
            prefix,
            protocol: parse(after(line, "-p").expect("a protocol")),
            ports: port_list(after(line, port).expect("ports"))[0],
            dscp: after(line, "--set-dscp").map(parse),
        }
    });
    rules.partition(|rule| rule.dscp.is_some())
}

/// What the class maps mark.
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
        let way = if words.next_if_eq(&"any").is_some() {
            Way::Up
        } else {
            Way::Down
        };
        let mut word = || words.next().expect("an entry has them all");
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
            way,
            protocol,
            prefix,
            ports,
            dscp,
        });
    }
    reads
}

/// What the mangle and filter rules do.
pub(crate) fn mikrotik(text: &str) -> (Vec<Read>, Vec<Read>) {
    let mut lists: BTreeMap<(&str, &str), Vec<Prefix>> = BTreeMap::new();
    let mut reads = Vec::new();
    for line in text.lines().filter(|line| line.contains(" add ")) {
        let menu = line.split(' ').next().expect("a menu");
        if let (Some(list), Some(prefix)) = (after(line, "list"), after(line, "address")) {
            lists.entry((menu, list)).or_default().push(parse(prefix));
            continue;
        }
        let (way, side, port) = match after(line, "dst-address-list") {
            Some(list) => (Way::Up, list, "dst-port"),
            None => (
                Way::Down,
                after(line, "src-address-list").expect("a list"),
                "src-port",
            ),
        };
        for prefix in &lists[&(menu, side)] {
            reads.push(Read {
                way,
                prefix: *prefix,
                protocol: parse(after(line, "protocol").expect("a protocol")),
                ports: parse(after(line, port).expect("ports")),
                dscp: after(line, "new-dscp").map(parse),
            });
        }
    }
    reads.into_iter().partition(|read| read.dscp.is_some())
}

/// What the QoS policies mark.
pub(crate) fn windows(text: &str) -> Vec<Read> {
    let policies = text
        .lines()
        .filter(|line| line.starts_with("New-NetQosPolicy"));
    policies
        .map(|line| {
            let value = |key: &str| {
                after(line, key)
                    .expect("a policy has them all")
                    .trim_matches('\'')
            };
            let ports =
                ["Start", "End"].map(|end| value(&format!("-IPDstPort{end}MatchCondition")));
            Read {
                way: Way::Up,
                protocol: parse(&value("-IPProtocolMatchCondition").to_lowercase()),
                prefix: parse(value("-IPDstPrefixMatchCondition")),
                ports: parse(&ports.join("-")),
                dscp: Some(parse(value("-DSCPAction"))),
            }
        })
        .collect()
}

/// What the children let pass.
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
                way: Way::Up,
                protocol: parse(protocol),
                prefix: parse(prefix),
                ports: parse(ports),
                dscp: None,
            }
        })
        .collect()
}

/// What the tunnel takes.
pub(crate) fn allowed_ips(text: &str) -> Vec<Prefix> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("AllowedIPs = "));
    let prefixes = line.expect("a peer").split(", ");
    prefixes.map(parse).collect()
}
