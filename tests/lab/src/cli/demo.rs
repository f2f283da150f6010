//! The way through, shown: guests are booted through HTTP, moved there and back, and looked at from outside.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use whimbrel_lab::checks::Check;
use whimbrel_lab::{Lab, Storage, guest, labs_dir};

use super::{manage, note, say, signals};

mod report;
mod round;

use report::{Move, Report};
use round::Materials;

/// Steps of the whole, for the progress bar: two before, then in each of two rounds a boot, two live moves of
/// three steps, three cold ones of two, and a deletion; a change of storage; the end.
const STEPS: u64 = 2 + 2 * (2 + 2 * 3 + 3 * 2 + 1) + 1 + 1;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The lab's name.
    #[arg(long, default_value = "demo")]
    name: String,
    /// How many hosts.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..))]
    hosts: u8,
    /// MiB of memory that the guests rewrite each second.
    #[arg(long, default_value_t = 10)]
    dirty_mib_s: u32,
    /// Print the results as JSON.
    #[arg(long)]
    json: bool,
}

/// Exit status 0 only if everything held.
pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    signals::interrupt_on_signals(|| ())?;
    let _lock = manage::own(&options.name)?;
    let bar = progress_bar();
    let mut report = Report::default();
    let outcome = show(options, &bar, &mut report);
    bar.finish_and_clear();
    if options.json {
        say(&serde_json::to_string_pretty(&report)?);
    } else if !report.checks.is_empty() {
        say(&report.tables());
    }
    let logs = labs_dir().join(&options.name).join("logs");
    outcome.with_context(|| format!("the demo did not get through; logs: {}", logs.display()))?;
    let broken = report.checks.iter().filter(|(_, check)| !check.held).count();
    let seconds = started.elapsed().as_secs_f64();
    if broken > 0 {
        say(&format!(
            "{broken} checks did not hold, after {seconds:.1} s; logs: {}",
            logs.display()
        ));
        return Ok(ExitCode::FAILURE);
    }
    let (moves, checks) = (report.moves.len(), report.checks.len());
    note(&format!(
        "All {checks} checks held over {moves} live migrations, 2 cold migrations and 4 resizes, in {seconds:.1} s."
    ));
    Ok(ExitCode::SUCCESS)
}

fn show(options: &Options, bar: &ProgressBar, report: &mut Report) -> anyhow::Result<()> {
    next(bar, "making the guest's image");
    let image = guest::prepare(&labs_dir().join("cache"))?;
    next(bar, "starting database, broker, hosts and services");
    let lab = Lab::builder().name(&options.name).hosts(options.hosts).start()?;
    let shown = show_in(&lab, &image, options, bar, report);
    // Also when something went wrong.
    next(bar, "ending the lab");
    let stopped = lab.stop();
    shown.and(stopped)
}

fn show_in(
    lab: &Lab,
    image: &guest::GuestImage,
    options: &Options,
    bar: &ProgressBar,
    report: &mut Report,
) -> anyhow::Result<()> {
    let api = lab.api();
    let materials = Materials {
        flavor: api.create_flavor("demo", 1, 128, 1)?,
        large: api.create_flavor("demo-large", 2, 160, 2)?,
        image: api.create_image("demo", "qcow2", &image.qcow2)?,
        network: api.create_network("demo", "brt", whimbrel_lab::TENANT_CIDR)?,
        dirty_mib_s: options.dirty_mib_s,
    };
    round::run(lab, "shared", &materials, bar, report)?;
    next(bar, "giving each host its own storage");
    lab.set_storage(Storage::Local)?;
    round::run(lab, "local", &materials, bar, report)
}

fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos:>2}/{len} {elapsed:>4}  {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(STEPS).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Goes on to the next step. Without a terminal each is a line of its own.
fn next(bar: &ProgressBar, message: &str) {
    bar.set_message(message.to_owned());
    bar.inc(1);
    if bar.is_hidden() {
        note(&format!("[{:>5.1} s] {message}", bar.elapsed().as_secs_f64()));
    }
}
