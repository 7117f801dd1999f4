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
//! | media over UDP | on | it is what the vendor asks to keep out of the VPN |
//! | proof of a better uplink | 2 s | see [`super::laptop`] for this and all other timers |
//! | events | 1,024 in memory, 512 KiB on the disk | some weeks of a laptop's life, and a page for a person |
//! | TUN MTU | 1500 | what applications expect of a path; the uplink's own MTU answers through the error queue |
//! | protocol number | 118 ("v") | names our rules and routes in `ip rule` and `ip route`; assigned to nobody in rt_protos |
//! | mappings | at most 32,768 | half of the ports of an address; a laptop needs ten |
//! | mappings of an inside address | at most 8,192 | a program that opens sockets without end leaves room for other addresses |
//! | waiting fragments | 4 MiB, 1 MiB of a source, 15 s | the kernel's own `ipfrag_high_thresh`; a local sender's fragments come in a row |
//! | ICMP errors | 50 in a row, 100 in a second, of our own and of the path each | RFC 4443 section 2.4 (f); a mistyped port of one call is 50 in a second |
//! | contacts of a mapping | at most 1,024 | an ICE agent checks a few dozen candidates |
//! | TCP connections | at most 4,096 | 512 MiB of windows if all were full; a browser opens some dozen |
//! | TCP connections of an inside address | at most 2,048 | half: a program that opens connections without end leaves room for other addresses |
//! | TCP port outside | the kernel's choice | nobody punches holes to a server, and a preserved port could still be in TIME-WAIT |
//! | window of a connection | 64 KiB each way | fills a gigabit as long as the way through the TUN and back takes less than 0.5 ms |
//! | idle TCP connection | 2 h 4 min; opening or closing 4 min | RFC 5382 REQ-5 |
//! | trials in a row that bring a call back | 3 | one may be luck |
//! | mappings in a row that take the uplink with them | 2, if none heard anything in between | one may have a dead server |
//! | trial of a firewall that refused clients' media | 1 min | each costs calls what is sent within some 30 ms |
//! | priority of EF | `SO_PRIORITY` 6 | interactive voice; needs no capability |
//! | control requests | 4 KiB; of one user 40 in a row, 20 in a second; 8 connections at once, root 16 | `status --watch` and a monitor ask a few times in a second; nobody keeps root out |
//! | readings of metrics | 10 in a second, 4 readers at once | each asks the thread that carries packets; Prometheus asks four times in a minute |
//! | `--config-dir` | `/etc/voicelane` | where a package's configuration belongs (FHS 3.0 section 3.7) |
//! | `--runtime-dir` | `/run/voicelane` | emptied by a reboot, as routes are (FHS 3.0 section 3.15) |
//! | `--log` | `info` | what changed, and what a person should act on; no addresses |
//! | `--interval` | `1` s | what a person can follow |
//! | `--seconds` of the demo and of a capture | `8`, `30` | 400 packets each way, among which a lost one shows; long enough to call somebody |
//! | `--packets` of a capture | `100000` | ten minutes of a call with voice alone, and 10 MB of headers |
//! | `--output` of `capture` and `bugreport` | `voicelane.pcap`, `voicelane-bugreport.tar.gz` | where whoever asks is; what is there is not written over |
//! | TUN reads and socket reads | 64 each per wake-up | equal, so that neither direction starves the other |
//! | real-time budget | 80 % of a core in 100 ms; when it is used up, ordinary for 1 s | a machine of one core must not freeze |
//! | TUN queue | 500 packets, the kernel's default | 5 ms at what one core carries. 1,000 lowered what is carried in overload by 6 % (they leave the cache before they are read, most likely) and doubled the delay; 10,000 turned overload into 100-400 ms of standing delay |
//! | TCP streams carried | 4 per wake-up, 1 while packets wait in the TUN | what they bring into the TUN's queue must fit beside media |
