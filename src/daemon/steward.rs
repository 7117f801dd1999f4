//! The steward: keeps what surrounds the data path as it should be.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use jiff::civil::Date;
use socket2::Socket;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use crate::config::{Config, VpnMark};
use crate::control::{UplinkStatus, VpnStatus};
use crate::net::{
    self, Dscp, Endpoint, Family, Fwmark, IfIndex, Inside, Protocol, RouteProtocol, Treatment,
};
use crate::policy::Policy;
use crate::relay::Binder;
use crate::route::firewall::{Obstacle, Permit};
use crate::route::observed::Observed;
use crate::route::plan::{Capture, Desired};
use crate::route::uplink::{self, Gateway, Uplink, UplinkError};
use crate::route::vpn::Vpn;
use crate::route::watch::Watch;
use crate::route::{Report, Steering, SteeringErrors};

use super::driver::Message;
use super::situation::Situation;
use super::today;

/// How long the steward rests after a reconciliation that changed something, at first. It doubles with each further
/// one, so that two programs that fight over a rule do not spin; the first quiet look sets it back.
const REST: Duration = Duration::from_millis(10);

/// The longest rest.
const LONGEST_REST: Duration = Duration::from_secs(2);

/// The families, in the order in which things are told.
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// How often the calendar is looked at: a policy's dates are days.
const CALENDAR: Duration = Duration::from_mins(1);

/// What the steward needs to know and does not change.
#[derive(Debug)]
pub(super) struct Charge {
    pub(super) config: Config,
    pub(super) pinned: Option<String>,
    pub(super) mark: Fwmark,
    pub(super) tunnel_mark: Fwmark,
    pub(super) protocol: RouteProtocol,
    pub(super) tun: String,
    pub(super) tun_index: IfIndex,
}

/// Owns the steering of the kernel and tells the driver what it must know.
pub(super) struct Steward {
    charge: Charge,
    steering: Steering,
    watch: Watch,
    signals: [Signal; 2],
    driver: mpsc::Sender<Message>,
    policy: Arc<Policy>,
    compiled_for: Date,
    uplink: Option<Way>,
    without_uplink: Option<UplinkError>,
    /// Families whose media a firewall was found to forbid; before the first probe, all.
    barred: Vec<Family>,
    obstacles: Vec<Obstacle>,
    ready_since: Option<Instant>,
}

/// An uplink and the addresses that it had.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Way {
    uplink: Uplink,
    binder: Binder,
}

impl Steward {
    /// Subscribes to signals and to the kernel's changes; nothing is in force yet.
    ///
    /// # Errors
    /// When there is nothing to subscribe to.
    pub(super) fn new(
        charge: Charge,
        steering: Steering,
        driver: mpsc::Sender<Message>,
        policy: Arc<Policy>,
        compiled_for: Date,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            charge,
            steering,
            watch: Watch::open().context("could not watch the kernel's routing")?,
            signals: [
                signal(SignalKind::interrupt()).context("could not catch SIGINT")?,
                signal(SignalKind::terminate()).context("could not catch SIGTERM")?,
            ],
            driver,
            policy,
            compiled_for,
            uplink: None,
            without_uplink: None,
            barred: FAMILIES.to_vec(),
            obstacles: Vec::new(),
            ready_since: None,
        })
    }

    /// Brings the policy into force and keeps it there until a signal comes.
    ///
    /// # Errors
    /// When the kernel refuses at the start, or can no longer be watched.
    pub(super) async fn attend(&mut self) -> anyhow::Result<()> {
        let mut rest = REST;
        let report = self.reconcile().await?;
        self.tell(&report).await;
        let mut calendar = tokio::time::interval(CALENDAR);
        loop {
            let [interrupt, terminate] = &mut self.signals;
            tokio::select! {
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                changed = self.watch.next_change() => changed.context("could not watch the kernel's routing")?,
                // Legacy iptables gives no notice: a look each minute finds what it forbids, or no longer does.
                _ = calendar.tick() => { self.turn_the_page().await; }
            }
            match self.reconcile().await {
                Ok(report) => {
                    rest = if report.changes.is_empty() {
                        REST
                    } else {
                        (rest * 2).min(LONGEST_REST)
                    };
                    self.tell(&report).await;
                }
                Err(error) => {
                    error!("could not keep the rules in force: {error:#}");
                    rest = (rest * 2).min(LONGEST_REST);
                }
            }
            tokio::time::sleep(rest).await;
        }
    }

    /// Takes everything back.
    ///
    /// # Errors
    /// What could not be taken back; `voicelane cleanup` can try again.
    pub(super) async fn revert(self) -> Result<(), SteeringErrors> {
        self.steering.revert().await
    }

    /// Compiles the policy anew when the day has changed.
    async fn turn_the_page(&mut self) {
        let today = today();
        if today == self.compiled_for {
            return;
        }
        self.compiled_for = today;
        self.policy = Arc::new(Policy::compile(&self.charge.config, today));
        info!(%today, "the policy was compiled for a new day");
        self.send(Message::Policy(Arc::clone(&self.policy))).await;
    }

    /// Looks at the kernel, follows the uplink, and brings rules and routes into force.
    async fn reconcile(&mut self) -> anyhow::Result<Report> {
        let observed = self.steering.observe().await?;
        let chosen = uplink::choose(
            &observed,
            self.charge.protocol,
            self.charge.pinned.as_deref(),
        );
        let permit = self.permit(&observed);
        self.follow(chosen, permit, &observed).await?;
        let mut desired = Desired {
            tun: self.charge.tun_index,
            uplink: self.uplink.as_ref().map(|way| way.uplink.clone()),
            captures: self.captures(),
            barred: self.barred.clone(),
            permit,
        };
        let mut report = self.steering.reconcile(&desired).await?;
        self.probe(&desired)?;
        if self.barred != desired.barred {
            desired.barred.clone_from(&self.barred);
            let then = self.steering.reconcile(&desired).await?;
            report.changes.extend(then.changes);
            report.warnings = then.warnings;
        }
        for change in &report.changes {
            debug!("{change}");
        }
        Ok(report)
    }

    /// Finds out whom a firewall forbids a way: what it would refuse is better in the VPN.
    fn probe(&mut self, desired: &Desired) -> anyhow::Result<()> {
        self.obstacles.clear();
        let Some(way) = &self.uplink else {
            return Ok(());
        };
        for family in FAMILIES {
            let target = desired.captures.iter().find_map(|capture| {
                let prefix = capture
                    .prefixes
                    .iter()
                    .find(|prefix| prefix.family() == family)?;
                let udp = capture.protocol == Protocol::Udp;
                udp.then(|| (prefix.first(), capture.ports.first()).into())
            });
            if let (Some(to), Some(_)) = (target, way.uplink.gateway(family)) {
                let direct = open(way, family)?;
                self.obstacles
                    .extend(self.steering.probe(desired, &direct, to));
            }
        }
        let forbidden = |family: &Family| self.obstacles.iter().any(|it| it.family == *family);
        self.barred = FAMILIES.into_iter().filter(forbidden).collect();
        Ok(())
    }

    /// What media may borrow of the VPN, by the configuration.
    fn permit(&self, observed: &Observed) -> Permit {
        let uplink = self.charge.config.uplink();
        Permit {
            mark: uplink.vpn_mark.and_then(|mark| match mark {
                VpnMark::Is(mark) => Some(mark),
                VpnMark::Auto => observed.excepted_marks.first().copied(),
            }),
            conntrack_mark: uplink.conntrack_mark,
        }
    }

    /// Moves to the chosen uplink, or lets go of one that has gone: then nothing is captured, and media is in the VPN.
    async fn follow(
        &mut self,
        chosen: Result<Uplink, UplinkError>,
        permit: Permit,
        observed: &Observed,
    ) -> anyhow::Result<()> {
        let way = match chosen {
            Ok(uplink) => {
                let addresses = observed
                    .addresses
                    .iter()
                    .filter(|address| address.link == uplink.index);
                let addresses = addresses
                    .map(|address| address.addr)
                    .filter(|addr| !is_link_local(*addr));
                let binder = Binder {
                    device: uplink.name.clone(),
                    addresses: addresses.collect(),
                    mark: permit.mark.unwrap_or(self.charge.mark),
                    tunnel_mark: self.charge.tunnel_mark,
                };
                Some(Way { uplink, binder })
            }
            Err(error) => {
                if self.without_uplink.as_ref() != Some(&error) {
                    warn!("{error}; until there is one, media stays in the VPN");
                }
                self.without_uplink = Some(error);
                None
            }
        };
        if way == self.uplink {
            return Ok(());
        }
        if let Some(way) = &way {
            self.without_uplink = None;
            prove(way)?;
            info!(uplink = %way.uplink.name, why = %way.uplink.why, "found the uplink");
            self.send(Message::Uplink(way.binder.clone())).await;
        }
        self.uplink = way;
        Ok(())
    }

    fn captures(&self) -> Vec<Capture> {
        let captures = self.policy.captures().iter();
        captures
            .map(|capture| Capture {
                protocol: capture.protocol,
                ports: capture.ports,
                prefixes: capture.prefixes.clone(),
            })
            .collect()
    }

    /// Tells the driver what a reconciliation found.
    async fn tell(&mut self, report: &Report) {
        if self.ready_since.is_none() && self.uplink.is_some() {
            self.ready_since = Some(Instant::now());
            let tun = &self.charge.tun;
            if self.barred.is_empty() {
                info!(%tun, "ready: media leaves by the uplink");
            } else {
                warn!(%tun, "ready, but a firewall keeps media in the VPN");
            }
        }
        self.send(Message::Aliases(report.aliases.clone())).await;
        let without_aliases = self.steering.without_aliases().map(|error| {
            format!("replies to the VPN's own address may be dropped by its firewall: no nftables ({error})")
        });
        let no_uplink = self.without_uplink.as_ref();
        let no_uplink = no_uplink.map(|error| format!("{error}; media stays in the VPN"));
        let leaves = |family: &Family| {
            let way = self.uplink.as_ref();
            let open = way.is_some_and(|way| way.uplink.gateway(*family).is_some());
            open && report.priority.is_some() && !self.barred.contains(family)
        };
        let situation = Situation {
            ready_since: self.ready_since,
            tun: self.charge.tun.clone(),
            uplink: self.uplink.as_ref().map(|way| status_of(&way.uplink)),
            vpns: report.vpns.iter().map(vpn_status).collect(),
            captured: FAMILIES.into_iter().filter(leaves).collect(),
            rule_priority: report.priority,
            warnings: report
                .warnings
                .iter()
                .map(ToString::to_string)
                .chain(self.obstacles.iter().map(ToString::to_string))
                .chain(without_aliases)
                .chain(no_uplink)
                .collect(),
        };
        self.send(Message::Situation(Box::new(situation))).await;
    }

    async fn send(&self, message: Message) {
        // A driver that has gone ends the service by itself; there is nobody left to tell.
        let _ = self.driver.send(message).await;
    }
}

/// Opens a socket on the uplink, once per family, before anything is steered to it: what the kernel refuses (a missing
/// capability, most likely) is found out while all is still as it was.
fn prove(way: &Way) -> anyhow::Result<()> {
    for family in FAMILIES {
        if way.uplink.gateway(family).is_some() {
            open(way, family)?;
        }
    }
    Ok(())
}

/// Opens a socket as the relay does for a mapping.
fn open(way: &Way, family: Family) -> anyhow::Result<Socket> {
    let any = Inside(Endpoint::new(family.unspecified(), 0));
    let (socket, _) = way
        .binder
        .bind(net::Way::Direct, any, Treatment::of(Dscp::EF))?;
    Ok(socket)
}

/// An address that reaches the link and no further: no source for media.
fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr.is_link_local(),
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    }
}

fn vpn_status(vpn: &Vpn) -> VpnStatus {
    VpnStatus {
        interface: vpn.name.clone(),
        kind: vpn.kind.clone(),
        takes_v4: vpn.takes_v4,
        takes_v6: vpn.takes_v6,
    }
}

fn status_of(uplink: &Uplink) -> UplinkStatus {
    let gateway = |family| {
        uplink
            .gateway(family)
            .map(|gateway: Gateway| gateway.to_string())
    };
    UplinkStatus {
        interface: uplink.name.clone(),
        gateway_v4: gateway(Family::V4),
        gateway_v6: gateway(Family::V6),
        why: uplink.why.to_string(),
    }
}
