//! Writes the manual pages and the shells' completions from the definition of the command line:
//! `cargo run --example pages -- DIRECTORY`.
//!
//! Packages and `scripts/install` take them from there. The program itself knows nothing of it, and stays smaller.

use std::io;
use std::path::PathBuf;
use std::{env, fs};

use clap_complete::{Shell, generate_to};

fn main() -> io::Result<()> {
    let directory = env::args_os().nth(1).map(PathBuf::from);
    let directory = directory.ok_or_else(|| io::Error::other("which directory?"))?;
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    for directory in [&man, &completions] {
        fs::create_dir_all(directory)?;
    }
    clap_mangen::generate_to(voicelane::cli::command(), &man)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        let mut command = voicelane::cli::command();
        generate_to(shell, &mut command, "voicelane", &completions)?;
    }
    Ok(())
}
