//! `voicelane policy export`: writes the policy in the format of another product.

use std::process::ExitCode;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use jiff::civil::Date;

use crate::cli::exit::INVALID;
use crate::cli::sources::{Files, Overrides};
use crate::daemon;
use crate::policy::Policy;
use crate::policy::export::{ExportFormat, FORMATS, Selection};

/// The arguments of `voicelane policy export`.
#[derive(Clone, Debug, clap::Args)]
pub(in crate::cli) struct ExportArgs {
    /// Format of the export
    #[arg(value_parser = formats())]
    pub format: &'static ExportFormat,
    /// Only this service, even if it is disabled (repeatable); default: every active service
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub service: Vec<String>,
    /// The configuration
    #[command(flatten)]
    pub files: Files,
    /// Day of the policy; default: today (UTC)
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub date: Option<Date>,
}

fn formats() -> impl TypedValueParser<Value = &'static ExportFormat> {
    let names = FORMATS
        .iter()
        .map(|format| PossibleValue::new(format.name).help(format.about));
    PossibleValuesParser::new(names)
        .map(|name| ExportFormat::find(&name).expect("the parser takes no other name"))
}

/// Writes an export to standard output, and its notes to standard error.
///
/// # Errors
/// If standard output cannot be written. Errors of configuration or selection return exit code 2.
pub(super) fn run(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let config = match args.files.load(&Overrides::default()) {
        Ok(effective) => effective.into_config(),
        Err(error) => return Ok(error.report()),
    };
    let date = args.date.unwrap_or_else(daemon::today);
    let policy = Policy::compile(&config, date);
    let selection = match Selection::new(&policy, date, &args.service) {
        Ok(selection) => selection,
        Err(error) => {
            complain!("error: {error}");
            return Ok(ExitCode::from(INVALID));
        }
    };
    let export = args.format.export(&selection);
    crate::cli::print(&export.text)?;
    for note in export.notes {
        complain!("note: {note}");
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct TestCommand {
        #[command(flatten)]
        args: ExportArgs,
    }

    fn exit(line: &str) -> Option<ExitCode> {
        let words = std::iter::once("export").chain(line.split(' '));
        let command = TestCommand::try_parse_from(words).ok()?;
        Some(run(&command.args).expect("standard output is open"))
    }

    #[test]
    fn the_parser_accepts_exactly_the_formats() {
        for format in FORMATS {
            let args = TestCommand::try_parse_from(["export", format.name]).map(|it| it.args);
            assert_eq!(args.expect("a format").format.name, format.name);
        }
        assert!(exit("iptable").is_none());
    }

    #[test]
    fn a_selection_that_cannot_be_exported_ends_with_2() {
        let day = "--date 2026-03-01";
        for (service, wanted) in [
            ("talkdesk-media", ExitCode::SUCCESS),
            ("talkdesk-signalling", ExitCode::SUCCESS),
            ("talkdesk-retired-usa", ExitCode::from(2)),
            ("talkdesk", ExitCode::from(2)),
        ] {
            let line = format!("cidr {day} --service {service}");
            assert_eq!(exit(&line), Some(wanted), "{service}");
        }
        let before = "cidr --date 2023-09-25 --service talkdesk-media";
        assert_eq!(exit(before), Some(ExitCode::from(2)));
    }
}
