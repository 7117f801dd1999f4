//! The manual for those who carry on: why the house is built as it is.
//!
//! *A packet enters at the TUN, the policy gives it a verdict, NAT gives it a mapping, the relay gives it a socket; the
//! answer walks the same four steps back. Everything between the two file descriptors is a function of
//! (state, packet, now).*
//!
//! ```text
//!         pure: no clock, no socket, no async            |   shell: tokio, syscalls, netlink
//!                                                        |
//!  L0   net                                              |
//!  L1   wire        lpm        timer                     |
//!  L2   call        policy     nat        config         |
//!         \___________|________/   (config -> policy)    |
//!  L3              engine  -------- Outbox --------------+->  L4  tun   relay   route   control
//!             handle_* / poll_timeout  <-----------------+-        \_____|_______|_______/
//!                                                        |                 L5 daemon -- doctor, evidence -- cli, main; demo
//! ```
//!
//! `tests/layers.rs` holds the `crate::` edges and the forbidden names against this picture.
//!
//! # Four decisions
//!
//! 1. **One owner.** One task owns engine, device and relay by value (`daemon::driver`). No lock and no channel lies on
//!    the packet path; the shell talks to the owner through a mailbox that is read once per wake-up.
//! 2. **Handle into an outbox.** The engine answers by filling an [`Outbox`](crate::engine::Outbox), which is flushed in
//!    a fixed order: commands, transmits, packets, events. A socket is open before its first datagram, without a round
//!    trip between core and shell.
//! 3. **A mapping is not a flow.** A mapping is keyed by the inside endpoint and owns one unconnected socket; its id is
//!    the token of its readiness. See [`nat`].
//! 4. **A verdict is a value, with its rule.** `explain` and the data path call the same
//!    [`Policy::evaluate`](crate::policy::Policy::evaluate). Drops are values too, and their labels are the metric labels.
//!
//! # Where the code differs from the first plan
//!
//! - There is no flow cache: the verdict of a packet costs one table lookup and a look at two or three port ranges,
//!   which is less than hashing a five-tuple.
//! - The demo is a room beside the command line: it is a program of its own that plays the product, and it is left out
//!   of packages.
//!
//! # Chapters
//!
//! - [`capture`]: how exactly the policy's packets get into the TUN, and how they stay on the direct path
//! - [`vpns`]: which VPNs it was tested with, how each takes the traffic, and what IT must add where one forbids
//! - [`nat`]: the translator's behaviour, requirement by requirement
//! - [`gateway`]: the media of everybody behind the VPN router of a site
//! - [`laptop`]: what happens when everything around moves: states, timers, uplinks, sleep
//! - [`service`]: its unit, privileges, reloads, packages
//! - [`load`]: threads, real time, what is dropped under load and how it is counted, what was tried and lost
//! - [`defaults`]: every default with its reason
//! - [`exports`]: the policy in the words of other programs, and who has judged each
//! - [`administration`]: configuration in layers, who may ask the service, its state, metrics
//! - [`diagnosis`]: when calls are bad: the doctor, the archive for whoever helps, the capture
//! - [`operating`]: what is where on a machine, what may go wrong, what to look at
//! - [`glossary`]: the words

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
