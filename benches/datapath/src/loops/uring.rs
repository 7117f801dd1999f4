//! `io_uring`: the kernel reads into buffers that lie ready, and what came of a wake-up is written with one system call.
//!
//! Reads stay in place (multishot) until their pool is empty. Writes do not wait: a full queue drops. So all that is
//! submitted is done in order before the kernel reads again, which it does only when it is waited for (`DEFER_TASKRUN`): a
//! buffer goes back as soon as its write stands in line, and reads that are to be put in place again stand behind.
#![allow(
    unsafe_code,
    reason = "the kernel keeps pointers to what it reads into"
)]

use std::mem::zeroed;
use std::os::fd::AsRawFd;
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::Result;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{BufRingEntry, Fixed};
use io_uring::{IoUring, SubmissionQueue, Submitter, cqueue, opcode};
use nix::errno::Errno;
use tun_tap::Iface;

use super::{BUDGET, Flows, HEADERS, ROOM, read, write_headers};

/// Registered files: the TUN, and behind it the sockets. What is read bears the number of its file.
const FILES: u32 = 16_384;
const TUN: u32 = 0;

/// What is written is heard of only when it failed, and bears this.
const WRITTEN: u64 = u64::MAX;

/// Relays.
pub fn run(tun: &Iface, uplink: &str) -> Result<()> {
    let mut ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_submit_all()
        .setup_cqsize(8_192)
        .build(1_024)?;
    let (mut submitter, submission, mut completion) = ring.split();
    submitter.register_ring_fd()?;
    submitter.register_files_sparse(FILES)?;
    submitter.register_files_update(TUN, &[tun.as_raw_fd()])?;
    // The TUN's is its budget. Sockets have more: a read that finds no buffer must be put in place again.
    let mut outbound = Pool::new(&submitter, 0, BUDGET as u16)?;
    let mut inbound = Pool::new(&submitter, 1, Page::ENTRIES as u16)?;
    let mut queue = Queue {
        submitter,
        submission,
    };
    let mut flows = Flows::new(uplink);
    let mut reads = vec![read_of(TUN)];
    println!("ready");
    loop {
        for entry in reads.drain(..) {
            queue.push(&entry)?;
        }
        queue.wait()?;
        completion.sync();
        for completed in &mut completion {
            if completed.user_data() == WRITTEN {
                continue;
            }
            let file = completed.user_data() as u32;
            if !cqueue::more(completed.flags()) {
                reads.push(read_of(file));
            }
            // Otherwise the pool was empty, or ICMP has said something of an earlier datagram.
            let Some(id) = cqueue::buffer_select(completed.flags()) else {
                continue;
            };
            let length = usize::try_from(completed.result()).unwrap_or(0);
            if file == TUN {
                let packet = &outbound.buffer(id)[HEADERS..HEADERS + length];
                if let Some((ends, payload)) = read(packet) {
                    let place = flows.place(ends, |place, socket| {
                        let file = place as u32 + 1;
                        let socket = socket.as_raw_fd();
                        queue.submitter.register_files_update(file, &[socket])?;
                        reads.push(read_of(file));
                        Ok(())
                    })?;
                    let (start, length) = (payload.as_ptr(), payload.len() as u32);
                    let send = opcode::Send::new(Fixed(place as u32 + 1), start, length);
                    queue.push(&quiet(send.flags(libc::MSG_DONTWAIT).build()))?;
                }
                outbound.give(id);
            } else {
                let packet = &mut inbound.buffer(id)[..HEADERS + length];
                write_headers(packet, flows.sockets[file as usize - 1].0);
                let write = opcode::Write::new(Fixed(TUN), packet.as_ptr(), packet.len() as u32);
                queue.push(&quiet(write.rw_flags(libc::RWF_NOWAIT).build()))?;
                inbound.give(id);
            }
        }
    }
}

/// Reads a file again and again, into the pool of its direction.
fn read_of(file: u32) -> Entry {
    let entry = if file == TUN {
        // Version 0.7.15 of the crate forgets here that the file is a registered one.
        let entry = opcode::ReadMulti::new(Fixed(file), 0, 0).build();
        entry.flags(Flags::FIXED_FILE)
    } else {
        opcode::RecvMulti::new(Fixed(file), 1).build()
    };
    entry.user_data(file.into())
}

/// A write that is not heard of unless it fails.
fn quiet(write: Entry) -> Entry {
    write.flags(Flags::SKIP_SUCCESS).user_data(WRITTEN)
}

/// What is to be submitted.
struct Queue<'a> {
    submitter: Submitter<'a>,
    submission: SubmissionQueue<'a>,
}

impl Queue<'_> {
    fn push(&mut self, entry: &Entry) -> Result<()> {
        // SAFETY: what it points to is in a pool, which is there until the process ends.
        while unsafe { self.submission.push(entry) }.is_err() {
            self.submission.sync();
            self.submitter.submit()?;
            self.submission.sync();
        }
        Ok(())
    }

    /// Submits, and waits until something was read.
    fn wait(&mut self) -> Result<()> {
        self.submission.sync();
        match self.submitter.submit_and_wait(1) {
            // A tracer came or went.
            Err(error) if error.raw_os_error() == Some(Errno::EINTR as i32) => {}
            submitted => drop(submitted?),
        }
        self.submission.sync();
        Ok(())
    }
}

/// A ring of buffers, as the kernel has it.
#[repr(C, align(4096))]
struct Page([BufRingEntry; Page::ENTRIES]);

impl Page {
    const ENTRIES: usize = 256;
}

/// Buffers of one direction, which the kernel takes from a ring.
struct Pool {
    page: *mut Page,
    buffers: *mut [u8; ROOM],
    mask: u16,
    tail: u16,
}

impl Pool {
    /// A pool of this number of buffers, a power of two; it is there until the process ends.
    fn new(submitter: &Submitter, group: u16, count: u16) -> Result<Self> {
        // SAFETY: all zeroes are entries of no buffers.
        let page = Box::into_raw(Box::new(unsafe { zeroed::<Page>() }));
        let buffers = vec![[0; ROOM]; usize::from(count)].leak().as_mut_ptr();
        // SAFETY: the page has room for as many, and is never freed.
        unsafe { submitter.register_buf_ring_with_flags(page as u64, count, group, 0)? };
        let mut pool = Self {
            page,
            buffers,
            mask: count - 1,
            tail: 0,
        };
        for id in 0..count {
            pool.give(id);
        }
        Ok(pool)
    }

    /// What the kernel has put into a buffer, behind room for the headers.
    fn buffer(&mut self, id: u16) -> &mut [u8] {
        // SAFETY: the number is the kernel's, of ours; it leaves the buffer alone until it has it back.
        unsafe {
            let buffer = self.buffers.add(usize::from(id & self.mask));
            slice::from_raw_parts_mut(buffer.cast(), ROOM)
        }
    }

    /// Gives a buffer back.
    fn give(&mut self, id: u16) {
        let start = self.buffer(id)[HEADERS..].as_mut_ptr();
        // SAFETY: the entry is in the page, and the kernel reads it only when the tail is behind it. The tail lies in what the
        // first entry leaves unused.
        unsafe {
            let entries = self.page.cast::<BufRingEntry>();
            let entry = &mut *entries.add(usize::from(self.tail & self.mask));
            entry.set_addr(start as u64);
            entry.set_len((ROOM - HEADERS) as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = AtomicU16::from_ptr(BufRingEntry::tail(entries).cast_mut());
            tail.store(self.tail, Ordering::Release);
        }
    }
}
