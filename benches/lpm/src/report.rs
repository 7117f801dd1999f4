//! The report: what each library does with each table, and voicelane's speed over the best of them.

use std::time::Duration;

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};

use crate::library::{Flap, Mode, Origin};
use crate::measure::Outcome;
use crate::stream::Source;

/// The streams that the ratios are of.
const COMPARED: [Source; 2] = [Source::In, Source::Mix];

/// The outcomes of one table of routes.
pub struct Section {
    /// "16 v4" and the like.
    pub name: String,
    /// What was measured; voicelane's compiled tables first, those with all that the processor has before all.
    pub outcomes: Vec<Outcome>,
}

/// Every figure. A ratio is voicelane's speed over this library's, the median of the streams in and mix.
pub fn figures(sections: &[Section]) -> String {
    let mut table = new([
        "table", "library", "in", "mix", "Zipf", "uniform", "ratio", "chain in", "mix", "ratio",
        "bulk in", "mix", "Zipf", "uniform", "ratio", "memory", "build", "update",
    ]);
    for section in sections {
        let ours = &section.outcomes[0];
        for outcome in &section.outcomes {
            let mut row = vec![section.name.clone(), outcome.name.to_owned()];
            for (mode, sources) in [
                (Mode::Independent, &Source::ALL[..]),
                (Mode::Chained, &COMPARED),
                (Mode::Bulk, &Source::ALL),
            ] {
                let rates = sources.iter().map(|source| outcome.rate(mode, *source));
                row.extend(rates.map(|rate| rate.map_or_else(String::new, millions)));
                let over = ratio(
                    |source| best_mode(ours, mode, source),
                    |source| outcome.rate(mode, source),
                );
                row.push(over.map_or_else(String::new, times));
            }
            row.push(bytes(outcome.bytes));
            row.push(time(outcome.build));
            row.push(match outcome.update {
                Ok(change) => time(change),
                Err(Flap::Broken) => "errs".to_owned(),
                Err(_) => "build".to_owned(),
            });
            table.add_row(row);
        }
    }
    aligned(table, 2)
}

/// voicelane's speed over the best of the others, stream by stream; the median of the streams in and mix.
pub fn summary(sections: &[Section]) -> String {
    let mut table = new([
        "table",
        "voicelane",
        "scalar / best library",
        "which (in, mix)",
        "scalar / best crate",
        "scalar / baseline",
        "chain / best library",
        "bulk / best library",
        "which (in, mix)",
        "bulk / best crate",
    ]);
    for section in sections {
        let best = |others: fn(Origin) -> bool, mode: Mode, source: Source| {
            let others = section.outcomes.iter().filter(|other| others(other.origin));
            others
                .map(|other| (best_mode(other, mode, source).unwrap_or(0.0), other.name))
                .max_by(|one, other| one.0.total_cmp(&other.0))
        };
        let which = |mode: Mode| {
            COMPARED
                .map(|source| best(is_library, mode, source).map_or("", |(_, name)| name))
                .join(", ")
        };
        for ours in section
            .outcomes
            .iter()
            .take_while(|ours| ours.origin == Origin::Compiled)
        {
            let over = |others: fn(Origin) -> bool, mode: Mode| {
                let other = |source| best(others, mode, source).map(|(rate, _)| rate);
                ratio(|source| best_mode(ours, mode, source), other).map_or_else(String::new, times)
            };
            table.add_row([
                section.name.clone(),
                ours.name.to_owned(),
                over(is_library, Mode::Independent),
                which(Mode::Independent),
                over(|origin| origin == Origin::Crate, Mode::Independent),
                over(|origin| origin == Origin::Baseline, Mode::Independent),
                over(is_library, Mode::Chained),
                over(is_library, Mode::Bulk),
                which(Mode::Bulk),
                over(|origin| origin == Origin::Crate, Mode::Bulk),
            ]);
        }
    }
    aligned(table, 2)
}

/// The rate of a mode, the mean of the compared streams.
pub fn typical(outcome: &Outcome, mode: Mode) -> Option<f64> {
    let rates = COMPARED.map(|source| best_mode(outcome, mode, source));
    let [one, other] = rates;
    Some(f64::midpoint(one?, other?))
}

/// For each library the table and stream where voicelane's advantage over it is least, in each mode.
pub fn worst(sections: &[Section]) -> String {
    let mut table = new([
        "library", "scalar", "where", "chain", "where", "bulk", "where",
    ]);
    let mut names: Vec<&str> = Vec::new();
    for outcome in sections.iter().flat_map(|section| &section.outcomes) {
        if outcome.origin != Origin::Compiled && !names.contains(&outcome.name) {
            names.push(outcome.name);
        }
    }
    for name in names {
        let mut row = vec![name.to_owned()];
        for mode in [Mode::Independent, Mode::Chained, Mode::Bulk] {
            let cells = sections.iter().flat_map(|section| {
                let ours = &section.outcomes[0];
                let theirs = section.outcomes.iter().find(|other| other.name == name);
                Source::ALL.into_iter().filter_map(move |source| {
                    let ratio = best_mode(ours, mode, source)? / best_mode(theirs?, mode, source)?;
                    Some((ratio, &*section.name, source))
                })
            });
            match cells.min_by(|one, other| one.0.total_cmp(&other.0)) {
                Some((ratio, table, source)) => {
                    row.extend([times(ratio), format!("{table}, {}", source.name())]);
                }
                None => row.extend([String::new(), String::new()]),
            }
        }
        table.add_row(row);
    }
    aligned(table, 1)
}

fn is_library(origin: Origin) -> bool {
    !matches!(
        origin,
        Origin::Compiled | Origin::Changing | Origin::Baseline
    )
}

/// The rate of a mode; without a bulk lookup a batch is looked up one by one.
fn best_mode(outcome: &Outcome, mode: Mode, source: Source) -> Option<f64> {
    match (mode, outcome.rate(mode, source)) {
        (Mode::Bulk, None) => outcome.rate(Mode::Independent, source),
        (Mode::Bulk, Some(bulk)) => Some(
            outcome
                .rate(Mode::Independent, source)
                .map_or(bulk, |one| one.max(bulk)),
        ),
        (_, rate) => rate,
    }
}

/// The median over the compared streams, which are two.
fn ratio(
    ours: impl Fn(Source) -> Option<f64>,
    theirs: impl Fn(Source) -> Option<f64>,
) -> Option<f64> {
    let ratios: Option<Vec<f64>> = COMPARED
        .into_iter()
        .map(|source| Some(ours(source)? / theirs(source)?))
        .collect();
    ratios.map(|ratios| ratios.iter().sum::<f64>() / COMPARED.len() as f64)
}

fn new<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header);
    table
}

/// Aligns the columns after the first `text` to the right.
fn aligned(mut table: Table, text: usize) -> String {
    for column in table.column_iter_mut().skip(text) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

fn millions(rate: f64) -> String {
    significant(rate / 1e6)
}

fn times(ratio: f64) -> String {
    format!("{}x", significant(ratio))
}

/// Two digits at least, three at most before the decimal point.
fn significant(value: f64) -> String {
    let decimals = match value {
        ..9.95 => 2,
        9.95..99.5 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

fn bytes(bytes: usize) -> String {
    match bytes as f64 {
        small @ ..1e4 => format!("{small} B"),
        middle @ 1e4..1e6 => format!("{} kB", significant(middle / 1e3)),
        large => format!("{} MB", significant(large / 1e6)),
    }
}

fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        nano @ ..1e-6 => format!("{} ns", significant(nano * 1e9)),
        micro @ ..1e-3 => format!("{} us", significant(micro * 1e6)),
        milli @ ..1.0 => format!("{} ms", significant(milli * 1e3)),
        seconds => format!("{} s", significant(seconds)),
    }
}
