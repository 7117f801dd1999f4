//! The facts that several checks need, read once.

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
use crate::route::lookup::{PacketKey, RoutingDecision};
use crate::route::netlink::Rtnetlink;
use crate::route::observed::{Link, Observed};
use crate::route::uplink::{self, UplinkError};

use super::resolvers::{DNS_PORT, resolvers};

/// The input of the checks.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// The configuration, or the default one if the configuration has errors.
    pub config: Config,
    /// The errors of the configuration, if it has any.
    pub config_fault: Option<String>,
    /// Whether the service would accept the permissions of the configuration files: if not, the reason and the remedy.
    /// None if the caller may not read them.
    pub trust: Option<Result<(), String>>,
    /// The directory of the control socket and of the saved sysctls.
    pub runtime_dir: PathBuf,
    /// The last error in the service's journal, if the service does not run and the journal can be read.
    pub last_error: Option<String>,
    /// Whether to send datagrams to the vendor to find the hop that changes their DSCP.
    pub path: bool,
}

/// The routing decisions of the kernel for media of one family, protocol and port range.
pub(super) struct RouteLookups {
    pub(super) family: Family,
    pub(super) protocol: Protocol,
    pub(super) ports: PortRange,
    /// The first address of each prefix, and the decision for it.
    pub(super) decisions: Vec<(IpAddr, io::Result<RoutingDecision>)>,
}

/// The state of the machine and of the service.
pub struct SystemFacts {
    pub(super) options: CheckOptions,
    pub(super) today: Date,
    pub(super) policy: Policy,
    pub(super) routing_ids: RoutingIds,
    pub(super) status: Result<Status, AskError>,
    pub(super) observed: Observed,
    pub(super) uplinks: Result<Uplinks, UplinkError>,
    pub(super) route_lookups: Vec<RouteLookups>,
    /// The name servers, and the routing decision for each.
    pub(super) resolvers: Vec<(IpAddr, io::Result<RoutingDecision>)>,
    pub(super) may_administer: bool,
    pub(super) may_capture: bool,
}

impl SystemFacts {
    /// Reads everything.
    ///
    /// # Errors
    /// If the kernel does not answer requests for links, addresses, routes or rules. They need no privilege.
    pub fn collect(options: CheckOptions) -> anyhow::Result<Self> {
        let today = daemon::today();
        let policy = Policy::compile(&options.config, today);
        let routing_ids = daemon::routing_ids(&options.config);
        let status = control::status(&options.runtime_dir);
        let resolvers = resolvers();
        let (observed, route_lookups, resolvers) = daemon::runtime()?.block_on(async {
            let kernel = Rtnetlink::open()?;
            let observed = kernel.observe().await?;
            let mut route_lookups = Vec::new();
            for capture in policy.captures() {
                for family in [Family::V4, Family::V6] {
                    let mut decisions = Vec::new();
                    for prefix in capture.prefixes.iter().filter(|it| it.family() == family) {
                        let to = SocketAddr::new(prefix.first(), capture.ports.first());
                        decisions.push((
                            to.ip(),
                            kernel.lookup(PacketKey::new(capture.protocol, to)).await,
                        ));
                    }
                    if !decisions.is_empty() {
                        let (protocol, ports) = (capture.protocol, capture.ports);
                        route_lookups.push(RouteLookups {
                            family,
                            protocol,
                            ports,
                            decisions,
                        });
                    }
                }
            }
            let mut decisions = Vec::new();
            for server in resolvers {
                let to = SocketAddr::new(server, DNS_PORT);
                decisions.push((
                    server,
                    kernel.lookup(PacketKey::new(Protocol::Udp, to)).await,
                ));
            }
            anyhow::Ok((observed, route_lookups, decisions))
        })?;
        let preferences = daemon::uplink_preferences(&options.config);
        let may = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
        Ok(Self {
            uplinks: uplink::choose(&observed, routing_ids.protocol, &preferences),
            options,
            today,
            policy,
            routing_ids,
            status,
            observed,
            route_lookups,
            resolvers,
            may_administer: may(Capability::CAP_NET_ADMIN),
            may_capture: may(Capability::CAP_NET_RAW),
        })
    }

    /// Returns the uplink that the current routes select for a family.
    pub(super) fn uplink(&self, family: Family) -> Option<&Uplink> {
        self.uplinks.as_ref().ok()?[family].as_ref()
    }

    /// Returns links, addresses, routes and rules of the kernel.
    #[must_use]
    pub const fn observed(&self) -> &Observed {
        &self.observed
    }

    /// Returns the status of the service.
    ///
    /// # Errors
    /// If the service does not answer.
    pub const fn status(&self) -> Result<&Status, &AskError> {
        self.status.as_ref()
    }

    /// Returns the policy of today.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Returns the name of the TUN.
    pub(super) fn tun_name(&self) -> &str {
        match &self.status {
            Ok(status) => &status.tun,
            Err(_) => self.options.config.tun().name.as_str(),
        }
    }

    /// Returns the TUN, if it exists.
    pub(super) fn tun(&self) -> Option<&Link> {
        let name = self.tun_name();
        self.observed.links.iter().find(|link| link.name == name)
    }

    /// Returns whether a service runs. If it does not answer, its TUN shows that it runs.
    pub(super) fn is_running(&self) -> bool {
        match &self.status {
            Ok(_) => true,
            Err(AskError::NotRunning(_)) => false,
            Err(_) => self.tun().is_some(),
        }
    }

    /// Returns the name of the uplink in use, else of the uplink that would be selected.
    pub(super) fn uplink_name(&self) -> Option<&str> {
        let status = self.status.as_ref().ok();
        let in_use = status.and_then(|status| Some(status.uplink.as_ref()?.interface.as_str()));
        let selected = || {
            let mut uplinks = Family::BOTH.into_iter().filter_map(|it| self.uplink(it));
            uplinks.next().map(|uplink| uplink.name.as_str())
        };
        in_use.or_else(selected)
    }

    /// Returns the name of a link, or its number if it has gone.
    pub(super) fn link_name(&self, index: IfIndex) -> String {
        let link = self.observed.link(index);
        link.map_or_else(|| format!("link #{index}"), |link| link.name.clone())
    }
}
