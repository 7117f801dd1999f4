//! Life on a laptop: what voicelane does when everything around it moves.
//!
//! # One answer to everything
//!
//! The steward (`daemon::steward`) is one loop. A notice of the kernel, a new day, the end of a sleep, a time that has
//! come: the answer is always to read links, addresses, routes and rules anew, to choose the uplink, to plan and to
//! apply. What a notice says is not relied on, so that a lost one does no harm; it is read only for who was at work. So
//! these are all the same to it:
//!
//! - `ip rule flush`; systemd-networkd, which deletes rules and routes that it did not make;
//! - a VPN that starts, stops, reconnects or replaces the default route;
//! - a lease that is renewed (nothing changes), an address that goes or comes, IPv6 that comes later;
//! - another network, a cable beside the Wi-Fi, a link that was made anew under the same name;
//! - more notices than the socket holds (`ENOBUFS`, the event `overrun`);
//! - the end of a sleep.
//!
//! Measured on two cores in a virtual machine: rules and routes are back 17 to 60 ms after the command that took them
//! away, 20 of which are the time in which notices that belong together are gathered (`tests/laptop.rs` prints it).
//!
//! # States
//!
//! ```text
//!             no usable link                        a link, an address, a way onwards
//!  started ------------------> waiting  ------------------------------------------->  ready
//!     \                           ^                                                   |   ^ |
//!      \                          +--- uplink_lost: rules go, media is in the VPN ----+   +-+ uplink_changed
//!       +------------------------------------------------------------------------------^
//! ```
//!
//! A service manager is told READY in `waiting` as well, with the status "waiting for an uplink": a laptop that is
//! started in a train is no fault of the service. `voicelane status` says `uplink none` then, and why.
//!
//! # Timers
//!
//! | timer | value | reason |
//! |---|---|---|
//! | gathering | 20 ms from the first notice | a VPN makes a dozen changes in a row |
//! | rest after a look | 10 ms, or four times as long as the look took | a machine whose routes never stand still must not be kept busy by us |
//! | proof of a better uplink | 2 s, doubled with each loss of that uplink within 10 minutes, up to 64 s | a cable has a carrier before its network works, and a bad one comes and goes; until then the present one works |
//! | corrections without a rest | 20 in a row, and 2 a second | a VPN that starts, somebody who tidies up |
//! | rest in a contest | 0.5 s, doubled up to 16 s | two programs that undo each other's work help no call |
//! | end of a contest | 30 s of peace after the rest | so that a rival who comes back at once is not a new one |
//! | retry of what the kernel refused | 1 s, doubled up to 30 s, or the next notice | it mostly refuses because something is on its way |
//! | calendar | 1 min | a policy's dates are days |
//!
//! # The uplink
//!
//! Usable is a link that is up, has a carrier, an address that reaches beyond the link, and a way onwards; that is no
//! tunnel; and that `[uplink] exclude` does not name. Among the usable ones `prefer` decides, then the evidence (the
//! default routes of the main table, a host route through a gateway as VPNs make it to their server, default routes of
//! other tables), then the metric. `interface` pins one, whatever it is. Both families leave by the one link; a family
//! that it has no way for is not captured, and its media is in the VPN. Each family's next hop is the chosen link's own.
//!
//! A lost uplink is left at once for the next best. A better one must prove itself first (see the timers): the present
//! one works meanwhile.
//!
//! # What a change means for calls
//!
//! | change | sockets |
//! |---|---|
//! | another link, or another one under the same name | all are replaced |
//! | an address of a family has gone | those of that family are replaced |
//! | an address has come, a lease was renewed, another gateway | stay as they are |
//! | the uplink was gone and is the same again | stay as they are |
//!
//! Replaced means closed and opened anew, on the same port where it is free; never bound a second time. The mapping and
//! its inside endpoint stay, so the application sees the same peer, and the peer sees a new address, for which ICE has
//! connectivity checks (RFC 8445) and consent (RFC 7675). TCP connections cannot move and are reset.
//!
//! In the lab a call of a packet each 20 ms that moves from cable to Wi-Fi is silent for 70 ms at most in each direction,
//! carrier loss and metric change alike (`tests/laptop.rs`).
//!
//! # Programs that want what we do not want
//!
//! A correction is a look that had to change something although nothing else was wanted than before. Each is an event,
//! `reconciled`, with who it was: the foreign rule that appeared (priority, table, protocol number and whose number that
//! usually is), or the process that took ours away, by the netlink port in the kernel's notice. Too many corrections are
//! a contest (`contested`, and a warning in the status); they become rarer, and media is where the other program puts
//! it meanwhile. What to do is for people: end the other program, or let it spare rules of protocol 118
//! (systemd-networkd: `ManageForeignRoutingPolicyRules=no`, `ManageForeignRoutes=no`).
//!
//! # Sleep
//!
//! logind's `PrepareForSleep` is listened to where there is a system bus (feature `logind`). The truth is in the clock: a
//! timer on the wall clock is cancelled by the kernel when that clock jumps, and what `CLOCK_BOOTTIME` has gained on
//! `CLOCK_MONOTONIC` is the time slept. After it everything is read anew, and sockets move if what they use has gone.
//! All other timers, a mapping's life among them, stand still in sleep.
//!
//! # Settings of others
//!
//! Of settings that are not the TUN's, one is touched: `rp_filter` of the uplink, where it is strict, with its value in
//! the journal. When the uplink changes, the former gets its value back. The global ones ("all", "default", `ip_forward`,
//! `arp_*`) are never written; `tests/laptop.rs` compares all of them before, while running, after a change and after
//! the end.
//!
//! # The soak
//!
//! `tests/soak.rs` lets random things happen beside two running calls: carriers that come and go, one uplink or both
//! lost, rules and routes flushed, foreign rules, a VPN that restarts, addresses and metrics that change. After each,
//! both calls must be back within 3 s, media outside the VPN, the rest in it, and nothing else marked; in the end
//! nothing may be left over. 40 events by default; the long run:
//!
//! ```text
//! VOICELANE_SOAK_EVENTS=1000 cargo nextest run --test soak --no-capture
//! ```
//!
//! It prints its seed; `VOICELANE_SOAK_SEED` repeats a course. Measured in courses of 400 and 250 events: calls are back
//! 14 to 20 ms after most events, 1.8 s at most after the home router's links were set down and up, of which a second is
//! that router's IPv6 neighbour discovery.
