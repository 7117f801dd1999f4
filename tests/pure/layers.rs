//! Checks of the source tree: allowed imports, no import cycles, one meaning for each type name.
//!
//! The table of layers is the picture in `src/manual/mod.rs`. Within one package no compiler error does this.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Module, layer, and the crate modules it may name.
const TABLE: &[(&str, u8, &[&str])] = &[
    ("net", 0, &[]),
    ("wire", 1, &["net"]),
    ("lpm", 1, &["net"]),
    ("timer", 1, &["net"]),
    ("rate", 1, &[]),
    ("config", 2, &["net", "wire", "lpm", "timer"]),
    ("policy", 2, &["net", "wire", "lpm", "timer"]),
    ("nat", 2, &["net", "wire", "lpm", "timer"]),
    ("call", 2, &["net", "wire", "lpm", "timer"]),
    (
        "engine",
        3,
        &[
            "net", "wire", "lpm", "timer", "rate", "policy", "nat", "call",
        ],
    ),
    ("tun", 4, &["net", "wire", "lpm", "timer", "engine"]),
    ("relay", 4, &["net", "wire", "lpm", "timer", "engine"]),
    (
        "control",
        4,
        &["rate", "net", "wire", "lpm", "timer", "engine"],
    ),
    ("sysctl", 4, &["net"]),
    ("route", 4, &["net"]),
    ("nftables", 4, &["net", "engine", "route"]),
    ("ipsec", 4, &["net", "route"]),
    (
        "steering",
        4,
        &["net", "engine", "sysctl", "route", "nftables", "ipsec"],
    ),
];

/// Modules above the layers: they may import every module.
const SHELL: &[&str] = &[
    "daemon",
    "doctor",
    "diagnostics",
    "cli",
    "text",
    "files",
    "demo",
    "lab",
    "manual",
    "lib",
    "main",
];

/// Names that layers 0 to 3 must not contain.
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

/// The only file of the policy that may import `config`.
const COMPILER: &str = "src/policy/compile.rs";

/// Known import cycles, each with all its modules. The list may only shrink.
const KNOWN_CYCLES: &[&[&str]] = &[];

/// Known type names with several meanings. The list may only shrink.
const KNOWN_DUPLICATES: &[&str] = &["IntervalLine"];

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

/// Returns the code without comments and without the unit tests at the end, which may use a clock.
fn code_of(text: &str) -> String {
    let body = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
    body.lines()
        .map(|line| line.split("//").next().unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Reads src without the files of unit tests.
fn read_tree() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    sources(&root.join("src"), &mut paths);
    let below = |path: &Path| path.strip_prefix(root).expect("below the root").to_owned();
    paths
        .into_iter()
        .map(|path| (below(&path), path))
        .filter(|(relative, _)| !is_test(relative))
        .map(|(relative, path)| {
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

/// Returns the first path segment after each `crate::`, inside braces too.
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

/// A module: the paths that it imports, by their local names, and all paths in its code.
#[derive(Debug, Default)]
struct Module {
    names: BTreeMap<String, Vec<String>>,
    mentions: Vec<Vec<String>>,
}

/// Returns the modules by path, such as `engine::tcp`.
fn modules(sources: &[Source]) -> BTreeMap<String, Module> {
    let entry = |source: &Source| (module_path(&source.path), Module::parse(source));
    sources.iter().map(entry).collect()
}

/// Whether a file of src has unit tests only, which may use a clock.
fn is_test(path: &Path) -> bool {
    path.ends_with("tests.rs") || path.components().any(|it| it.as_os_str() == "tests")
}

fn module_path(path: &str) -> String {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    path.trim_end_matches("/mod").replace('/', "::")
}

impl Module {
    fn parse(source: &Source) -> Self {
        let mut module = Self::default();
        let own = module_path(&source.path);
        let mut lines = source.code.lines();
        while let Some(line) = lines.next() {
            let Some((visibility, tree)) = line.split_once("use ") else {
                module.mention(&own, line);
                continue;
            };
            if !["", "pub", "pub(super)", "pub(crate)"].contains(&visibility.trim()) {
                module.mention(&own, line);
                continue;
            }
            let mut tree = tree.to_owned();
            while !tree.contains(';') {
                tree.extend(lines.next());
            }
            let mut paths = Vec::new();
            expand(&[], tree.split(';').next().unwrap_or_default(), &mut paths);
            for (path, name) in paths {
                let path = absolute(&own, path);
                module.names.insert(name, path.clone());
                module.mentions.push(path);
            }
        }
        module
    }

    /// Records the qualified paths of a line.
    fn mention(&mut self, own: &str, code: &str) {
        let of_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let words = code.split(|c| !of_path(c));
        let paths = words.filter(|word| word.contains("::")).map(|word| {
            let segments = word.split("::").filter(|it| !it.is_empty());
            absolute(own, segments.map(str::to_owned).collect())
        });
        self.mentions.extend(paths);
    }
}

/// Expands an import tree into paths with their local names.
fn expand(prefix: &[String], tree: &str, found: &mut Vec<(Vec<String>, String)>) {
    let tree = tree.trim();
    let (path, group) = match tree.split_once('{') {
        Some((path, group)) => (
            path,
            Some(group.trim_end().strip_suffix('}').unwrap_or(group)),
        ),
        None => (tree, None),
    };
    let (path, alias) = path.split_once(" as ").unwrap_or((path, ""));
    let segments = path.split("::").map(str::trim).filter(|it| !it.is_empty());
    let mut full = prefix.to_vec();
    full.extend(segments.map(str::to_owned));
    let Some(group) = group else {
        full.pop_if(|last| last == "self");
        let name = if alias.is_empty() {
            full.last().cloned()
        } else {
            Some(alias.to_owned())
        };
        found.extend(name.map(|name| (full, name)));
        return;
    };
    let (mut depth, mut start) = (0_u32, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&full, &group[start..at], found);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !group[start..].trim().is_empty() {
        expand(&full, &group[start..], found);
    }
}

/// Converts a path that begins with `crate`, `super`, `self` or a child module into a path from the crate's root.
fn absolute(own: &str, mut path: Vec<String>) -> Vec<String> {
    let mut base: Vec<_> = own.split("::").map(str::to_owned).collect();
    if path.first().is_some_and(|it| it == "crate") {
        path.remove(0);
        return path;
    }
    while path.first().is_some_and(|it| it == "super") {
        path.remove(0);
        base.pop();
    }
    base.extend(path.into_iter().filter(|it| it != "self"));
    base
}

/// Returns the module that defines an item. Follows re-exports.
fn definition(modules: &BTreeMap<String, Module>, path: &[String], depth: u8) -> Option<String> {
    let length = (1..=path.len()).rev();
    let module_of = |length: usize| path[..length].join("::");
    let length = length
        .into_iter()
        .find(|it| modules.contains_key(&module_of(*it)))?;
    let module = module_of(length);
    let Some(name) = path.get(length) else {
        return Some(module);
    };
    match modules[&module].names.get(name) {
        Some(target) if depth > 0 && target != path => {
            let target: Vec<_> = target.iter().chain(&path[length + 1..]).cloned().collect();
            definition(modules, &target, depth - 1)
        }
        _ => Some(module),
    }
}

/// Returns each import cycle. Imports of a module's own ancestors do not count.
fn cycles(sources: &[Source]) -> Vec<BTreeSet<String>> {
    let modules = modules(sources);
    let mut reached = BTreeMap::<String, BTreeSet<String>>::new();
    for (own, module) in &modules {
        let targets = module
            .mentions
            .iter()
            .filter_map(|path| definition(&modules, path, 8));
        let foreign = targets.filter(|it| own != it && !own.starts_with(&format!("{it}::")));
        reached.insert(own.clone(), foreign.collect());
    }
    loop {
        let wider = |own: &String, direct: &BTreeSet<String>| {
            let further = direct.iter().flat_map(|it| &reached[it]);
            (own.clone(), direct.iter().chain(further).cloned().collect())
        };
        let next: BTreeMap<_, _> = reached.iter().map(|(own, it)| wider(own, it)).collect();
        if next == reached {
            break;
        }
        reached = next;
    }
    let cycle_of = |own: &String| {
        let both = reached[own].iter().filter(|it| reached[*it].contains(own));
        both.cloned().collect::<BTreeSet<_>>()
    };
    let found: BTreeSet<_> = reached.keys().map(cycle_of).collect();
    found.into_iter().filter(|it| !it.is_empty()).collect()
}

/// Returns the type names with several definitions, and the modules that define them.
fn duplicates(sources: &[Source]) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::<String, Vec<String>>::new();
    for source in sources {
        for line in source.code.lines() {
            let mut words = line.split_whitespace().peekable();
            words.next_if(|word| word.starts_with("pub"));
            words.next_if(|word| *word == "unsafe");
            // An indented alias is an associated type.
            let is_definition = match words.next() {
                Some("struct" | "enum" | "trait" | "union") => true,
                Some("type") => !line.starts_with(' '),
                _ => false,
            };
            let name = words.next().unwrap_or_default();
            let name = name.split(|c: char| !c.is_alphanumeric()).next();
            if let (true, Some(name)) = (is_definition, name.filter(|it| !it.is_empty())) {
                found
                    .entry(name.to_owned())
                    .or_default()
                    .push(module_path(&source.path));
            }
        }
    }
    found.retain(|_, modules| modules.len() > 1);
    found
}

/// Whether code contains a name that is not the beginning of a longer one.
fn contains_name(code: &str, name: &str) -> bool {
    let continues = |rest: &str| rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    let mut rests = code.split(name).skip(1);
    rests.any(|rest| name.ends_with(':') || !continues(rest))
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
                .filter(|name| contains_name(&source.code, name))
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
fn every_file_begins_with_its_purpose() {
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
fn no_modules_import_each_other() {
    let found = cycles(&read_tree());
    let known = |cycle: &BTreeSet<String>| {
        let within = |known: &&[&str]| cycle.iter().all(|it| known.contains(&it.as_str()));
        KNOWN_CYCLES.iter().any(within)
    };
    let new: Vec<_> = found.iter().filter(|cycle| !known(cycle)).collect();
    assert!(new.is_empty(), "modules that import each other: {new:#?}");
}

#[test]
fn each_type_name_has_one_meaning() {
    let mut found = duplicates(&read_tree());
    found.retain(|name, _| !KNOWN_DUPLICATES.contains(&name.as_str()));
    assert!(found.is_empty(), "types that share a name: {found:#?}");
}

fn planted(path: &str, module: &str, code: &str) -> Source {
    Source {
        path: path.to_owned(),
        module: module.to_owned(),
        code: code_of(code),
    }
}

#[test]
fn a_planted_cycle_is_found_and_a_parent_with_its_child_is_none() {
    let found = |files: &[(&str, &str)]| {
        let files = files.iter().map(|(path, code)| planted(path, "a", code));
        let found = cycles(&files.collect::<Vec<_>>());
        let named = found
            .iter()
            .map(|it| it.iter().cloned().collect::<Vec<_>>().join(" "));
        named.collect::<Vec<_>>()
    };
    let siblings = [
        ("src/a/mod.rs", "mod x;\nmod y;\npub use x::X;"),
        ("src/a/x.rs", "use super::{y::{Y, Z}, W};"),
        ("src/a/y.rs", "fn f() -> super::X { }"),
    ];
    assert_eq!(found(&siblings), ["a::x a::y"]);
    let rooms = [
        ("src/a/mod.rs", "mod x;\nuse x::X;"),
        ("src/a/x.rs", "use crate::b;"),
        (
            "src/b.rs",
            "use crate::{\n    c::C,\n    a::A as Other,\n};",
        ),
    ];
    assert_eq!(found(&rooms), ["a a::x b"]);
    let sealed = [
        ("src/a/mod.rs", "mod x;\nuse x::X;"),
        (
            "src/a/x.rs",
            "use super::A;\n#[cfg(test)]\nmod tests { use crate::b::B; }",
        ),
        ("src/a/tests.rs", "use crate::b::B;"),
        ("src/b.rs", "// use crate::c::C;\nuse crate::a::X;"),
        ("src/c.rs", "use crate::b::B;"),
    ];
    assert_eq!(found(&sealed), Vec::<String>::new());
}

#[test]
fn files_of_unit_tests_are_no_code() {
    let is_test_file = |path: &str| is_test(Path::new(path));
    assert!(is_test_file("src/nat/mapping/tests.rs") && is_test_file("src/config/tests/mod.rs"));
    assert!(!is_test_file("src/nat/mapping.rs") && !is_test_file("src/lab/latests.rs"));
}

#[test]
fn a_planted_duplicate_is_found_and_an_associated_type_is_none() {
    let sources = [
        planted(
            "src/a/x.rs",
            "a",
            "pub(crate) struct Way<T>(T);\nimpl X {\n    type Error = E;\n}",
        ),
        planted(
            "src/b.rs",
            "b",
            "enum Way {
}\nimpl Y {\n    type Error = E;
}\ntype Other = u8;",
        ),
    ];
    let found = duplicates(&sources).into_iter().collect::<Vec<_>>();
    assert_eq!(
        found,
        [("Way".to_owned(), vec!["a::x".to_owned(), "b".to_owned()])]
    );
}

#[test]
fn every_planted_violation_is_found() {
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
        planted("src/wire/x.rs", "wire", "use nix::unistd;"),
        planted("src/nat/x.rs", "nat", "reply.await;"),
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
        planted("src/nat/x.rs", "nat", "self.awaited;"),
        planted("src/daemon/x.rs", "daemon", "use crate::engine::Engine;"),
    ];
    assert_eq!(violations(&good), Vec::<String>::new());
}
