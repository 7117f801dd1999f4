//! When calls are bad: the doctor, the archive, the capture; what each looks at, and what none of them does.
//!
//! # The doctor
//!
//! `voicelane doctor` examines the machine and says of each thing what was found and what to do. Each examination is a file
//! of [`crate::doctor`], and its name in `--json` (version 1; names, fields and verdicts are only added) is stable.
//!
//! | examination | a fault or a warning when | without root |
//! |---|---|---|
//! | `privileges` | root has no `CAP_NET_ADMIN`, as in a container | told |
//! | `kernel` | no TUN driver; Linux older than 4.17 (ports in rules) or 5.12 (owned nftables tables) | told |
//! | `configuration`, `files` | it has faults; others could change it, so that the service does not obey it | unless it is hidden |
//! | `policy` | nothing is active today; a rule ends within 30 days | told |
//! | `clock` | it is behind the program's own date, or nobody keeps it right; the program is older than a year | told |
//! | `service` | it does not run; all it warns of itself | if `[control] group` lets |
//! | `leftovers` | a killed service left rules, routes or settings | the journal is root's |
//! | `uplink`, `mtu`, `reverse_path` | there is none; less than 1280 bytes; a strict filter while the service runs | told |
//! | `vpn` | never: it says what there is, and what it takes | told |
//! | `rules` | the kernel, asked for each prefix of the policy, sends it elsewhere than into the TUN; whose rule did that | told |
//! | `networkd` | it manages links, and takes foreign rules or routes away | told |
//! | `firewall` | it forbids a way, by the service's probes or, while none runs, by our own | no |
//! | `dns` | no resolver. Behind the VPN: unknown, for where it stands as the vendor sees it cannot be seen | told |
//! | `dscp` | never: it hears for a second how applications mark a running call | no |
//! | `wifi` | Linux before 6.8, which gives EF the access category video | told |
//! | `path` | a router quotes another mark than EF (`--path`) | no |
//! | `router` | a SIP helper of this machine is loaded; of the router at home it gives advice, and no verdict | told |
//!
//! The exit code is 0 when nothing is wrong as far as could be seen, 1 with warnings, 2 with faults. What could not be
//! looked at is `unknown`, which counts for neither; `root_knows` says where root would know.
//!
//! # What it does to the machine and the network
//!
//! Nothing is changed and no program is run. A firewall is probed only while no service runs, by chains that go with the
//! process ([`crate::route::firewall`]): two that probe would take each other for a firewall. With a service, its own
//! probes, repeated at each change, are the answer.
//!
//! `--path` is off by default because it sends traffic to the vendor: eight datagrams of at most 8 bytes for each family, to one
//! address of the policy's media, from a socket as the relay's are. Routers answer those whose hop limit ends with them,
//! and quote the header as it came to them, mark included. The kernel's error queue hands out the quoted payload and not
//! the quoted header, so a raw ICMP socket reads it, which only root may open. A router may say nothing; a mark that is changed behind
//! the last one that answers is not seen, and neither is what happens to answers.
//!
//! # The archive
//!
//! `voicelane bugreport` writes one compressed archive: the doctor's findings, status, events, the configuration in force
//! with its origins, links, addresses, routes and rules as our own netlink sees them, versions; and a list of these.
//! Addresses, hardware addresses (also where an interface is called by one), names of the host, of people with an account
//! and of their homes each have a stand-in that is the same everywhere (`private4-2`, `mac-1`, `user-1`). The policy's
//! addresses stay, and prefix lengths, interface names and ports. What a person wrote into a description stays too, but for
//! these names, and of what came by a credential only the key: whoever passes it on should look through it. The file is new, and its owner's alone.
//!
//! # The capture
//!
//! `voicelane capture` records what passes the TUN, both directions, as pcap with nanoseconds: `wireshark voicelane.pcap`.
//! It keeps IP, UDP or TCP headers, and of a call the fixed header of RTP or STUN, which is enough for loss and jitter;
//! names in STUN, keys in DTLS and voices are not in it unless `--payload` says so. It ends by itself (`--seconds`,
//! `--packets`), on Ctrl-C, or with the service, and the file is whole each time. The service notices nothing: the kernel
//! copies packets to a socket beside it.
