//! What voicelane leaves on a machine, the order of start and end, and where to look when something fails.
//!
//! # What is on the machine while the service runs
//!
//! | object | how to see it |
//! |---|---|
//! | the TUN `voicelane0`, not persistent | `ip link show voicelane0` |
//! | rules and routes with protocol 118 | `ip rule show`; `ip route show table all proto 118` |
//! | `rp_filter` 2 on the uplink, if it was 1 | `sysctl net.ipv4.conf.wlan0.rp_filter` |
//! | nftables tables `voicelane-voicelane0`, `…-firewall`, `…-lookups` and, on a gateway, `…-gateway` | `nft list ruleset` |
//! | IPsec allow policies for captured IPv6, only beside foreign IPv6 policies | `ip xfrm policy` |
//! | runtime directory: `control.sock`, `metrics.sock` if configured, `state.json` (saved sysctls) | `ls /run/voicelane` |
//! | state directory: `events.jsonl` and `events.1.jsonl`, together at most 512 KiB; `last-good.json`, the last configuration that worked | `voicelane events` |
//!
//! The nftables tables hold chains only while these have work, because each chain costs every packet time.
//! Without `--state-dir` the events are in the runtime directory.
//!
//! SIGINT and SIGTERM remove all of these except the events. SIGKILL removes at once the TUN, its routes and the
//! nftables tables: the kernel ties them to the process. The remaining rules look up empty tables, so media is in the VPN.
//! The next start or `voicelane cleanup` removes the remaining objects. Both identify voicelane's objects by protocol
//! number and table, and touch no others.
//!
//! # Order of start
//!
//! 1. The configuration is read and checked. A fault ends the program before it changes the machine.
//! 2. The first thread requests real-time scheduling. The second thread starts and does steps 3 to 9.
//! 3. The policy is compiled for today, the runtime directory is created, the descriptor limit is raised.
//! 4. The TUN is opened. Its name is the lock: a second service with the same name ends here.
//! 5. The control socket and the metrics listener are bound. They do not answer yet.
//! 6. Objects that a killed service left are removed.
//! 7. Netlink sockets are opened, the TUN is configured and set up, the nftables tables are created.
//! 8. All capabilities except `CAP_NET_ADMIN` are dropped. The event log is opened (`started`), the sockets answer.
//! 9. Engine and relay are created. The reconciler subscribes to kernel notifications, clock and signals. The first thread
//!    receives the engine and begins to carry packets.
//! 10. The reconciler reads the kernel's state, selects the uplink and opens a socket on it as a test.
//! 11. The reconciler installs the uplink's `rp_filter`, the capture routes, and rules that match probes only.
//! 12. Probes test the firewall. Where the path is open, the rules for all media follow.
//! 13. The service manager receives READY, with or without an uplink.
//!
//! Rules come last because rules take effect. The end is the reverse: the service manager receives STOPPING; IPsec
//! policies, rules, routes and saved sysctls are reverted; the first thread ends; the TUN closes last.
//!
//! # Where to look
//!
//! | question | command |
//! |---|---|
//! | What is wrong on this machine, and what to do? | `voicelane doctor`, see [`super::diagnosis`] |
//! | Does it work now? Which warnings are active? | `voicelane status` |
//! | What happened, and why? | `voicelane events`; `--follow` continues, `--json` is for programs |
//! | What happens to this destination? | `voicelane explain udp HOST:PORT`; `--policy` shows the policy alone |
//! | Which calls exist, on which path? | `voicelane mappings` |
//! | Which value is in force, and which line set it? | `voicelane config show --effective` |
//!
//! `explain` looks up the kernel's route for the packet of an application: protocol, ports and user included. If it leads into
//! the TUN, the running service says what happens next: leaves directly, or failed over and why. Otherwise the answer is
//! the interface of the route, and why media of the policy is not captured. Under sudo the user is the calling one.
//! `--from ADDR:PORT` also considers the failover of that call.
//!
//! A warning about a refusal by the kernel ends when the kernel accepts again and has refused nothing for ten seconds.
//! A warning about a limit ends after a minute. The counters stay.
//!
//! Drop reasons that matter most:
//!
//! | reason | meaning |
//! |---|---|
//! | `not_in_policy` | a packet entered the TUN that no rule relays |
//! | `unsolicited` | a remote sent to a mapping that had not sent to that remote |
//! | `wrong_link` | a datagram with the address of a remote in the VPN arrived by another link: a host on the LAN forged it |
//! | `open_failed`, `send_failed` | a firewall, a missing address, no descriptors; the warning names the kernel's error |
//! | `fragment_overlap` | an attack: no ordinary sender overlaps fragments |
//! | `stale` | this machine was too busy to carry media in time |
//! | `too_many_mappings_of_address`, `too_many_connections_of_address` | a program opens sockets without end |
//!
//! A call whose direct path fails continues in the VPN. `status` shows the causes:
//!
//! | cause | likely origin |
//! |---|---|
//! | `no_traffic`, `no_responses` | a network that drops media, often a captive portal |
//! | `refused` | this machine: a kill switch or a missing route |
//! | `unreachable` | a router on the path |
//! | `uplink_failed` | the whole uplink was given up for that family |
//!
//! # Whose configuration
//!
//! `run`, `reload` and `cleanup` follow the path of each file link by link. They refuse a file or directory that somebody
//! other than root or the service's user owns, or that group or others may write. A sticky directory is accepted.
//! The drop-in directory is checked in the same way. The message names the remedy.
