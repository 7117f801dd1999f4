//! `voicelane mappings`: lists calls, other mappings and TCP connections with their endpoints.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::control::{self, MappingStatus, Status};
use crate::text::duration;

use super::RuntimeDir;
use super::programs::Programs;
use super::watch::WatchArgs;

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

/// A call: a mapping with media, and the mappings that are other candidates of the same call.
#[derive(Debug, Serialize)]
struct Call<'a> {
    #[serde(flatten)]
    mapping: &'a MappingStatus,
    /// Mappings without media that sent checks to the same remote address.
    candidates: usize,
    /// Name and number of the application's process, or the reason why it is unknown.
    program: String,
}

pub(super) fn run(args: &MappingsArgs) -> anyhow::Result<ExitCode> {
    let (json, is_watched) = (args.json, args.watch.watch);
    args.watch.repeat(json, || {
        let status = match control::status(&args.runtime.runtime_dir) {
            Ok(status) => status,
            Err(error) => return Ok(Err(error)),
        };
        let programs = Programs::of(status.mappings.iter().filter(|it| it.is_call));
        let (calls, others) = fold(&status.mappings, &programs);
        let document = json!({
            "version": 1,
            "calls": calls,
            "ended_calls": status.ended_calls,
            "mappings": status.mappings,
            "connections": status.connections,
        });
        let shown = match (json, is_watched) {
            (false, _) => text(&status, &calls, &others),
            (true, false) => format!("{document:#}\n"),
            (true, true) => format!("{document}\n"),
        };
        Ok(Ok((shown, ExitCode::SUCCESS)))
    })
}

/// Returns the calls, and the mappings that belong to none.
fn fold<'a>(
    mappings: &'a [MappingStatus],
    programs: &Programs,
) -> (Vec<Call<'a>>, Vec<&'a MappingStatus>) {
    let (with_media, without): (Vec<_>, Vec<_>) = mappings.iter().partition(|it| it.is_call);
    // The latest call to a remote address gets its candidates.
    let mut by_remote = BTreeMap::new();
    let mut calls = Vec::new();
    for mapping in with_media {
        let newest = by_remote
            .entry(mapping.remote.map(|it| it.ip()))
            .or_insert(calls.len());
        if calls
            .get(*newest)
            .is_some_and(|it: &Call<'_>| it.mapping.age_seconds > mapping.age_seconds)
        {
            *newest = calls.len();
        }
        calls.push(Call {
            mapping,
            candidates: 0,
            program: programs.name(mapping),
        });
    }
    let mut others = Vec::new();
    for mapping in without {
        match by_remote.get(&mapping.remote.map(|it| it.ip())) {
            Some(&call) => calls[call].candidates += 1,
            None => others.push(mapping),
        }
    }
    (calls, others)
}

fn text(status: &Status, calls: &[Call<'_>], others: &[&MappingStatus]) -> String {
    let mut out = String::new();
    if calls.is_empty() {
        out += "No call.\n";
    } else {
        let columns = [
            "call",
            "remote",
            "service",
            "path",
            "outside",
            "since",
            "last answer",
            "program",
        ];
        let mut rows = vec![columns.map(str::to_owned)];
        rows.extend(calls.iter().map(row));
        out += &table(&rows);
    }
    if !status.ended_calls.is_empty() {
        let columns = ["ended call", "remote", "how it ended", "duration", "ended"];
        let mut rows = vec![columns.map(str::to_owned)];
        rows.extend(status.ended_calls.iter().map(|call| {
            [
                call.id.clone(),
                call.remote.to_string(),
                how_ended(&call.cause).to_owned(),
                duration(call.duration_seconds),
                format!("{} ago", duration(call.ended_seconds)),
            ]
        }));
        out = out + "\n" + &table(&rows);
    }
    if !others.is_empty() {
        let columns = ["no media yet", "outside", "remotes", "age", "idle"];
        let mut rows = vec![columns.map(str::to_owned)];
        rows.extend(others.iter().map(|mapping| {
            [
                mapping.inside.to_string(),
                outside(mapping),
                mapping.remotes.to_string(),
                duration(mapping.age_seconds),
                duration(mapping.idle_seconds),
            ]
        }));
        out = out + "\n" + &table(&rows);
    }
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
        out = out + "\n" + &table(&rows);
    }
    out
}

fn row(call: &Call<'_>) -> [String; 8] {
    let mapping = call.mapping;
    let unknown = || "unknown".to_owned();
    let candidates = match call.candidates {
        0 => String::new(),
        1 => " (and 1 candidate)".to_owned(),
        number => format!(" (and {number} candidates)"),
    };
    [
        mapping.id.clone(),
        mapping.remote.map_or_else(unknown, |it| it.to_string()),
        mapping.service.clone().unwrap_or_else(unknown),
        path(mapping) + &candidates,
        outside(mapping),
        duration(mapping.age_seconds),
        mapping
            .last_answer_seconds
            .map_or_else(|| "none".to_owned(), |age| format!("{} ago", duration(age))),
        call.program.clone(),
    ]
}

/// Returns the path of a mapping's media, with the cause if it is in the VPN.
pub(super) fn path(mapping: &MappingStatus) -> String {
    match &mapping.failover_cause {
        Some(cause) => format!("in the VPN: {}", cause.replace('_', " ")),
        None if mapping.egress == "direct" => "direct".to_owned(),
        None => "in the VPN".to_owned(),
    }
}

/// Returns a sentence part for the label of a cause.
fn how_ended(cause: &str) -> &str {
    match cause {
        "application_closed" => "the application closed its socket",
        "peer_closed" => "the peer's port is closed",
        "silent" => "neither side sends",
        "expired" => "the application sends nothing",
        "evicted" => "too many mappings",
        "no_socket" => "no socket could be opened",
        other => other,
    }
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
    use crate::control::{ConnectionStatus, EndedCallStatus};

    fn mapping(id: &str, remote: &str, is_call: bool) -> MappingStatus {
        MappingStatus {
            id: id.to_owned(),
            is_call,
            remote: Some(remote.parse().expect("an endpoint")),
            service: Some("media".to_owned()),
            last_answer_seconds: is_call.then_some(0),
            inside: "[2001:db8::2]:50000".parse().expect("an endpoint"),
            outside: None,
            egress: "direct".into(),
            failover_cause: None,
            remotes: 2,
            age_seconds: 61,
            idle_seconds: 0,
        }
    }

    #[test]
    fn one_line_a_call_with_its_candidates_and_ended_calls_apart() {
        let connection = ConnectionStatus {
            inside: "10.8.0.2:40000".parse().expect("an endpoint"),
            remote: "168.86.128.1:443".parse().expect("an endpoint"),
            state: "established".into(),
            bytes_out: 0,
            bytes_in: 0,
            age_seconds: 0,
            idle_seconds: 0,
        };
        let ended = EndedCallStatus {
            id: "0.4".to_owned(),
            inside: "10.8.0.2:40000".parse().expect("an endpoint"),
            remote: "168.86.128.1:20000".parse().expect("an endpoint"),
            cause: "application_closed".into(),
            duration_seconds: 90,
            ended_seconds: 2,
        };
        let moved = MappingStatus {
            failover_cause: Some("no_responses".into()),
            egress: "tunnel".into(),
            ..mapping("1.0", "[2001:db8:86::1]:20000", true)
        };
        let status = Status {
            mappings: vec![
                moved,
                mapping("2.0", "[2001:db8:86::1]:20001", false),
                mapping("3.0", "[2001:db8:86::2]:20000", false),
            ],
            ended_calls: vec![ended],
            connections: vec![connection],
            ..Status::default()
        };
        let programs = Programs::default();
        let (calls, others) = fold(&status.mappings, &programs);
        let wanted = "\
call  remote                  service  path                                          outside  since      last answer  program
1.0   [2001:db8:86::1]:20000  media    in the VPN: no responses (and 1 candidate)  opening  1 min 1 s  0 s ago      not measured
";
        let text = text(&status, &calls, &others);
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeezed(&text).starts_with(&squeezed(wanted)), "{text}");
        let wanted = "
ended call  remote              how it ended                       duration    ended
0.4         168.86.128.1:20000  the application closed its socket  1 min 30 s  2 s ago

no media yet         outside  remotes  age        idle
[2001:db8::2]:50000  opening  2        1 min 1 s  0 s

inside          remote (TCP)      state        age  idle
10.8.0.2:40000  168.86.128.1:443  established  0 s  0 s
";
        assert!(text.ends_with(wanted), "{text}");
    }
}
