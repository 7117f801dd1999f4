//! Start and end of the service: acquires resources in order, and releases them in reverse.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::{fs, io};

use anyhow::{Context, anyhow};
use nix::net::if_::if_nametoindex;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::{info, warn};

use crate::config::MetricsListen;
use crate::control::{Access, EventKind, Exporter, ListenError, MetricsEndpoint, Server};
use crate::engine::{Engine, FailoverSettings, TUN_MTU};
use crate::net::IfIndex;
use crate::policy::Policy;
use crate::relay::{TcpRelay, UdpRelay};
use crate::steering::{self, TrafficSteering};
use crate::tun::TunDevice;

use super::channel::{Receiver, channel};
use super::component_settings::{nat_and_tcp, routing_ids, uplink_preferences};
use super::driver::{Driver, DriverMessage};
use super::events::EventLog;
use super::last_good::LoadedConfig;
use super::realtime::Realtime;
use super::reconciler::{EventLoop, Reconciler, ReconcilerConfig, StatusReporter};
use super::reload::ConfigSource;
use super::request_handler::RequestHandler;
use super::service_state::ServiceState;
use super::{Options, StartFailed, privileges, systemd, today};

/// Messages that a channel holds; senders wait while it is full.
const CAPACITY: usize = 64;

/// The packet loop, ready to run on the first thread.
pub(super) struct PacketThread {
    driver: Driver<TunDevice>,
    receiver: Receiver<DriverMessage>,
    result: oneshot::Sender<io::Result<()>>,
}

impl PacketThread {
    /// Runs the packet loop in the calling thread until the device fails or the second thread ends.
    pub(super) fn run(mut self, realtime: Realtime) {
        let dropped = privileges::drop_all_but_needed().map_err(io::Error::other);
        let result = dropped.and_then(|()| self.driver.run(&mut self.receiver, realtime));
        // The second thread may have ended for another reason.
        let _ = self.result.send(result);
        // The device stays open until all rules are removed, so that captured media does not leave unmarked.
        self.receiver.drain();
    }
}

/// Acquires all resources, sends the packet loop to the first thread, runs until the end, and releases everything.
///
/// # Errors
/// The first error of the start, of the run or of the end.
pub(super) async fn run(
    loaded: &LoadedConfig,
    options: &Options,
    source: ConfigSource,
    packet_threads: SyncSender<PacketThread>,
) -> anyhow::Result<()> {
    let started = Cell::new(false);
    let outcome = start_and_run(loaded, options, source, packet_threads, &started);
    Box::pin(outcome).await.map_err(|error| {
        if started.get() {
            error
        } else {
            error.context(StartFailed)
        }
    })
}

async fn start_and_run(
    loaded: &LoadedConfig,
    options: &Options,
    source: ConfigSource,
    packet_threads: SyncSender<PacketThread>,
    started: &Cell<bool>,
) -> anyhow::Result<()> {
    let config = &loaded.config;
    let compiled_for = today();
    let policy = Arc::new(Policy::compile(config, compiled_for));
    let ids = routing_ids(config);
    let name = config.tun().name.as_str();

    let runtime_dir = &options.runtime_dir;
    fs::create_dir_all(runtime_dir).with_context(|| {
        format!(
            "could not create the runtime directory {}",
            runtime_dir.display()
        )
    })?;
    raise_descriptor_limit();
    // The TUN is the lock: only the process that has its name may remove the leftovers of a killed service.
    let tun = TunDevice::open(name)?;
    let index = if_nametoindex(tun.name()).context("the TUN disappeared")?;
    let control = config.control();
    let (access, mut warnings) =
        Access::of_groups(control.group.as_deref(), control.admin_group.as_deref());
    let server = Server::listen(runtime_dir, access)?;
    let exporter = match config.metrics().listen {
        Some(MetricsListen::Unix) => Some(MetricsEndpoint::Unix),
        Some(MetricsListen::Loopback(address)) => Some(MetricsEndpoint::Loopback(address)),
        None => None,
    };
    let exporter = match exporter {
        Some(endpoint) => match Exporter::listen(endpoint, runtime_dir, access).await {
            Ok(exporter) => Some(exporter),
            Err(error) => {
                warnings.push(metrics_unavailable(&error));
                None
            }
        },
        None => None,
    };
    for warning in &warnings {
        warn!("{warning}");
    }
    let leftovers = steering::cleanup(runtime_dir, &ids).await?;
    if leftovers != steering::Leftovers::default() {
        info!(
            rules_and_routes = leftovers.changes.len(),
            "removed the leftovers of a killed voicelane"
        );
    }

    let device = steering::TunInterface {
        name: tun.name().to_owned(),
        index: IfIndex(index),
        mtu: TUN_MTU.into(),
    };
    let steering = TrafficSteering::open(runtime_dir, ids, device).await?;
    // Later operations repeat without privileges, so the first ones run without them too. Each thread has capabilities
    // of its own, so they are dropped before another thread starts.
    privileges::drop_all_but_needed()?;
    let events = EventLog::open(options.state_dir.as_ref().unwrap_or(runtime_dir));
    events.record(
        EventKind::Started,
        tun.name(),
        concat!("voicelane ", env!("CARGO_PKG_VERSION")),
    );

    let (driver_sender, receiver) = channel(CAPACITY).context("could not create an eventfd")?;
    let (requests, pending) = mpsc::channel(CAPACITY);
    let (changes, pending_changes) = mpsc::channel(1);
    let (scrapes, pending_scrapes) = mpsc::channel(1);
    if let Some(exporter) = exporter {
        tokio::spawn(exporter.serve(scrapes));
    }
    tokio::spawn(server.serve(requests));
    let handler = RequestHandler {
        driver: driver_sender.clone(),
        reconciler: changes,
        events: events.clone(),
    };
    let handling = tokio::spawn(handler.run(pending, pending_scrapes));

    let reconciler = ReconcilerConfig {
        config: config.clone(),
        source,
        preferences: uplink_preferences(config),
        ids,
        tun: tun.name().to_owned(),
        tun_index: IfIndex(index),
        last_good: options.last_good.clone(),
    };
    let (nat, tcp) = nat_and_tcp(config);
    let mut engine = Engine::new(Arc::clone(&policy), nat)
        .with_tcp(tcp)
        .with_remark(config.gateway().remark);
    let failover = config.failover();
    if failover.to_tunnel {
        engine = engine.with_failover(FailoverSettings {
            response_timeout: failover.silence,
            retry: failover.retry,
        });
    }
    let service_state = ServiceState::of_tun(tun.name());
    let sockets = UdpRelay::new().and_then(|relay| Ok((relay, TcpRelay::new()?)));
    let sockets = sockets.context("could not create an epoll set")?;
    let firewall_suspected = Arc::new(Notify::new());
    let driver = Driver::new(
        engine,
        tun,
        sockets,
        service_state,
        Arc::clone(&firewall_suspected),
        events.clone(),
    );
    let policy = (policy, compiled_for);
    let reconciler = Reconciler::new(reconciler, steering, driver_sender, policy, events.clone())?;
    let status = StatusReporter::of_start(options.start_error.clone(), warnings);
    let mut event_loop = EventLoop::new(reconciler, status, pending_changes, firewall_suspected)?;

    let (result, packet_result) = oneshot::channel();
    let packet_thread = PacketThread {
        driver,
        receiver,
        result,
    };
    packet_threads
        .send(packet_thread)
        .map_err(|_| anyhow!("the packet thread has ended"))?;
    let outcome = tokio::select! {
        result = packet_result => match result {
            Ok(Err(error)) => {
                Err(error).context("the TUN is gone: another program may have deleted it")
            }
            Ok(Ok(())) | Err(_) => Err(anyhow!("the packet thread ended unexpectedly")),
        },
        result = async {
            event_loop.start().await?;
            started.set(true);
            if let Some(last_good) = &options.last_good {
                last_good.save(loaded.documents.clone());
            }
            event_loop.run().await
        } => result,
    };
    systemd::notify_stopping();
    let reason = match &outcome {
        Ok(()) => "stopped by a signal".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    events.record(EventKind::Stopped, name, reason);
    let reverted = event_loop
        .revert()
        .await
        .context("could not remove all rules, routes and settings: run `voicelane cleanup`");
    // Without a sender the packet thread ends, and the TUN closes last.
    handling.abort();
    let _ = handling.await;
    match (outcome, reverted) {
        (Err(error), Err(revert)) => {
            warn!("{revert:#}");
            Err(error)
        }
        (outcome, reverted) => outcome.and(reverted),
    }
}

fn metrics_unavailable(error: &ListenError) -> String {
    let cause = std::error::Error::source(error).map_or_else(String::new, |it| format!(": {it}"));
    format!(
        "Metrics are not available: {error}{cause}. Change [metrics] listen, or stop the program that uses it, and restart \
         voicelane."
    )
}

/// Raises the limit of open files to its hard limit: each mapping and each TCP connection uses a descriptor.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "could not raise the limit of open files: with many calls, opening sockets will fail");
    }
}
