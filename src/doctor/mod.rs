//! What is wrong on this machine, and what to do about it.
//!
//! # Theory of operation
//!
//! [`Scene::survey`] looks at everything once: configuration, policy, the kernel's links, addresses, routes and rules, and
//! what a running service says of itself. Each examination, one file each, is a function of the scene and of some files of
//! the system to findings; `EXAMINATIONS` names them in the order in which one thing rests on the other.
//!
//! **Honest.** What could not be looked at is unknown, never fine and never wrong; a finding says whether root would
//! know. **Harmless.** Nothing is changed. A firewall is probed only while no service runs, since two that probe would
//! find each other. Datagrams leave the machine only if they are asked for ([`Case::path`]).

mod clock;
mod configuration;
mod dns;
mod dscp;
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
mod scene;
mod service;
mod uplink;
mod vpn;
mod wifi;

use serde::Serialize;

pub use scene::{Case, Scene};

/// The version of a report's form. Within one, fields, examinations and verdicts are only added.
pub const REPORT_VERSION: u32 = 1;

/// What an examination comes to, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is as it should be.
    Ok,
    /// It could not be told.
    Unknown,
    /// It may harm calls.
    Warning,
    /// It keeps media in the VPN, or will.
    Fault,
}

impl Verdict {
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
    pub verdict: Verdict,
    /// What was found, as a sentence.
    pub found: String,
    /// What to do about it.
    pub remedy: Option<String>,
    /// Whether root would know more.
    pub root_knows: bool,
}

impl Finding {
    fn new(verdict: Verdict, found: impl Into<String>, remedy: Option<String>) -> Self {
        Self {
            name: "",
            verdict,
            found: found.into(),
            remedy,
            root_knows: false,
        }
    }

    fn ok(found: impl Into<String>) -> Self {
        Self::new(Verdict::Ok, found, None)
    }

    fn warning(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Verdict::Warning, found, Some(remedy.into()))
    }

    fn fault(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Verdict::Fault, found, Some(remedy.into()))
    }

    fn unknown(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Verdict::Unknown, found, Some(remedy.into()))
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
pub struct Report {
    /// The version of the form.
    pub version: u32,
    /// The program's version.
    pub program: &'static str,
    /// The worst verdict, in which what is unknown counts for nothing.
    pub verdict: Verdict,
    /// Every result, in the order of the examinations.
    pub findings: Vec<Finding>,
}

type Examination = fn(&Scene) -> Vec<Finding>;

/// Every examination by its stable name.
const EXAMINATIONS: [(&str, Examination); 20] = [
    ("privileges", privileges::examine),
    ("kernel", kernel::examine),
    ("configuration", configuration::examine),
    ("files", files::examine),
    ("policy", policy::examine),
    ("clock", clock::examine),
    ("service", service::examine),
    ("leftovers", leftovers::examine),
    ("uplink", uplink::examine),
    ("mtu", mtu::examine),
    ("reverse_path", reverse_path::examine),
    ("vpn", vpn::examine),
    ("rules", rules::examine),
    ("networkd", networkd::examine),
    ("firewall", firewall::examine),
    ("dns", dns::examine),
    ("dscp", dscp::examine),
    ("wifi", wifi::examine),
    ("path", path::examine),
    ("router", router::examine),
];

/// Examines everything.
#[must_use]
pub fn examine(scene: &Scene) -> Report {
    let findings = EXAMINATIONS.iter().flat_map(|(name, examine)| {
        let findings = examine(scene).into_iter();
        findings.map(|finding| Finding { name, ..finding })
    });
    let findings: Vec<_> = findings.collect();
    let worst = findings.iter().map(|finding| finding.verdict).max();
    let verdict = match worst {
        Some(Verdict::Unknown) | None => Verdict::Ok,
        Some(worst) => worst,
    };
    Report {
        version: REPORT_VERSION,
        program: env!("CARGO_PKG_VERSION"),
        verdict,
        findings,
    }
}
