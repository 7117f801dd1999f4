//! The vendor catalogues that are compiled in.

/// A vendor's services: a configuration file that holds nothing else.
pub(super) struct Catalogue {
    /// What `include = [...]` calls it.
    pub(super) name: &'static str,
    /// What diagnostics call its file.
    pub(super) file: &'static str,
    /// The file.
    pub(super) text: &'static str,
}

/// Every catalogue.
pub(super) const CATALOGUES: &[Catalogue] = &[Catalogue {
    name: "talkdesk",
    file: "talkdesk.toml (compiled in)",
    text: include_str!("../../config/talkdesk.toml"),
}];
