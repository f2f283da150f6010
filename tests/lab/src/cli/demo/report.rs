//! What the demo has seen.

use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::Check;
use crate::cli::status::table;

/// A live migration.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Move {
    /// `shared` or `local`.
    pub(super) storage: String,
    /// The host it left.
    pub(super) source: String,
    /// The host it went to.
    pub(super) destination: String,
    /// What it ended in.
    pub(super) status: String,
    /// From the request to the final state as the client saw it, in milliseconds.
    pub(super) wall_ms: u64,
    /// By its record.
    pub(super) total_ms: Option<i64>,
    /// By its record.
    pub(super) downtime_ms: Option<i64>,
    /// By its record.
    pub(super) memory_bytes: Option<i64>,
    /// By its record.
    pub(super) disk_bytes: Option<i64>,
    /// Pings sent and lost while it moved.
    pub(super) ping: whimbrel_lab::PingReport,
}

/// Everything.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Report {
    /// The moves, in order.
    pub(super) moves: Vec<Move>,
    /// What was looked at, each with what it was about.
    pub(super) checks: Vec<(String, Check)>,
}

impl Report {
    pub(super) fn add(&mut self, about: &str, checks: impl IntoIterator<Item = Check>) {
        self.checks.extend(checks.into_iter().map(|check| (about.to_owned(), check)));
    }

    pub(super) fn tables(&self) -> String {
        let broken: Vec<String> = self
            .checks
            .iter()
            .filter(|(_, check)| !check.held)
            .map(|(about, check)| format!("✗ {about}: {}; seen: {}", check.what, check.seen))
            .collect();
        format!("{}\n\n{}\n{}", self.moves_table(), self.checks_table(), broken.join("\n"))
    }

    /// A row for each thing that was looked at, a column for each time.
    fn checks_table(&self) -> Table {
        let unique = |of: fn(&(String, Check)) -> &str| {
            let mut found: Vec<&str> = Vec::new();
            for one in self.checks.iter().map(of) {
                if !found.contains(&one) {
                    found.push(one);
                }
            }
            found
        };
        let times = unique(|(about, _)| about);
        let mut header = vec!["checked from outside".to_owned()];
        header.extend(times.iter().map(|about| narrow(about)));
        let mut checks = table(&header);
        for what in unique(|(_, check)| &check.what) {
            let mark = |about: &&str| {
                let found =
                    self.checks.iter().find(|(on, check)| on == about && check.what == what);
                found.map_or("", |(_, check)| if check.held { "✓" } else { "✗" })
            };
            checks.add_row(std::iter::once(what).chain(times.iter().map(mark)));
        }
        for column in checks.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Center);
        }
        checks
    }

    fn moves_table(&self) -> Table {
        let header = [
            "storage",
            "move",
            "status",
            "total ms",
            "downtime ms",
            "memory MiB",
            "disk MiB",
            "pings lost",
            "silence ms",
        ];
        let mut moves = table(&header);
        let number = |value: Option<i64>| value.map_or_else(|| "?".to_owned(), |n| n.to_string());
        let mib = |bytes: Option<i64>| {
            bytes.map_or_else(|| "–".to_owned(), |n| format!("{:.1}", n as f64 / 1024.0 / 1024.0))
        };
        for one in &self.moves {
            moves.add_row([
                one.storage.clone(),
                format!("{} → {}", one.source, one.destination),
                one.status.clone(),
                number(one.total_ms),
                number(one.downtime_ms),
                mib(one.memory_bytes),
                mib(one.disk_bytes),
                format!("{} of {}", one.ping.lost, one.ping.sent),
                one.ping.longest_silence_ms.to_string(),
            ]);
        }
        for column in moves.column_iter_mut().skip(3) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        moves
    }
}

/// A heading in several short lines.
fn narrow(about: &str) -> String {
    about.replace(": ", "\n").replace(" on ", "\non ").replace(" → ", "\n→ ")
}
