//! Compares the manual and the documents at the top level with the tests, files and commands that they name.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The programs of tests. The manual names a test as nextest prints it, without the program.
const PROGRAMS: [&str; 3] = ["pure", "lab", "lab_load"];

/// Collects the functions of a folder's sources: comment and body, by file (without its extension) and name.
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
                // A comment belongs to the first function of its paragraph.
                if let Some(name) = names.into_iter().next() {
                    found.insert((inner.clone(), name), part.to_owned());
                }
            }
        }
    }
}

/// Returns the paths of tests in backticks: the last part is several words and no module.
fn tests_in(text: &str) -> impl Iterator<Item = &str> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    text.split('`').skip(1).step_by(2).filter(move |path| {
        let last = path.rsplit("::").next().unwrap_or_default();
        let module = src.join(path.replace("::", "/"));
        let is_module = module.is_dir() || module.with_extension("rs").is_file();
        path.contains("::") && last.contains('_') && !is_module
    })
}

/// Returns `REQ-13` and `REQ-13a` for "REQ-13, 13a sizes".
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

/// Returns comment and body of a test. A module's tests may be in an inner module.
fn look_up<'a>(found: &'a Functions, path: &str) -> Option<&'a String> {
    let (file, name) = path.rsplit_once("::").expect("it has two parts");
    let file = file.strip_suffix("::tests").unwrap_or(file);
    let files = [file.to_owned(), format!("{file}::tests")];
    files
        .into_iter()
        .find_map(|file| found.get(&(file, name.to_owned())))
}

/// Whether a macro row defines the test, without its own `fn`.
fn is_macro_row(root: &Path, test: &str) -> bool {
    let (file, name) = test.rsplit_once("::").expect("it has two parts");
    PROGRAMS.iter().any(|program| {
        let text = fs::read_to_string(root.join(format!("tests/{program}/{file}.rs")));
        text.is_ok_and(|text| text.contains(&format!("\n    {name}: ")))
    })
}

/// Returns each chapter of the manual with its path.
fn chapters(root: &Path) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(root.join("src/manual")).expect("the manual exists");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("chapters are text");
        (path, text)
    };
    paths.map(read).collect()
}

#[test]
fn every_test_that_the_manual_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = all_functions(root);
    let (mut named, mut missing) = (0, Vec::new());
    for (path, text) in chapters(root) {
        for test in tests_in(&text) {
            named += 1;
            if look_up(&found, test).is_none() && !is_macro_row(root, test) {
                missing.push(format!("{}: {test}", path.display()));
            }
        }
    }
    assert!(named > 150, "only {named} tests are named");
    assert!(missing.is_empty(), "{missing:#?}");
}

/// Paths of this repository in backticks or as link targets.
fn paths_in(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.split('`').skip(1).step_by(2);
    let linked = text.split("](").skip(1);
    let linked = linked.filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    quoted.chain(linked).filter_map(|path| {
        // A command names its program first.
        let path = path.split_whitespace().next()?;
        let roots = ["src/", "tests/", "config/", "scripts/", "benches/"];
        let is_path = roots.iter().any(|it| path.starts_with(it))
            || Path::new(path).extension().is_some_and(|it| it == "md");
        (is_path && !path.contains("://")).then_some(path)
    })
}

#[test]
fn every_path_that_a_document_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = chapters(root);
    for document in ["README", "CHANGELOG", "CONTRIBUTING", "SECURITY"] {
        let path = root.join(format!("{document}.md"));
        let text = fs::read_to_string(&path).expect("documents are text");
        texts.push((path, text));
    }
    let (mut named, mut missing) = (0, Vec::new());
    for (document, text) in &texts {
        for path in paths_in(text) {
            named += 1;
            // The part before a pattern or a placeholder.
            let path = path.split('*').next().unwrap_or_default();
            let path = path.split("NAME").next().unwrap_or_default();
            if !root.join(path).exists() {
                missing.push(format!("{}: {path}", document.display()));
            }
        }
    }
    assert!(named > 40, "only {named} paths are named");
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The lines of code blocks that start with `voicelane`, with or without `sudo`, as words without comment and redirection.
fn commands_in(text: &str) -> Vec<Vec<&str>> {
    let blocks = text.split("```").skip(1).step_by(2);
    let lines = blocks.flat_map(str::lines).filter_map(|line| {
        let line = line.split(['#', '>']).next().unwrap_or_default();
        let words = line.split_whitespace().skip_while(|word| *word == "sudo");
        let words: Vec<_> = words.collect();
        (words.first() == Some(&"voicelane")).then_some(words)
    });
    lines.collect()
}

#[test]
fn every_command_of_the_readme_is_accepted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).expect("README is text");
    let commands = commands_in(&readme);
    assert!(commands.len() > 12, "{commands:?}");
    for command in commands {
        let accepted = voicelane::cli::command().try_get_matches_from(&command);
        assert!(accepted.is_ok(), "{command:?}: {:?}", accepted.err());
    }
    let wrong = commands_in("```sh\nsudo voicelane status --nonsense # a comment\n```");
    let refused = voicelane::cli::command().try_get_matches_from(&wrong[0]);
    assert!(refused.is_err(), "{wrong:?}");
}

#[test]
fn the_configuration_of_the_readme_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).expect("README is text");
    let blocks = readme.split("```toml\n").skip(1);
    let mut checked = 0;
    for block in blocks {
        let (text, _) = block.split_once("```").expect("the block ends");
        let config = voicelane::config::Config::parse("README.md", text);
        assert!(config.is_ok(), "{:?}", config.err());
        checked += 1;
    }
    assert!(checked > 0, "README has no configuration");
}

#[test]
fn every_requirement_and_its_tests_name_each_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = all_functions(root);
    let look_up = |path: &str| look_up(&found, path);
    let manual = fs::read_to_string(root.join("src/manual/nat.rs")).expect("the chapter exists");
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
    assert!(rows > 35, "{rows} requirements are too few");
    assert!(faults.is_empty(), "{faults:#?}");
}
