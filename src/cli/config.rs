//! `voicelane config`: the effective settings with their origins, and the JSON schema.

use std::fmt::Write;
use std::process::ExitCode;

use serde_json::{Value as Json, json};

use crate::config::{EffectiveSection, EffectiveValue, ValueOrigin, schema};

use super::sources::{Files, Overrides};

/// The column of the origins, unless a value is longer.
const ORIGIN_COLUMN: usize = 48;

/// The arguments of `voicelane config`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ConfigArgs {
    /// The command
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// The commands on the configuration.
#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum ConfigCommand {
    /// Print the configuration as a file with the same meaning
    Show(ShowConfigArgs),
    /// Print the JSON schema of a configuration file
    Schema,
}

/// The arguments of `voicelane config show`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ShowConfigArgs {
    /// Print every effective value, including defaults
    #[arg(long)]
    pub effective: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The configuration
    #[command(flatten)]
    pub files: Files,
    /// The settings of the command line
    #[command(flatten)]
    pub overrides: Overrides,
}

/// Runs a command on the configuration.
///
/// # Errors
/// If standard output cannot be written. An invalid configuration is printed; the exit code is 2.
pub(super) fn run(args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        ConfigCommand::Show(args) => return show(args),
        ConfigCommand::Schema => super::print(&format!("{:#}\n", schema()))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show(args: &ShowConfigArgs) -> anyhow::Result<ExitCode> {
    let effective = match args.files.load(&args.overrides) {
        Ok(effective) => effective,
        Err(error) => return Ok(error.report_as(args.json)),
    };
    let mut sections = effective.sections();
    if !args.effective {
        for section in &mut sections {
            section.values.retain(|value| is_written(&value.origin));
        }
        // `enable` and `disable` already show a service of a catalogue that they switch.
        let is_whole = |section: &EffectiveSection| {
            let mut values = section.values.iter();
            section.service.is_none() || values.any(|value| value.key == "name")
        };
        sections.retain(|section| !section.values.is_empty() && is_whole(section));
    }
    if args.json {
        let whole = json!({ "version": 1, "sections": sections });
        super::print(&format!("{whole:#}\n"))?;
    } else if sections.is_empty() {
        super::print(
            "# No file sets a value: the defaults apply. `voicelane config show --effective` prints them.\n",
        )?;
    } else {
        super::print(&text(&sections))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a file or the command line sets the value.
fn is_written(origin: &ValueOrigin) -> bool {
    origin.layer() > crate::config::Layer::Vendor
}

/// Prints a file with the same meaning, each value with its origin.
pub(super) fn text(sections: &[EffectiveSection]) -> String {
    let mut out = String::new();
    for (index, section) in sections.iter().enumerate() {
        let gap = if index == 0 { "" } else { "\n" };
        match (&section.table, &section.service) {
            (None, _) => {}
            (Some(table), None) => writeln!(out, "{gap}[{table}]").expect("a string"),
            (Some(table), Some(_)) => writeln!(out, "{gap}[[{table}]]").expect("a string"),
        }
        for value in &section.values {
            let line = match &value.value {
                Json::Null => format!("#{} =", value.key),
                _ => format!("{} = {}", value.key, toml(value)),
            };
            writeln!(out, "{line:<ORIGIN_COLUMN$} # {}", value.origin).expect("a string");
        }
    }
    out
}

/// The value in TOML: as the file has it, if that is one line.
fn toml(value: &EffectiveValue) -> String {
    match &value.written {
        Some(written) if !written.contains('\n') => written.clone(),
        // JSON's numbers, strings, booleans and lists are TOML's.
        _ => value.value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Document, Effective, Layer};

    fn effective() -> Effective {
        let document = |layer, name: &str, text: &str| Document {
            layer,
            name: name.to_owned(),
            text: format!("version = 1\n{text}"),
        };
        let service = "[[service]]\nname = 'lab'\nrole = 'media'\nprotocol = 'udp'\n\
             prefixes = [\n  '198.18.0.0/15', # the lab\n]\nports = [3478]\nallow_special_purpose = true\n\
             valid_from = 2024-01-23\n";
        let layers = vec![
            document(
                Layer::Main,
                "it.toml",
                "enable = ['talkdesk-signalling']\n[route]\nmark = 0x76000000\n",
            ),
            document(Layer::DropIn, "10.toml", service),
            Document::setting("--uplink", "uplink.interface", "wlan0"),
        ];
        Effective::read(layers).expect("valid")
    }

    #[test]
    fn the_output_is_a_file_with_the_same_meaning() {
        let effective = effective();
        let text = text(&effective.sections());
        assert_eq!(
            Config::parse("shown.toml", &text).as_ref(),
            Ok(effective.config()),
            "{text}"
        );
        for (line, origin) in [
            ("enable = ['talkdesk-signalling']", "file it.toml:2"),
            ("interface = \"wlan0\"", "--uplink"),
            ("mark = 0x76000000", "file it.toml:4"),
            ("table = 30316", "default"),
            ("#group =", "default"),
            ("prefixes = [\"198.18.0.0/15\"]", "drop-in 10.toml:6"),
            ("valid_from = 2024-01-23", "drop-in 10.toml:11"),
            ("dscp = \"EF\"", "default"),
            ("enabled = true", "file it.toml:2"),
        ] {
            let line = format!("{line:<ORIGIN_COLUMN$} # {origin}");
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
        assert!(
            text.contains("# vendor talkdesk.toml (compiled in):"),
            "{text}"
        );
    }
}
