//! Capture and uplink selection in a real kernel: links, rules and packets in namespaces, checked by `ip route get`.

mod capture;
mod obstacles;
mod uplink;
mod world;
