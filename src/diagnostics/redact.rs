//! Replaces identifying data in texts: IP addresses, hardware addresses, names of hosts and users, and the user and
//! password of URLs.
//!
//! Equal data gets equal replacements, so that a reader can follow it. Data without identities stays: the addresses
//! of the policy, loopback, multicast and unspecified addresses, the halves of the address space that VPNs route, and
//! prefix lengths.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::net::Prefix;

/// The shortest name that is replaced. Shorter names are part of many words.
const SHORTEST_NAME: usize = 3;

/// The names that identify a machine and its users.
#[derive(Clone, Debug, Default)]
pub struct IdentifyingNames {
    /// Names of the host, with and without domain.
    pub hosts: Vec<String>,
    /// Names of user accounts.
    pub users: Vec<String>,
    /// Home directories.
    pub homes: Vec<String>,
}

/// Redacts texts with the same replacements.
#[derive(Debug)]
pub struct Redactor {
    keep: Vec<Prefix>,
    /// Names and their replacements, the longest name first.
    names: Vec<(String, String)>,
    addresses: BTreeMap<IpAddr, String>,
    hardware: BTreeMap<String, String>,
}

impl Redactor {
    /// Creates a redactor of these names. Addresses within `keep` stay.
    #[must_use]
    pub fn new(secrets: &IdentifyingNames, keep: Vec<Prefix>) -> Self {
        let kinds = [
            ("home", &secrets.homes),
            ("host", &secrets.hosts),
            ("user", &secrets.users),
        ];
        let mut replacements = Vec::new();
        for (kind, names) in kinds {
            let names = names.iter().filter(|name| name.len() >= SHORTEST_NAME);
            let numbered = (1..).map(|number| format!("{kind}-{number}"));
            replacements.extend(names.cloned().zip(numbered));
        }
        replacements.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        Self {
            keep,
            names: replacements,
            addresses: BTreeMap::new(),
            hardware: BTreeMap::new(),
        }
    }

    /// Returns the numbers of replaced IP addresses and hardware addresses.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.addresses.len(), self.hardware.len())
    }

    /// Redacts a text.
    #[must_use]
    pub fn redact(&mut self, text: &str) -> String {
        let mut named = without_userinfo(text);
        for (name, replacement) in &self.names {
            named = replace_word(&named, name, replacement);
        }
        let mut out = String::with_capacity(named.len());
        let mut rest = named.as_str();
        while !rest.is_empty() {
            let is_part = |c: char| c.is_ascii_hexdigit() || c == ':' || c == '.';
            let word = rest.find(|c: char| !(is_part(c) || c.is_alphanumeric() || c == '_'));
            let (word, after) = rest.split_at(word.unwrap_or(rest.len()));
            out.push_str(&self.word(word));
            let gap = after.find(|c: char| is_part(c) || c.is_alphanumeric() || c == '_');
            let (gap, after) = after.split_at(gap.unwrap_or(after.len()));
            out.push_str(gap);
            rest = after;
        }
        out
    }

    /// Redacts a word of letters, digits, colons and dots.
    fn word(&mut self, word: &str) -> String {
        // A final "." or ":" belongs to the sentence; "::" belongs to the address.
        let core = word.trim_end_matches('.');
        let core = match core.strip_suffix(':') {
            Some(short) if !short.ends_with(':') => short,
            _ => core,
        };
        let tail = &word[core.len()..];
        if let Ok(address) = core.parse() {
            return self.address(address) + tail;
        }
        if is_hardware(core) {
            return self.hardware(&core.replace(':', "")) + tail;
        }
        // An IPv4 address with a port.
        if let Some((address, port)) = core.rsplit_once(':')
            && let Ok(address) = address.parse::<Ipv4Addr>()
        {
            return format!("{}:{port}{tail}", self.address(address.into()));
        }
        // Predictable interface names may contain the hardware address (systemd.net-naming-scheme(7)).
        for kind in ["enx", "wlx", "wwx"] {
            if let Some(digits) = core.strip_prefix(kind)
                && digits.len() == 12
                && digits.chars().all(|c| c.is_ascii_hexdigit())
            {
                return format!("{kind}-{}{tail}", self.hardware(digits));
            }
        }
        word.to_owned()
    }

    fn address(&mut self, address: IpAddr) -> String {
        let is_kept = self.keep.iter().any(|prefix| prefix.contains(address));
        if is_kept || is_common(address) {
            return address.to_string();
        }
        let next = self.addresses.len() + 1;
        let replacement = || format!("{}-{next}", kind(address));
        self.addresses
            .entry(address)
            .or_insert_with(replacement)
            .clone()
    }

    fn hardware(&mut self, digits: &str) -> String {
        // The hardware address of the loopback interface.
        if digits.bytes().all(|digit| digit == b'0') {
            return "00:00:00:00:00:00".to_owned();
        }
        let next = self.hardware.len() + 1;
        let digits = digits.to_lowercase();
        self.hardware
            .entry(digits)
            .or_insert_with(|| format!("mac-{next}"))
            .clone()
    }
}

/// Replaces the user and password of every URL (RFC 3986 section 3.2.1), up to the last "@" of a word: a password may
/// contain characters that a URL should encode.
fn without_userinfo(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        let ends = |c: char| c.is_whitespace() || "\"'<>`".contains(c);
        let (word, next) = after.split_at(after.find(ends).unwrap_or(after.len()));
        rest = after;
        if let Some(at) = word.rfind('@') {
            out.push_str("withheld");
            // The rest of the word may contain another URL.
            rest = &after[at..];
        }
        debug_assert!(rest.ends_with(next));
    }
    out.push_str(rest);
    out
}

fn is_hardware(word: &str) -> bool {
    let mut parts = word.split(':');
    let is_part = |part: &str| part.len() == 2 && part.chars().all(|c| c.is_ascii_hexdigit());
    parts.clone().count() == 6 && parts.all(is_part)
}

/// Returns whether an address is common to all machines.
fn is_common(address: IpAddr) -> bool {
    let is_special = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    is_special
        || match address {
            // The upper half of the address space, and the broadcast address.
            IpAddr::V4(v4) => v4.is_broadcast() || v4.octets() == [128, 0, 0, 0],
            // The prefixes that VPNs route, and the prefix of link-local addresses.
            IpAddr::V6(v6) => {
                let [first, rest @ ..] = v6.segments();
                rest == [0; 7] && [0x8000, 0x2000, 0xfe80].contains(&first)
            }
        }
}

/// Returns the kind of an address.
fn kind(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(v4) if v4.is_link_local() => "linklocal4",
        IpAddr::V4(v4) if v4.is_private() => "private4",
        IpAddr::V4(_) => "public4",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "linklocal6",
        IpAddr::V6(v6) if v6.is_unique_local() => "private6",
        IpAddr::V6(_) => "public6",
    }
}

/// Replaces a name where it is a whole word, ignoring case.
fn replace_word(text: &str, name: &str, replacement: &str) -> String {
    let (low, name) = (text.to_ascii_lowercase(), name.to_ascii_lowercase());
    let is_letter = |c: char| c.is_alphanumeric();
    let (mut out, mut done) = (String::with_capacity(text.len()), 0);
    for (at, _) in low.match_indices(&name) {
        let end = at + name.len();
        let before = low[..at].chars().next_back();
        let after = low[end..].chars().next();
        if at < done || before.is_some_and(is_letter) || after.is_some_and(is_letter) {
            continue;
        }
        out.push_str(&text[done..at]);
        out.push_str(replacement);
        done = end;
    }
    out.push_str(&text[done..]);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn redactor() -> Redactor {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let secrets = IdentifyingNames {
            hosts: names(&["lap-0815.corp.example", "lap-0815"]),
            users: names(&["ada", "al"]),
            homes: names(&["/srv/people/ada"]),
        };
        let keep = vec!["168.86.128.0/18".parse().expect("a prefix")];
        Redactor::new(&secrets, keep)
    }

    #[test]
    fn equal_identifying_data_gets_equal_replacements() {
        let mut redactor = redactor();
        let mut redact = |text: &str| redactor.redact(text);
        assert_eq!(
            redact("via 192.168.7.1 dev wlan0, 192.168.7.10:40000 -> 168.86.130.7:20000."),
            "via private4-1 dev wlan0, private4-2:40000 -> 168.86.130.7:20000."
        );
        assert_eq!(
            redact("[2001:db8::7]:20000 fe80::1/64 192.168.7.1/24; 203.0.113.2."),
            "[public6-3]:20000 linklocal6-4/64 private4-1/24; public4-5."
        );
        assert_eq!(
            redact("link 02:00:5E:10:00:01 is enx02005e100001"),
            "link mac-1 is enx-mac-1"
        );
        assert_eq!(
            redact("Lap-0815.corp.example, lap-0815: /srv/people/ada/x by ADA, al, adamant"),
            "host-1, host-2: home-1/x by user-1, al, adamant"
        );
        assert_eq!(redactor.counts(), (5, 1));
    }

    #[test]
    fn users_and_passwords_of_urls_are_withheld() {
        let redact = |text: &str| redactor().redact(text);
        assert_eq!(
            redact(
                "source = \"https://ada:s3cr/et@vendor.example/x\", see https://vendor.example/y a@b"
            ),
            "source = \"https://withheld@vendor.example/x\", see https://vendor.example/y a@b"
        );
        assert_eq!(redact("http://a:http://b:c@d e@f"), "http://withheld@d e@f");
        assert_eq!(redact("x://"), "x://");
    }

    #[test]
    fn data_without_identities_stays() {
        let text = "0.0.0.0/1 128.0.0.0/1 ::/0 8000::/1 fe80::/64 ff00::/8 127.0.0.53 ::1 \
                    2026-11-22T17:28:03.500Z v0.1.0 6.18.0-rc1 \"a\":true, dead.beef 10:20:30: a::b: x";
        assert_eq!(redactor().redact(text).replace("public6-1", "a::b"), text);
    }

    proptest! {
        #[test]
        fn no_address_survives_in_any_context(
            address in any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits | 1)),
            before in "[ \"(=/,\\[]",
            after in "[ \"),;/\\]]|:[0-9]{1,5}",
        ) {
            let mut redactor = redactor();
            let ip = IpAddr::V4(address);
            prop_assume!(!is_common(ip) && !redactor.keep[0].contains(ip));
            let text = format!("x{before}{address}{after}");
            prop_assert!(!redactor.redact(&text).contains(&address.to_string()));
        }

        #[test]
        fn no_password_of_a_url_survives(before in ".{0,9}", user in "[a-z:/]{0,5}", after in "[a-z/@]{0,5}") {
            let text = format!("{before}https://{user}XSECRETX@{after}");
            prop_assert!(!redactor().redact(&text).contains("XSECRETX"));
        }

        #[test]
        fn any_text_is_accepted(text in ".*") {
            let _ = redactor().redact(&text);
        }
    }
}
