//! What is where on a machine, what may go wrong, what to look at.
//!
//! # What voicelane leaves on a machine while it runs
//!
//! - the TUN `voicelane0`, not persistent;
//! - rules and routes with protocol 118: `ip rule show`, `ip route show table all proto 118`;
//! - `rp_filter` of the uplink set to 2 if it was 1, with the old value in the journal;
//! - two nftables tables, one for aliases of a VPN's addresses and one for probes and permits, and a third on a gateway:
//!   `nft list ruleset`. They are mostly empty, for a chain costs every packet something: that of aliases is there while
//!   there are aliases, those of probes while one is sent (some milliseconds);
//! - allow policies for captured IPv6 where another program has IPsec policies: `ip xfrm policy`;
//! - the runtime directory: `control.sock`, `metrics.sock` if it is asked for, and `state.json`, the journal;
//! - `events.jsonl` and `events.1.jsonl` in the state directory (`--state-dir`; the runtime directory if not given): what
//!   happened, at most 512 KiB. They stay.
//!
//! All but the events goes on SIGINT and SIGTERM. After SIGKILL the TUN, its routes and the nftables tables go at once with the
//! process; what stays (rules that lead to empty tables, the uplink's setting, the journal) harms nothing, and the next
//! start or `voicelane cleanup` removes it. Both recognise what is ours by protocol number and table, and touch nothing
//! else.
//!
//! # What does not work is said
//!
//! - `voicelane doctor` examines everything at once, see [`super::diagnosis`].
//! - `voicelane events` says what happened and why, `--follow` goes on, `--json` is for machines: version, sequence,
//!   time (UTC), kind, subject, reason and, where it is a figure, `took_us`. Kinds are only added.
//! - `voicelane status` ends with warnings: what is not as it should be, and what to do. What the kernel refused is warned
//!   of until it sends or opens again and has refused nothing for ten seconds, a limit that was reached for a minute; the
//!   counts stay.
//! - `voicelane explain udp ADDR:PORT` says which rule decides, or which nearly did.
//! - Drops are counted by reason. The ones that matter most: `not_in_policy` (something enters the TUN that should not),
//!   `unsolicited` (somebody knocks), `open_failed` and `send_failed` (a firewall, a missing address, no descriptors;
//!   `refusals` has them by the kernel's reason, and a warning says what to do), `fragment_overlap` (nobody does that by
//!   accident), `stale` (this machine was too busy to carry media in time), `too_many_mappings_of_address` and `too_many_connections_of_address` (a program opens sockets without end).
//! - A call whose direct way fails goes on in the VPN. `status` says which, why, and how often that happened (`falls` and
//!   `returns`, by cause): `silent` and `unheard` mean a network that drops media, a captive portal most likely; `refused`
//!   means this machine, a kill switch most likely; `unreachable` a router; `uplink` that the whole uplink was given up.
//!
//! # Whose configuration
//!
//! A service with privileges obeys a file only if nobody but root and itself can change it: `run` and `cleanup` follow
//! the path of every file link by link and refuse, before anything is touched, a file or directory on the way that belongs to
//! somebody else, or that group or others may write (a sticky directory is fine). The message has the remedy. So it
//! is with the directory of drop-ins, in which others could put one. See [`super::administration`] for the layers.
//!
//! # Where a firewall forbids it
//!
//! At each change of the firewall (tables, chains, rules; legacy iptables gives no notice, so once a minute too) and of
//! the network, probes are sent, to a destination out of each range of ports: see [`crate::route::firewall`]. While a way is forbidden, nothing of that family is
//! captured, and a warning says who forbids it and what IT must add. See [`super::vpns`].
//!
//! # Order of things
//!
//! Acquire: configuration, policy, uplink, leftovers removed, TUN, a socket proven to open on the uplink, control
//! socket, settings, routes, rules for probes alone, probes, rules, ready. Revert in reverse. Rules come last because
//! they are what takes effect.
