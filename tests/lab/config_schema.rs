//! The schema before a validator that knows nothing of voicelane: it takes the files that are good and refuses others.

use std::io::Write;
use std::process::{Command, Stdio};

use voicelane::config::schema;

/// Reads a schema from its argument and a TOML file from standard input, and prints what the validator says.
const JUDGE: &str = "
import json, sys, tomllib, jsonschema
schema = json.loads(sys.argv[1])
jsonschema.Draft202012Validator.check_schema(schema)
file = json.loads(json.dumps(tomllib.loads(sys.stdin.read()), default=str))
for error in jsonschema.Draft202012Validator(schema).iter_errors(file):
    print(error.json_path, error.message)
";

fn judge(file: &str) -> String {
    let mut python = Command::new("/usr/bin/python3")
        .args(["-c", JUDGE, &schema().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("/usr/bin/python3 is there: apt-get install python3");
    let mut input = python.stdin.take().expect("it is a pipe");
    input
        .write_all(file.as_bytes())
        .expect("the judge reads it all");
    drop(input);
    let output = python.wait_with_output().expect("the judge ends");
    assert!(
        output.status.success(),
        "{} (scripts/setup installs the judge, python3-jsonschema)",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("python prints UTF-8")
}

#[test]
fn the_schema_accepts_valid_files() {
    let example = include_str!("../../config/voicelane.toml");
    // What stands in comments directly before a key is an example, and good as well.
    let uncommented: Vec<_> = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest,
            _ => line,
        })
        .collect();
    assert_ne!(uncommented.join("\n"), example.trim_end());
    for file in [
        "version = 1",
        example,
        &uncommented.join("\n"),
        include_str!("../../config/talkdesk.toml"),
        include_str!("../golden/export/policy.toml"),
    ] {
        assert_eq!(judge(file), "", "{file}");
    }
}

#[test]
fn the_schema_rejects_invalid_files() {
    for (file, place) in [
        ("", "$ "),
        ("version = 2", "$.version "),
        ("version = 1\nincludes = []", "$ "),
        (
            "version = 1\n[nat]\nmapping_lifetime_seconds = 60",
            "$.nat.mapping_lifetime_seconds ",
        ),
        ("version = 1\n[tun]\nname = '..'", "$.tun.name "),
        (
            "version = 1\n[[service]]\nname = 'Lab'",
            "$.service[0].name ",
        ),
        (
            "version = 1\n[[service]]\nports = [65535]",
            "$.service[0].ports[0] ",
        ),
    ] {
        let said = judge(file);
        assert!(
            said.lines().any(|line| line.starts_with(place)),
            "{file}: {said}"
        );
    }
}
