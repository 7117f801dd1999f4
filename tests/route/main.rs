//! Capture and uplink against a real kernel: real links, rules and packets in namespaces, `ip route get` as the judge.

mod capture;
#[path = "../support/netns.rs"]
mod netns;
mod obstacles;
mod uplink;
mod world;
