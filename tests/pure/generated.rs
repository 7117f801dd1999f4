//! The generated files of the repository match the table of settings. Every man page has the same sections.

use std::fs;
use std::path::Path;

#[path = "../../scripts/man.rs"]
mod man;
#[path = "../../scripts/reference.rs"]
mod reference;

#[test]
fn generated_files_match_the_table_of_settings() {
    for (file, content) in reference::files() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let present = fs::read_to_string(&path).expect("the file is in the repository");
        assert!(
            present == content,
            "{file} is outdated: run cargo run --example pages -- --update"
        );
    }
}

#[test]
fn every_man_page_has_its_sections() {
    let pages = man::pages().expect("the pages are rendered");
    assert!(pages.len() > 15, "{}", pages.len());
    for (name, page) in pages {
        let page = String::from_utf8(page).expect("UTF-8");
        for section in ["EXIT STATUS", "FILES", "ENVIRONMENT", "EXAMPLES"] {
            let heading = format!("\n.SH {section}\n");
            let count = page.matches(&heading).count();
            assert_eq!(count, 1, "{section} in {name}");
        }
    }
}
