//! The pcap file format with nanoseconds and raw IP packets (draft-ietf-opsawg-pcap, section 4).

use std::io::{self, Write};
use std::time::SystemTime;

/// The magic number of files with nanosecond time stamps.
const MAGIC: u32 = 0xa1b2_3c4d;
/// Version 2.4.
const VERSION: [u16; 2] = [2, 4];
/// `LINKTYPE_RAW`: packets start with the IPv4 or IPv6 header.
const LINKTYPE_RAW: u32 = 101;

/// Writes packets to a pcap file.
pub(super) struct PcapWriter<W>(W);

impl<W: Write> PcapWriter<W> {
    /// Writes the file header. `longest` is the largest number of bytes kept of a packet (snaplen).
    pub(super) fn new(mut file: W, longest: u32) -> io::Result<Self> {
        file.write_all(&MAGIC.to_ne_bytes())?;
        for number in VERSION {
            file.write_all(&number.to_ne_bytes())?;
        }
        for number in [0, 0, longest, LINKTYPE_RAW] {
            file.write_all(&u32::to_ne_bytes(number))?;
        }
        Ok(Self(file))
    }

    /// Writes a packet. `kept` is its beginning, `length` its length in bytes.
    pub(super) fn add(&mut self, at: SystemTime, kept: &[u8], length: usize) -> io::Result<()> {
        let since = at
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        // The format ends in the year 2106.
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

    /// Writes the buffered data.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.0.flush()
    }
}
