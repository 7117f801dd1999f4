//! For fleets: configuration layers, access control, states and exit codes, metrics.
//!
//! # Configuration layers
//!
//! | layer | place | owner |
//! |---|---|---|
//! | `vendor` | compiled in: every default ([`super::defaults`]) and the catalogues | voicelane |
//! | `file` | `/etc/voicelane/voicelane.toml` | IT |
//! | `drop-in` | `/etc/voicelane/conf.d/*.toml`, in byte order of the names | IT's tools, one file each |
//! | `credential` | `voicelane.toml` among systemd's credentials | IT's management |
//! | `command-line` | flags and their environment variables: `--uplink` is `VOICELANE_UPLINK` | the caller |
//!
//! The last layer that sets a key wins. A list replaces the whole list. A service replaces the whole service of the same
//! name, also one of a catalogue. Two services of one name in one file are a fault.
//!
//! Every file says `version = 1`. Every file is checked in full, so a drop-in cannot hide a fault below it.
//!
//! `--config FILE` reads that file alone, without drop-ins and credential, so that a test does not depend on the machine.
//! The `vendor` and `command-line` layers still apply. A flag beats its environment variable. `1` or `true` sets a
//! switch; commas separate a list.
//!
//! `voicelane config show --effective` prints every value with its layer, file and line. Without `--effective` the output
//! omits values of the vendor layer.
//!
//! The unit loads the credential `voicelane.toml` if it exists, for example from `/etc/credstore`. For an encrypted one add
//! `LoadCredentialEncrypted=voicelane.toml` in a unit drop-in (systemd-creds(1)). Credentials suit configurations that users
//! must not read: `config show` prints them to root only, while the service runs. systemd passes credentials at a start,
//! so a change needs a restart.
//!
//! # Access control
//!
//! | request | root, the service's user | `admin_group` | `group` | others |
//! |---|---|---|---|---|
//! | summary: state, uplink, VPN, warnings; no address, no call | yes | yes | yes | yes |
//! | read: status, mappings, events | yes | yes | yes | no |
//! | change: reload, pause, resume | yes | yes | no | no |
//!
//! The kernel identifies the peer (`SO_PEERCRED`, `SO_PEERGROUPS`). No user directory is queried, so a new group
//! membership takes effect with the next login. The socket has mode 0666: every user may connect, and the peer's
//! credentials decide. So the service's user needs no membership in the groups. `status` of a user without a group is the
//! summary. Its warnings have pseudonyms for addresses, and no quotation of the configuration.
//!
//! A group that does not exist grants nothing and is a warning in the status.
//!
//! A request is one line of JSON of at most 4 KiB: `{"version":1,"request":"status"}`. The reply is one line. Within a
//! version, fields are only added. Another version is refused with a reason.
//!
//! A user may send 40 requests at once and 20 per second after that. Root has 16 connections, members of the groups have
//! eight, four of one user at most. All others have four, two of one user. So no class of users can lock out another. A
//! request must be complete after one second; a connection lasts at most five.
//!
//! # Pause
//!
//! `voicelane pause 15m` keeps all media in the VPN for 15 minutes (default one hour, at most 24 hours). `voicelane resume`
//! ends the pause. The state is `not_working` meanwhile, with the end of the pause as the first warning. A pause survives
//! a reload and ends with the service. Calls in progress change their path as after a loss of the uplink.
//!
//! # States and exit codes
//!
//! `voicelane status` prints the state and returns it as its exit code:
//!
//! | state | exit code | meaning |
//! |---|---|---|
//! | `working` | 0 | media of every family of the policy leaves through an uplink; no call is in the VPN; no warnings |
//! | `degraded` | 1 | a family or a call is in the VPN, or there are warnings; new media of another family leaves |
//! | `not_working` | 2 | no media leaves through an uplink |
//! | | 3 | the service is not running |
//! | | 4 | unknown: no permission, or the service is busy |
//!
//! The lines after the state have its reason and the remedy. In `--json`, `reason.code` is stable: `empty_policy`, `starting`,
//! `paused`, `no_uplink` (the VPN has the media), `no_network` (nothing has), `firewall_blocked`, `not_applied`, `uplink_failed`,
//! `call_in_vpn` (a call that failed over and sent within ten seconds), `warning`. `media` has the path of each family that
//! the policy has. A family that has neither an uplink nor a VPN does not count. Zeroes and defaults are not printed.
//!
//! `voicelane explain` returns 0 if packets leave directly, 1 if they are in a VPN, 3 if they go elsewhere (a local network,
//! this machine, no VPN at all), and 2 after an error or if that was not measured. Of several addresses the worst counts.
//!
//! `voicelane reload` prints the resulting state. It returns 0 if media leaves through an uplink (or will after a pause), 1 if none
//! does, and 2 if the
//! previous configuration stays active. Every command has 3 for a stopped service, and 4 for a missing permission or a
//! service that does not answer. The help of each command lists its codes.
//!
//! With `--json`, an error is `{"version":1,"error":{"code":4,"text":"..."}}` on standard output.
//!
//! `voicelane check` fails for each configuration that the service would refuse. That includes owners and modes of the files
//! in the configuration directory, seen as the user `voicelane` if it exists. It warns of what this machine does not have
//! now: interfaces, groups, a free address for metrics. The service starts without them.
//!
//! `vpn` lists each tunnel that has routes beyond its own addresses, and whether these cover all of IPv4 or IPv6. An IPsec
//! VPN without an interface has no such routes and is not listed.
//!
//! `voicelane events --follow` prints events as they happen. `voicelane mappings --watch` prints the mappings repeatedly.
//!
//! A mapping with media is a call. `mappings` has one line for each: id, remote, the policy's service, path, outside
//! endpoint, age, last answer, program. Events name the same id. Mappings without media that sent to the same remote address
//! are counted as the call's candidates. The command itself finds the program, so it sees what its user may see; otherwise
//! the column says "not measured: needs root". Ended calls are listed for 30 s with the cause
//! (`calls::a_call_is_one_line_and_ends_with_its_application`).
//!
//! # Metrics
//!
//! `[metrics] listen` enables metrics: `"unix"` (the socket `metrics.sock`, for users who may read) or a loopback
//! address and port (for every user of the machine). Other machines cannot connect; use an agent to forward metrics.
//! `GET /metrics` returns OpenMetrics 1.0 if the client accepts it, otherwise Prometheus' text format, at most ten times
//! per second.
//!
//! ```text
//! curl --unix-socket /run/voicelane/metrics.sock http://localhost/metrics
//! ```
//!
//! On a loopback port, `Host` must be `localhost` or a loopback address, so that a website cannot read the metrics through
//! a browser (DNS rebinding). A half-open request is closed after a second, or when 16 others follow it. If the socket
//! cannot be created, the service runs without metrics, and the status has a warning.
//!
//! No label contains an address, interface or mapping. A time series per call would record who called whom.
//!
//! `config/voicelane.rules.yml` has Prometheus alerts and `config/grafana.json` a dashboard; packages install both in
//! `/usr/share/voicelane`. Tests compare both with the exported metrics.
