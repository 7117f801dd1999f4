//! Everything that more than one examination looks at, read once.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use caps::{CapSet, Capability};
use jiff::civil::Date;

use crate::config::Config;
use crate::control::{self, AskError, Status};
use crate::daemon;
use crate::net::{Family, IfIndex, PortRange, Protocol};
use crate::policy::Policy;
use crate::route::desired::{RoutingIds, Uplink, Uplinks};
use crate::route::lookup::RoutingDecision;
use crate::route::netlink::Rtnetlink;
use crate::route::observed::{Link, Observed};
use crate::route::uplink::{self, UplinkError};

use super::dns;

/// Who is examined, and how.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// The configuration; the default one where there is none that is valid.
    pub config: Config,
    /// Why the configuration cannot be in force, if it cannot.
    pub config_fault: Option<String>,
    /// Whether the service would obey the files of the configuration, or why not, with what to do; none when whoever asks
    /// may not look at them.
    pub trust: Option<Result<(), String>>,
    /// Where the service keeps its control socket and its journal.
    pub runtime_dir: PathBuf,
    /// Whether to send a few datagrams towards the vendor, to see what becomes of their mark.
    pub path: bool,
}

/// What the kernel does with media of one kind.
pub(super) struct RouteLookups {
    pub(super) family: Family,
    pub(super) protocol: Protocol,
    pub(super) ports: PortRange,
    /// The first address of each prefix, and what becomes of what is sent there.
    pub(super) ways: Vec<(IpAddr, io::Result<RoutingDecision>)>,
}

/// What there is.
pub struct SystemFacts {
    pub(super) options: CheckOptions,
    pub(super) today: Date,
    pub(super) policy: Policy,
    pub(super) numbers: RoutingIds,
    pub(super) status: Result<Status, AskError>,
    pub(super) observed: Observed,
    pub(super) uplinks: Result<Uplinks, UplinkError>,
    pub(super) route_lookups: Vec<RouteLookups>,
    /// Where names are asked for, and which way questions go there.
    pub(super) resolvers: Vec<(IpAddr, io::Result<RoutingDecision>)>,
    pub(super) may_administer: bool,
    pub(super) may_listen: bool,
}

impl SystemFacts {
    /// Looks at everything.
    ///
    /// # Errors
    /// When the kernel does not tell its links, addresses, routes and rules, which everybody may read.
    pub fn collect(options: CheckOptions) -> anyhow::Result<Self> {
        let today = daemon::today();
        let policy = Policy::compile(&options.config, today);
        let numbers = daemon::numbers(&options.config);
        let status = control::status(&options.runtime_dir);
        let resolvers = dns::resolvers();
        let (observed, route_lookups, resolvers) = daemon::runtime()?.block_on(async {
            let kernel = Rtnetlink::open()?;
            let observed = kernel.observe().await?;
            let mut route_lookups = Vec::new();
            for capture in policy.captures() {
                for family in [Family::V4, Family::V6] {
                    let mut ways = Vec::new();
                    for prefix in capture.prefixes.iter().filter(|it| it.family() == family) {
                        let to = SocketAddr::new(prefix.first(), capture.ports.first());
                        ways.push((to.ip(), kernel.lookup(capture.protocol, to).await));
                    }
                    if !ways.is_empty() {
                        let (protocol, ports) = (capture.protocol, capture.ports);
                        route_lookups.push(RouteLookups {
                            family,
                            protocol,
                            ports,
                            ways,
                        });
                    }
                }
            }
            let mut asked = Vec::new();
            for server in resolvers {
                let to = SocketAddr::new(server, dns::PORT);
                asked.push((server, kernel.lookup(Protocol::Udp, to).await));
            }
            anyhow::Ok((observed, route_lookups, asked))
        })?;
        let preferences = daemon::preferences(&options.config);
        let may = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
        Ok(Self {
            uplinks: uplink::choose(&observed, numbers.protocol, &preferences),
            options,
            today,
            policy,
            numbers,
            status,
            observed,
            route_lookups,
            resolvers,
            may_administer: may(Capability::CAP_NET_ADMIN),
            may_listen: may(Capability::CAP_NET_RAW),
        })
    }

    /// The uplink that a family would leave by, if there is one.
    pub(super) fn uplink(&self, family: Family) -> Option<&Uplink> {
        self.uplinks.as_ref().ok()?[family].as_ref()
    }

    /// What the kernel has, for who wants to show it.
    #[must_use]
    pub const fn observed(&self) -> &Observed {
        &self.observed
    }

    /// What the service says of itself.
    ///
    /// # Errors
    /// Why it says nothing.
    pub const fn status(&self) -> Result<&Status, &AskError> {
        self.status.as_ref()
    }

    /// The policy of today.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The name of our TUN.
    pub(super) fn tun_name(&self) -> &str {
        match &self.status {
            Ok(status) => &status.tun,
            Err(_) => self.options.config.tun().name.as_str(),
        }
    }

    /// Our TUN, if it is there.
    pub(super) fn tun(&self) -> Option<&Link> {
        let name = self.tun_name();
        self.observed.links.iter().find(|link| link.name == name)
    }

    /// Whether a service runs. One that does not tell us is known by its TUN, which goes with it.
    pub(super) fn is_running(&self) -> bool {
        match &self.status {
            Ok(_) => true,
            Err(AskError::NotRunning(_)) => false,
            Err(_) => self.tun().is_some(),
        }
    }

    /// The name of the link that media leaves by, or would.
    pub(super) fn uplink_name(&self) -> Option<&str> {
        let told = self.status.as_ref().ok();
        let told = told.and_then(|status| Some(status.uplink.as_ref()?.interface.as_str()));
        let chosen = || {
            let mut uplinks = Family::BOTH.into_iter().filter_map(|it| self.uplink(it));
            uplinks.next().map(|uplink| uplink.name.as_str())
        };
        told.or_else(chosen)
    }

    /// A link by name or number.
    pub(super) fn link_name(&self, index: IfIndex) -> String {
        let link = self.observed.link(index);
        link.map_or_else(|| format!("link #{index}"), |link| link.name.clone())
    }
}
