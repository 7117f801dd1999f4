//! The pure engine: (state, packet, now) in, outbox out.
