//! What the service and the kernel hold.

use std::fmt::{self, Display, Formatter};
use std::fs;

use crate::support::namespace::Namespace;
use crate::support::voicelane::Voicelane;

/// Memory that a mapping may take, the kernel's part included.
const PER_MAPPING: u64 = 3_500;

/// How much more the service may hold than after the warm-up, beside what more mappings take, and the kernel for the whole
/// machine, in which others are at work. In the long run some 20,000 mappings end and 200,000 sockets: what each left
/// behind would be seen from 200 and 320 bytes on.
const GROWTH: [u64; 2] = [4 << 20, 64 << 20];

/// What is held at a time.
#[derive(Clone, Copy)]
pub(crate) struct Holdings {
    /// The service's resident memory and the kernel's slabs that it cannot reclaim, in bytes.
    memory: [u64; 2],
    /// The service's descriptors.
    pub(crate) descriptors: u64,
    /// UDP sockets of the laptop, in either family, beside the test's own.
    pub(crate) sockets: u64,
}

impl Holdings {
    /// Looks; of the laptop's sockets the test has `own`.
    pub(crate) fn now(laptop: &Namespace, voicelane: &Voicelane, own: usize) -> Self {
        let open = fs::read_dir(format!("/proc/{}/fd", voicelane.pid()));
        Self {
            memory: [
                voicelane.memory(),
                field("/proc/meminfo", "SUnreclaim:") << 10,
            ],
            descriptors: open.expect("the service runs").count() as u64,
            sockets: udp_sockets(laptop) - own as u64,
        }
    }

    /// Panics when there is more than there was, beyond the bound.
    pub(crate) fn assert_as_flat_as(&self, warm: &Self) {
        let mappings = self.descriptors.saturating_sub(warm.descriptors);
        for ((now, before), growth) in self.memory.iter().zip(warm.memory).zip(GROWTH) {
            let bound = before + growth + mappings * PER_MAPPING;
            assert!(*now <= bound, "{self} after {warm}");
        }
    }
}

impl Display for Holdings {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let [memory, slab] = self.memory.map(|bytes| bytes >> 10);
        let (files, sockets) = (self.descriptors, self.sockets);
        write!(
            f,
            "memory {memory} KiB, {files} descriptors, {sockets} sockets, slab {slab} KiB"
        )
    }
}

/// The most memory that the service ever held, in KiB.
pub(crate) fn most_memory(voicelane: &Voicelane) -> u64 {
    field(&format!("/proc/{}/status", voicelane.pid()), "VmHWM:")
}

/// UDP sockets of a namespace, in either family.
pub(crate) fn udp_sockets(namespace: &Namespace) -> u64 {
    let text = namespace.run("cat /proc/net/sockstat /proc/net/sockstat6");
    let lines = text.lines().filter(|line| line.starts_with("UDP"));
    let counts = lines.filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
    counts.sum()
}

/// A number in a file of the kernel's.
fn field(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).expect("every Linux has it");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    let number: Option<u64> = number.and_then(|it| it.parse().ok());
    number.unwrap_or_else(|| panic!("{file} has no {name}"))
}
