//! Routing: the desired state, the observed state, and the plan that leads from one to the other.

pub(crate) mod connection;
pub mod desired;
pub mod hysteresis;
pub mod lookup;
pub(crate) mod message;
pub mod netlink;
pub mod observed;
pub mod plan;
pub mod rule_owner;
pub mod uplink;
pub mod vpn;
