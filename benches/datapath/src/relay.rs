//! The relays that are compared: each in a world of its own, started as its users start it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use tempfile::TempDir;

use crate::frame::Family;
use crate::namespace::Namespace;
use crate::program::Program;
use crate::traffic::Traffic;
use crate::world::{Cores, SERVERS_V6, Shape, WAN, World};

/// What is measured, in this order: the kernel frees what tun2proxy's flows took while others are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Client and server on one wire.
    Wire,
    /// Policy routing, masquerade and marking by the kernel.
    Kernel,
    /// Debian's passt package.
    Pasta,
    /// The plain loop of this package.
    Plain,
    /// The plain loop in a runtime, which waits for its epoll set.
    AsyncFd,
    /// The same with a task for each flow.
    Tasks,
    /// The same, but the task of the TUN goes on while there is a packet.
    GreedyTasks,
    /// The same by io_uring.
    Uring,
    /// voicelane.
    Voicelane,
    /// tun2proxy and the SOCKS server of the crate fast-socks5.
    Tun2proxy,
}

/// Where the programs are.
#[derive(Debug)]
pub struct Programs {
    /// voicelane's binary.
    pub voicelane: PathBuf,
    /// The folder of what was built to be compared with.
    pub peers: PathBuf,
    /// A command that starts every relay that is a program, with its arguments.
    pub under: Vec<String>,
}

/// A running relay with its world; both end with this value.
pub struct Relay {
    /// What it is.
    pub kind: Kind,
    /// Its generator and echo.
    pub traffic: Traffic,
    /// The processes, none of which outlives the world.
    programs: Vec<Program>,
    _files: TempDir,
    _world: World,
}

impl Kind {
    /// What is measured where nothing is named.
    pub const DEFAULT: [Self; 6] = [
        Self::Wire,
        Self::Kernel,
        Self::Pasta,
        Self::Plain,
        Self::Voicelane,
        Self::Tun2proxy,
    ];

    /// What the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wire => "no relay",
            Self::Kernel => "kernel",
            Self::Pasta => "pasta",
            Self::Plain => "plain loop",
            Self::AsyncFd => "AsyncFd",
            Self::Tasks => "tasks",
            Self::GreedyTasks => "tasks, greedy",
            Self::Uring => "io_uring",
            Self::Tun2proxy => "tun2proxy",
            Self::Voicelane => "voicelane",
        }
    }

    /// What to run to have it, unless it is there.
    pub fn wanting(self, programs: &Programs) -> Option<String> {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut folders = path.split(':').chain(["/usr/sbin", "/sbin"]);
        match self {
            Self::Pasta => (!folders.any(|folder| Path::new(folder).join("pasta").exists()))
                .then(|| "apt-get install passt".to_owned()),
            Self::Tun2proxy => (!programs.tun2proxy().exists() || !programs.socks().exists())
                .then(|| "scripts/bench datapath, which builds it with cargo install".to_owned()),
            Self::Voicelane => (!programs.voicelane.exists())
                .then(|| "cargo build --release, or say --voicelane PATH".to_owned()),
            _ => None,
        }
    }

    /// Whether it is set up here for this family: what is no router of its own is measured over IPv4 alone.
    pub fn carries(self, family: Family) -> bool {
        family == Family::V4 || matches!(self, Self::Wire | Self::Kernel | Self::Voicelane)
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(self, programs: &Programs, family: Family, cores: Cores) -> Result<Relay> {
        let world = World::new(self.shape(), family, cores);
        let files = TempDir::new()?;
        let guest = |program: &str| {
            let mut command = world.router.command("taskset");
            command.args(["--cpu-list", &cores.relay.to_string()]);
            command.args(&programs.under).arg(program);
            command
        };
        let start = |command: &mut Command| Program::start(self.name(), command);
        let programs = match self {
            Self::Wire => Vec::new(),
            Self::Kernel => {
                forward(&world, family);
                Vec::new()
            }
            Self::Pasta => {
                let namespace = format!("/run/netns/{}", world.lan().name());
                let pasta = start(
                    guest("pasta")
                        .args([
                            "--foreground",
                            "--quiet",
                            "--config-net",
                            "--ns-ifname",
                            "tap0",
                        ])
                        .args(["--tcp-ports", "none", "--udp-ports", "none"])
                        .args(["--tcp-ns", "none", "--udp-ns", "none", "--runas", "0"])
                        .args(["--netns-only", "--netns", &namespace]),
                );
                appears(world.lan(), "tap0", &pasta)?;
                world.divert(&format!("via {} dev tap0 onlink", world.gateway()));
                vec![pasta]
            }
            Self::Tun2proxy => {
                let socks = start(
                    guest(&programs.socks().to_string_lossy())
                        .args(["--listen-addr", "127.0.0.1:1080", "--allow-udp"])
                        .args(["--public-addr", "127.0.0.1", "no-auth"])
                        .env("RUST_LOG", "error"),
                );
                let tun2proxy = start(
                    guest(&programs.tun2proxy().to_string_lossy())
                        .args(["--tun", "tun0", "--proxy", "socks5://127.0.0.1:1080"])
                        .args(["--max-sessions", "100000", "--udp-timeout", "300"])
                        .args(["--verbosity", "off"]),
                );
                appears(&world.router, "tun0", &tun2proxy)?;
                world.router.ip("link set tun0 up");
                world.divert("dev tun0");
                vec![tun2proxy, socks]
            }
            Self::Voicelane => {
                let config = files.path().join("voicelane.toml");
                fs::write(&config, config_of(family))?;
                let mut voicelane = start(
                    guest(&programs.voicelane.to_string_lossy())
                        .arg("run")
                        .arg("--config")
                        .arg(&config)
                        .arg("--runtime-dir")
                        .arg(files.path().join("run")),
                );
                voicelane.wait_for("ready");
                world.divert("dev voicelane0");
                vec![voicelane]
            }
            Self::Plain | Self::AsyncFd | Self::Tasks | Self::GreedyTasks | Self::Uring => {
                let myself = std::env::current_exe()?;
                // It is named there as it is here.
                let readiness = self.to_possible_value().expect("none is skipped");
                let mut relay = start(guest(&myself.to_string_lossy()).args([
                    "loop",
                    readiness.get_name(),
                    "tun0",
                    WAN,
                ]));
                relay.wait_for("ready");
                world.router.ip("link set tun0 up");
                world.divert("dev tun0");
                vec![relay]
            }
        };
        let traffic = world.traffic(self.marks());
        Ok(Relay {
            kind: self,
            traffic,
            programs,
            _files: files,
            _world: world,
        })
    }

    fn shape(self) -> Shape {
        match self {
            Self::Wire => Shape::Wire,
            Self::Pasta => Shape::Halves,
            _ => Shape::Router,
        }
    }

    /// Whether what leaves bears voice's code point.
    fn marks(self) -> bool {
        !matches!(self, Self::Wire | Self::Pasta | Self::Tun2proxy)
    }
}

impl Relay {
    /// The memory of its processes, in KiB.
    pub fn memory(&self) -> u64 {
        let resident = |program: &Program| {
            let status = fs::read_to_string(format!("/proc/{}/status", program.pid()));
            number(&status.unwrap_or_default(), "VmRSS:")
        };
        self.programs.iter().map(resident).sum()
    }
}

impl Programs {
    fn tun2proxy(&self) -> PathBuf {
        self.peers.join("bin/tun2proxy-bin")
    }

    fn socks(&self) -> PathBuf {
        self.peers.join("bin/server")
    }
}

/// The number behind a name in a file of `/proc`; 0 where there is none.
pub fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// The same work done by the kernel.
fn forward(world: &World, family: Family) {
    let family = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    world.divert(&format!("via {} dev {WAN}", world.gateway()));
    world.router.nft(&format!(
        "add table {family} relay
         add chain {family} relay out {{ type nat hook postrouting priority srcnat; }}
         add rule {family} relay out oifname {WAN} masquerade
         add chain {family} relay ef {{ type filter hook postrouting priority mangle; }}
         add rule {family} relay ef oifname {WAN} udp dport 10000-60000 {family} dscp set ef"
    ));
}

/// The configuration of voicelane: the compiled-in policy, and over IPv6 a service of the benchmark's.
fn config_of(family: Family) -> String {
    let talkdesk = "version = 1\ninclude = [\"talkdesk\"]\n";
    match family {
        Family::V4 => talkdesk.to_owned(),
        Family::V6 => format!(
            "{talkdesk}
             [[service]]
             name = \"media-ipv6\"
             description = \"media over IPv6\"
             role = \"media\"
             protocol = \"udp\"
             prefixes = [\"{SERVERS_V6}\"]
             ports = [\"10000-60000\"]
             dscp = \"EF\"
             source = \"made up for this benchmark\""
        ),
    }
}

/// Waits until a program has made its interface.
fn appears(namespace: &Namespace, interface: &str, program: &Program) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while namespace.enter(|| nix::net::if_::if_nametoindex(interface).is_err()) {
        ensure!(
            Instant::now() < deadline,
            "{interface} does not appear: {}",
            program.log()
        );
        sleep(Duration::from_millis(20));
    }
    Ok(())
}
