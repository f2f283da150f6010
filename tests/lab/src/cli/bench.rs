//! Measurements: what a move costs beyond the hypervisor's own work, and what the control plane alone can do.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};
use whimbrel_lab::labs_dir;

use super::status::table;
use super::{manage, note, say, signals};

mod carry;
mod control_plane;
mod figures;
mod virsh;

use figures::{Figures, Target};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The lab's name.
    #[arg(long, default_value = "bench")]
    name: String,
    /// Only one part of it.
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Pairs of moves, by virsh and by Whimbrel.
    #[arg(long, default_value_t = 24)]
    pairs: usize,
    /// Print the figures as JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Simulated hosts that answer at once.
    ControlPlane,
    /// Real guests, live, beside virsh.
    Virsh,
    /// The disk of a guest that is off, beside a raw copy.
    Carry,
}

/// What is to be reached on two cores (docs/benchmarks.md says where each comes from).
const TARGETS: [Target; 9] = [
    Target::most("carry.copy_ratio", 1.3),
    Target::most("virsh.total_ratio", 1.25),
    Target::most("virsh.downtime_ratio", 1.1),
    Target::most("saga.1.p50_ms", 50.0),
    Target::least("saga.500.per_s", 250.0),
    Target::most("saga.500.cpu_ms", 5.0),
    Target::most("api.get_server.p50_ms", 2.0),
    Target::most("pss_mib.together", 80.0),
    Target::most("saga.50.p99_ms", 2_000.0),
];

/// Exit status 0 when it could be measured, whatever came out: a slow machine is no failure.
pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    signals::interrupt_on_signals(|| ())?;
    let _lock = manage::own(&options.name)?;
    let mut figures = Figures::default();
    let wanted = |part| options.only.is_none_or(|only| only == part);
    if wanted(Part::ControlPlane) {
        control_plane::measure(&options.name, &mut figures)?;
    }
    if wanted(Part::Virsh) {
        virsh::measure(&options.name, options.pairs, &mut figures)?;
    }
    if wanted(Part::Carry) {
        carry::measure(&options.name, options.pairs, &mut figures)?;
    }
    let file = labs_dir().with_file_name("target").join("bench.json");
    let text = serde_json::to_string_pretty(&figures.told)?;
    std::fs::write(&file, &text).with_context(|| format!("writing {}", file.display()))?;
    if options.json {
        say(&text);
    } else {
        say(&shown(&figures));
        note(&format!("written to {}", file.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(figures: &Figures) -> String {
    let mut rows = table(&["figure", "measured", "target", ""]);
    for (name, value) in figures.all() {
        let target = TARGETS.iter().find(|target| target.name == name);
        let mark = target.map_or("", |target| if target.is_met(value) { "met" } else { "missed" });
        let wanted = target.map(ToString::to_string).unwrap_or_default();
        rows.add_row([name, format!("{value:.2}"), wanted, mark.to_owned()]);
    }
    rows.to_string()
}
