//! The destination on the command line: an address or a host name, and a port.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use crate::doctor;
use crate::net::Prefix;

/// A destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Destination {
    /// An address and a port.
    Address(SocketAddr),
    /// A host name and a port.
    Host(String, u16),
}

/// The addresses of a destination.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) addresses: Vec<SocketAddr>,
    /// The source of the addresses; none if the destination is an address.
    pub(super) resolver: Option<String>,
}

impl Destination {
    /// Returns the addresses. A host name is looked up as applications look it up.
    ///
    /// # Errors
    /// The error of the resolver.
    pub(super) fn resolve(&self) -> io::Result<Resolved> {
        match self {
            Self::Address(address) => Ok(Resolved {
                addresses: vec![*address],
                resolver: None,
            }),
            Self::Host(host, port) => {
                let mut addresses: Vec<_> = (host.as_str(), *port).to_socket_addrs()?.collect();
                addresses.dedup();
                Ok(Resolved {
                    addresses,
                    resolver: Some(resolver(host)),
                })
            }
        }
    }
}

/// Names the source of a host's addresses.
fn resolver(host: &str) -> String {
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let names = hosts.lines().flat_map(|line| {
        let entry = line.split('#').next().unwrap_or_default();
        entry.split_whitespace().skip(1)
    });
    if names
        .into_iter()
        .any(|name| name.eq_ignore_ascii_case(host))
    {
        return "/etc/hosts".to_owned();
    }
    let servers = doctor::resolvers().into_iter().map(|it| it.to_string());
    match servers.collect::<Vec<_>>().join(", ") {
        servers if servers.is_empty() => "the system's resolver".to_owned(),
        servers => format!("the system's resolver, name servers {servers}"),
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// The port of an example: STUN.
const EXAMPLE_PORT: u16 = 3478;

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.port() {
                0 => Err(format!(
                    "port 0 is no destination: try {}:{EXAMPLE_PORT}",
                    host_of(address.ip())
                )),
                _ => Ok(Self::Address(address)),
            };
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Err(match address {
                IpAddr::V4(_) => format!("the port is missing: try {text}:{EXAMPLE_PORT}"),
                IpAddr::V6(_) => format!(
                    "an IPv6 address needs brackets and a port: try [{text}]:{EXAMPLE_PORT}"
                ),
            });
        }
        if text.ends_with(']') {
            return Err(format!("the port is missing: try {text}:{EXAMPLE_PORT}"));
        }
        if let Some((scheme, rest)) = url(text) {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let host = authority.rsplit('@').next().unwrap_or_default();
            let port = match scheme {
                "http" | "ws" => 80,
                "https" | "wss" => 443,
                "turns" | "stuns" => 5349,
                _ => EXAMPLE_PORT,
            };
            let example = match host.parse::<Self>() {
                Ok(destination) => destination.to_string(),
                Err(_) if host.is_empty() => format!("host.example.com:{port}"),
                Err(_) => format!("{host}:{port}"),
            };
            return Err(format!("a URL is no destination: try {example}"));
        }
        if let Some((range, rest)) = text.split_once('/') {
            let example = match text.parse::<Prefix>() {
                Ok(prefix) => host_of(prefix.first()),
                Err(_) => range.to_owned(),
            };
            let port = rest
                .rsplit_once(':')
                .and_then(|(_, port)| port.parse().ok());
            return Err(format!(
                "a range of addresses is no destination: try one address, such as {example}:{}",
                port.unwrap_or(EXAMPLE_PORT)
            ));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port),
            None => (text, ""),
        };
        // More colons without brackets: a wrong IPv6 address with a port.
        if let Some(inner) = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'))
            && inner.parse::<Ipv6Addr>().is_err()
        {
            return Err(format!(
                "{inner:?} is not an IPv6 address: expected such as [2001:db8::1]:{EXAMPLE_PORT}"
            ));
        }
        if !host.starts_with('[') && host.contains(':') {
            return Err(format!(
                "an IPv6 address needs brackets: try [{host}]:{port}"
            ));
        }
        if port.is_empty() {
            return Err(format!("the port is missing: try {host}:{EXAMPLE_PORT}"));
        }
        if let Some((first, _)) = port.split_once('-') {
            return Err(format!(
                "a range of ports is no destination: try one port, such as {host}:{first}"
            ));
        }
        let number = port.parse::<u16>().ok().filter(|port| *port > 0);
        let number =
            number.ok_or_else(|| format!("the port {port:?} is not a number from 1 to 65535"))?;
        let looks_like_ipv4 = host
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.');
        let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if looks_like_ipv4 || !host.bytes().all(is_name_byte) || host.len() > 253 {
            return Err(format!(
                "{host:?} is neither an address nor a host name: expected such as 168.86.128.1:20000, \
                 [2001:db8::1]:3478 or host.example.com:443"
            ));
        }
        Ok(Self::Host(host.to_owned(), number))
    }
}

/// Returns scheme and rest of a URL, also of the forms of RFC 7064 and RFC 7065 (`stun:host`).
fn url(text: &str) -> Option<(&str, &str)> {
    if let Some((scheme, rest)) = text.split_once("://") {
        return Some((scheme, rest));
    }
    let schemes = ["stun", "stuns", "turn", "turns", "sip", "sips"];
    text.split_once(':')
        .filter(|(scheme, rest)| schemes.contains(scheme) && rest.parse::<u16>().is_err())
}

/// Writes an address as the host part of a destination.
fn host_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_error_shows_the_right_form() {
        for (text, expected) in [
            ("168.86.128.1", "the port is missing: try 168.86.128.1:3478"),
            (
                "host.example.com",
                "the port is missing: try host.example.com:3478",
            ),
            (
                "2001:db8::1",
                "an IPv6 address needs brackets and a port: try [2001:db8::1]:3478",
            ),
            (
                "2001:db8:::1:20000",
                "an IPv6 address needs brackets: try [2001:db8:::1]:20000",
            ),
            (
                "[2001:db8::1]",
                "the port is missing: try [2001:db8::1]:3478",
            ),
            (
                "https://host.example.com/path",
                "a URL is no destination: try host.example.com:443",
            ),
            (
                "wss://u@host.example.com:8443/x",
                "a URL is no destination: try host.example.com:8443",
            ),
            (
                "turn:host.example.com?transport=udp",
                "a URL is no destination: try host.example.com:3478",
            ),
            (
                "168.86.128.0/18",
                "a range of addresses is no destination: try one address, such as 168.86.128.0:3478",
            ),
            (
                "2001:db8::/32",
                "a range of addresses is no destination: try one address, such as [2001:db8::]:3478",
            ),
            (
                "168.86.128.0/18:20000",
                "a range of addresses is no destination: try one address, such as 168.86.128.0:20000",
            ),
            (
                "168.86.128.1:10000-60000",
                "a range of ports is no destination: try one port, such as 168.86.128.1:10000",
            ),
            (
                "168.86.128.1:70000",
                "the port \"70000\" is not a number from 1 to 65535",
            ),
            (
                "168.86.128.1:0",
                "port 0 is no destination: try 168.86.128.1:3478",
            ),
            (
                "168.86.128:20000",
                "\"168.86.128\" is neither an address nor a host name",
            ),
            (
                "host name:20000",
                "\"host name\" is neither an address nor a host name",
            ),
        ] {
            let error = text.parse::<Destination>().expect_err(text);
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn addresses_and_host_names_are_destinations() {
        for text in [
            "168.86.128.1:20000",
            "[2001:db8::1]:3478",
            "host.example.com:443",
            "localhost:1",
        ] {
            let destination = text.parse::<Destination>();
            assert_eq!(destination.map(|it| it.to_string()), Ok(text.to_owned()));
        }
        let local = Destination::Host("localhost".to_owned(), 1).resolve();
        let local = local.expect("every machine has it");
        assert!(
            local.addresses.iter().all(|it| it.ip().is_loopback()),
            "{local:?}"
        );
        assert!(local.resolver.is_some());
    }

    proptest! {
        /// Every text is a destination that is written as it is read, or an error with a sentence.
        #[test]
        fn any_text_is_a_destination_or_an_error(text in "\\PC{0,20}|[a-f0-9:.\\[\\]/%-]{0,40}|[a-z]{1,5}:(//)?[a-z0-9.@:/]{0,20}") {
            match text.parse::<Destination>() {
                Ok(it) => prop_assert_eq!(it.to_string().parse(), Ok(it)),
                Err(sentence) => prop_assert!(!sentence.is_empty()),
            }
        }
    }
}
