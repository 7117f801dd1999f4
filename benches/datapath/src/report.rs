//! The table, and how voicelane stands to its targets.

use crate::measure::{CALLS, Figures, PACED, Paced, Rates, not_counted};
use crate::relay::Kind;
use crate::traffic::FLOWS;

/// Which of [`CALLS`] have the most calls: each packet interrupts, or the cards gather them.
const MOST: [usize; 2] = [2, 3];

/// A row: what it is, its unit, and a value of each relay.
struct Row {
    name: String,
    values: Vec<Option<f64>>,
    digits: usize,
    /// Whether it is a share already, of which a ratio would say nothing.
    share: bool,
}

/// The table in Markdown: a column for each relay, behind each value its ratio to the kernel's.
pub fn table(all: &[Figures]) -> String {
    let names: Vec<_> = all.iter().map(|figures| figures.kind.name()).collect();
    let mut text = format!(
        "| | {} |\n|---|{}\n",
        names.join(" | "),
        "---|".repeat(all.len())
    );
    for row in rows(all) {
        let kernel = all.iter().position(|figures| figures.kind == Kind::Kernel);
        let kernel = kernel
            .and_then(|at| row.values[at])
            .filter(|value| *value > 0.0);
        let cells = row.values.iter().map(|value| match (value, kernel) {
            (None, _) => "-".to_owned(),
            (Some(value), Some(kernel)) if !row.share => {
                format!("{value:.*} ({:.2})", row.digits, value / kernel)
            }
            (Some(value), _) => format!("{value:.*}", row.digits),
        });
        let cells: Vec<_> = cells.collect();
        let cells = cells.join(" | ");
        text.extend(["| ", &row.name, " | ", &cells, " |\n"]);
    }
    text
}

/// voicelane's figures beside what is expected of it.
pub fn targets(all: &[Figures]) -> String {
    let of = |kind| all.iter().find(|figures| figures.kind == kind);
    let Some(voicelane) = of(Kind::Voicelane) else {
        return String::new();
    };
    let full =
        |figures: &Figures, gathering: usize| median(&figures.rates[MOST[gathering]].no_loss);
    let tail = |figures: &Figures, hog: usize| quantile(figures, 1, hog, 0.99);
    let ratio = |over: Option<f64>, under: Option<f64>| Some(over? / under?);
    let (kernel, tun2proxy) = (of(Kind::Kernel), of(Kind::Tun2proxy));
    let lines = [
        (
            "no-loss rate at 2,000 flows, of the kernel's",
            ratio(full(voicelane, 0), kernel.and_then(|k| full(k, 0))),
            "at least 0.42",
        ),
        (
            "the same, cards coalescing",
            ratio(full(voicelane, 1), kernel.and_then(|k| full(k, 1))),
            "at least 0.42",
        ),
        (
            "no-loss rate at 2,000 flows, of tun2proxy's",
            ratio(full(voicelane, 0), tun2proxy.and_then(|t| full(t, 0))),
            "at least 2.5",
        ),
        (
            "p99 at 400 x 50/s, of the kernel's",
            ratio(tail(voicelane, 0), kernel.and_then(|k| tail(k, 0))),
            "at most 1.3",
        ),
        (
            "the same beside a hog",
            ratio(tail(voicelane, 1), kernel.and_then(|k| tail(k, 1))),
            "at most 1.3",
        ),
        (
            "goodput at twice the rate, of its peak",
            median(&voicelane.rates[MOST[0]].kept),
            "at least 0.90",
        ),
        (
            "the same, cards coalescing",
            median(&voicelane.rates[MOST[1]].kept),
            "at least 0.90",
        ),
    ];
    let mut text = "| voicelane | measured | expected |\n|---|---|---|\n".to_owned();
    for (name, value, expected) in lines {
        let value = value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        text.extend(["| ", name, " | ", &value, " | ", expected, " |\n"]);
    }
    text
}

fn rows(all: &[Figures]) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |name: String, digits, share, value: &dyn Fn(&Figures) -> Option<f64>| {
        rows.push(Row {
            name,
            values: all.iter().map(value).collect(),
            digits,
            share,
        });
    };
    for (at, (flows, gathering)) in CALLS.iter().enumerate() {
        let gathering = match gathering.as_micros() {
            0 => String::new(),
            time => format!(", cards coalesce {time} us"),
        };
        let mut value = |name: &str, digits, share, value: fn(&Rates) -> Option<f64>| {
            let name = format!("{name}{gathering}");
            row(name, digits, share, &|f| value(&f.rates[at]));
        };
        let name = format!("no loss, {flows} flows, k round trips/s");
        value(&name, 1, false, |it| Some(median(&it.no_loss)? / 1e3));
        if *flows == FLOWS {
            value("answered at twice that, k/s", 1, false, |it| {
                Some(median(&it.overload)? / 1e3)
            });
            value("the same, share of the peak", 2, true, |it| {
                median(&it.kept)
            });
            value("us a packet near the highest rate", 1, false, |it| {
                median(&it.cost)
            });
        }
    }
    row("us a packet at 400 x 50/s".into(), 1, false, &|f| {
        median(&f.cost_paced)
    });
    for (at, whose) in ["the processes'", "the kernel's"].into_iter().enumerate() {
        row(format!("KB a flow, {whose}"), 1, false, &|f| {
            Some(f.memory?[at].max(0.0) / 1e3)
        });
    }
    for (which, flows) in PACED.iter().enumerate() {
        for (hog, beside) in ["", ", hog"].into_iter().enumerate() {
            for (q, name) in [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")] {
                let name = format!("{flows} x 50/s{beside}: {name}, us");
                row(name, 0, false, &|f| Some(quantile(f, which, hog, q)? / 1e3));
            }
            row(format!("{flows} x 50/s{beside}: lost, %"), 2, true, &|f| {
                let [lost, sent] = f.paced[which][hog].lost;
                (sent > 0).then(|| 100.0 * lost as f64 / sent as f64)
            });
            let name = format!("{flows} x 50/s{beside}: not counted, %");
            row(name, 2, true, &|f| {
                let Paced {
                    round_trips,
                    lost: [lost, sent],
                } = &f.paced[which][hog];
                (*sent > 0).then(|| not_counted(sent - lost, round_trips))
            });
        }
    }
    rows
}

/// Nanoseconds.
fn quantile(figures: &Figures, which: usize, hog: usize, quantile: f64) -> Option<f64> {
    let trips = &figures.paced[which][hog].round_trips;
    (!trips.is_empty()).then(|| trips.value_at_quantile(quantile) as f64)
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}
