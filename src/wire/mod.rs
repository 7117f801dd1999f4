//! Packets: validated once, then read without failing.
