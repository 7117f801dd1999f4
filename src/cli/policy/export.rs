//! `voicelane policy export`: the policy in the words of other programs.

use std::process::ExitCode;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use jiff::civil::Date;

use crate::cli::sources::{Files, Overrides};
use crate::daemon;
use crate::policy::Policy;
use crate::policy::export::{ExportFormat, FORMATS, Selection};

/// The exit code of a selection that cannot be exported: the command line is wrong.
const BAD_SELECTION: u8 = 2;

/// What `voicelane policy export` is asked.
#[derive(Clone, Debug, clap::Args)]
pub(in crate::cli) struct ExportArgs {
    /// What to write
    #[arg(value_parser = formats())]
    pub format: &'static ExportFormat,
    /// Only this service, even if it is switched off; may be given several times. Without it, every active one
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub service: Vec<String>,
    /// The configuration
    #[command(flatten)]
    pub files: Files,
    /// The day to write for; without one, today (UTC)
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

/// Writes an export to standard output, and what it leaves out to standard error.
///
/// # Errors
/// When nothing can be printed. A bad configuration or selection is reported and answered with exit code 2.
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
            eprintln!("error: {error}");
            return Ok(ExitCode::from(BAD_SELECTION));
        }
    };
    let export = args.format.export(&selection);
    crate::cli::print(&export.text)?;
    for note in export.notes {
        eprintln!("note: {note}");
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ExportArgs,
    }

    fn exit(line: &str) -> Option<ExitCode> {
        let words = std::iter::once("export").chain(line.split(' '));
        let line = Line::try_parse_from(words).ok()?;
        Some(run(&line.args).expect("standard output is open"))
    }

    #[test]
    fn every_format_is_taken_and_nothing_else() {
        for format in FORMATS {
            let line = Line::try_parse_from(["export", format.name]).map(|line| line.args);
            assert_eq!(line.expect("a format").format.name, format.name);
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
