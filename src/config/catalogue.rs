//! The built-in vendor catalogues.

/// A configuration file with nothing but a vendor's services.
pub(super) struct Catalogue {
    /// Its name in `include`.
    pub(super) name: &'static str,
    /// The name of the file in diagnostics.
    pub(super) file: &'static str,
    /// The text of the file.
    pub(super) text: &'static str,
}

/// Every catalogue.
pub(super) const CATALOGUES: &[Catalogue] = &[Catalogue {
    name: "talkdesk",
    file: "talkdesk.toml (compiled in)",
    text: include_str!("../../config/talkdesk.toml"),
}];
