//! Readers of foreign bytes under mutated seeds: those of the fuzz targets, with bytes changed, cut, doubled and spliced.
//!
//! `VOICELANE_MUTATED_TEXTS` sets their number for each reader (default 10,000; `scripts/check` reads 200,000).
#![cfg(feature = "lab")]

#[path = "../support/foreign_bytes.rs"]
mod readers;

use std::env;
use std::fs;
use std::path::Path;

use readers::READERS;

use super::mutation::{Dice, mutate};

#[test]
fn mutated_texts_cause_no_panic() {
    let number =
        env::var("VOICELANE_MUTATED_TEXTS").map_or(10_000, |it| it.parse().expect("a number"));
    for (name, read) in READERS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fuzz/seeds")
            .join(name);
        let entries = fs::read_dir(folder).expect("the seeds are there");
        let mut files: Vec<_> = entries.map(|entry| entry.expect("a file").path()).collect();
        files.sort();
        let seeds: Vec<_> = files
            .iter()
            .map(|file| fs::read(file).expect("readable"))
            .collect();
        assert!(!seeds.is_empty(), "{name}");
        let mut dice = Dice(7);
        for _ in 0..number {
            let mut text = seeds[dice.below(seeds.len())].clone();
            for _ in 0..=dice.below(4) {
                mutate(&mut text, &seeds, &mut dice);
            }
            read(&text);
        }
    }
}

#[test]
fn the_seeds_are_valid() {
    let seed = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fuzz/seeds")
            .join(name);
        fs::read(path).expect("it is there")
    };
    assert!(voicelane::nftables::is_trace(&seed("trace/drop")));
    assert_eq!(
        voicelane::daemon::parse_events(&seed("stored/events")).count(),
        2
    );
    assert!(matches!(
        voicelane::daemon::parse_last_good(&seed("stored/last_good")),
        Ok(Some(_))
    ));
    let head = String::from_utf8(seed("metrics_head/prometheus")).expect("UTF-8");
    assert!(voicelane::control::parse_head(&head, true).is_ok());
}
