//! Under load: who runs when, what is dropped, what a packet costs, and what was tried and lost.
//!
//! # Two threads
//!
//! The first thread carries packets and does nothing else; the other has the runtime, in which everything that surrounds
//! the packets lives. Nothing that the shell does holds a packet up: the compilation of a policy, a look at the kernel's
//! rules, the words of a status (the first thread only copies what it knows, and of mappings and connections 512 slots at a
//! time: 35 us for each page of 19,800 mappings). A reload hands over a finished policy, by pointer. Who reads metrics is told
//! how many mappings there are, and no list is made.
//!
//! The first thread has no runtime. One `epoll_wait` names what is ready, up to 64 things: the sockets of mappings, the TUN,
//! TCP connections (a set of their own), a letter. A wake-up takes a datagram of each socket that was named and up to 64
//! packets of the TUN, and from the sockets as much as from the TUN if there is as much; it writes what came of them, and
//! looks again. While more is ready than was named, the TUN is looked at in any case: no number of sockets crowds it out.
//!
//! # Real time
//!
//! The first thread runs under `SCHED_FIFO`, at the lowest real-time priority, where that is permitted: by the unit
//! (`CPUSchedulingPolicy=`), or by the privileges that `voicelane run` is started with. Beside a thread that
//! computes, 400 calls have their slowest percent at 4.4 ms with the plain loop of `benches/datapath`, at 0.10 to 0.12 ms with
//! the same loop in real time, at 0.11 to 0.17 ms with voicelane, and at 0.07 to 0.08 ms with the kernel's own forwarding. The
//! tail is scheduling, and no technique of input and output moves it (`benches/README.md` takes it apart).
//!
//! Its budget is four fifths of a core. Who has used more within 100 ms is relieved by an ordinary thread for a second, so
//! that a machine of one core stays usable at any load. `voicelane status` says `real time` or why not, and how often the
//! budget was used up; `voicelane_scheduling` and `voicelane_realtime_given_up_total` say it to a monitor. `RLIMIT_RTTIME`
//! ends a process that computes for a second at that rank without a sleep: by a fault, for a wake-up is bounded.
//! When no thread can be made to relieve it, the first one goes on, and `voicelane_realtime_unrelieved_total` counts.
//! `realtime = false` in `[relay]` does without all of it. Kernels with `CONFIG_RT_GROUP_SCHED` may refuse the rank to
//! services altogether; a drop-in with `CPUSchedulingPolicy=other` lets the unit start there.
//!
//! # What is dropped, where, and how it is counted
//!
//! No queue stands for long, and each place that drops counts:
//!
//! | reason | place |
//! |---|---|
//! | `tun_queue_full` | the TUN's queue, 500 packets: applications send more than one core carries |
//! | `stale` | a socket's queue: media that has stood there for a quarter of a second; checks and handshakes go on |
//! | `receive_queue_full` | a socket's receive buffer: the same from outside (`SO_RXQ_OVFL`; told by the next datagram of the socket) |
//! | `tun_full` | the kernel did not take a packet from us |
//! | `send_failed` | a socket's send buffer or the uplink's queue (`send_eagain`, `send_enobufs` among the refusals) |
//!
//! A socket's queue has room for some 280 small datagrams, which are seconds of one call. One socket that is ready is emptied
//! in milliseconds, and so are 64. When more are ready than a look names, 128 looks in a row (a tenth of a second's work), the
//! queues may stand: then the kernel is asked to stamp what arrives (`SO_TIMESTAMPNS`), socket by socket, and media that is too
//! old goes (`stale`). Stamps at the first sign of a crowd cost 3 % of what is carried near the highest rate (92.7 k of 95 k
//! round trips a second came back, and all 95 k without), for a kernel that stamps for one socket stamps every packet.
//!
//! Media goes before TCP. Both share the TUN's queue, and TCP fills it with whatever a window allows: when a stream is
//! carried, its window opens, and what is written into the TUN is acknowledged through the queue. So streams stand in line:
//! a wake-up carries four of them, which bring 300 packets at most, and one while packets wait in the TUN. 64 connections
//! that said and heard all they could lost 43 % of their packets in the queue before (134,000 of 313,000), and calls beside
//! them up to a quarter; now 0.26 %, and calls one packet of 400.
//!
//! # Many mappings
//!
//! 20,000 mappings (10,000 calls with RTCP) take as many descriptors; the unit allows 65,536. `tests/lab_load/load.rs` opens
//! what a container's limit lets it and prints what each costs:
//!
//! | bytes for each mapping | |
//! |---|---|
//! | ours: mapping, path, index, timer, binding | 523 |
//! | the kernel's: socket, inode, file, epoll | 2,735 |
//! | the kernel's, only where IPsec policies are: two of each socket's own (see [`crate::route`]) | 1,950 |
//!
//! What is over ends in parts, eight mappings in a millisecond, and the kernel clears up in between: 27 us for each part
//! at the median, 0.08 ms at p99, 0.21 ms at most (all at once: a tenth of a second; 32 at a time without a pause: 2.1 ms
//! at p99). What was pushed back comes up again in parts too. A look at all of them goes by pages of 512, 35 us each.
//! Another uplink is taken in parts as well, who speaks first. At the change itself eight mappings get their sockets, and the
//! relay refuses to send by what the others have. A mapping gets its new socket when its application sends, before that
//! very packet goes out; those who say nothing follow eight in a millisecond (19,800, of which one spoke in each
//! millisecond, in 3 s). No haste is called for with them: the peer sends to the former address until it hears from the
//! new one. A wake-up takes no more from the TUN when 16 sockets are to be opened. What came of it, beside 19,800 mappings:
//!
//! | how long a turn took | |
//! |---|---|
//! | all in one go, as before (a debug build, three runs) | 189, 192, 192 ms |
//! | in parts (the same) | 0.10 ms at the median, 0.21 to 0.27 at p99, 0.4, 0.9 and 1.2 at most |
//! | in parts (a release build, two runs) | 0.08 ms at the median, 0.17 and 0.20 at p99, 0.26 and 0.32 at most |
//!
//! It is the same when a whole uplink is given up, and when it is back: see `engine::sweep`. Shown by
//! `load::a_branch_full_of_calls_moves_to_another_uplink_in_parts`, `engine::uplink::nothing_leaves_by_a_former_uplink` and
//! `daemon::driver::tests::a_wake_up_takes_no_more_than_it_may_open_sockets_for`.
//! TCP connections, which cannot move, end all at once: they are 4,096 at most.
//!
//! Another policy is one pointer; none of the 19,800 packets around it was lost.
//!
//! # A long day
//!
//! `call_soak::calls_survive_a_long_day` has calls over both families (172 bytes each way, some with RTCP) beside another
//! policy and the first again, lost links, a new address, calls that end and others that begin. Each call has answers
//! again within three seconds of each event; what the home router sees outside the VPN is media with its mark, and nothing
//! else; while nothing happens no media is in the VPN. Memory, descriptors and sockets are what they were after the warm-up,
//! and before the calls when the mappings have ended. CI has 100 calls for 12 seconds, in which no mapping ends: the
//! shortest life of one is two minutes. The full measure, which prints its figures:
//!
//! ```sh
//! VOICELANE_CALLS=2000 VOICELANE_CALL_SECONDS=1800 cargo test --release --features lab --test lab_load call_soak:: -- --nocapture
//! ```
//!
//! A call sends 10 packets a second (`VOICELANE_CALL_RATE`), for one machine is the agents, the laptop, two routers and the
//! media server at once. For a socket that is bound to no address, another address of the laptop's is another inside
//! endpoint, and the mapping of the one before lives on until its time: 2,000 calls (3,000 ports), of which some end and
//! begin, have some 8,500 mappings where the address changes every 40 seconds.
//!
//! Measured on the data path as it is: 2,000 calls for 30 minutes, 9,000 replaced, 360 events, 36.7 million packets. All calls
//! were back within 0.27 s of each event (longest silence 0.33 s), 9 of 33.5 million packets were lost while nothing happened, no
//! packet was past the VPN without its mark or that was no media. Memory was 14.9 MiB after the warm-up, with 8,400 mappings, and
//! 15.1 MiB at the very end (17.2 MiB at most), when all of them but those of two calls had ended together, which cost those two
//! nothing; descriptors and sockets were as before.
//!
//! A lost link cost 22,000 to 24,000 packets in 45 events, and an address that changed 1,165; 48,000 and 5,067 in the same run
//! before another uplink was taken in parts, when the TUN's queue overflowed 52,570 times and not 724 as now. The longest silence
//! was the same; what it is made of was not taken apart (the loss of the link has to be seen first).
//!
//! An earlier run had failed at its end, for memory had grown, and it was the look at it that took the memory. A status
//! made some words for each mapping on the heap, and glibc, which takes a large piece of memory that was given back for a sign
//! that as much is wanted again, keeps more and more of such: one status of 7,900 mappings cost 3.4 MiB for good, their end
//! nothing. Now endpoints and labels in a status need no memory of their own, and the allocator's thresholds stand still: ten
//! looks at 8,000 mappings leave 0.2 MiB (3.8 MiB before), which
//! `operator::looking_at_thousands_of_mappings_leaves_no_memory_taken` watches; the run above looks once in every course.
//!
//! # What a packet costs
//!
//! Nothing of ours is in the kernel's way that has nothing to do. The chains of a firewall's probe are there while it is
//! sent: a rule that turns tracing on costs 3.5 % of a packet, whoever's it is. Sockets are exempt from IPsec policies
//! only where there are policies: an exemption costs 5.1 % of a packet and 2 KB a socket. When the first policy comes,
//! open sockets are exempted in parts of 64, ahead of everything else that it means.
//!
//! `scripts/bench engine` measures the engine by itself; `benches/README.md` has the figures. A call that stands
//! allocates nothing in either direction and family (`allocations::a_call_that_stands_allocates_nothing`).
//!
//! # What lost
//!
//! - *A runtime on the packet path* (`AsyncFd` on the epoll set, a `select!` of five futures), as it was at first: each
//!   wake-up takes at least one more `epoll_wait`, sets a timer anew, and owes a turn to the other tasks. It ties the
//!   scheduling of packets to that of everything else, and real time for the one would be real time for all.
//! - *A set within the set*, as it was next: the sockets in a set of their own, which the thread waited for among others, so
//!   that they could not crowd the TUN out. A datagram took three `epoll_wait` to be found; the TUN needs no more protection
//!   than to be looked at while the list of ready sockets is full.
//! - *Each packet sent before the next is read*, instead of a batch read, then sent: 400 calls beside a busy thread had their median
//!   at 60 us and not at 51, and the same slowest percent (117 and 122 us, medians of six runs in turn). The TUN's batch sent
//!   before the sockets are read: 57 and 52 us, 110 and 114 us (eight runs). In overload it carries less: 70 k and not 73 k a
//!   second of 200,000, 74 k and not 79 k of 115,000 (medians of four); with the answers written at once too, 71 k and 76 k.
//! - *Several queues of the TUN, a thread each.* One core carries 100,000 round trips a second here without loss, in a virtual
//!   machine, packet by packet: 2,000 calls, where a branch has hundreds. A second thread would need a second
//!   core in real time, the NAT a lock or two halves, and a flow stays in order only while its socket belongs to the thread
//!   whose queue the kernel hashes it to, which nobody promises.
//! - *Another way to learn what there is to read*, by the loops of `benches/datapath/src/loops`, which differ in nothing else
//!   (figures in `benches/README.md`). A task per flow carries less and takes 3.1 KB a call more; its reader of the TUN, if it
//!   does not yield, answers half a second late in overload. A runtime's `AsyncFd` and `io_uring` are ahead of plain epoll by no
//!   more than the method can tell, and in real time their tails are alike as well. `io_uring` carries a third more for a single
//!   busy flow, which voice never is. It would want rings of memory that the kernel writes into (`unsafe`, where the packet path
//!   has none now), and hardened machines switch it off (`kernel.io_uring_disabled`, container runtimes' filters).
//! - *`recvmmsg`* on sockets that have one datagram each, GSO, GRO, checksum offload of the TUN: nothing to gain for voice,
//!   0 of 45,001 paced datagrams were coalesced.
//! - *`connect()`* spares what the kernel does to find a datagram's way, out and in. But a connected socket hears its remote
//!   alone, and a mapping must hear everybody (RFC 4787 REQ-1, REQ-8). With each mapping's socket connected all the same, 115,000
//!   round trips a second offered to 2,000 calls had 5 to 12 % more answers (five comparisons of three or four runs each; in three
//!   of them the sockets were not asked for the TOS of what they receive, which is 1 %). What
//!   leaves a mapping whole is a second socket on the same port (`SO_REUSEPORT`, for the moment of its `bind` alone), connected once
//!   50 datagrams in a row went to one remote. Built as a trial, that carried 1 to 5 % more (four comparisons), 7 % when all of them were
//!   opened before the load came, and 6 % less while the benchmark's calls spoke in the order in which they had begun: where
//!   in memory sockets lie matters as much as the way. It would take a call another descriptor, 2.7 KB, and 2 KB for the group
//!   that the kernel makes of sockets on one port. It was not kept.
//! - *Other batches*: of 200,000 a second 77 k were answered with 16 and with 256 packets at a time, and 81 k with 64 (medians of five,
//!   65 k to 83 k).
//! - *No queueing discipline on the TUN* (`noqueue` in the place of the kernel's `pfifo_fast`): 0 to 2 % more in overload (four
//!   comparisons of four to six runs each).
//! - *Looking again for a while before sleeping*, with a look that does not wait. For 20 us: 400 calls had their median at 67 to 70 us and not at
//!   80 to 87, their slowest percent at 215 and not 258 us (medians of four; the kernel 131), and beside a busy thread no gain (150 and
//!   159 us; the kernel 86); 115,000 a second offered had 82 k and not 79 k answers, 95,000 and 200,000 as many as before. For 100 us the budget of real
//!   time is used up by waiting, and the slowest percent beside a busy thread is 5 ms. It was not
//!   kept: too little for a core that is busy without need.
