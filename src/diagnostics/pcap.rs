//! The pcap file format, as much as captures need: nanoseconds, bare IP packets.
//!
//! draft-ietf-opsawg-pcap, section 4: a header, then a header before each packet.

use std::io::{self, Write};
use std::time::SystemTime;

/// The magic number of files with nanoseconds.
const MAGIC: u32 = 0xa1b2_3c4d;
/// Version 2.4.
const VERSION: [u16; 2] = [2, 4];
/// `LINKTYPE_RAW`: packets begin with their IPv4 or IPv6 header.
const RAW: u32 = 101;

/// A file under way.
pub(super) struct PcapWriter<W>(W);

impl<W: Write> PcapWriter<W> {
    /// Begins a file whose packets keep at most `most` bytes.
    pub(super) fn new(mut file: W, most: u32) -> io::Result<Self> {
        file.write_all(&MAGIC.to_ne_bytes())?;
        for number in VERSION {
            file.write_all(&number.to_ne_bytes())?;
        }
        for number in [0, 0, most, RAW] {
            file.write_all(&u32::to_ne_bytes(number))?;
        }
        Ok(Self(file))
    }

    /// Adds a packet of which `kept` is the beginning.
    pub(super) fn add(&mut self, at: SystemTime, kept: &[u8], length: usize) -> io::Result<()> {
        let since = at
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        // The format's own year 2106 problem.
        let seconds = u32::try_from(since.as_secs()).unwrap_or(u32::MAX);
        let size = |bytes| u32::try_from(bytes).unwrap_or(u32::MAX);
        for number in [
            seconds,
            since.subsec_nanos(),
            size(kept.len()),
            size(length),
        ] {
            self.0.write_all(&number.to_ne_bytes())?;
        }
        self.0.write_all(kept)
    }

    /// Writes out what is still held back.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.0.flush()
    }
}
