//! The man pages of the commands, and the overview voicelane(7).
//!
//! Names, options and descriptions come from the definition of the command line, exit codes from the table in the program.

#![expect(
    clippy::format_push_string,
    reason = "the texts are short and generated once"
)]

use std::io;

use clap_mangen::Man;
use voicelane::cli;

/// Examples of each command: the command line and its purpose.
const EXAMPLES: &[(&str, &[(&str, &str)])] = &[
    (
        "voicelane",
        &[
            ("voicelane status", "Show whether media leaves the VPN."),
            ("sudo voicelane doctor", "Find out why it does not."),
        ],
    ),
    (
        "voicelane-run",
        &[
            ("sudo voicelane run", "Run the service in a terminal."),
            (
                "sudo voicelane run --uplink wlan0 --log debug",
                "Use one interface, and log more.",
            ),
        ],
    ),
    (
        "voicelane-status",
        &[
            ("voicelane status --watch", "Show the state every second."),
            (
                "voicelane status --json",
                "Show the state to a monitoring agent.",
            ),
        ],
    ),
    (
        "voicelane-mappings",
        &[("voicelane mappings", "List the calls.")],
    ),
    (
        "voicelane-reload",
        &[(
            "voicelane check && sudo voicelane reload",
            "Reload a valid configuration.",
        )],
    ),
    (
        "voicelane-pause",
        &[(
            "sudo voicelane pause 15m",
            "Keep all media in the VPN for 15 minutes.",
        )],
    ),
    (
        "voicelane-resume",
        &[("sudo voicelane resume", "End a pause.")],
    ),
    (
        "voicelane-events",
        &[(
            "voicelane events --follow",
            "Print new events until interrupted.",
        )],
    ),
    (
        "voicelane-doctor",
        &[
            (
                "sudo voicelane doctor",
                "Make every check that sends no packet to the vendor.",
            ),
            (
                "sudo voicelane doctor --path",
                "Also find the hop that changes EF.",
            ),
        ],
    ),
    (
        "voicelane-bugreport",
        &[(
            "sudo voicelane bugreport --output report.tar.gz",
            "Write an archive for support.",
        )],
    ),
    (
        "voicelane-capture",
        &[
            (
                "sudo voicelane capture --seconds 60",
                "Record headers for a minute.",
            ),
            ("wireshark voicelane.pcap", "Analyse the file."),
        ],
    ),
    (
        "voicelane-explain",
        &[
            (
                "voicelane explain udp 168.86.130.7:20000",
                "Show the path of packets to a destination.",
            ),
            (
                "voicelane explain --policy tcp host.example.com:443",
                "Show the policy's verdict for each address of a host.",
            ),
        ],
    ),
    (
        "voicelane-check",
        &[
            ("voicelane check", "Check the files that the service reads."),
            (
                "voicelane check new.toml",
                "Check a file before it is installed.",
            ),
        ],
    ),
    (
        "voicelane-config",
        &[("voicelane config show", "Show the active configuration.")],
    ),
    (
        "voicelane-config-show",
        &[(
            "voicelane config show --effective",
            "Show every value with its origin.",
        )],
    ),
    (
        "voicelane-config-schema",
        &[(
            "voicelane config schema > voicelane.schema.json",
            "Save the schema for an editor.",
        )],
    ),
    (
        "voicelane-policy",
        &[("voicelane policy show", "List the services.")],
    ),
    (
        "voicelane-policy-show",
        &[(
            "voicelane policy show --date 2027-01-01",
            "List the services of another day.",
        )],
    ),
    (
        "voicelane-policy-export",
        &[
            (
                "voicelane policy export openwrt",
                "Write rules for an OpenWrt router.",
            ),
            (
                "voicelane policy export json --service talkdesk-media",
                "Write one service as JSON.",
            ),
        ],
    ),
    (
        "voicelane-cleanup",
        &[("sudo voicelane cleanup", "Clean up after a killed service.")],
    ),
    (
        "voicelane-demo",
        &[("sudo voicelane demo", "Run the demo.")],
    ),
];

/// Files that commands with a flag use.
const FILES: &[(&str, &[(&str, &str)])] = &[
    (
        "config-dir",
        &[
            ("/etc/voicelane/voicelane.toml", "The configuration."),
            (
                "/etc/voicelane/conf.d/*.toml",
                "Drop-ins, in the order of their names.",
            ),
        ],
    ),
    (
        "runtime-dir",
        &[
            (
                "/run/voicelane/control.sock",
                "The control socket of the service.",
            ),
            (
                "/run/voicelane/state.json",
                "Sysctls as they were before the service changed them.",
            ),
        ],
    ),
    (
        "state-dir",
        &[
            (
                "/var/lib/voicelane/events.jsonl",
                "The stored events, if the service runs as a unit.",
            ),
            (
                "/var/lib/voicelane/last-good.json",
                "The last configuration that worked, if the service runs as a unit.",
            ),
        ],
    ),
];

const STATES: &[(&str, &str)] = &[
    ("working", "Media leaves through the uplink."),
    (
        "degraded",
        "Media leaves through the uplink, and each warning of the status names a remedy.",
    ),
    (
        "not_working",
        "All media is in the VPN. Calls work as they do without voicelane.",
    ),
];

const DESCRIPTION: &str = "\
voicelane is a userspace split-tunnel router for Linux. It sends the voice media of Talkdesk past a full-tunnel VPN, \
directly to the internet, and marks it with DSCP EF. All other traffic stays in the VPN.
.PP
The service captures packets to the media addresses with policy routing rules and a TUN interface. It sends them from \
sockets that are bound to the physical uplink, and returns the replies through the TUN.
.PP
If the direct path of a call fails, the call continues in the VPN. It returns when the direct path works again. When the \
service stops, it removes its rules, routes and interface, so all traffic uses the VPN.";

/// Returns every man page as file name and content.
///
/// # Errors
/// If a page cannot be rendered.
pub(crate) fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut root = cli::command().disable_help_subcommand(true);
    root.build();
    let mut pages = vec![("voicelane.7".to_owned(), overview(&root).into_bytes())];
    collect(&root, &mut pages)?;
    Ok(pages)
}

fn collect(command: &clap::Command, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    for subcommand in command.get_subcommands() {
        collect(subcommand, pages)?;
    }
    let name = command.get_display_name().unwrap_or(command.get_name());
    pages.push((format!("{name}.1"), page(command, name)?));
    Ok(())
}

fn page(command: &clap::Command, name: &str) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone());
    let mut out = title(name, 1, "User commands").into_bytes();
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    let mut text = String::new();
    let codes = cli::exit_codes(command.get_name());
    list(
        &mut text,
        "EXIT STATUS",
        codes
            .iter()
            .map(|(code, meaning)| (code.to_string(), (*meaning).to_owned())),
    );
    let flags: Vec<_> = command
        .get_arguments()
        .filter_map(clap::Arg::get_long)
        .collect();
    let files: Vec<_> = FILES
        .iter()
        .filter(|(flag, _)| flags.contains(flag))
        .flat_map(|(_, files)| files.iter().map(owned))
        .collect();
    if files.is_empty() {
        text += ".SH FILES\nThe command reads and writes no files of the service.\n";
    } else {
        list(&mut text, "FILES", files.into_iter());
    }
    let variables = command.get_arguments().filter_map(|arg| {
        let (flag, variable) = (arg.get_long()?, arg.get_env()?.to_str()?);
        Some((
            variable.to_owned(),
            format!("The same as --{flag}, which overrides it."),
        ))
    });
    list(&mut text, "ENVIRONMENT", variables);
    examples(&mut text, name);
    text += ".SH SEE ALSO\n.BR voicelane (1),\n.BR voicelane.toml (5),\n.BR voicelane (7)\n";
    out.extend(text.into_bytes());
    Ok(out)
}

fn overview(root: &clap::Command) -> String {
    let mut out = title("voicelane", 7, "Overview");
    out += ".SH NAME\nvoicelane \\- voice media past the VPN\n.SH DESCRIPTION\n";
    out += &format!("{DESCRIPTION}\n");
    list(&mut out, "STATES", STATES.iter().map(owned));
    let commands = root.get_subcommands().map(|command| {
        let about = command.get_about().map(ToString::to_string);
        (
            command.get_name().to_owned(),
            about.unwrap_or_default() + ".",
        )
    });
    list(&mut out, "COMMANDS", commands);
    list(
        &mut out,
        "FILES",
        FILES.iter().flat_map(|(_, files)| files.iter().map(owned)),
    );
    out += ".SH ENVIRONMENT\nEach flag also has an environment variable: \\-\\-log is\n.BR VOICELANE_LOG .\nA flag \
            overrides its variable.\n";
    out += ".SH EXIT STATUS\nThe page of each command lists its exit codes.\n";
    examples(&mut out, "voicelane");
    out +=
        ".SH SEE ALSO\n.BR voicelane (1),\n.BR voicelane\\-doctor (1),\n.BR voicelane.toml (5)\n";
    out
}

fn examples(out: &mut String, name: &str) {
    let found = EXAMPLES.iter().find(|(command, _)| *command == name);
    let (_, examples) = found.unwrap_or_else(|| panic!("{name} has no example"));
    *out += ".SH EXAMPLES\n";
    for (index, (line, purpose)) in examples.iter().enumerate() {
        let gap = if index == 0 { "" } else { ".PP\n" };
        *out += &format!(
            "{gap}{}\n.PP\n.nf\n.RS 4\n{}\n.RE\n.fi\n",
            roff(purpose),
            roff(line)
        );
    }
}

fn list(out: &mut String, heading: &str, entries: impl Iterator<Item = (String, String)>) {
    *out += &format!(".SH {heading}\n");
    for (term, text) in entries {
        *out += &format!(".TP\n.B {}\n{}\n", roff(&term), roff(&text));
    }
}

fn owned((term, text): &(&str, &str)) -> (String, String) {
    ((*term).to_owned(), (*text).to_owned())
}

/// Writes the title line. `clap_mangen` drops the empty date, which shifts the other fields.
fn title(name: &str, section: u8, manual: &str) -> String {
    let (name, version) = (roff(&name.to_uppercase()), env!("CARGO_PKG_VERSION"));
    format!(".TH {name} {section} \"\" \"voicelane {version}\" \"{manual}\"\n")
}

/// Escapes a text for roff.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) {
        format!("\\&{text}")
    } else {
        text
    }
}
