//! Tests in network namespaces, against real VPNs and kernels. They need root and the programs of `scripts/setup`: `scripts/check lab`.

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod calls;
mod coexistence;
mod config_schema;
mod control;
mod diagnostics;
mod doctor;
mod export_judges;
mod foreign_hooks;
mod gateway;
mod hostile_network;
mod ipsec;
mod judges;
mod kernel_faults;
mod last_good;
mod leak;
mod lifecycle;
mod mapping;
mod metrics;
mod operator;
mod path_mtu;
mod prefix;
mod route;
mod rtp_streams;
mod service;
mod sleep;
mod tcp_proxy;
mod vpn;
mod witnesses;
