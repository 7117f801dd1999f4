//! Capture and uplink against a real kernel: real links, rules and packets in namespaces, `ip route get` as the judge.

mod capture;
mod obstacles;
mod uplink;
mod world;
