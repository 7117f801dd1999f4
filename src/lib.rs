//! voicelane: a userspace split-tunnel router for voice.
//!
//! Selected media leaves the VPN, marked for expedited forwarding; all other traffic stays in it.
//!
//! ```text
//!   application                                                                              remote
//!      |  ^                                                                                   ^  |
//!      v  |                 policy            NAT               engine's outbox               |  v
//!   +--------+  handle_tun  +---------+  +---------+  commands, transmits  +----------------------+
//!   |  TUN   | -----------> | verdict |->| mapping |---------------------->| sockets on the uplink|
//!   | device | <----------- +---------+  +---------+<----------------------|   or into the VPN    |
//!   +--------+   packets                            handle_datagram/_error +----------------------+
//!                \___________________ Engine: (state, packet, now) ______/
//! ```
//!
//! Between the two file descriptors everything is a pure function: the [`engine`] knows no socket and no clock. It is
//! driven by packets and instants, and answers with an outbox:
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Instant;
//! use voicelane::config::Config;
//! use voicelane::engine::{Engine, NatSettings, Outbox, SocketCommand};
//! use voicelane::net::{Dscp, Endpoint, Outside, TrafficClass};
//! use voicelane::policy::Policy;
//! use voicelane::wire::udp::{UdpHeaders, write_datagram};
//!
//! // The policy: media of this prefix and these ports is relayed.
//! let config = Config::parse(
//!     "example.toml",
//!     r#"
//!     version = 1
//!     include = []
//!
//!     [[service]]
//!     name = "media"
//!     description = "media of the example"
//!     role = "media"
//!     protocol = "udp"
//!     prefixes = ["168.86.128.0/18"]
//!     ports = ["10000-60000"]
//!     source = "https://example.com/addresses"
//!     "#,
//! )?;
//! let policy = Policy::compile(&config, "2026-01-01".parse()?);
//! let mut engine = Engine::new(Arc::new(policy), NatSettings::default());
//! let (mut outbox, now) = (Outbox::default(), Instant::now());
//!
//! // A packet comes out of the TUN ...
//! let mut packet = Vec::new();
//! let headers = UdpHeaders {
//!     source: Endpoint::new("10.8.0.2".parse()?, 50_000),
//!     destination: Endpoint::new("168.86.133.20".parse()?, 20_000),
//!     traffic_class: TrafficClass::default(),
//!     hop_limit: 64,
//! };
//! write_datagram(&mut packet, &headers, b"voice")?;
//! engine.handle_tun(&packet, now, &mut outbox);
//!
//! // ... and the outbox asks for a socket, whose endpoint is reported, and for a datagram.
//! let SocketCommand::Open { mapping, egress, .. } = outbox.commands()[0] else {
//!     panic!("the first packet of a mapping opens its socket");
//! };
//! let outside = Outside(Endpoint::new("192.0.2.7".parse()?, 50_000));
//! engine.handle_opened(mapping, egress, outside, &mut outbox);
//! let (transmit, payload) = outbox.transmits().next().expect("one datagram");
//! assert_eq!((transmit.to, payload), (headers.destination, &b"voice"[..]));
//! assert_eq!(transmit.treatment.dscp, Dscp::EF);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The verdict on a packet is one lookup in a table of prefixes ([`lpm`]):
//!
//! ```
//! use voicelane::lpm::{LookupTable, PrefixTable};
//!
//! let mut prefixes = PrefixTable::new();
//! prefixes.insert("168.86.0.0/16".parse()?, "signalling");
//! prefixes.insert("168.86.128.0/18".parse()?, "media");
//! let table = LookupTable::new(&prefixes);
//! assert_eq!(table.lookup("168.86.133.20".parse()?), Some("media"));
//! assert_eq!(table.lookup("192.0.2.1".parse()?), None);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The public modules
//!
//! - [`config`] reads configuration; [`policy`] compiles it into rules and evaluates them.
//! - [`engine`] is the data path; [`Engine`](engine::Engine) documents the contract with its owner.
//! - [`wire`] parses and writes packets; [`lpm`] finds the longest matching prefix; [`net`] has the basic types.
//!
//! All other modules belong to the program `voicelane` and are private. The feature `lab` opens them to the tests and
//! benchmarks that need them. The [`manual`] describes the whole.
#![allow(
    rustdoc::private_intra_doc_links,
    reason = "the manual also explains private modules"
)]

// Builds STUN messages for the tests of the engine.
#[doc(hidden)]
pub mod call;
// The entry point of the program and of its man pages.
#[doc(hidden)]
pub mod cli;
pub mod config;
#[cfg(not(feature = "lab"))]
mod control;
#[cfg(feature = "lab")]
#[doc(hidden)]
pub mod control;
#[cfg(not(feature = "lab"))]
mod daemon;
#[cfg(feature = "lab")]
#[doc(hidden)]
pub mod daemon;
#[cfg(feature = "demo")]
mod demo;
#[cfg(not(feature = "lab"))]
mod diagnostics;
#[cfg(feature = "lab")]
#[doc(hidden)]
pub mod diagnostics;
#[cfg(not(feature = "lab"))]
mod doctor;
#[cfg(feature = "lab")]
#[doc(hidden)]
pub mod doctor;
pub mod engine;
mod files;
#[cfg(not(feature = "lab"))]
mod ipsec;
#[cfg(feature = "lab")]
#[doc(hidden)]
pub mod ipsec;
#[cfg(feature = "lab")]
#[doc(hidden)]
pub mod lab;
#[cfg(all(feature = "demo", not(feature = "lab")))]
#[allow(dead_code, reason = "the tests of feature `lab` use all of it")]
mod lab;
pub mod lpm;
pub mod manual;
#[cfg(not(feature = "lab"))]
mod nat;
#[cfg(feature = "lab")]
#[doc(hidden)]
pub mod nat;
pub mod net;
#[cfg(not(feature = "lab"))]
mod nftables;
#[cfg(feature = "lab")]
#[doc(hidden)]
pub mod nftables;
pub mod policy;
mod rate;
#[cfg(not(feature = "lab"))]
mod relay;
#[cfg(feature = "lab")]
#[doc(hidden)]
pub mod relay;
#[cfg(not(feature = "lab"))]
mod route;
#[cfg(feature = "lab")]
#[doc(hidden)]
pub mod route;
#[cfg(not(feature = "lab"))]
mod steering;
#[cfg(feature = "lab")]
#[doc(hidden)]
pub mod steering;
#[cfg(not(feature = "lab"))]
mod sysctl;
#[cfg(feature = "lab")]
#[doc(hidden)]
pub mod sysctl;
mod text;
#[cfg(not(feature = "lab"))]
mod timer;
#[cfg(feature = "lab")]
#[doc(hidden)]
pub mod timer;
#[cfg(not(feature = "lab"))]
mod tun;
#[cfg(feature = "lab")]
#[doc(hidden)]
pub mod tun;
pub mod wire;
