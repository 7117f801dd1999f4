//! voicelane: a userspace split-tunnel router for voice.
//!
//! *A packet enters at the TUN, the policy gives it a verdict, NAT gives it a mapping, the relay gives it a socket; the
//! answer walks the same four steps back. Everything between the two file descriptors is a function of
//! (state, packet, now).*

pub mod call;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
#[cfg(feature = "demo")]
pub mod demo;
pub mod diagnostics;
pub mod doctor;
pub mod engine;
pub mod ipsec;
#[cfg(any(feature = "demo", feature = "lab"))]
#[doc(hidden)]
pub mod lab;
pub mod lpm;
pub mod manual;
pub mod nat;
pub mod net;
pub mod nftables;
pub mod policy;
mod rate;
pub mod relay;
pub mod route;
pub mod steering;
pub mod sysctl;
mod text;
pub mod timer;
pub mod tun;
pub mod wire;
