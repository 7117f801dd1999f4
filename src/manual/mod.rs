//! The manual: how voicelane works, why it was built this way, how to operate it.
//!
//! A packet enters at the TUN. The policy gives it a verdict, NAT gives it a mapping, the relay gives it a socket. The
//! reply takes the same four steps back. Everything between the two file descriptors is a pure function of state,
//! packet and time.
//!
//! ```text
//!         pure: no clock, no socket, no async            |   shell: tokio, syscalls, netlink
//!                                                        |
//!  L0   net                                              |
//!  L1   wire        lpm        timer       rate          |                     steering
//!  L2   call        policy     nat        config         |                    /    |    \
//!         \___________|________/   (config -> policy)    |          nftables   ipsec   |
//!  L3              engine  -------- Outbox --------------+->  L4  tun  relay  \__route__/ sysctl  control
//!             handle_* / poll_timeout  <-----------------+-        \_____|_______|________|______/
//!                                                        |                 L5 daemon -- doctor, diagnostics -- cli, main; demo
//! ```
//!
//! `tests/pure/layers.rs` compares the imports of each module with this picture.
//!
//! # Four decisions
//!
//! 1. **One owner.** One thread owns engine, device and relay by value (`daemon::driver`). The packet path has no lock.
//!    The other thread sends messages through a channel, which the owner reads once per wake-up.
//! 2. **Results go into an outbox.** The engine fills an [`Outbox`](crate::engine::Outbox). The driver flushes it in a
//!    fixed order: commands, transmits, packets, events. So a socket is open before its first datagram is sent.
//! 3. **A mapping is not a flow.** A mapping is keyed by the inside endpoint and owns one unconnected socket. Its id is
//!    also the token of the socket in epoll. See [`nat`].
//! 4. **A verdict is a value and names its rule.** `explain` and the data path call the same
//!    [`Policy::evaluate`](crate::policy::Policy::evaluate). Drop reasons are values too; their labels are the metric labels.
//!
//! There is no flow cache. One lookup and two or three comparisons of port ranges cost less than a hash of the five-tuple.
//!
//! # Chapters
//!
//! Theory:
//!
//! - [`capture`]: how packets of the policy enter the TUN, and how relayed packets keep out of the VPN
//! - [`nat`]: the translator, requirement by requirement; failover into the VPN
//! - [`laptop`]: networks that change: states, timers, uplinks, sleep
//! - [`gateway`]: the media of all machines behind the VPN router of a site
//! - [`load`]: threads, real time, queues, costs, and which alternatives lost
//!
//! Operating:
//!
//! - [`operating`]: what is on a machine, the order of start, where to look when something fails
//! - [`administration`]: configuration layers, access control, exit codes, metrics
//! - [`service`]: the systemd unit, privileges, reload, packages
//! - [`vpns`]: the tested VPNs, and what IT must add where a firewall blocks media
//! - [`exports`]: the policy in the syntax of other products
//! - [`diagnosis`]: doctor, bug report, packet capture
//!
//! Reference:
//!
//! - [`defaults`]: every default with its reason
//! - [`glossary`]: the terms of this project

pub mod administration;
pub mod capture;
pub mod defaults;
pub mod diagnosis;
pub mod exports;
pub mod gateway;
pub mod glossary;
pub mod laptop;
pub mod load;
pub mod nat;
pub mod operating;
pub mod service;
pub mod vpns;
