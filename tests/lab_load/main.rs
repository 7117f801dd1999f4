//! Tests in network namespaces that load the machine or measure silence. Each runs alone: `scripts/check lab`.

#[path = "../support/mod.rs"]
mod support;

mod call_soak;
mod failover;
mod laptop;
mod load;
mod soak;
mod tcp_load;
