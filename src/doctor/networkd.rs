//! Whether systemd-networkd removes rules and routes of voicelane, as it does by default.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Finding, SystemFacts};

/// The directory with a state file for each managed link, named by its index.
const LINKS: &str = "/run/systemd/netif/links";

/// The directories of its configuration: the first one that has a file of a name wins (systemd.syntax(7)).
const DIRECTORIES: [&str; 4] = [
    "/etc/systemd",
    "/run/systemd",
    "/usr/local/lib/systemd",
    "/usr/lib/systemd",
];

/// Its settings for rules and routes of other programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ForeignSettings {
    keeps_rules: bool,
    keeps_routes: bool,
}

pub(super) fn check(_: &SystemFacts) -> Vec<Finding> {
    let managed = managed();
    if managed.is_empty() {
        return vec![Finding::ok("systemd-networkd manages no interface here.")];
    }
    let foreign = ForeignSettings::read(texts().iter().map(String::as_str));
    let removed = match (foreign.keeps_rules, foreign.keeps_routes) {
        (true, true) => {
            return vec![Finding::ok(
                "systemd-networkd does not touch rules and routes of other programs.",
            )];
        }
        (false, true) => "rules",
        (true, false) => "routes",
        (false, false) => "rules and routes",
    };
    vec![Finding::warning(
        format!(
            "systemd-networkd removes {removed} of other programs. voicelane restores its own, but a call may have a gap \
             each time."
        ),
        "Run: sudo cp /usr/share/voicelane/networkd.conf /etc/systemd/networkd.conf.d/voicelane.conf && sudo systemctl restart \
         systemd-networkd (it sets ManageForeignRoutingPolicyRules=no and ManageForeignRoutes=no)",
    )]
}

/// Returns the indexes of the managed links.
fn managed() -> Vec<OsString> {
    let entries = fs::read_dir(LINKS).into_iter().flatten().flatten();
    let manages = |path: &Path| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let state = text
            .lines()
            .find_map(|line| line.strip_prefix("ADMIN_STATE="));
        state.is_some_and(|state| !["unmanaged", "linger"].contains(&state))
    };
    let managed = entries.filter(|entry| manages(&entry.path()));
    managed.map(|entry| entry.file_name()).collect()
}

/// Returns the texts of its configuration, the last one with the highest precedence: the file, then drop-ins by name.
fn texts() -> Vec<String> {
    let main = DIRECTORIES.map(|directory| Path::new(directory).join("networkd.conf"));
    let main = main.into_iter().find(|path| path.exists());
    let mut drop_ins: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for directory in DIRECTORIES {
        let entries = fs::read_dir(Path::new(directory).join("networkd.conf.d"));
        for entry in entries.into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|it| it == "conf") {
                drop_ins.entry(entry.file_name()).or_insert(entry.path());
            }
        }
    }
    let paths = main.into_iter().chain(drop_ins.into_values());
    paths
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect()
}

impl ForeignSettings {
    fn read<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let mut foreign = Self {
            keeps_rules: false,
            keeps_routes: false,
        };
        for text in texts {
            let mut section = "";
            for line in text.lines().map(str::trim) {
                if line.starts_with('[') {
                    section = line;
                } else if section == "[Network]"
                    && let Some((key, value)) = line.split_once('=')
                {
                    let value = value.trim().to_lowercase();
                    let keeps = ["no", "n", "false", "f", "off", "0"].contains(&value.as_str());
                    match key.trim() {
                        "ManageForeignRoutingPolicyRules" => foreign.keeps_rules = keeps,
                        "ManageForeignRoutes" => foreign.keeps_routes = keeps,
                        _ => {}
                    }
                }
            }
        }
        foreign
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_setting_of_the_network_section_counts() {
        let read = |texts: &[&str]| {
            let foreign = ForeignSettings::read(texts.iter().copied());
            (foreign.keeps_rules, foreign.keeps_routes)
        };
        assert_eq!(read(&[]), (false, false));
        let ours = include_str!("../../config/networkd.conf");
        assert_eq!(read(&[ours]), (true, true));
        assert_eq!(
            read(&[ours, "[Network]\n ManageForeignRoutes = yes"]),
            (true, false)
        );
        assert_eq!(read(&["[DHCPv4]\nManageForeignRoutes=no"]), (false, false));
        assert_eq!(
            read(&["[Network]\n#ManageForeignRoutes=no"]),
            (false, false)
        );
    }
}
