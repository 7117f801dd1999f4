//! Any line at the control socket: a request that is written as it was read, or a sentence; and whoever may only look
//! is told from whoever may change by the request alone.
#![no_main]

use libfuzzer_sys::fuzz_target;
use voicelane::control::{Privilege, Request};

fuzz_target!(|line: &[u8]| {
    match Request::parse(line) {
        Ok(request) => {
            assert_eq!(Request::parse(request.line().as_bytes()), Ok(request));
            let is_change = !matches!(request, Request::Summary | Request::Status | Request::Events { .. });
            assert_eq!(request.required_privilege() == Privilege::Write, is_change);
        }
        Err(sentence) => assert!(!sentence.is_empty()),
    }
});
