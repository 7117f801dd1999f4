//! Holds the layer rule: who may import whom, and which names the pure core must not know.
//!
//! The table below is the one of `src/manual/mod.rs`. In one package nothing else gives what separate crates would.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Module, layer, and the crate modules it may name.
const TABLE: &[(&str, u8, &[&str])] = &[
    ("net", 0, &[]),
    ("wire", 1, &["net"]),
    ("lpm", 1, &["net"]),
    ("timer", 1, &["net"]),
    ("config", 2, &["net", "wire", "lpm", "timer"]),
    ("policy", 2, &["net", "wire", "lpm", "timer"]),
    ("nat", 2, &["net", "wire", "lpm", "timer"]),
    ("call", 2, &["net", "wire", "lpm", "timer"]),
    (
        "engine",
        3,
        &["net", "wire", "lpm", "timer", "policy", "nat", "call"],
    ),
    ("tun", 4, &["net", "wire", "lpm", "timer", "engine"]),
    ("relay", 4, &["net", "wire", "lpm", "timer", "engine"]),
    ("route", 4, &["net", "wire", "lpm", "timer", "engine"]),
    ("control", 4, &["net", "wire", "lpm", "timer", "engine"]),
];

/// Modules above the layers: they may name everything.
const SHELL: &[&str] = &[
    "daemon", "doctor", "evidence", "cli", "demo", "manual", "lib", "main",
];

/// What the layers 0 to 3 must never name.
const FORBIDDEN_IN_CORE: &[&str] = &[
    "tokio",
    "libc",
    "nix::",
    "socket2",
    "rtnetlink",
    "std::os::fd",
    "UdpSocket",
    "TcpStream",
    "UnixStream",
    "Instant::now",
    "SystemTime",
    "Timestamp::now",
    "std::env",
    "async fn",
    ".await",
];

/// Only this file may see `config` among the policy's.
const COMPILER: &str = "src/policy/compile.rs";

#[derive(Debug)]
struct Source {
    path: String,
    module: String,
    code: String,
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src is readable") {
        let path = entry.expect("src is readable").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
}

/// Strips comments, and the unit tests at the end of a file: those may use a clock.
fn code_of(text: &str) -> String {
    let body = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
    body.lines()
        .map(|line| line.split("//").next().unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n")
}

fn read_tree() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    sources(&root.join("src"), &mut paths);
    paths
        .into_iter()
        .map(|path| {
            let relative = path.strip_prefix(root).expect("below the root").to_owned();
            let module = relative.components().nth(1).expect("below src");
            Source {
                module: module
                    .as_os_str()
                    .to_string_lossy()
                    .trim_end_matches(".rs")
                    .to_owned(),
                path: relative.to_string_lossy().into_owned(),
                code: code_of(&fs::read_to_string(path).expect("source is UTF-8")),
            }
        })
        .collect()
}

/// The first path segments after each `crate::`, inside braces too.
fn imports(code: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            found.push(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = true;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                c if start && depth == 0 && c.is_alphabetic() => {
                    found.push(word(&group[at..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    found
}

fn violations(sources: &[Source]) -> Vec<String> {
    let table: BTreeMap<_, _> = TABLE
        .iter()
        .map(|(name, layer, may)| (*name, (*layer, *may)))
        .collect();
    let mut found = Vec::new();
    for source in sources {
        let Some((layer, may)) = table.get(source.module.as_str()) else {
            if !SHELL.contains(&source.module.as_str()) {
                found.push(format!(
                    "{}: module {} is in no layer",
                    source.path, source.module
                ));
            }
            continue;
        };
        for import in imports(&source.code) {
            let compiler = source.path == COMPILER && import == "config";
            if import != source.module && !may.contains(&import.as_str()) && !compiler {
                found.push(format!(
                    "{}: layer {layer} may not import {import}",
                    source.path
                ));
            }
        }
        if *layer <= 3 {
            for name in FORBIDDEN_IN_CORE
                .iter()
                .filter(|name| source.code.contains(**name))
            {
                found.push(format!(
                    "{}: the pure core may not name {name}",
                    source.path
                ));
            }
        } else if source.code.contains("engine::Engine") || source.code.contains("Engine::") {
            found.push(format!(
                "{}: layer 4 may not name the Engine itself",
                source.path
            ));
        }
    }
    found
}

#[test]
fn every_module_keeps_to_its_layer() {
    let sources = read_tree();
    assert!(sources.len() > 5, "the tree was read");
    let found = violations(&sources);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for source in read_tree() {
        let text = fs::read_to_string(root.join(&source.path)).expect("source is UTF-8");
        assert!(
            text.starts_with("//!"),
            "{} does not open with //!",
            source.path
        );
    }
}

#[test]
fn the_rule_sees_what_it_forbids() {
    let planted = |path: &str, module: &str, code: &str| Source {
        path: path.to_owned(),
        module: module.to_owned(),
        code: code_of(code),
    };
    let bad = [
        planted("src/nat/x.rs", "nat", "use crate::policy::Verdict;"),
        planted(
            "src/nat/x.rs",
            "nat",
            "use crate::{net::Prefix, call::Stream};",
        ),
        planted("src/engine/x.rs", "engine", "let t = Instant::now();"),
        planted("src/policy/rule.rs", "policy", "use crate::config::Config;"),
        planted("src/relay/x.rs", "relay", "use crate::tun::Device;"),
        planted(
            "src/relay/x.rs",
            "relay",
            "use crate::engine::Engine;\nEngine::new()",
        ),
        planted("src/utils/x.rs", "utils", ""),
    ];
    for source in bad {
        assert_eq!(
            violations(std::slice::from_ref(&source)).len(),
            1,
            "{source:?}"
        );
    }
    let good = [
        planted(
            "src/policy/compile.rs",
            "policy",
            "use crate::config::Config;",
        ),
        planted(
            "src/nat/x.rs",
            "nat",
            "// use crate::policy::Verdict;\nuse crate::{net::{Prefix, Dscp}, timer};",
        ),
        planted("src/daemon/x.rs", "daemon", "use crate::engine::Engine;"),
    ];
    assert_eq!(violations(&good), Vec::<String>::new());
}
