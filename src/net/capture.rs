//! Capture: which destinations enter the TUN.

use std::str::FromStr;

use super::{PortRange, Prefix, Protocol};

/// The destinations of one protocol and port range that enter the TUN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The destination ports.
    pub ports: PortRange,
    /// The destination prefixes.
    pub prefixes: Vec<Prefix>,
}

/// Which traffic is steered into the TUN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CaptureMode {
    /// Exactly the traffic that the policy relays, by port.
    #[default]
    Exact,
    /// All UDP and TCP to the policy's prefixes. Traffic that the policy does not relay is sent into the VPN.
    Prefix,
}

impl CaptureMode {
    /// Returns the name in configuration files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Prefix => "prefix",
        }
    }
}

/// A text that names no capture mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no capture: expected \"exact\" or \"prefix\"")]
pub struct UnknownCaptureMode(String);

impl FromStr for CaptureMode {
    type Err = UnknownCaptureMode;

    fn from_str(text: &str) -> Result<Self, UnknownCaptureMode> {
        match text {
            "exact" => Ok(Self::Exact),
            "prefix" => Ok(Self::Prefix),
            _ => Err(UnknownCaptureMode(text.to_owned())),
        }
    }
}
