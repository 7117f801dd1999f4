//! The `voicelane` program: parse, dispatch, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    voicelane::cli::main()
}
