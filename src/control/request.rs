//! What can be asked of the service.

use serde::{Deserialize, Serialize};

use super::VERSION;
use super::peer::Privilege;

/// A request, tagged by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The state of the service.
    Status,
    /// What happened.
    Events {
        /// Only what has a greater sequence number.
        #[serde(default)]
        after: u64,
    },
    /// To read the configuration anew, and to bring it into force.
    Reload,
}

/// A request as it stands on the wire.
#[derive(Serialize, Deserialize)]
struct Envelope {
    version: u32,
    #[serde(flatten)]
    request: Request,
}

impl Request {
    /// What one must be allowed to do to ask this.
    #[must_use]
    pub const fn needs(self) -> Privilege {
        match self {
            Self::Status | Self::Events { .. } => Privilege::Read,
            Self::Reload => Privilege::Write,
        }
    }

    /// The request as a line, without its end.
    #[must_use]
    pub fn line(self) -> String {
        let envelope = Envelope {
            version: VERSION,
            request: self,
        };
        serde_json::to_string(&envelope).expect("a request is plain data")
    }

    /// Reads one line.
    ///
    /// # Errors
    /// A sentence for the peer: what is wrong with the line.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        let envelope: Envelope =
            serde_json::from_slice(line).map_err(|error| format!("invalid request: {error}"))?;
        if envelope.version == VERSION {
            Ok(envelope.request)
        } else {
            Err(format!(
                "version {} is not supported: expected {VERSION}",
                envelope.version
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever comes, the answer is a request that is written as it was read, or a sentence.
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
    fn what_is_sealed_opens() {
        for (request, wanted) in [
            (Request::Status, r#"{"version":1,"request":"status"}"#),
            (
                Request::Events { after: 7 },
                r#"{"version":1,"request":"events","after":7}"#,
            ),
        ] {
            assert_eq!(request.line(), wanted);
            assert_eq!(Request::parse(wanted.as_bytes()), Ok(request));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, said) in [
            (&br#"{"version":2,"request":"status"}"#[..], "version 2"),
            (
                br#"{"version":1,"request":"shutdown"}"#,
                "unknown variant `shutdown`",
            ),
            (br#"{"request":"status"}"#, "missing field `version`"),
            (b"\xff", "invalid request"),
        ] {
            let error = Request::parse(line).expect_err("a bad line");
            assert!(error.contains(said), "{error}");
        }
    }
}
