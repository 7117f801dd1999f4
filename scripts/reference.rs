//! Renders the table of settings: the commented example, the manual's table of defaults, `voicelane.toml(5)`.
//!
//! `cargo run --example pages -- --update` writes the first two into the repository. A test compares them.

#![expect(
    clippy::format_push_string,
    reason = "the texts are short and generated once"
)]

use voicelane::config::{SettingSpec, SettingsTable, tables};

/// The files in the repository, relative to its root, with their generated content.
pub(crate) fn files() -> [(&'static str, String); 2] {
    [
        ("config/voicelane.toml", example()),
        ("src/manual/settings.md", defaults()),
    ]
}

const HEADER: &str = "\
# voicelane.toml: every setting with its description, accepted values and default.
#
# Generated from the table of settings (src/config/settings.rs).
#
# No file is needed: these are the defaults. A line that begins with \"#\" directly before a key is a setting without a
# default, or an example. Check a file before use: voicelane check FILE
#
# voicelane reads /etc/voicelane/voicelane.toml, then /etc/voicelane/conf.d/*.toml in the order of their names. A later
# file overrides an earlier one, key by key. A list replaces the whole list, and a service the service of its name.
# Show the effective settings and their origins: voicelane config show --effective
";

/// The column at which comments wrap.
const WIDTH: usize = 118;

fn example() -> String {
    let mut out = HEADER.to_owned();
    for table in tables() {
        let is_service = table.name == "service";
        if !table.name.is_empty() {
            out += "\n";
            comment(&mut out, &table.about.concat());
        }
        match table.name {
            "" => {}
            "service" => out += "#[[service]]\n",
            name => out += &format!("[{name}]\n"),
        }
        for setting in table.settings {
            if table.name.is_empty() {
                out += "\n";
            }
            for paragraph in setting.paragraphs() {
                comment(&mut out, &paragraph);
            }
            comment(&mut out, &values(setting));
            let (key, default) = (setting.key, setting.default);
            match default {
                Some(default) if !is_service => out += &format!("{key} = {default}\n"),
                _ => out += &format!("#{key} = {}\n", setting.sample()),
            }
        }
    }
    out
}

/// The accepted values and the default of a setting in two sentences.
fn values(setting: &SettingSpec) -> String {
    let mut text = format!("Values: {}.", setting.value.syntax());
    if setting.required {
        text += " Required.";
    } else {
        let default = setting.default.unwrap_or("none");
        text += &format!(" Default: {default} ({}).", setting.reason);
    }
    text
}

fn comment(out: &mut String, text: &str) {
    for line in wrap(text, WIDTH - 2) {
        *out += &format!("# {line}\n");
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a last line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() > width {
            lines.push(word.to_owned());
        } else {
            *line += &format!(" {word}");
        }
    }
    lines
}

fn defaults() -> String {
    let mut out = String::from("| setting | default | reason |\n|---|---|---|\n");
    for table in tables().filter(|table| table.name != "service") {
        for setting in table.settings {
            let default = setting
                .default
                .map_or("none".into(), |it| format!("`{it}`"));
            let path = table.path(setting.key);
            out += &format!("| `{path}` | {default} | {} |\n", setting.reason);
        }
    }
    out
}

/// The manual page `voicelane.toml(5)` in roff.
#[allow(
    dead_code,
    reason = "the test of the repository's files does not need it"
)]
pub(crate) fn manual_page() -> String {
    let mut out = format!(
        ".TH VOICELANE.TOML 5 \"\" \"voicelane {}\" \"File formats\"\n",
        env!("CARGO_PKG_VERSION")
    );
    section(&mut out, "NAME");
    out += "voicelane.toml \\- configuration of voicelane\n";
    section(&mut out, "SYNOPSIS");
    out += ".nf\n/etc/voicelane/voicelane.toml\n/etc/voicelane/conf.d/*.toml\n.fi\n";
    section(&mut out, "DESCRIPTION");
    for (index, paragraph) in [
        "The file is TOML. It must have the line version = 1; every other setting has a default.",
        "voicelane reads the main file, then the drop-ins in the order of their names, then the systemd credential \
         voicelane.toml, then the command line. A later layer overrides an earlier one, key by key. A list replaces \
         the whole list, and a service the service of its name.",
        "Only root may be able to write the files and their directories. Otherwise the service rejects them.",
        "A reload applies settings that are marked with \"reload\"; other settings need a restart of the service.",
    ]
    .into_iter()
    .enumerate()
    {
        let gap = if index == 0 { "" } else { ".PP\n" };
        out += &format!("{gap}{}\n", roff(paragraph));
    }
    section(&mut out, "SETTINGS");
    for table in tables() {
        settings(&mut out, table);
    }
    section(&mut out, "FILES");
    out += ".TP\n.I /etc/voicelane/voicelane.toml\nThe main file.\n";
    out += ".TP\n.I /etc/voicelane/conf.d/*.toml\nDrop\\-ins.\n";
    section(&mut out, "EXAMPLES");
    out += "Disable the failover to the VPN and exclude mobile data:\n.PP\n.nf\n.RS 4\nversion = 1\n\n[uplink]\n\
            exclude = [\"wwan*\"]\n\n[fallback]\nto = \"none\"\n.RE\n.fi\n";
    out += ".PP\nCheck the files, show the effective settings, apply them:\n.PP\n.nf\n.RS 4\nvoicelane check\n\
            voicelane config show \\-\\-effective\nvoicelane reload\n.RE\n.fi\n";
    section(&mut out, "SEE ALSO");
    out += ".BR voicelane (1),\n.BR voicelane\\-check (1),\n.BR voicelane\\-config (1)\n";
    out
}

fn section(out: &mut String, name: &str) {
    *out += &format!(".SH {name}\n");
}

fn settings(out: &mut String, table: &SettingsTable) {
    let heading = match table.name {
        "" => "Before all tables".to_owned(),
        "service" => "[[service]]".to_owned(),
        name => format!("[{name}]"),
    };
    *out += &format!(".SS \"{heading}\"\n{}\n", roff(&table.about.concat()));
    for setting in table.settings {
        let (key, value) = (roff(setting.key), roff(setting.sample()));
        *out += &format!(
            ".TP\n.BR \"{key}\" \" = {}\"\n",
            value.replace('"', "\\(dq")
        );
        for (index, paragraph) in setting.paragraphs().iter().enumerate() {
            let gap = if index == 0 { "" } else { ".IP\n" };
            *out += &format!("{gap}{}\n", roff(paragraph));
        }
        let reload = if setting.reload { " (reload)" } else { "" };
        *out += &format!(".IP\n{}\n", roff(&(values(setting) + reload)));
    }
}

/// Escapes and wraps text for roff. No line begins with a dot, which would start a request.
fn roff(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    let escaped = escaped.replace('`', "").replace('\'', "\\(aq");
    let lines = wrap(&escaped, 78).into_iter();
    let lines = lines.map(|line| match line.strip_prefix('.') {
        Some(rest) => format!("\\&.{rest}"),
        None => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}
