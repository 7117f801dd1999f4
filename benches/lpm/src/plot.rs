//! The plot of lookups a second over the number of prefixes: a panel for each family, mode and shape of table.

use std::fmt::Write as _;

use crate::library::{Mode, Origin};
use crate::measure::Outcome;
use crate::report::typical;

/// The numbers of prefixes that are measured.
pub const COUNTS: [usize; 7] = [16, 128, 1_000, 8_000, 64_000, 250_000, 1_000_000];

/// The libraries that are drawn, with their colours: the table, the fastest others, and what anyone would write first.
const DRAWN: [(&str, &str); 9] = [
    ("voicelane", "#c1121f"),
    ("voicelane, AVX2", "#f4a3a8"),
    ("prefix-trie", "#6a994e"),
    ("poptrie", "#386641"),
    ("iptrie, LC", "#bc6c25"),
    ("binary search", "#999999"),
    ("rte_lpm", "#669bbc"),
    ("rte_fib, AVX-512", "#003049"),
    ("rte_fib6, AVX-512", "#003049"),
];

const PANEL: (f64, f64) = (300.0, 200.0);
const MARGIN: f64 = 45.0;
/// Lookups a second at the lower and upper edge.
const RATES: (f64, f64) = (1e6, 3e9);

/// Whether a library is drawn.
pub fn is_drawn(name: &str) -> bool {
    DRAWN.iter().any(|(drawn, _)| *drawn == name)
}

/// What was measured of one shape of table with so many prefixes.
pub struct Point {
    /// "crowded v4" and the like.
    pub shape: String,
    /// The number of prefixes.
    pub count: usize,
    /// What each library did.
    pub outcomes: Vec<Outcome>,
}

/// Draws the points: a row for each shape, scalar lookups on the left and bulk lookups on the right.
pub fn svg(points: &[Point]) -> String {
    let mut shapes: Vec<&str> = points.iter().map(|point| &*point.shape).collect();
    shapes.dedup();
    let (width, height) = (
        2.0 * (PANEL.0 + MARGIN) + 20.0,
        shapes.len() as f64 * (PANEL.1 + MARGIN) + 70.0,
    );
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"10\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (row, shape) in shapes.iter().enumerate() {
        for (column, mode) in [Mode::Independent, Mode::Bulk].into_iter().enumerate() {
            let left = MARGIN + column as f64 * (PANEL.0 + MARGIN);
            let top = 20.0 + row as f64 * (PANEL.1 + MARGIN);
            let of_shape: Vec<_> = points
                .iter()
                .filter(|point| point.shape == *shape)
                .collect();
            panel(
                &mut svg,
                (left, top),
                &format!("{shape}, {}", name(mode)),
                mode,
                &of_shape,
            );
        }
    }
    legend(&mut svg, height - 40.0, points);
    svg + "</svg>\n"
}

const fn name(mode: Mode) -> &'static str {
    match mode {
        Mode::Independent => "one address a call",
        Mode::Chained => "each address after the last answer",
        Mode::Bulk => "256 addresses a call",
    }
}

fn panel(svg: &mut String, (left, top): (f64, f64), title: &str, mode: Mode, points: &[&Point]) {
    let share = |value: f64, (low, high): (f64, f64)| (value / low).ln() / (high / low).ln();
    let x = |count: usize| left + PANEL.0 * share(count as f64, (COUNTS[0] as f64, 1e6));
    let y = |rate: f64| top + PANEL.1 * (1.0 - share(rate, RATES).clamp(0.0, 1.0));
    let (right, bottom) = (left + PANEL.0, top + PANEL.1);
    text(svg, (left, top - 5.0), "start", title);
    for (rate, label) in [(1e6, "1 M/s"), (1e7, "10"), (1e8, "100"), (1e9, "1 G/s")] {
        line(svg, &[(left, y(rate)), (right, y(rate))], "#dddddd", 0.5);
        text(svg, (left - 4.0, y(rate) + 3.0), "end", label);
    }
    for (count, label) in COUNTS
        .into_iter()
        .zip(["16", "128", "1k", "8k", "64k", "250k", "1M"])
    {
        line(svg, &[(x(count), top), (x(count), bottom)], "#dddddd", 0.5);
        text(svg, (x(count), bottom + 12.0), "middle", label);
    }
    for (library, colour) in DRAWN {
        let at = |point: &&Point| {
            let outcome = point
                .outcomes
                .iter()
                .find(|outcome| outcome.name == library)?;
            let rate = typical(outcome, mode)?;
            Some((x(point.count), y(rate)))
        };
        let line_of: Vec<_> = points.iter().filter_map(at).collect();
        let thick = if library.starts_with("voicelane") {
            2.0
        } else {
            1.2
        };
        line(svg, &line_of, colour, thick);
    }
}

fn legend(svg: &mut String, top: f64, points: &[Point]) {
    let measured = |library: &str| {
        let mut outcomes = points.iter().flat_map(|point| &point.outcomes);
        outcomes.any(|outcome| outcome.name == library)
    };
    let measured: Vec<_> = DRAWN
        .iter()
        .filter(|(library, _)| measured(library))
        .collect();
    for (place, (library, colour)) in measured.into_iter().enumerate() {
        let (x, y) = (
            MARGIN + (place % 5) as f64 * 130.0,
            top + (place / 5) as f64 * 16.0,
        );
        line(svg, &[(x, y), (x + 20.0, y)], colour, 2.0);
        text(svg, (x + 25.0, y + 3.0), "start", library);
    }
}

fn line(svg: &mut String, points: &[(f64, f64)], colour: &str, width: f64) {
    let points: Vec<_> = points
        .iter()
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    let points = points.join(" ");
    writeln!(
        svg,
        "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>"
    )
    .expect("a string takes everything");
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    )
    .expect("a string takes everything");
}

/// Whether a library is one of DPDK's, whose tables take gigabytes for some shapes.
pub fn is_heavy(origin: Origin) -> bool {
    !matches!(
        origin,
        Origin::Compiled | Origin::Changing | Origin::Crate | Origin::Baseline
    )
}
