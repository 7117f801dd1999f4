//! The service: start and end, the packet loop, and reconciliation.
//!
//! # Theory of operation
//!
//! Two threads. The first one runs the packet loop ([`driver`]), in real time where that is permitted ([`realtime`]). It
//! owns engine, device and relays. The second thread has the runtime: the [`reconciler`] keeps rules and routes as
//! desired, the [`request_handler`] serves the control socket. It sends messages to the packet loop and never touches a
//! packet.
//!
//! Resources are acquired in the order in which they can be lost safely: rules come last, because they take effect. See
//! [`crate::manual::operating`].

mod allocator;
mod applications;
mod blocked_clients;
mod call_events;
mod channel;
mod component_settings;
mod conflict_backoff;
mod driver;
mod events;
mod firewall_state;
mod health;
mod kernel_errors;
mod last_good;
mod lifecycle;
mod limit_warnings;
mod privileges;
mod realtime;
mod reconciler;
mod reload;
mod request_handler;
mod schedule;
mod service_state;
mod sleep;
mod systemd;
mod tun_drops;
mod uplink_binding;
mod uplink_selector;

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::thread;

use anyhow::Context;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use tokio::runtime::{Builder, Runtime};

use crate::config::Config;
use crate::steering::{self, Leftovers};

use realtime::Realtime;

pub(crate) use component_settings::{routing_ids, uplink_preferences};
#[cfg(feature = "lab")]
pub use events::parse_events;
pub use events::read_events;
#[cfg(feature = "lab")]
pub use last_good::parse as parse_last_good;
pub use last_good::{LastGood, LoadedConfig};

/// Options of the command line outside the configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory of the event store; none: the runtime directory.
    pub state_dir: Option<PathBuf>,
    /// The directory of the control socket and of the saved sysctls.
    pub runtime_dir: PathBuf,
    /// The place for the last configuration that worked, if it is kept.
    pub last_good: Option<LastGood>,
    /// The reason for a start with the last configuration that worked, as a sentence with a remedy.
    pub start_error: Option<String>,
}

/// The context of an error before rules and routes were applied for the first time.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("could not start")]
pub struct StartFailed;

/// Removes the rules, routes and settings of a killed service, and nothing else.
///
/// # Errors
/// Everything that could not be removed. The rest is removed.
pub fn cleanup(config: &Config, runtime_dir: &Path) -> anyhow::Result<Leftovers> {
    let ids = routing_ids(config);
    Ok(runtime()?.block_on(steering::cleanup(runtime_dir, &ids))?)
}

/// Runs the service until SIGINT or SIGTERM, and removes everything. A reload reads the configuration from `source`.
///
/// # Errors
/// Errors of the start, which have [`StartFailed`], of the run and of the end.
pub fn run(
    loaded: &LoadedConfig,
    options: &Options,
    source: impl Fn() -> anyhow::Result<LoadedConfig> + Send + 'static,
) -> anyhow::Result<()> {
    allocator::return_large_allocations();
    let realtime = Realtime::enable(loaded.config.relay().realtime);
    let (sender, packet_thread) = sync_channel(1);
    thread::scope(|scope| {
        let second = thread::Builder::new().name("reconciler".to_owned());
        let second = second.spawn_scoped(scope, move || {
            runtime()?.block_on(lifecycle::run(loaded, options, Box::new(source), sender))
        });
        let second = second.context("could not start a thread")?;
        // There is none when the start failed.
        if let Ok(packet_thread) = packet_thread.recv() {
            packet_thread.run(realtime);
        }
        second.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// The date in UTC, so that all laptops switch policies at the same moment.
#[must_use]
pub fn today() -> Date {
    Timestamp::now().to_zoned(TimeZone::UTC).date()
}

pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .context("could not start the runtime")
}

/// A count with its unit in the right number: "1 time", "2 times".
fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
