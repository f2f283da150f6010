//! What is going on, while it is: a bar for each thing on a terminal, else a line for each change.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::config::Environment;
use crate::model::Migration;
use crate::output;
use crate::progress::{self, Estimator};

/// The length of a bar.
const FULL: u64 = 1_000;
/// Without a terminal progress is told after this time, then after twice as long, and so on up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(32);

/// The place where it is told.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    /// If there is a terminal.
    bars: Option<MultiProgress>,
    colours: bool,
    quiet: bool,
    begun: Instant,
}

/// One thing that goes on.
#[derive(Debug)]
pub(crate) struct Line {
    board: Board,
    bar: Option<ProgressBar>,
    name: String,
    estimator: Estimator,
    /// The state that was told last without a terminal, when, and when more is told of the same.
    told: Option<(String, Instant, Duration)>,
}

impl Board {
    pub(crate) fn new(environment: &Environment, quiet: bool) -> Self {
        let error = std::io::stderr();
        let dumb = environment.get("TERM").is_some_and(|term| term == "dumb");
        let bars = (error.is_terminal() && !dumb && !quiet).then(MultiProgress::new);
        let colours = output::colours(error.is_terminal(), environment);
        Self { bars, colours, quiet, begun: Instant::now() }
    }

    /// A line for something by this name.
    pub(crate) fn line(&self, name: &str) -> Line {
        let bar = self.bars.as_ref().map(|bars| {
            let colour = if self.colours { ".green" } else { "" };
            let template = format!("{{prefix}}  {{bar:24{colour}}} {{percent:>3}}%  {{msg}}");
            let style = ProgressStyle::with_template(&template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("━╸─");
            let bar = ProgressBar::new(FULL).with_style(style).with_prefix(name.to_owned());
            bars.add(bar)
        });
        let name = name.to_owned();
        Line { board: self.clone(), bar, name, estimator: Estimator::default(), told: None }
    }

    /// Tells something that is no progress.
    pub(crate) fn note(&self, text: &str) {
        if self.quiet {
            return;
        }
        match &self.bars {
            // Its own way to print leaves the cursor behind the text once there is no bar left.
            Some(bars) => bars.suspend(|| output::note(text)),
            None => output::note(text),
        }
    }
}

impl Line {
    /// What it is doing now, in a few words.
    pub(crate) fn say(&mut self, what: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(what.to_owned()),
            None => self.plain(what, what),
        }
    }

    /// How far a migration is.
    pub(crate) fn migration(&mut self, migration: &Migration) {
        let bytes = migration.bytes();
        self.estimator.see(self.board.begun.elapsed(), bytes);
        let mut parts = vec![migration.status.clone()];
        parts.extend(Some(migration.way()).filter(|way| !way.is_empty()));
        if migration.status == "preparing" {
            let step = migration.operation.as_ref().and_then(|operation| operation.step.clone());
            parts.extend(step);
        }
        let state = parts.join(", ");
        // What is over has neither.
        let speed = if migration.is_over() {
            String::new()
        } else {
            progress::sentence(&self.estimator, bytes)
        };
        let fraction = if migration.ended_well() { Some(1.0) } else { bytes.fraction() };
        if let Some(bar) = &self.bar {
            if let Some(fraction) = fraction {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "0 to 1"
                )]
                bar.set_position((fraction * FULL as f64) as u64);
            }
            let speed = if speed.is_empty() { speed } else { format!(", {speed}") };
            bar.set_message(format!("{state}{speed}"));
            return;
        }
        let percent = fraction.map(|part| format!("{:.0} %", part * 100.0));
        let mut parts = vec![state.clone()];
        parts.extend(percent.filter(|_| bytes.total > 0 && !migration.is_over()));
        parts.extend(Some(speed).filter(|speed| !speed.is_empty()));
        self.plain(&state, &parts.join(", "));
    }

    /// So many of so many are done.
    pub(crate) fn part(&mut self, done: usize, total: usize) {
        let text = format!("{done} of {total}");
        match &self.bar {
            Some(bar) => {
                bar.set_length(u64::try_from(total.max(1)).unwrap_or(u64::MAX));
                bar.set_position(u64::try_from(done).unwrap_or(u64::MAX));
                bar.set_message(text);
            }
            None => self.plain(&text, &text),
        }
    }

    /// Tells `text` if `state` is another than before, or if nothing was told for a while.
    fn plain(&mut self, state: &str, text: &str) {
        let same = self.told.as_ref().filter(|(told, ..)| told == state);
        let wait =
            |(told, at, pause): &(String, Instant, Duration)| at.elapsed() < *pause || told == text;
        if self.board.quiet || same.is_some_and(wait) {
            return;
        }
        let pause = same.map_or(PAUSE, |(_, _, pause)| (*pause * 2).min(LONGEST_PAUSE));
        self.told = Some((state.to_owned(), Instant::now(), pause));
        let seconds = self.board.begun.elapsed().as_secs_f64();
        output::note(&format!("[{seconds:>6.1} s] {}: {text}", self.name));
    }

    /// It is over. The bar goes, and what remains is a line.
    pub(crate) fn end(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.board.note(&format!("{}: {text}", self.name));
    }
}

impl Drop for Line {
    /// Whatever happened: no half of a bar stays on the screen.
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
