//! Under load: threads, real time, queues, the cost of a packet and of a mapping, and which alternatives lost.
//!
//! Figures are of a guest with 2 virtual CPUs; `benches/README.md` has the method and the current tables.
//!
//! # Two threads
//!
//! The first thread carries packets and does nothing else. The second thread has the runtime, with the reconciler, the
//! control socket and the metrics. The second thread compiles policies, reads the kernel's rules and formats a status. The
//! first thread only copies what it knows, 512 mappings at a time (35 us). A reload passes a compiled policy by pointer.
//!
//! One `epoll_wait` of the first thread names up to 64 ready sources: sockets of mappings, the TUN, TCP connections (an epoll
//! set of their own), a message. A wake-up reads one datagram of each named socket and up to 64 packets of the TUN, writes
//! the results, and looks again. While more sources are ready than one call can name, the wake-up reads the TUN in any case,
//! so sockets cannot starve it.
//!
//! # Real time
//!
//! The first thread runs under `SCHED_FIFO` at the lowest real-time priority, if the unit (`CPUSchedulingPolicy=`) or the
//! caller's privileges permit it. Without it a packet waits for the time slice of a busy program. Beside such a program, the
//! p99 of 400 calls is 0.11 to 0.17 ms with voicelane in real time. A simple relay without real time has 4.4 ms, the kernel's
//! own forwarding 0.07 to 0.08 ms.
//!
//! The budget is 80 % of a core within 100 ms. When the thread exceeds it, an ordinary thread takes over for one second, so
//! that a machine with one core stays usable. `voicelane status` reports the scheduling and how often the budget was
//! exhausted (`voicelane_scheduling`, `voicelane_realtime_budget_exhausted_total`). If no ordinary thread can be created, the first
//! thread continues (`voicelane_realtime_fallback_thread_failed_total`).
//!
//! `RLIMIT_RTTIME` ends a process that computes for one second in real time without sleeping. `realtime = false` in
//! `[relay]` disables real time. Kernels with `CONFIG_RT_GROUP_SCHED` may refuse it to services; a unit drop-in with
//! `CPUSchedulingPolicy=other` then lets the unit start.
//!
//! # Drops
//!
//! Each place that drops packets counts them:
//!
//! | reason | place |
//! |---|---|
//! | `tun_queue_full` | the TUN's queue, 500 packets: applications send more than one core carries |
//! | `stale` | a socket's receive queue: media that waited for 250 ms; STUN checks and handshakes are still delivered |
//! | `receive_queue_full` | a socket's receive buffer (`SO_RXQ_OVFL`, reported by the socket's next datagram) |
//! | `tun_full` | the kernel did not accept a packet from voicelane |
//! | `send_failed` | a socket's send buffer or the uplink's queue (`send_eagain`, `send_enobufs` among the refusals) |
//!
//! `stale` needs a timestamp of each datagram. A kernel that stamps for one socket stamps every packet, which costs 3 %
//! near the highest rate. So sockets request stamps (`SO_TIMESTAMPNS`) only after 128 wake-ups in a row found more
//! than 64 ready sources.
//!
//! Media has priority over TCP. When voicelane carries a TCP stream, acknowledgements and new data fill the TUN's queue that
//! media shares. So a wake-up carries four streams, which cause at most 300 packets, and one stream while packets wait in the
//! TUN. With 64 busy connections, calls lose one packet of 400; without the limit, up to a quarter.
//!
//! # Many mappings
//!
//! 20,000 mappings (10,000 calls with RTCP) need as many descriptors; the unit allows 65,536. `tests/lab_load/load.rs` prints the
//! cost:
//!
//! | bytes for each mapping | |
//! |---|---|
//! | voicelane: mapping, path, index, timer, binding | 523 |
//! | kernel: socket, inode, file, epoll | 2,735 |
//! | kernel, only beside IPsec policies: two policies of each socket | 1,950 |
//!
//! Expired mappings end eight per millisecond, at most 0.21 ms each time. A different uplink is taken in parts too, because
//! 19,800 new sockets at once stop all packets for 0.19 s. Eight mappings receive sockets at once. Each further mapping
//! receives its socket before its next packet is sent, or in batches of eight per millisecond. A wake-up opens at most 16
//! sockets and then stops reading the TUN. The longest stop is 0.32 ms in a release build.
//!
//! The same holds when an uplink is given up or returns, see `engine::failover`. Shown by
//! `load::a_branch_of_calls_moves_to_another_uplink_in_batches`, `engine::uplink::nothing_leaves_by_a_former_uplink` and
//! `daemon::driver::tests::a_wake_up_reads_no_more_packets_than_it_may_open_sockets_for`. TCP connections cannot move and end at
//! once; their limit is 4,096.
//!
//! # Long runs
//!
//! `call_soak::calls_survive_a_long_day` runs calls over both families beside policy changes, lost links, a new address, and
//! calls that end and begin. It checks that each call has replies within three seconds of each event, and that only marked
//! media leaves outside the VPN. Memory, descriptors and sockets must return to their former values. CI runs 100 calls for
//! 12 seconds. The long run:
//!
//! ```sh
//! VOICELANE_CALLS=2000 VOICELANE_CALL_SECONDS=1800 cargo test --release --features lab --test lab_load call_soak:: -- --nocapture
//! ```
//!
//! `VOICELANE_CALL_RATE` sets the packets per second of a call. A reference run had 2,000 calls, 360 events and 36.7 million
//! packets. All calls were back within 0.27 s of each event. Memory was 14.9 MiB after the warm-up and 15.1 MiB at the end.
//!
//! Repeated status requests must not grow memory: `operator::looking_at_thousands_of_mappings_leaves_no_memory_taken`. By
//! default glibc raises its thresholds after each large release and keeps more memory, so they are fixed at the start.
//!
//! # The cost of a packet
//!
//! nftables chains and IPsec bypasses exist only while they are needed. A rule that enables tracing costs 3.5 % of a packet,
//! also for foreign packets. An IPsec bypass costs 5.1 % of a packet and 2 KB of memory per socket. When the first foreign
//! policy appears, open sockets receive their bypass in batches of 64, before anything else is reconciled.
//!
//! `scripts/bench engine` measures the engine alone. An established call allocates no memory
//! (`allocations::an_established_call_allocates_nothing`).
//!
//! # Alternatives that lost
//!
//! | alternative | why it lost |
//! |---|---|
//! | an async runtime on the packet path | one more `epoll_wait` per wake-up; packets share scheduling with all other tasks, so real time for one is real time for all |
//! | an epoll set of sockets within the set of sources | three `epoll_wait` calls to find a datagram |
//! | a task per flow | 71 k round trips/s answered in overload, and 100 k by plain epoll; 3.1 KB more per call |
//! | `io_uring` | within 5 % of plain epoll for many calls; needs `unsafe` buffers; hardened machines disable it |
//! | several TUN queues with a thread each | one core carries more than a branch needs; a second core in real time, locks in the NAT, and no guarantee of order within a flow |
//! | sending each packet before the next is read | median 60 us instead of 51 us beside a busy program, and less throughput in overload |
//! | batches of 16 or 256 packets | 77 k/s answered of 200 k/s, and 81 k/s with 64 |
//! | `recvmmsg`, GSO, GRO, checksum offload of the TUN | none of 45,001 paced datagrams was coalesced |
//! | `connect()` on each mapping's socket | 5 to 12 % more throughput, but the socket receives from one remote only (RFC 4787 REQ-1, REQ-8) |
//! | a second, connected socket per call | 1 to 5 % more throughput for a descriptor and 4.7 KB per call |
//! | `noqueue` on the TUN | 0 to 2 % more throughput in overload |
//! | a TUN queue of 1,000 or 10,000 packets | 6 % less throughput in overload; 100 to 400 ms of standing delay |
//! | polling for 20 or 100 us before sleeping | a lower median of 400 calls, no gain beside a busy program; 100 us exhausts the real-time budget |
