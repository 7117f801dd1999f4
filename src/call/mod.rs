//! What can be read of a call from its packets: RTP streams and STUN transactions.
