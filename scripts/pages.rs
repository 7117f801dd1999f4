//! Writes the manual pages and the shells' completions: `cargo run --example pages -- DIRECTORY`.
//!
//! With `--update`, rewrites the files of the repository that the table of settings determines.
//! Packages and `scripts/install` take pages and completions from the directory. The program does not contain them.

use std::io;
use std::path::{Path, PathBuf};
use std::{env, fs};

use clap_complete::{Shell, generate_to};

mod man;
mod reference;

fn main() -> io::Result<()> {
    let argument = env::args_os().nth(1);
    let argument = argument.ok_or_else(|| io::Error::other("usage: pages DIRECTORY | --update"))?;
    if argument == "--update" {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (file, content) in reference::files() {
            fs::write(root.join(file), content)?;
        }
        return Ok(());
    }
    let directory = PathBuf::from(argument);
    let (pages, completions) = (directory.join("man"), directory.join("completions"));
    for directory in [&pages, &completions] {
        fs::create_dir_all(directory)?;
    }
    for (name, page) in man::pages()? {
        fs::write(pages.join(name), page)?;
    }
    fs::write(pages.join("voicelane.toml.5"), reference::manual_page())?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        let mut command = voicelane::cli::command();
        generate_to(shell, &mut command, "voicelane", &completions)?;
    }
    Ok(())
}
