//! What is wrong on this machine, and what to do about it.
//!
//! # Theory of operation
//!
//! [`SystemFacts::collect`] looks at everything once: configuration, policy, the kernel's links, addresses, routes and rules, and
//! what a running service says of itself. Each examination, one file each, is a function of the facts and of some files of
//! the system to findings; `CHECKS` names them in the order in which one thing rests on the other.
//!
//! **Honest.** What could not be looked at is unknown, never fine and never wrong; a finding says whether root would
//! know. **Harmless.** Nothing is changed. A firewall is probed only while no service runs, since two that probe would
//! find each other. Datagrams leave the machine only if they are asked for ([`CheckOptions::path`]).

mod clock;
mod configuration;
mod dns;
mod dscp;
mod facts;
mod files;
mod firewall;
mod kernel;
mod leftovers;
mod mtu;
mod networkd;
mod path;
mod policy;
mod privileges;
mod reverse_path;
mod router;
mod rules;
mod service;
mod uplink;
mod vpn;
mod wifi;

use serde::Serialize;

pub use facts::{CheckOptions, SystemFacts};

/// The version of a report's form. Within one, fields, examinations and verdicts are only added.
pub const REPORT_VERSION: u32 = 1;

/// What an examination comes to, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckVerdict {
    /// It is as it should be.
    Ok,
    /// It could not be told.
    Unknown,
    /// It may harm calls.
    Warning,
    /// It keeps media in the VPN, or will.
    Fault,
}

impl CheckVerdict {
    /// The stable word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// One result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The examination's stable name.
    pub name: &'static str,
    /// What it comes to.
    pub verdict: CheckVerdict,
    /// What was found, as a sentence.
    pub found: String,
    /// What to do about it.
    pub remedy: Option<String>,
    /// Whether root would know more.
    pub root_knows: bool,
}

impl Finding {
    fn new(verdict: CheckVerdict, found: impl Into<String>, remedy: Option<String>) -> Self {
        Self {
            name: "",
            verdict,
            found: found.into(),
            remedy,
            root_knows: false,
        }
    }

    fn ok(found: impl Into<String>) -> Self {
        Self::new(CheckVerdict::Ok, found, None)
    }

    fn warning(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(CheckVerdict::Warning, found, Some(remedy.into()))
    }

    fn fault(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(CheckVerdict::Fault, found, Some(remedy.into()))
    }

    fn unknown(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(CheckVerdict::Unknown, found, Some(remedy.into()))
    }

    /// What a plain user cannot look at.
    fn for_root(found: impl Into<String>) -> Self {
        Self {
            root_knows: true,
            ..Self::unknown(found, "sudo voicelane doctor")
        }
    }
}

/// All findings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DoctorReport {
    /// The version of the form.
    pub version: u32,
    /// The program's version.
    pub program: &'static str,
    /// The worst verdict, in which what is unknown counts for nothing.
    pub verdict: CheckVerdict,
    /// Every result, in the order of the examinations.
    pub findings: Vec<Finding>,
}

type Check = fn(&SystemFacts) -> Vec<Finding>;

/// Every examination by its stable name.
const CHECKS: [(&str, Check); 20] = [
    ("privileges", privileges::check),
    ("kernel", kernel::check),
    ("configuration", configuration::check),
    ("files", files::check),
    ("policy", policy::check),
    ("clock", clock::check),
    ("service", service::check),
    ("leftovers", leftovers::check),
    ("uplink", uplink::check),
    ("mtu", mtu::check),
    ("reverse_path", reverse_path::check),
    ("vpn", vpn::check),
    ("rules", rules::check),
    ("networkd", networkd::check),
    ("firewall", firewall::check),
    ("dns", dns::check),
    ("dscp", dscp::check),
    ("wifi", wifi::check),
    ("path", path::check),
    ("router", router::check),
];

/// Examines everything.
#[must_use]
pub fn run_checks(facts: &SystemFacts) -> DoctorReport {
    let findings = CHECKS.iter().flat_map(|(name, check)| {
        let findings = check(facts).into_iter();
        findings.map(|finding| Finding { name, ..finding })
    });
    let findings: Vec<_> = findings.collect();
    let worst = findings.iter().map(|finding| finding.verdict).max();
    let verdict = match worst {
        Some(CheckVerdict::Unknown) | None => CheckVerdict::Ok,
        Some(worst) => worst,
    };
    DoctorReport {
        version: REPORT_VERSION,
        program: env!("CARGO_PKG_VERSION"),
        verdict,
        findings,
    }
}
