//! A network namespace without a name. The kernel removes it with the last thread, socket and descriptor in it.

use std::fs::{self, File};
use std::io;
use std::panic;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// A host: a network namespace, held by a descriptor.
///
/// Sockets and processes of the namespace stay in it, even if other threads use them.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// Makes a namespace without links; its loopback interface is down.
    ///
    /// # Errors
    /// The kernel refuses a further namespace.
    pub fn new() -> io::Result<Self> {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Self::open(Path::new("/proc/thread-self/ns/net"))
        };
        let made = thread::spawn(make).join();
        made.unwrap_or_else(|cause| panic::resume_unwind(cause))
    }

    /// Opens a namespace by its file, such as `/run/netns/NAME`.
    ///
    /// # Errors
    /// The file does not open.
    pub fn open(path: &Path) -> io::Result<Self> {
        File::open(path).map(Self)
    }

    /// Returns the descriptor of the namespace.
    #[must_use]
    pub const fn handle(&self) -> &File {
        &self.0
    }

    /// Runs `job` on a thread inside the namespace and waits for it.
    ///
    /// # Panics
    /// When the job panics, or the process may not enter.
    pub fn enter<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).expect("the maker of a namespace may enter");
            job()
        };
        let result = thread::scope(|scope| scope.spawn(inside).join());
        result.unwrap_or_else(|cause| panic::resume_unwind(cause))
    }

    /// Starts a thread inside the namespace and does not wait for it.
    ///
    /// # Panics
    /// When the process has no descriptor left.
    pub fn thread(&self, job: impl FnOnce() + Send + 'static) {
        let handle = self.0.try_clone().expect("a descriptor is free");
        thread::spawn(move || {
            setns(handle, CloneFlags::CLONE_NEWNET).expect("the maker of a namespace may enter");
            job();
        });
    }

    /// Reads a setting below `/proc/sys/net`.
    ///
    /// # Errors
    /// The kernel has no such setting.
    pub fn sysctl(&self, key: &str) -> io::Result<String> {
        let path = Path::new("/proc/sys/net").join(key);
        let text = self.enter(|| fs::read_to_string(&path));
        text.map(|text| text.trim().to_owned())
            .map_err(|error| with_key(key, &error))
    }

    /// Writes a setting below `/proc/sys/net`.
    ///
    /// # Errors
    /// The kernel has no such setting, rejects the value, or forbids this process to write it.
    pub fn set_sysctl(&self, key: &str, value: &str) -> io::Result<()> {
        let path = Path::new("/proc/sys/net").join(key);
        self.enter(|| fs::write(&path, value))
            .map_err(|error| with_key(key, &error))
    }
}

fn with_key(key: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("net/{key}: {error}"))
}
