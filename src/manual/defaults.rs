//! Every default with its reason. A setting's key stands in the first column, a flag with two dashes; tests hold both
//! to the program.
//!
//! | default | value | reason |
//! |---|---|---|
//! | policy, `include` | talkdesk: `config/talkdesk.toml`, compiled in | an agent's laptop needs no file |
//! | media over UDP | on | it is what the vendor asks to keep out of the VPN |
//! | TCP of the same vendor, `enable` and `disable` | off, and all else as in the catalogue | the vendor's IP allow-listing expects signalling from the VPN's address; one line in `enable` switches it on |
//! | uplink, `uplink.interface` | found | see [`crate::route::uplink`] |
//! | preferred, excluded uplinks: `uplink.prefer`, `uplink.exclude` | none | the administrator's metrics say what is better; a tunnel is never taken unless it is pinned |
//! | proof of a better uplink | 2 s | see [`super::laptop`] for this and all other timers |
//! | events | 1,024 in memory, 512 KiB on the disk | some weeks of a laptop's life, and a page for a person |
//! | VPN's mark and the connection's, `uplink.vpn_mark` and `uplink.conntrack_mark` | none | a kill switch is there on purpose; passing it is IT's decision |
//! | TUN name, `tun.name` | `voicelane0` | says whose it is |
//! | TUN MTU | 1500 | what applications expect of a path; the uplink's own MTU answers through the error queue |
//! | direct table, `route.table` | 30316 (0x766c, "vl") | used by no known program; captures take the numbers above it |
//! | rule priority, `route.priority` | 100, or one below the lowest foreign rule | ahead of every VPN's, see [`super::capture`] |
//! | mark, `route.mark` | 0x76000000, mask 0xff000000 | wg-quick, Tailscale, Mullvad, WARP, sing-box and kube-proxy use lower bits |
//! | protocol number | 118 ("v") | names our rules and routes in `ip rule` and `ip route`; assigned to nobody in rt_protos |
//! | mapping lifetime, `nat.mapping_lifetime_seconds` | 300 s | RFC 4787 REQ-5 recommends 5 minutes or more; agents put calls on hold |
//! | filtering, `nat.filtering` | address-dependent | RFC 4787 REQ-8; a media server may answer from another port, a stranger may not |
//! | inbound refresh, `nat.inbound_refresh` | off | a remote must not keep a port open by itself (RFC 4787 REQ-6, RFC 7857 section 7) |
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
//! | capture, `route.capture` | exact | what is not relayed never meets us, see [`super::capture`] |
//! | fallback, `fallback.to` | `tunnel`: into the VPN | a call in the VPN is better than none |
//! | silence of the direct way, `fallback.silence_seconds` | 2 s | with the switch itself, a dead uplink costs a call less than 3 s; Wi-Fi stalls for 1 s when it roams |
//! | first trial after a fall, `fallback.retry_seconds` | 10 s, doubled for each relapse within a minute, at most 5 min | a way that comes and goes costs a call a switch each time |
//! | trials in a row that bring a call back | 3 | one may be luck |
//! | mappings in a row that take the uplink with them | 2, if none heard anything in between | one may have a dead server |
//! | interfaces with clients, `gateway.interfaces` | none | a laptop carries nobody else's media, and a router only what IT says |
//! | mappings of a client, `gateway.mappings_per_client` | 256 | a call takes two to ten, each for five minutes after its end; 128 clients may have all of theirs |
//! | TCP connections of a client, `gateway.connections_per_client` | 256 | a browser opens some dozen |
//! | media's code point towards clients, `gateway.remark` | keep | the LAN's code points are IT's |
//! | trial of a firewall that refused clients' media | 1 min | each costs calls what is sent within some 30 ms |
//! | priority of EF | `SO_PRIORITY` 6 | interactive voice; needs no capability |
//! | who may look, `control.group` | nobody but root | mappings tell who is on the phone, and with whom |
//! | who may change, `control.admin_group` | nobody but root | what leaves the VPN is IT's decision |
//! | control requests | 4 KiB; of one user 40 in a row, 20 in a second; 8 connections at once, root 16 | `status --watch` and a monitor ask a few times in a second; nobody keeps root out |
//! | metrics, `metrics.listen` | nowhere | a port that nobody asked for is one more thing to guard |
//! | readings of metrics | 10 in a second, 4 readers at once | each asks the thread that carries packets; Prometheus asks four times in a minute |
//! | format, `version` | 1 | the only one so far; a program that does not know a format refuses it |
//! | `--config-dir` | `/etc/voicelane` | where a package's configuration belongs (FHS 3.0 section 3.7) |
//! | `--runtime-dir` | `/run/voicelane` | emptied by a reboot, as routes are (FHS 3.0 section 3.15) |
//! | `--log` | `info` | what changed, and what a person should act on; no addresses |
//! | `--interval` | `1` s | what a person can follow |
//! | `--seconds` of the demo and of a capture | `8`, `30` | 400 packets each way, among which a lost one shows; long enough to call somebody |
//! | `--packets` of a capture | `100000` | ten minutes of a call with voice alone, and 10 MB of headers |
//! | `--output` of `capture` and `bugreport` | `voicelane.pcap`, `voicelane-bugreport.tar.gz` | where whoever asks is; what is there is not written over |
//! | TUN reads and socket reads | 64 each per wake-up | equal, so that neither direction starves the other |
//! | real time, `relay.realtime` | `true`: on, where permitted | on a busy machine nothing else keeps a call in time, see [`super::load`] |
//! | real-time budget | 80 % of a core in 100 ms; when it is used up, ordinary for 1 s | a machine of one core must not freeze |
//! | TUN queue | 500 packets, the kernel's default | 5 ms at what one core carries. 1,000 lowered what is carried in overload by 6 % (they leave the cache before they are read, most likely) and doubled the delay; 10,000 turned overload into 100-400 ms of standing delay |
//! | TCP streams carried | 4 per wake-up, 1 while packets wait in the TUN | what they bring into the TUN's queue must fit beside media |
