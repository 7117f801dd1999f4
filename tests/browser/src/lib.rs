//! A real browser and a real WebRTC peer, for the tests in `calls`.
//!
//! The browser is Debian's Chromium, without a window and with a synthetic microphone ([`chromium`]). The peer is a media
//! server made of str0m, which records what arrives after decryption ([`peer`]).

pub mod chromium;
mod link;
pub mod peer;
