//! Exports: the policy in the words of what IT sets up elsewhere, one file for each target.
//!
//! An export is a pure function of a [`Selection`] and a [`ExportFormat`]: the same two give the same text, byte for byte.
//! What a target cannot say is never left out in silence: it becomes a note, which stands in the text where the
//! target has comments, and which the caller shows. A target that knows less than a rule (addresses but no ports, say)
//! is given more than the rule, and the note says how much more.
//!
//! Texts of the configuration reach an export only in comments, where they cannot end a line, and as JSON strings. In
//! commands stand numbers, prefixes and the names of services, which are plain by construction.

mod asa;
mod browser;
mod cidr;
mod globalprotect;
mod ios;
mod iptables;
mod json;
mod meraki;
mod mikrotik;
mod nftables;
mod openvpn;
mod selection;
mod swanctl;
mod warp;
mod windows;
mod wireguard;
mod writer;

pub use selection::{Selection, SelectionError, TrafficSelector};

use writer::ExportWriter;

/// A target of exports.
#[derive(Debug)]
pub struct ExportFormat {
    /// What the command line calls it.
    pub name: &'static str,
    /// What it is, in half a sentence.
    pub about: &'static str,
    /// What begins a line of comment; none where the target knows no comments.
    comment: Option<&'static str>,
    /// Writes everything below the header.
    write: fn(&Selection<'_>, &mut ExportWriter),
}

/// Every format.
pub const FORMATS: &[ExportFormat] = &[
    nftables::NFTABLES,
    nftables::OPENWRT,
    iptables::IPTABLES,
    ios::IOS,
    mikrotik::MIKROTIK,
    meraki::MERAKI,
    windows::QOS,
    windows::ROUTES,
    openvpn::CLIENT,
    openvpn::SERVER,
    wireguard::WIREGUARD,
    swanctl::SWANCTL,
    warp::WARP,
    globalprotect::GLOBALPROTECT,
    asa::ASA,
    browser::CHROME,
    browser::EDGE,
    cidr::CIDR,
    json::JSON,
];

/// A finished export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// The text, ready to be saved.
    pub text: String,
    /// What the text says less, or more, than the policy.
    pub notes: Vec<String>,
}

impl ExportFormat {
    /// The format of a name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        FORMATS.iter().find(|format| format.name == name)
    }

    /// Writes a selection in this format.
    #[must_use]
    pub fn export(&self, selection: &Selection<'_>) -> Export {
        let mut body = ExportWriter::new(self.comment);
        (self.write)(selection, &mut body);
        let (body, notes) = body.finish();
        let mut head = ExportWriter::new(self.comment);
        if self.comment.is_some() {
            self.header(selection, &notes, &mut head);
        }
        Export {
            text: head.finish().0 + &body,
            notes,
        }
    }

    fn header(&self, selection: &Selection<'_>, notes: &[String], head: &mut ExportWriter) {
        head.comment(self.about);
        head.comment(&format!(
            "Written by {}. Policy {}, in force on {}:",
            generator(),
            selection.identity(),
            selection.date()
        ));
        for rule in selection.rules() {
            head.comment("");
            let ports: Vec<_> = rule.ports.iter().map(ToString::to_string).collect();
            head.comment(&format!(
                "{}: {} {}, {}. {}",
                rule.name,
                rule.protocol,
                ports.join(", "),
                rule.treatment.dscp,
                rule.description
            ));
            if let Some(source) = &rule.source {
                head.comment(source);
            }
        }
        if !notes.is_empty() {
            head.comment("");
            head.comment("What this says less, or more, than the policy:");
            for note in notes {
                head.comment(&format!("- {note}"));
            }
        }
        head.line("");
    }
}

/// What writes the exports.
const fn generator() -> &'static str {
    concat!("voicelane ", env!("CARGO_PKG_VERSION"))
}
