//! The manual names a test for each requirement: each is there, and says which requirement it shows.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The programs of tests. The manual names a test as nextest prints it, without the program.
const PROGRAMS: [&str; 3] = ["pure", "lab", "lab_load"];

/// Every function of a folder's sources: what is written above it and in it, by file (without its extension) and name.
fn functions(folder: &Path, under: &str, found: &mut BTreeMap<(String, String), String>) {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let mut paths: Vec<PathBuf> = entries.map(|it| it.expect("an entry").path()).collect();
    paths.sort();
    for path in paths {
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let stem = stem.expect("names are UTF-8");
        let inner = if under.is_empty() {
            stem.to_owned()
        } else {
            format!("{under}::{stem}")
        };
        if path.is_dir() {
            functions(&path, &inner, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let text = fs::read_to_string(&path).expect("sources are text");
            for part in text.split("\n\n") {
                let names = part.lines().filter_map(|line| {
                    let (name, _) = line.trim_start().strip_prefix("fn ")?.split_once('(')?;
                    Some(name.to_owned())
                });
                // The first function of a paragraph is the one that its comment is about.
                if let Some(name) = names.into_iter().next() {
                    found.insert((inner.clone(), name), part.to_owned());
                }
            }
        }
    }
}

/// The paths in backticks that can only be a test's: the last part is several words and no module.
fn tests_in(text: &str) -> impl Iterator<Item = &str> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    text.split('`').skip(1).step_by(2).filter(move |path| {
        let last = path.rsplit("::").next().unwrap_or_default();
        let module = src.join(path.replace("::", "/"));
        let is_module = module.is_dir() || module.with_extension("rs").is_file();
        path.contains("::") && last.contains('_') && !is_module
    })
}

/// `REQ-13` and `REQ-13a` out of "REQ-13, 13a sizes".
fn requirements(cell: &str) -> Vec<String> {
    let Some((_, list)) = cell.split_once("REQ-") else {
        return Vec::new();
    };
    let items = list.split(", ").map_while(|item| {
        let number = item.split_whitespace().next()?;
        number
            .starts_with(|it: char| it.is_ascii_digit())
            .then(|| format!("REQ-{number}"))
    });
    items.collect()
}

type Functions = BTreeMap<(String, String), String>;

fn all_functions(root: &Path) -> Functions {
    let mut found = Functions::new();
    for program in PROGRAMS {
        functions(&root.join("tests").join(program), "", &mut found);
    }
    functions(&root.join("src"), "", &mut found);
    found
}

/// What is written of a test. A module's tests may lie in a module of the same file.
fn look_up<'a>(found: &'a Functions, path: &str) -> Option<&'a String> {
    let (file, name) = path.rsplit_once("::").expect("it has two parts");
    let file = file.strip_suffix("::tests").unwrap_or(file);
    let files = [file.to_owned(), format!("{file}::tests")];
    files
        .into_iter()
        .find_map(|file| found.get(&(file, name.to_owned())))
}

/// Rows of a macro are tests without a `fn` of their own.
#[test]
fn what_is_said_of_a_laptop_names_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = all_functions(root);
    let manual = fs::read_to_string(root.join("src/manual/laptop.rs")).expect("it is there");
    let tests: Vec<_> = tests_in(&manual).collect();
    assert!(
        tests.len() > 40,
        "{} tests are no whole manual",
        tests.len()
    );
    let is_row = |test: &str| {
        let (file, name) = test.rsplit_once("::").expect("it has two parts");
        PROGRAMS.iter().any(|program| {
            let text = fs::read_to_string(root.join(format!("tests/{program}/{file}.rs")));
            text.is_ok_and(|text| text.contains(&format!("\n    {name}: ")))
        })
    };
    let missing: Vec<_> = tests
        .into_iter()
        .filter(|test| look_up(&found, test).is_none() && !is_row(test))
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_requirement_names_tests_that_are_there_and_name_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = all_functions(root);
    let look_up = |path: &str| look_up(&found, path);
    let manual = fs::read_to_string(root.join("src/manual/nat.rs")).expect("it is there");
    let (mut rfc, mut rows, mut faults) = (String::new(), 0, Vec::new());
    for line in manual.lines() {
        for test in tests_in(line) {
            if look_up(test).is_none() {
                faults.push(format!("there is no {test}"));
            }
        }
        if let Some(heading) = line.strip_prefix("//! # ") {
            let number = heading
                .split("(RFC ")
                .nth(1)
                .and_then(|it| it.split(')').next());
            rfc = number.unwrap_or_default().to_owned();
        }
        let row = line
            .strip_prefix("//! | ")
            .and_then(|it| it.strip_suffix(" |"));
        let cells: Vec<_> = row.unwrap_or_default().split(" | ").collect();
        let [requirement, _, shown] = cells[..] else {
            continue;
        };
        let own = requirement
            .split("RFC ")
            .nth(1)
            .and_then(|it| it.split(' ').next());
        let number = format!("RFC {}", own.unwrap_or(&rfc));
        let wanted = requirements(requirement);
        rows += wanted.len();
        if wanted.is_empty()
            || shown.starts_with("by construction")
            || shown.starts_with("none is due")
        {
            continue;
        }
        let bodies: Vec<_> = tests_in(shown).filter_map(look_up).collect();
        for wanted in wanted {
            let says = |body: &&String| body.contains(&number) && body.contains(&wanted);
            if !bodies.iter().any(says) {
                faults.push(format!("no test of {number} {wanted} names it"));
            }
        }
    }
    assert!(rows > 35, "{rows} requirements are no whole manual");
    assert!(faults.is_empty(), "{faults:#?}");
}
