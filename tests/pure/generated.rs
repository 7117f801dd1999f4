//! The generated files of the repository match the table of settings, and the manual page is valid.

use std::fs;
use std::path::Path;

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
