//! What is where on a machine, what may go wrong, what to look at.
//!
//! # What voicelane leaves on a machine while it runs
//!
//! - the TUN `voicelane0`, not persistent;
//! - rules and routes with protocol 118: `ip rule show`, `ip route show table all proto 118`;
//! - `rp_filter` of the uplink set to 2 if it was 1, with the old value in the journal;
//! - an nftables table when a VPN's address needs an alias: `nft list ruleset`;
//! - allow policies for captured IPv6 where another program has IPsec policies: `ip xfrm policy`;
//! - the runtime directory: `control.sock` and `state.json`, the journal;
//! - `events.jsonl` and `events.1.jsonl` in the state directory (`--state-dir`; the runtime directory if not given): what
//!   happened, at most 512 KiB. They stay.
//!
//! All but the events goes on SIGINT and SIGTERM. After SIGKILL the TUN, its routes and the nftables table go at once with the
//! process; what stays (rules that lead to empty tables, the uplink's setting, the journal) harms nothing, and the next
//! start or `voicelane cleanup` removes it. Both recognise what is ours by protocol number and table, and touch nothing
//! else.
//!
//! # What does not work is said
//!
//! - `voicelane events` says what happened and why, `--follow` goes on, `--json` is for machines: version, sequence,
//!   time (UTC), kind, subject, reason and, where it is a figure, `took_us`. Kinds are only added.
//! - `voicelane status` ends with warnings: what is not as it should be, and what to do.
//! - `voicelane explain udp ADDR:PORT` says which rule decides, or which nearly did.
//! - Drops are counted by reason. The ones that matter most: `not_in_policy` (something enters the TUN that should not),
//!   `unsolicited` (somebody knocks), `open_failed` and `send_failed` (a firewall, a missing address, no descriptors;
//!   `refusals` has them by the kernel's reason, and a warning says what to do), `fragment_overlap` (nobody does that by
//!   accident), `too_many_mappings_of_address` (a program opens sockets without end).
//!
//! # Whose configuration
//!
//! A service with privileges obeys a file only if nobody but root and itself can change it: `run` and `cleanup` follow
//! the path link by link and refuse, before anything is touched, a file or directory on the way that belongs to
//! somebody else, or that group or others may write (a sticky directory is fine). The message has the remedy.
//!
//! # Order of things
//!
//! Acquire: configuration, policy, uplink, leftovers removed, TUN, a socket proven to open on the uplink, control
//! socket, settings, routes, rules, ready. Revert in reverse. Rules come last because they are what takes effect.
