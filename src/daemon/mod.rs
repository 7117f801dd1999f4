//! The service: lifecycle and the driver loop.
//!
//! # Theory of operation
//!
//! Two threads. The *driver* owns engine, device and relay and carries packets: on the first thread, which does nothing
//! else, in real time where that is permitted (`realtime`). The *steward* owns what surrounds them, in the runtime of the
//! other thread: it watches the kernel and keeps our rules in force and ahead, follows the calendar, and listens to
//! signals. It talks to the driver through a mailbox and never touches a packet; neither waits for the other.
//!
//! Things are acquired in the order in which it is safe to lose them, and reverted in reverse: rules come last, because
//! they are what takes effect. See [`crate::manual::operating`].

mod allocator;
mod answers;
mod channel;
mod clients;
mod conflict;
mod driver;
mod events;
mod firewall;
mod health;
mod kernel_errors;
mod lifecycle;
mod limits;
mod privileges;
mod realtime;
mod reconciler;
mod reload;
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
use crate::net::Family;
use crate::route::netlink::Rtnetlink;
use crate::route::uplink;
use crate::steering::{self, Leftovers};

use realtime::Realtime;

pub use events::read_events;
pub(crate) use lifecycle::{numbers, preferences};

/// What the command line says beside the configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where events are kept; none: in the runtime directory.
    pub state_dir: Option<PathBuf>,
    /// Where the control socket and the journal are.
    pub runtime_dir: PathBuf,
}

/// Removes what a killed service left behind: ours, and nothing else.
///
/// # Errors
/// What could not be removed; the rest is.
pub fn cleanup(config: &Config, runtime_dir: &Path) -> anyhow::Result<Leftovers> {
    let numbers = lifecycle::numbers(config);
    Ok(runtime()?.block_on(steering::cleanup(runtime_dir, &numbers))?)
}

/// Finds the uplink that the service would choose now for a family; none when there is none, or none can be seen.
#[must_use]
pub fn find_uplink(config: &Config, family: Family) -> Option<String> {
    let numbers = lifecycle::numbers(config);
    let observed = runtime()
        .ok()?
        .block_on(async { Rtnetlink::open()?.observe().await })
        .ok()?;
    uplink::choose(&observed, numbers.protocol, &lifecycle::preferences(config)).ok()?[family]
        .take()
        .map(|uplink| uplink.name)
}

/// Runs the service until a signal ends it, and reverts everything. A reload reads the configuration from `source`; an
/// error of it leaves in force what is.
///
/// # Errors
/// What could not be acquired, carried on, or reverted.
pub fn run(
    config: &Config,
    options: &Options,
    source: impl Fn() -> anyhow::Result<Config> + Send + 'static,
) -> anyhow::Result<()> {
    allocator::give_back();
    let realtime = Realtime::take(config.relay().realtime);
    let (carriers, carrier) = sync_channel(1);
    thread::scope(|scope| {
        let shell = thread::Builder::new().name("shell".to_owned());
        let shell = shell.spawn_scoped(scope, move || {
            runtime()?.block_on(lifecycle::live(config, options, Box::new(source), carriers))
        });
        let shell = shell.context("could not start a thread")?;
        // None comes when something could not be acquired.
        if let Ok(carrier) = carrier.recv() {
            carrier.carry(realtime);
        }
        shell.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Today in UTC, so that a fleet of laptops switches at the same moment.
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
