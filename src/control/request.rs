//! The requests of the control socket.

use serde::{Deserialize, Serialize};

use super::VERSION;
use super::peer::Privilege;

/// The longest pause in seconds: a day.
pub const LONGEST_PAUSE: u64 = 86_400;

/// A request, tagged by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Requests a summary of the state. A status without permission becomes this request.
    Summary,
    /// Requests the state of the service.
    Status,
    /// Requests events.
    Events {
        /// Only events with a greater sequence number.
        #[serde(default)]
        after: u64,
    },
    /// Reloads the configuration.
    Reload,
    /// Keeps all media in the VPN for a time.
    Pause {
        /// Its length in seconds, from 1 to [`LONGEST_PAUSE`].
        seconds: u64,
    },
    /// Ends a pause.
    Resume,
}

/// A request on the wire.
#[derive(Serialize, Deserialize)]
struct Envelope {
    version: u32,
    #[serde(flatten)]
    request: Request,
}

impl Request {
    /// The privilege that the request needs.
    #[must_use]
    pub const fn required_privilege(self) -> Privilege {
        match self {
            Self::Summary => Privilege::Summary,
            Self::Status | Self::Events { .. } => Privilege::Read,
            Self::Reload | Self::Pause { .. } | Self::Resume => Privilege::Write,
        }
    }

    /// The request as a line, without the newline.
    #[must_use]
    pub fn line(self) -> String {
        let envelope = Envelope {
            version: VERSION,
            request: self,
        };
        serde_json::to_string(&envelope).expect("a request is plain data")
    }

    /// Parses a line.
    ///
    /// # Errors
    /// A sentence for the client about the fault of the line.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        let envelope: Envelope =
            serde_json::from_slice(line).map_err(|error| format!("invalid request: {error}"))?;
        match envelope.request {
            _ if envelope.version != VERSION => Err(format!(
                "version {} is not supported: expected {VERSION}",
                envelope.version
            )),
            Request::Pause { seconds } if !(1..=LONGEST_PAUSE).contains(&seconds) => Err(format!(
                "seconds {seconds} is out of range: expected 1 to {LONGEST_PAUSE}"
            )),
            request => Ok(request),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Every line is a request that can be written and read again, or an error.
        #[test]
        fn any_line_is_a_request_or_is_refused(
            line in prop_oneof![
                any::<Vec<u8>>(),
                "\\{\"version\":[0-9]{1,3},\"request\":\"[a-z]{0,9}\"(,\"[a-z]{1,5}\":[0-9]{1,21})?\\} {0,3}".prop_map(String::into_bytes),
                r#"\{"version":1,"request":"status"\} {0,3}"#.prop_map(String::into_bytes),
            ],
        ) {
            match Request::parse(&line) {
                Ok(request) => prop_assert_eq!(Request::parse(request.line().as_bytes()), Ok(request)),
                Err(sentence) => prop_assert!(!sentence.is_empty()),
            }
        }
    }

    #[test]
    fn requests_survive_a_round_trip() {
        for (request, wanted) in [
            (Request::Status, r#"{"version":1,"request":"status"}"#),
            (
                Request::Events { after: 7 },
                r#"{"version":1,"request":"events","after":7}"#,
            ),
            (
                Request::Pause { seconds: 60 },
                r#"{"version":1,"request":"pause","seconds":60}"#,
            ),
        ] {
            assert_eq!(request.line(), wanted);
            assert_eq!(Request::parse(wanted.as_bytes()), Ok(request));
        }
    }

    #[test]
    fn errors_name_the_fault() {
        for (line, expected) in [
            (&br#"{"version":2,"request":"status"}"#[..], "version 2"),
            (
                br#"{"version":1,"request":"shutdown"}"#,
                "unknown variant `shutdown`",
            ),
            (br#"{"request":"status"}"#, "missing field `version`"),
            (
                br#"{"version":1,"request":"pause","seconds":0}"#,
                "expected 1 to 86400",
            ),
            (b"\xff", "invalid request"),
        ] {
            let error = Request::parse(line).expect_err("a bad line");
            assert!(error.contains(expected), "{error}");
        }
    }
}
