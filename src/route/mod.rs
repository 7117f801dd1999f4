//! Rules, routes and settings of the kernel: what we want, what is there, what to change.
pub mod observed;
pub mod plan;
pub mod uplink;
