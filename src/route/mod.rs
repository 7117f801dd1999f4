//! Rules, routes and settings of the kernel: what we want, what is there, what to change.
pub mod alias;
pub mod journal;
mod message;
pub mod netlink;
pub mod nft;
pub mod observed;
pub mod plan;
pub mod sysctl;
pub mod uplink;
pub mod watch;
pub mod xfrm;
