//! What can be asked of the service.

use serde::{Deserialize, Serialize};

use super::VERSION;

/// A request, tagged by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

impl Request {
    /// Whether it changes something: not for everybody who may look.
    #[must_use]
    pub const fn changes(&self) -> bool {
        matches!(self, Self::Reload)
    }
}

/// A request as it stands on the wire.
#[derive(Serialize, Deserialize)]
pub(super) struct Envelope {
    version: u32,
    #[serde(flatten)]
    request: Request,
}

impl Envelope {
    pub(super) fn new(request: Request) -> Self {
        Self {
            version: VERSION,
            request,
        }
    }

    /// Reads one line.
    ///
    /// # Errors
    /// A sentence for the peer: what is wrong with the line.
    pub(super) fn open(line: &[u8]) -> Result<Request, String> {
        let envelope: Self =
            serde_json::from_slice(line).map_err(|error| format!("not a request: {error}"))?;
        if envelope.version == VERSION {
            Ok(envelope.request)
        } else {
            Err(format!(
                "version {} is not spoken here: expected {VERSION}",
                envelope.version
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens() {
        let line = serde_json::to_vec(&Envelope::new(Request::Status)).expect("plain data");
        assert_eq!(line, br#"{"version":1,"request":"status"}"#);
        assert_eq!(Envelope::open(&line), Ok(Request::Status));
        let request = Request::Events { after: 7 };
        let line = serde_json::to_vec(&Envelope::new(request.clone())).expect("plain data");
        assert_eq!(line, br#"{"version":1,"request":"events","after":7}"#);
        assert_eq!(Envelope::open(&line), Ok(request));
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
            (b"\xff", "not a request"),
        ] {
            let error = Envelope::open(line).expect_err("a bad line");
            assert!(error.contains(said), "{error}");
        }
    }
}
