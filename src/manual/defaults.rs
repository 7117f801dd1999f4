//! Defaults and fixed limits, each with its reason.
//!
//! # Settings
//!
//! The table of settings (`src/config/settings.rs`) generates this list. See `voicelane.toml(5)` for descriptions.
#![doc = include_str!("settings.md")]
//!
//! # Flags and fixed limits
//!
//! A flag has two dashes.
//!
//! | default | value | reason |
//! |---|---|---|
//! | media over UDP | outside the VPN | the vendor asks to keep it out of the VPN |
//! | time that a better uplink must be stable | 2 s | see [`super::laptop`] for this and all other timers |
//! | events | 1,024 in memory, 512 KiB on the disk | some weeks of a laptop's events |
//! | TUN MTU | 1500 | applications expect it of a path; the socket error queue reports the uplink's own MTU |
//! | protocol number | 118 ("v") | identifies voicelane's rules and routes in `ip rule` and `ip route`; not assigned in rt_protos |
//! | mappings of an inside address | at most 8,192 | a program that opens too many sockets leaves mappings for other addresses |
//! | mapping without an answer | 30 s; at a limit the oldest of the inside address is evicted | it carries no call |
//! | fragments before reassembly | 4 MiB, 1 MiB of one source, 15 s | the kernel's `ipfrag_high_thresh`; a local sender sends fragments in a row |
//! | ICMP errors | burst 50, 100 per second, for voicelane's own and for forwarded errors each | RFC 4443 section 2.4 (f); one call to a closed port causes 50 per second |
//! | permitted remotes of a mapping | at most 1,024 | an ICE agent checks a few dozen candidates |
//! | TCP connections | at most 4,096 | 512 MiB if all windows are full; a browser opens some dozen |
//! | TCP connections of an inside address | at most 2,048 | half: a program that opens too many connections leaves some for other addresses |
//! | outside TCP port | the kernel selects it | clients need no port preservation, and a preserved port can be in TIME-WAIT |
//! | TCP window | 64 KiB in each direction | fills 1 Gbit/s while the round trip through the TUN is below 0.5 ms |
//! | idle TCP connection | 2 h 4 min; opening or closing 4 min | RFC 5382 REQ-5 |
//! | successful probes before a call fails back | 3 | a single one may be chance |
//! | failed calls after which the uplink fails | 2, to different regions, without a response in between or within the last second | one server may be down, and a router may refuse one region |
//! | retry after a firewall blocked clients' media | 1 min | each retry loses the packets of some 30 ms |
//! | priority of EF | `SO_PRIORITY` 6 | interactive voice; needs no capability |
//! | control requests | 4 KiB; burst 40 and 20 per second of one user; 8 concurrent connections, root 16 | `status --watch` sends a few per second; other users cannot lock root out |
//! | metrics requests | 10 per second, 4 concurrent clients | each one interrupts the forwarding thread; Prometheus sends four per minute |
//! | `--config-dir` | `/etc/voicelane` | configuration files (FHS 3.0 section 3.7) |
//! | `--runtime-dir` | `/run/voicelane` | a reboot clears it, like routes (FHS 3.0 section 3.15) |
//! | `--log` | `info` | changes, and problems that need action; no addresses |
//! | `--interval` | `1` s | a person can follow it |
//! | `--seconds` of the demo and of a capture | `8`, `30` | 400 packets in each direction show a single loss; long enough for a test call |
//! | `--packets` of a capture | `100000` | ten minutes of a voice call, 10 MB of headers |
//! | `--side` of `capture` | `tun` | the packets of applications, with their own addresses |
//! | `--output` of `capture` and `bugreport` | `voicelane.pcap`, `voicelane-bugreport.tar.gz` | the current directory; existing files are kept |
//! | TUN reads and socket reads | 64 each per wake-up | equal shares for both directions |
//! | real-time budget | 80 % of a core in 100 ms; then normal priority for 1 s | a machine with one core must not freeze |
//! | TUN queue | 500 packets, the kernel's default | 5 ms at the throughput of one core; longer queues only add delay under overload |
//! | TCP connections served | 4 per wake-up, 1 while the TUN has packets | their packets share the TUN queue with media |
