//! When calls are bad: the doctor, the bug report, the packet capture.
//!
//! # The doctor
//!
//! `voicelane doctor` examines the machine and prints for each check what was found and what to do. Each check is a file of
//! [`crate::doctor`]. Its name in `--json` is stable. Within version 1, names, fields and verdicts are only added.
//!
//! | check | reports a fault or warning when | as an ordinary user |
//! |---|---|---|
//! | `privileges` | root has no `CAP_NET_ADMIN`, as in a container | yes |
//! | `kernel` | no TUN driver; Linux older than 4.17 (ports in rules) or 5.12 (owned nftables tables) | yes |
//! | `configuration`, `files` | the configuration has faults; others may change its files | if readable |
//! | `policy` | no rule is active today; a rule ends within 30 days | yes |
//! | `clock` | the clock is behind the program's date or not synchronised; the program is older than a year | yes |
//! | `service` | the service does not run; each of its own warnings | if `[control] group` permits |
//! | `leftovers` | a killed service left rules, routes or sysctls | saved sysctls need root |
//! | `uplink`, `mtu`, `reverse_path` | no uplink; less than 1280 bytes; a strict filter while the service runs | yes |
//! | `vpn` | never; lists VPNs and what each routes | yes |
//! | `rules` | a prefix of the policy is not routed into the TUN; names the rule | yes |
//! | `networkd` | systemd-networkd manages links and deletes foreign rules or routes | yes |
//! | `firewall` | a firewall blocks a path | no |
//! | `dns` | no resolver. A resolver behind the VPN is `unknown`: its location cannot be seen | yes |
//! | `dscp` | never; reports for one second how applications mark a running call | no |
//! | `wifi` | Linux before 6.8, which sends EF in the video access category | yes |
//! | `path` | a router on the path quotes a DSCP other than EF (`--path`) | no |
//! | `router` | a SIP helper module is loaded; advice about the home router | yes |
//!
//! Exit codes: 0 without problems, 1 with warnings, 2 with faults. A check that could not run is `unknown` and does not
//! count. `root_knows` marks findings that root would complete.
//!
//! The report has the verdict first, then the worst findings. Findings without a problem are shown with `--all`. One cause is one
//! finding: without an uplink, the checks that depend on it are listed in one line (`consequences` in `--json`).
//!
//! The doctor changes nothing. It runs one program, `journalctl`, and only while the service does not run: its last error
//! is part of the finding. It probes the firewall only while no service runs, because two
//! simultaneous probes would detect each other. While the service runs, its own probes are the answer.
//!
//! `--path` is off by default because it sends traffic to the vendor: per family eight datagrams of at most 8 bytes to one
//! media address. Routers at which the hop limit expires quote the received header. A raw ICMP socket reads the quoted
//! DSCP, because the kernel's error queue omits the quoted header. Not visible: changes behind the last router that
//! answers, and the direction from the vendor.
//!
//! # The bug report
//!
//! `voicelane bugreport` writes one compressed archive: the doctor's findings, status, events, the effective configuration
//! with origins, links, addresses, routes, rules, versions, and a list of these files. It runs `systemctl`, `journalctl`,
//! `nft`, `iptables-save` and `ip` for the unit, its journal and the rules of other programs, each for at most 10 s. The archive is readable by its owner
//! only.
//!
//! The user and password of a URL are withheld. Pseudonyms replace addresses, hardware addresses, and the names of host, users and homes. Each pseudonym is the same
//! everywhere (`private4-2`, `mac-1`, `user-1`). The policy's addresses stay, and so do prefix lengths, interface names and
//! ports. Descriptions written by people stay too, so read the archive before you pass it on. Of a credential the archive
//! contains the keys only.
//!
//! # The capture
//!
//! `voicelane capture` records both directions of the TUN (`--side uplink`: of the uplink, after address translation,
//! packets from and to the policy's addresses only) as pcap with nanoseconds: `wireshark voicelane.pcap`. It keeps IP,
//! UDP and TCP headers and the fixed headers of RTP and STUN, which show loss and jitter. STUN attributes, DTLS keys and
//! voice are recorded with `--payload` only. The capture ends after `--seconds` or `--packets`, on Ctrl-C, or with the service;
//! the file is complete in each case. The kernel copies packets to a separate socket, so calls are not disturbed.
