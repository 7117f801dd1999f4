//! The service among others: its unit, its privileges, reloads, packages.
//!
//! # With a service manager, and without
//!
//! `voicelane run` is the service, in the foreground, under any manager or none. Where systemd listens (sd_notify(3)) it
//! hears of readiness, of the way that media goes (`systemctl status` shows it), of reloads and of the end. Ready means
//! that the policy is in force as far as it can be: a laptop without a network is ready too, and media is in the VPN.
//!
//! The watchdog's beat begins in the steward and is given to the manager by the loop that carries packets. If either
//! stands still for ten seconds, the service is killed and started anew; media is in the VPN meanwhile.
//!
//! When standard error is the journal, log lines go there with their fields: `journalctl -u voicelane -o verbose`, or
//! `journalctl VOICELANE_UPLINK=wlan0`.
//!
//! # What the unit opens, and why
//!
//! `config/voicelane.service` comes to 1.9 of 10 in `systemd-analyze security --offline=yes`, and `tests/packages` fails
//! above 2.0. What remains is the job itself:
//!
//! | open | for |
//! |---|---|
//! | `CAP_NET_ADMIN`, ambient | the TUN, rules, routes, nftables, `SO_MARK`, `IP_XFRM_POLICY`, `/proc/sys/net` |
//! | `CAP_NET_RAW`, ambient, dropped after the start | a raw ICMPv6 socket: [`crate::route::firewall`] solicits a neighbour that is not there, because kill switches were found that forget the IPv6 neighbour discovery (see [`super::vpns`]) |
//! | `capset`, `chown` | dropping that; giving the control socket to a group |
//! | `/dev/net/tun`, hence not `PrivateDevices` | the TUN |
//! | `/proc/sys/net` writable, hence not `ProcSubset=pid` | `rp_filter` of the uplink, the settings of the TUN |
//! | `AF_NETLINK` | routes, rules, IPsec policies, nftables |
//! | `AF_INET`, `AF_INET6`, no `PrivateNetwork`, no address list | media, to wherever the policy says |
//! | `AF_UNIX` | the control socket, the journal, logind |
//!
//! Real time is given by the unit (`CPUSchedulingPolicy=fifo`, reset on fork), so that no system call for it has to be
//! allowed: see [`super::load`].
//!
//! The service has no secret. Its configuration is readable by everybody on purpose (`check` and `explain` are for users);
//! what users must not read can be a credential ([`super::administration`]).
//!
//! `cleanup` runs before each start and after each end, by the configuration's numbers or, as the file may be what is
//! broken, by the default ones. The runtime directory outlives a restart, because the journal of settings is in it.
//!
//! # Privileges
//!
//! The service needs more than `CAP_NET_ADMIN` for three things, all at the start: to give the control socket to a group
//! (as root), to open the one raw socket, and to take real-time scheduling where no unit has given it. After that, before it
//! carries a packet and before it adds a rule or a route, it drops every other capability from all sets, the bounding set included where it may, and forbids itself new ones
//! (`NoNewPrivs`). What follows at a change of the network or at a reload was thus done before with no more, and cannot
//! fail later for want of a capability.
//!
//! `CAP_NET_ADMIN` stays for three reasons: rules and routes must be brought back when another program takes them away
//! and moved when the network changes; each new mapping's socket takes a mark and an exemption from IPsec policies; the
//! uplink's settings must be put back at the end. Nothing else is kept. A low port of an application (below 1024) is not
//! taken over, for which `CAP_NET_BIND_SERVICE` would be needed: the mapping gets another, and media never has one.
//!
//! # Reload
//!
//! `voicelane reload`, `systemctl reload voicelane` and SIGHUP do the same: the configuration is read, judged and compiled like at
//! the start, and then all of it is in force, or nothing. A file with a fault, one that others may write, a change that
//! wants a restart, a kernel that refuses: what was in force stays. `reload` then ends with 2 and says why, as do the
//! log, `voicelane events` and, until a reload succeeds, the warnings of `voicelane status`.
//!
//! Services, the choice of the uplink and the interfaces of a gateway follow a reload. `[tun]`, `[route]`, `[nat]`,
//! `[fallback]`, the rest of `[gateway]`, `[relay]`, `[control]` and `[metrics]` want a restart: calls in progress, the
//! kernel and the neighbours know us by them.
//!
//! A call that both policies name notices nothing. The engine learns the new policy first; then new tables are filled, then
//! new rules added, then old rules taken out, then old tables emptied, and a port range keeps its table. A service that
//! has gone is refused for the moment in between (an ICMP error), and is in the VPN after it. Its mapping stays until it
//! is idle.
//!
//! # Packages
//!
//! `scripts/package` builds a .deb and an .rpm: program, unit, user, `/etc/voicelane/voicelane.toml` (every setting as a
//! comment or with its default; never written over), manual pages and completions for bash, zsh and fish, both from the
//! definition of the command line. Installation enables and starts the service; it asks nothing. Removing keeps the
//! configuration; purging leaves the user and nothing else.
//!
//! systemd-networkd takes foreign rules and routes away by default. voicelane brings them back; where networkd manages the
//! network, `/usr/share/voicelane/networkd.conf` in `/etc/systemd/networkd.conf.d/` spares both the work. It is not
//! switched on by itself, for it concerns every program on the machine.
//!
//! `scripts/release` makes packages, an SBOM (CycloneDX) and checksums of what is committed and checked.
