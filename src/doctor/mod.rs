//! Checks this machine for faults and names the remedies.
//!
//! # Theory of operation
//!
//! [`SystemFacts::collect`] reads everything once: configuration, policy, links, addresses, routes, rules, and the status
//! of a running service. Each check has a file of its own. It is a function from these facts, and some system files, to
//! findings. `CHECKS` lists the checks so that each one follows the checks on which it depends.
//!
//! **Unknown.** A fact that cannot be examined is reported as unknown, and whether root could examine it.
//! **Harmless.** No check changes the machine. The doctor probes firewalls only while no service runs, because two
//! probes would detect each other. Packets leave the machine only on request ([`CheckOptions::path`]).

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
mod resolvers;
mod reverse_path;
mod router;
mod rules;
mod service;
mod uplink;
mod vpn;
mod wifi;

use serde::Serialize;

pub use facts::{CheckOptions, SystemFacts};
pub(crate) use resolvers::resolvers;

/// The version of the report format. Within a version, fields, checks and verdicts are only added.
pub const REPORT_VERSION: u32 = 1;

/// The result of a check, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckVerdict {
    /// No problem found.
    Ok,
    /// The check could not be made.
    Unknown,
    /// A problem that may harm calls.
    Warning,
    /// A problem that keeps media in the VPN, or will.
    Fault,
}

impl CheckVerdict {
    /// The stable name.
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

/// One result of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The stable name of the check.
    pub name: &'static str,
    /// The verdict.
    pub verdict: CheckVerdict,
    /// The observation, as a sentence.
    pub found: String,
    /// The remedy.
    pub remedy: Option<String>,
    /// Whether root could measure more with the same check.
    pub root_knows: bool,
    /// The check whose problem causes this finding. Such a finding is left out if that check has a problem.
    #[serde(skip)]
    pub cause: Option<&'static str>,
}

impl Finding {
    fn new(verdict: CheckVerdict, found: impl Into<String>, remedy: Option<String>) -> Self {
        Self {
            name: "",
            verdict,
            found: found.into(),
            remedy,
            root_knows: false,
            cause: None,
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

    /// A check that an ordinary user cannot make.
    fn needs_root(found: impl Into<String>) -> Self {
        Self {
            root_knows: true,
            ..Self::unknown(found, "Run: sudo voicelane doctor")
        }
    }

    /// A finding that follows from a problem of another check.
    fn because_of(self, check: &'static str) -> Self {
        Self {
            cause: Some(check),
            ..self
        }
    }

    /// A check of an uplink on a machine without one.
    fn no_uplink() -> Self {
        Self::unknown("Not checked: there is no uplink.", "See the uplink check.")
            .because_of("uplink")
    }
}

/// All findings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DoctorReport {
    /// The version of the format.
    pub version: u32,
    /// The version of the program.
    pub program: &'static str,
    /// The worst verdict. Unknown findings do not count.
    pub verdict: CheckVerdict,
    /// Every finding, worst first, otherwise in the order of the checks. One cause is one finding.
    pub findings: Vec<Finding>,
    /// The checks that are left out, because the problem of another check causes their findings.
    pub consequences: Vec<&'static str>,
}

type CheckFn = fn(&SystemFacts) -> Vec<Finding>;

/// Every check by its stable name, in the order of the report.
const CHECKS: &[(&str, CheckFn)] = &[
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

/// Makes every check.
#[must_use]
pub fn run_checks(facts: &SystemFacts) -> DoctorReport {
    let findings = CHECKS.iter().flat_map(|(name, check)| {
        let findings = check(facts).into_iter();
        findings.map(|finding| Finding { name, ..finding })
    });
    let (findings, consequences) = without_consequences(findings.collect());
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
        consequences,
    }
}

/// Leaves out findings that follow from a problem of another check, and puts the worst first.
fn without_consequences(mut findings: Vec<Finding>) -> (Vec<Finding>, Vec<&'static str>) {
    let problems: Vec<_> = findings
        .iter()
        .filter(|it| it.verdict >= CheckVerdict::Warning && it.cause.is_none())
        .map(|it| it.name)
        .collect();
    let mut consequences = Vec::new();
    findings.retain(|finding| {
        let is_kept = finding.cause.is_none_or(|cause| !problems.contains(&cause));
        if !is_kept && !consequences.contains(&finding.name) {
            consequences.push(finding.name);
        }
        is_kept
    });
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
    (findings, consequences)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cause_is_one_finding_and_the_worst_is_first() {
        let named = |name, finding: Finding| Finding { name, ..finding };
        let all = |uplink| {
            vec![
                named("kernel", Finding::ok("fine")),
                named(
                    "service",
                    Finding::fault("no media", "see").because_of("uplink"),
                ),
                named("uplink", uplink),
                named("mtu", Finding::no_uplink()),
                named("wifi", Finding::warning("old", "update")),
            ]
        };
        let (findings, consequences) =
            without_consequences(all(Finding::fault("no cable", "plug in")));
        let names: Vec<_> = findings.iter().map(|it| it.name).collect();
        assert_eq!(names, ["uplink", "wifi", "kernel"]);
        assert_eq!(consequences, ["service", "mtu"]);
        // Without the cause, the finding stands for itself.
        let (findings, consequences) = without_consequences(all(Finding::ok("wlan0")));
        let names: Vec<_> = findings.iter().map(|it| it.name).collect();
        assert_eq!(names, ["service", "wifi", "mtu", "kernel", "uplink"]);
        assert_eq!(consequences, [""; 0]);
    }

    #[test]
    fn the_manual_describes_every_check() {
        let manual = include_str!("../manual/diagnosis.rs");
        for (name, _) in CHECKS {
            let row = format!("`{name}`");
            assert!(
                manual.contains(&row),
                "{name} has no row in src/manual/diagnosis.rs"
            );
        }
    }
}
