//! A device in memory: two queues, for tests of everything above the kernel.

use std::collections::VecDeque;
use std::{future, io};

use super::Device;

/// Packets to be read and packets that were written.
#[derive(Debug, Default)]
pub struct Memory {
    /// What [`Device::try_recv`] hands out, in order.
    pub outbound: VecDeque<Vec<u8>>,
    /// What [`Device::try_send`] took, in order.
    pub inbound: Vec<Vec<u8>>,
}

impl Device for Memory {
    fn try_recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let packet = self.outbound.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        let length = packet.len().min(buffer.len());
        buffer[..length].copy_from_slice(&packet[..length]);
        Ok(length)
    }

    fn try_send(&mut self, packet: &[u8]) -> io::Result<()> {
        self.inbound.push(packet.to_owned());
        Ok(())
    }

    async fn readable(&mut self) -> io::Result<()> {
        if self.outbound.is_empty() {
            future::pending::<()>().await;
        }
        Ok(())
    }
}
