//! `voicelane mappings`: lists calls and TCP connections with their endpoints.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::control::{self, MappingStatus, Status};
use crate::text::duration;

use super::watch::WatchArgs;
use super::{RuntimeDir, exit};

#[derive(Debug, Args)]
pub(super) struct MappingsArgs {
    /// Print JSON (version 1)
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    watch: WatchArgs,
    #[command(flatten)]
    runtime: RuntimeDir,
}

pub(super) fn run(args: &MappingsArgs) -> anyhow::Result<ExitCode> {
    let (json, is_watched) = (args.json, args.watch.watch);
    args.watch.repeat(json, || {
        let status = match control::status(&args.runtime.runtime_dir) {
            Ok(status) => status,
            Err(error) => return Ok(exit::unavailable(&error, is_watched && !json)),
        };
        let (mappings, connections) = (&status.mappings, &status.connections);
        let document = json!({ "version": 1, "mappings": mappings, "connections": connections });
        let shown = match (json, is_watched) {
            (false, _) => text(&status),
            (true, false) => format!("{document:#}\n"),
            (true, true) => format!("{document}\n"),
        };
        Ok((shown, ExitCode::SUCCESS))
    })
}

fn text(status: &Status) -> String {
    let mut rows = vec![["inside", "outside", "remotes", "age", "idle"].map(str::to_owned)];
    rows.extend(status.mappings.iter().map(|mapping| {
        [
            mapping.inside.to_string(),
            outside(mapping),
            mapping.remotes.to_string(),
            duration(mapping.age_seconds),
            duration(mapping.idle_seconds),
        ]
    }));
    let mut out = table(&rows);
    if !status.connections.is_empty() {
        let mut rows = vec![["inside", "remote (TCP)", "state", "age", "idle"].map(str::to_owned)];
        rows.extend(status.connections.iter().map(|connection| {
            [
                connection.inside.to_string(),
                connection.remote.to_string(),
                connection.state.to_string(),
                duration(connection.age_seconds),
                duration(connection.idle_seconds),
            ]
        }));
        out += "\n";
        out += &table(&rows);
    }
    out
}

/// Returns the outside endpoint of a mapping, or "opening" while its socket is opened.
pub(super) fn outside(mapping: &MappingStatus) -> String {
    let outside = mapping.outside;
    outside.map_or_else(|| "opening".to_owned(), |outside| outside.to_string())
}

/// Formats rows as columns. Each is as wide as its widest cell.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].len());
        cells.max().unwrap_or(0)
    });
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        writeln!(out, "{}", cells.join("  ").trim_end()).expect("a string takes everything");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ConnectionStatus;

    #[test]
    fn columns_are_aligned() {
        let mapping = MappingStatus {
            inside: "[2001:db8::2]:50000".parse().expect("an endpoint"),
            outside: None,
            egress: "direct".into(),
            failover_cause: None,
            remotes: 2,
            age_seconds: 61,
            idle_seconds: 0,
        };
        let connection = ConnectionStatus {
            inside: "10.8.0.2:40000".parse().expect("an endpoint"),
            remote: "168.86.128.1:443".parse().expect("an endpoint"),
            state: "established".into(),
            bytes_out: 0,
            bytes_in: 0,
            age_seconds: 0,
            idle_seconds: 0,
        };
        let status = Status {
            mappings: vec![mapping],
            connections: vec![connection],
            ..Status::default()
        };
        let wanted = "\
inside               outside  remotes  age        idle
[2001:db8::2]:50000  opening  2        1 min 1 s  0 s

inside          remote (TCP)      state        age  idle
10.8.0.2:40000  168.86.128.1:443  established  0 s  0 s
";
        assert_eq!(text(&status), wanted);
    }
}
