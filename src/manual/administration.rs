//! For those who run many laptops: the configuration in layers, who may ask the service, how it says how it does.
//!
//! # Layers
//!
//! | layer | where | who |
//! |---|---|---|
//! | `vendor` | compiled in: every default ([`super::defaults`]) and the catalogues | we, from what the vendor publishes |
//! | `file` | `/etc/voicelane/voicelane.toml` | IT |
//! | `drop-in` | `/etc/voicelane/conf.d/*.toml`, in the order of their names' bytes | IT's tools, one file each |
//! | `credential` | `voicelane.toml` among systemd's credentials | IT's management, encrypted if it likes |
//! | `command-line` | flags, and the environment variable of each: `--uplink` is `VOICELANE_UPLINK` | whoever starts the service |
//!
//! The last layer that has a key has the last word. A list replaces the list, a service the whole service of its name,
//! be it a catalogue's: what is half one file's and half another's can be understood by nobody. Two services of one name
//! in one file are a fault. Every file says `version = 1`, and every file is checked in full, so that no drop-in hides
//! what is wrong below it.
//!
//! `--config FILE` means that file alone, without drop-ins and credential: a test of a file shall not depend on the machine.
//! The vendor's layer and the command line's stay.
//!
//! The unit loads a credential `voicelane.toml` if there is one: in `/etc/credstore`, handed to a machine from outside or,
//! by a drop-in of the unit that says `LoadCredentialEncrypted=voicelane.toml`, encrypted for this machine alone
//! (systemd-creds(1)). It is for configurations that users must not read, and so `config show` shows it to root only, while
//! the service runs. systemd hands it over at a start, so a change wants a restart.
//!
//! `voicelane config show --effective` prints a file that says the same as all layers, and behind each value the layer,
//! the file and the line that it comes from. Without `--effective` it leaves out what nobody but the vendor said.
//!
//! A flag beats its environment variable. A switch is set by `1` or `true`, a list by commas.
//!
//! # Who may ask
//!
//! | request | root, the service's user | `admin_group` | `group` | others |
//! |---|---|---|---|---|
//! | to look: status, mappings, monitor | yes | yes | yes | no |
//! | to change | yes | yes | no | no |
//!
//! The kernel says who a peer is (SO_PEERCRED, SO_PEERGROUPS): user, group and supplementary groups as its process has
//! them, without a look into a directory that may be a slow server. So a user who was added to a group must log in
//! again, as for any file. The file's mode is 0600 without groups, 0660 with one. With two it is 0666, because a file has
//! one group; the credentials still decide.
//!
//! One line of JSON each way, of at most 4 KiB to the service: `{"version":1,"request":"status"}`. Within a version
//! fields are only added; another version is refused with a sentence. A user has 40 requests in a row and 20 in a second
//! after that, and all users but root share eight connections of at most five seconds: nobody keeps root out.
//!
//! # How it does
//!
//! `voicelane status` says it on one screen; its exit code says it to a script:
//!
//! | state | exit code | meaning |
//! |---|---|---|
//! | `working` | 0 | media leaves by the uplink, and nothing is to be said against it |
//! | `degraded` | 1 | media leaves by the uplink, and each warning says what to do |
//! | `not_working` | 2 | no family's media leaves: it is in the VPN |
//! | | 3 | the service does not run |
//! | | 4 | it cannot be told: no permission, or the service is busy |
//!
//! `vpn` is every tunnel with routes to more than itself, and whether they take all of IPv4 or IPv6. An IPsec VPN without
//! an interface has no such routes.
//!
//! `voicelane monitor` tells the service's events and the differences between two looks half a second apart. It misses no
//! mapping, since each lives for two minutes at least. What was before is in `voicelane events`.
//!
//! # Metrics
//!
//! Off until `[metrics] listen` says where: `"unix"` (the socket `metrics.sock` in the runtime directory, for those who
//! may look) or a loopback address and port (for everybody on the machine). Another machine cannot read them: let an
//! agent forward them. `GET /metrics` answers OpenMetrics 1.0 to those who accept it, Prometheus' older text to others, and
//! ten times in a second at most.
//!
//! ```text
//! curl --unix-socket /run/voicelane/metrics.sock http://localhost/metrics
//! ```
//!
//! Labels are words of ours or of the kernel: `direction`, `family`, `reason`, `cause`, `outcome`, `event`, `state`. No address,
//! interface or mapping is one: a time series for each call would be a register of who called whom.
//!
//! `config/voicelane.rules.yml` has alerts and `config/grafana.json` a dashboard. Tests hold both to the metrics that
//! exist, and promtool judges all three.
