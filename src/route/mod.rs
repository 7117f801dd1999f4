//! Routing: desired state, observed state, the plan that leads from one to the other, and rtnetlink.
//!
//! - [`desired`] holds the desired state and the ids of voicelane's objects. It imports only [`crate::net`].
//! - [`observed`] holds links, addresses, routes and rules as the kernel has them.
//! - [`plan`] compares both and returns ordered changes; [`netlink`] reads and applies.
//! - [`uplink`] selects the physical interface of each family; [`hysteresis`] delays a switch to a better one.
//! - [`rule_owner`], [`lookup`] and [`vpn`] describe foreign rules, the kernel's routing decisions and VPN interfaces.

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
