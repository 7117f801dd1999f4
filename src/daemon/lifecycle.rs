//! The order of things: what is acquired when, and that it is taken back.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::{fs, io};

use anyhow::{Context, anyhow};
use nix::net::if_::if_nametoindex;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::{info, warn};

use crate::config::{self, Config};
use crate::control::{Access, EventKind, Exporter, Server, Site};
use crate::engine::{Engine, FailoverSettings, TUN_MTU, TcpSettings};
use crate::nat;
use crate::net::IfIndex;
use crate::policy::Policy;
use crate::relay::{TcpRelay, UdpRelay};
use crate::route::desired::RoutingIds;
use crate::route::uplink::UplinkPreferences;
use crate::steering::{self, TrafficSteering};
use crate::tun::TunDevice;

use super::answers::Answers;
use super::channel::{Mailbox, mailbox};
use super::driver::{Driver, Message};
use super::events::Events;
use super::realtime::Realtime;
use super::reconciler::{Reconciler, ReconcilerConfig};
use super::reload::Source;
use super::service_state::ServiceState;
use super::{Options, privileges, systemd, today};

/// Messages that may wait for the driver; senders wait when there are more.
const MAILBOX: usize = 64;

/// What the thread that carries packets is given.
pub(super) struct Carrier {
    driver: Driver<TunDevice>,
    mailbox: Mailbox<Message>,
    ended: oneshot::Sender<io::Result<()>>,
}

impl Carrier {
    /// Carries packets in the calling thread until the device is lost or the shell is gone, and tells the shell.
    pub(super) fn carry(mut self, realtime: Realtime) {
        let carried = privileges::drop_all_but_needed().map_err(io::Error::other);
        let carried = carried.and_then(|()| self.driver.run(&mut self.mailbox, realtime));
        // The shell may have ended for a reason of its own.
        let _ = self.ended.send(carried);
        // The device stays until everything is taken back: what falls into it does not get out.
        self.mailbox.drain();
    }
}

/// Acquires, lives, reverts. The driver goes to `carriers`.
pub(super) async fn live(
    config: &Config,
    options: &Options,
    source: Source,
    carriers: SyncSender<Carrier>,
) -> anyhow::Result<()> {
    let compiled_for = today();
    let policy = Arc::new(Policy::compile(config, compiled_for));
    let numbers = numbers(config);
    let name = config.tun().name.as_str();

    let runtime_dir = &options.runtime_dir;
    fs::create_dir_all(runtime_dir).with_context(|| {
        format!(
            "could not create the runtime directory {}",
            runtime_dir.display()
        )
    })?;
    raise_descriptor_limit();
    // The TUN comes first: who holds its name is the one voicelane here, and may remove what a dead one left.
    let tun = TunDevice::open(name)?;
    let index = if_nametoindex(tun.name()).context("the TUN disappeared")?;
    let control = config.control();
    let access = Access::of_groups(control.group.as_deref(), control.admin_group.as_deref())?;
    let server = Server::listen(runtime_dir, access)?;
    let exporter = match config.metrics().listen {
        Some(config::MetricsListen::Unix) => Some(Site::Unix),
        Some(config::MetricsListen::Loopback(address)) => Some(Site::Loopback(address)),
        None => None,
    };
    let exporter = match exporter {
        Some(site) => Some(Exporter::listen(site, runtime_dir, access).await?),
        None => None,
    };
    let leftovers = steering::cleanup(runtime_dir, &numbers).await?;
    if leftovers != steering::Leftovers::default() {
        info!(
            rules_and_routes = leftovers.changes.len(),
            "removed what a killed voicelane left behind"
        );
    }

    let steered = steering::TunInterface {
        name: tun.name().to_owned(),
        index: IfIndex(index),
        mtu: TUN_MTU.into(),
    };
    let steering = TrafficSteering::open(runtime_dir, numbers, steered).await?;
    // What follows comes again later, and must not fail only then: so it does with no more from the beginning. It is
    // also before any thread of this one's, for each has privileges of its own.
    privileges::drop_all_but_needed()?;
    let events = Events::open(options.state_dir.as_ref().unwrap_or(runtime_dir));
    events.record(
        EventKind::Started,
        tun.name(),
        concat!("voicelane ", env!("CARGO_PKG_VERSION")),
    );

    let (driver_sender, mailbox) = mailbox(MAILBOX).context("could not create an eventfd")?;
    let (requests, pending) = mpsc::channel(MAILBOX);
    let (reload, reloads) = mpsc::channel(1);
    let (reading, readers) = mpsc::channel(1);
    if let Some(exporter) = exporter {
        tokio::spawn(exporter.serve(reading));
    }
    tokio::spawn(server.serve(requests));
    let answers = Answers {
        driver: driver_sender.clone(),
        steward: reload,
        events: events.clone(),
    };
    let answering = tokio::spawn(answers.give(pending, readers));

    let charge = ReconcilerConfig {
        config: config.clone(),
        source,
        preferences: preferences(config),
        numbers,
        tun: tun.name().to_owned(),
        tun_index: IfIndex(index),
    };
    let (nat, tcp) = translator(config);
    let mut engine = Engine::new(Arc::clone(&policy), nat)
        .with_tcp(tcp)
        .with_remark(config.gateway().remark);
    let fallback = config.fallback();
    if fallback.to_tunnel {
        engine = engine.with_failover(FailoverSettings {
            response_timeout: fallback.silence,
            retry: fallback.retry,
        });
    }
    let situation = ServiceState::of_tun(tun.name());
    let sockets = UdpRelay::new().and_then(|relay| Ok((relay, TcpRelay::new()?)));
    let sockets = sockets.context("could not create an epoll set")?;
    let alarm = Arc::new(Notify::new());
    let driver = Driver::new(
        engine,
        tun,
        sockets,
        situation,
        Arc::clone(&alarm),
        events.clone(),
    );
    let mut steward = Reconciler::new(
        charge,
        steering,
        (driver_sender, reloads, alarm),
        policy,
        compiled_for,
        events.clone(),
    )?;

    let (ended, carried) = oneshot::channel();
    let carrier = Carrier {
        driver,
        mailbox,
        ended,
    };
    carriers
        .send(carrier)
        .map_err(|_| anyhow!("the packet thread has ended"))?;
    let outcome = tokio::select! {
        carried = carried => match carried {
            Ok(Err(error)) => {
                Err(error).context("the TUN is gone: another program may have deleted it")
            }
            Ok(Ok(())) | Err(_) => Err(anyhow!("the packet thread ended unexpectedly")),
        },
        attended = steward.attend() => attended,
    };
    systemd::stopping();
    let why = match &outcome {
        Ok(()) => "stopped by a signal".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    events.record(EventKind::Stopped, name, why);
    let reverted = steward
        .revert()
        .await
        .context("could not remove all rules, routes and settings: run `voicelane cleanup`");
    // Nobody is left to send then: the other thread ends, and the TUN goes with it, last of all.
    answering.abort();
    let _ = answering.await;
    match (outcome, reverted) {
        (Err(error), Err(revert)) => {
            warn!("{revert:#}");
            Err(error)
        }
        (outcome, reverted) => outcome.and(reverted),
    }
}

/// Allows as many descriptors as this process may have: each mapping and each TCP connection takes one.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "could not raise the limit of open files: with many calls, opening sockets will fail");
    }
}

/// The numbers of our rules and routes.
pub(crate) fn numbers(config: &Config) -> RoutingIds {
    let route = config.route();
    RoutingIds {
        table: route.table,
        priority: route.priority,
        mark: route.mark,
        mask: config::RouteSettings::MASK,
        ..RoutingIds::default()
    }
}

/// What the configuration wants of the uplink.
pub(crate) fn preferences(config: &Config) -> UplinkPreferences {
    let uplink = config.uplink();
    // What has clients is no way out.
    let clients = config.gateway().interfaces.iter().map(|interface| {
        let pattern = interface.as_str().parse();
        pattern.expect("a name is a pattern without stars")
    });
    UplinkPreferences {
        pinned: uplink.interface.as_ref().map(ToString::to_string),
        prefer: uplink.prefer.clone(),
        exclude: uplink.exclude.iter().cloned().chain(clients).collect(),
    }
}

/// How mappings and connections behave; a gateway's clients have a smaller share than a laptop's few addresses.
fn translator(config: &Config) -> (nat::NatSettings, TcpSettings) {
    let (nat, gateway) = (config.nat(), config.gateway());
    let (mut limits, mut tcp) = (nat::NatLimits::default(), TcpSettings::default());
    limits.mappings = nat.max_mappings;
    if !gateway.interfaces.is_empty() {
        limits.mappings_of_address = gateway.mappings_per_client;
        tcp.connections_of_address = gateway.connections_per_client;
    }
    let nat = nat::NatSettings {
        lifetime: nat.mapping_lifetime,
        filtering: nat.filtering,
        inbound_refresh: nat.inbound_refresh,
        limits,
    };
    (nat, tcp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_limits_the_mappings() {
        let limit = |lines: &str| {
            let config = Config::parse("it.toml", &format!("version = 1\n{lines}"));
            translator(&config.expect("valid")).0.limits.mappings
        };
        assert_eq!(limit(""), nat::NatLimits::default().mappings);
        assert_eq!(limit("[nat]\nmax_mappings = 256"), 256);
    }
}
