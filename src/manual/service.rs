//! The systemd unit, privileges, reload, packages.
//!
//! # The service
//!
//! `voicelane run` is the service, in the foreground, under any service manager or none. With systemd it reports readiness,
//! the current uplink (`systemctl status` shows it), reloads and its end (sd_notify(3)). Ready means that the policy is in
//! force as far as the network permits. A laptop without a network is ready too, with all media in the VPN.
//!
//! The watchdog signal starts in the reconciler, and the thread that carries packets sends it to systemd. If either hangs
//! for ten seconds, systemd kills and restarts the service. Media is in the VPN meanwhile.
//!
//! If standard error is the journal, events carry their kind as a field: `journalctl VOICELANE_EVENT=uplink_changed`.
//!
//! `cleanup` runs before each start and after each end. It uses the routing ids of the configuration or, if that has
//! faults, the default ids. The runtime directory outlives a restart, because it holds the saved sysctls.
//!
//! # What the unit permits
//!
//! `systemd-analyze security --offline=yes` gives `config/voicelane.service` 1.9 of 10; `tests/packages` fails above 2.0.
//!
//! | permitted | reason |
//! |---|---|
//! | `CAP_NET_ADMIN`, ambient | the TUN, rules, routes, nftables, `SO_MARK`, `IP_XFRM_POLICY`, `/proc/sys/net` |
//! | `CAP_NET_RAW`, ambient, dropped after the start | a raw ICMPv6 socket for neighbour solicitations: some kill switches block IPv6 neighbour discovery ([`super::vpns`]) |
//! | system call `capset` | dropping capabilities |
//! | `/dev/net/tun`, hence no `PrivateDevices` | the TUN |
//! | `/proc/sys/net` writable, hence no `ProcSubset=pid` | `rp_filter` of the uplink, settings of the TUN |
//! | `AF_NETLINK` | routes, rules, IPsec policies, nftables |
//! | `AF_INET`, `AF_INET6`, no `PrivateNetwork`, no address list | media to the policy's destinations |
//! | `AF_UNIX` | control socket, journal, logind |
//! | `CPUSchedulingPolicy=fifo`, reset on fork | real time without a system call for it ([`super::load`]) |
//!
//! The service holds no secret. Its configuration is world-readable because users run `check` and `explain`. A credential
//! can hold what users must not read ([`super::administration`]).
//!
//! # Privileges
//!
//! Two steps of the start need more than `CAP_NET_ADMIN`: opening the raw socket, and requesting real-time scheduling. After them, before the first rule and the first packet, the service drops all
//! other capabilities from all sets and sets `NoNewPrivs`. Later changes of network or configuration need no more, so they
//! cannot fail for a missing capability.
//!
//! `CAP_NET_ADMIN` stays for three reasons. Rules and routes are restored and moved while the service runs. Each new socket
//! sets a mark and an IPsec bypass. The end restores sysctls. Source ports below 1024 are not preserved: the mapping gets
//! another port, so `CAP_NET_BIND_SERVICE` is not needed.
//!
//! # Last configuration that worked
//!
//! After a successful start or reload, the files in force are stored in the state directory (`last-good.json`, mode 0600;
//! it includes a credential). If a later start finds an error, or files that others may write, or the kernel refuses the
//! new settings, the service uses the stored ones. The state is then `degraded`, and the first warning has the error and
//! the remedy. `voicelane reload` returns to the files. Without a stored configuration the start fails with exit code 2.
//!
//! A stored configuration is used only for the same `--config` or `--config-dir`, and only with `--state-dir`, which the
//! unit sets. Flags and environment variables are not stored.
//!
//! A missing group of `[control]`, a metrics socket that cannot be created and an unwritable state directory are warnings:
//! media leaves as usual.
//!
//! # Reload
//!
//! `voicelane reload`, `systemctl reload voicelane` and SIGHUP are equivalent. The configuration is read, checked and
//! compiled as at a start. Then all of it takes effect, or nothing does. The previous configuration stays active if the new
//! one has a fault, others may write it, it needs a restart, or the kernel refuses it. `reload` then exits with 2 and
//! prints the reason. The log, `events` and the warnings of `status` show the same reason.
//!
//! | follows a reload | needs a restart |
//! |---|---|
//! | services, selection of the uplink, interfaces of a gateway | `[tun]`, `[route]`, `[nat]`, `[failover]`, the rest of `[gateway]`, `[relay]`, `[control]`, `[metrics]` |
//!
//! A call that both policies relay continues undisturbed. The order is: the engine receives the new policy, new tables are
//! filled, new rules added, old rules deleted, old tables emptied. A port range keeps its table. Packets of a removed
//! service are rejected for a moment, then take the VPN.
//!
//! # Packages
//!
//! `scripts/package` builds a .deb and an .rpm. Installation enables and starts the service without questions. Upgrades
//! never overwrite the configuration. Removal keeps the configuration; a purge removes all but the service's user.
//!
//! | path | content |
//! |---|---|
//! | `/usr/bin/voicelane` | the program, without the demo |
//! | `/usr/lib/systemd/system/voicelane.service`, `/usr/lib/sysusers.d/voicelane.conf` | unit and user |
//! | `/etc/voicelane/voicelane.toml`, `/etc/voicelane/conf.d` | every setting with its default; the drop-in directory |
//! | `/usr/share/voicelane` | `networkd.conf`, Prometheus alerts, Grafana dashboard |
//! | `/usr/share/man` | `voicelane(7)`, `voicelane.toml(5)`, a page for each command |
//! | `/usr/share/bash-completion`, `/usr/share/zsh`, `/usr/share/fish` | completions |
//!
//! systemd-networkd deletes foreign rules and routes by default, and voicelane restores them. To spare both programs the
//! work, install `networkd.conf` in `/etc/systemd/networkd.conf.d/`. The package does not, because the file affects every
//! program on the machine.
//!
//! `scripts/release` builds packages, an SBOM (CycloneDX) and checksums from a committed and checked tree.
