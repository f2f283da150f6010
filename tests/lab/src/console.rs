//! The heartbeat on a guest's console: lines `HB boot=<id> n=<counter>`, ten a second.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::guest::Heartbeat;
use crate::wait::{Deadline, until};

/// What a guest has written to its console on one host.
#[derive(Clone, Debug)]
pub struct Console {
    path: PathBuf,
}

impl Console {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything; empty if the guest has written nothing yet.
    ///
    /// # Errors
    /// When the file is there and can't be read.
    pub fn text(&self) -> anyhow::Result<String> {
        match std::fs::read(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            other => {
                let bytes = other.with_context(|| format!("reading {}", self.path.display()))?;
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
        }
    }

    /// All beats, in order.
    ///
    /// # Errors
    /// When the file is there and can't be read.
    pub fn beats(&self) -> anyhow::Result<Vec<Heartbeat>> {
        Ok(beats(&self.text()?))
    }

    /// Waits for a beat after that of number `after`, and returns it.
    ///
    /// # Errors
    /// When none comes within `patience`; the message holds the end of the console.
    pub fn wait_for_beat(&self, after: u64, patience: Duration) -> anyhow::Result<Heartbeat> {
        let last = || Ok(self.beats()?.pop().filter(|beat| beat.n > after));
        until(Deadline::after(patience), "the guest's heartbeat", last).with_context(|| {
            let text = self.text().unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(5).collect();
            format!("{} ends with {lines:?}", self.path.display())
        })
    }
}

/// What a row of beats says of its guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// How many beats.
    pub beats: usize,
    /// The boots that they are of.
    pub boots: BTreeSet<String>,
    /// Beats whose number was not above that of the one before: a guest that went back in time, or two at once.
    pub backwards: usize,
    /// Numbers that are missing in between.
    pub missing: u64,
}

impl Pulse {
    /// Of beats in the order in which they were written.
    pub fn of(beats: &[Heartbeat]) -> Self {
        let pairs = || beats.iter().zip(beats.iter().skip(1));
        let backwards = pairs().filter(|(one, next)| next.n <= one.n).count();
        let missing =
            pairs().map(|(one, next)| next.n.saturating_sub(one.n).saturating_sub(1)).sum();
        let boots = beats.iter().map(|beat| beat.boot.clone()).collect();
        Self { beats: beats.len(), boots, backwards, missing }
    }

    /// Whether it is that of one guest that ran on without a restart or a step back.
    pub fn is_steady(&self) -> bool {
        self.boots.len() == 1 && self.backwards == 0
    }
}

fn beats(text: &str) -> Vec<Heartbeat> {
    // The last line may be half written.
    let whole = text.rfind('\n').map_or("", |end| text.get(..end).unwrap_or_default());
    // A boot id that is not a uuid is one of a line that was torn.
    whole.lines().filter_map(Heartbeat::parse).filter(|beat| beat.boot.len() == 36).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "6a1b8f0e-3e7c-4e63-9a6e-0d7e0f6f2c11";

    fn lines(numbers: &[u64]) -> String {
        numbers.iter().map(|n| format!("HB boot={BOOT} n={n}\r\n")).collect()
    }

    #[test]
    fn whole_lines_are_read() {
        let text = format!("booting\r\n{}HB boot={BOOT} n=3", lines(&[1, 2]));
        assert_eq!(beats(&text).iter().map(|beat| beat.n).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(beats("HB boot=torn n=1\n"), []);
    }

    #[test]
    fn a_step_back_and_another_boot_are_seen() {
        assert!(Pulse::of(&beats(&lines(&[1, 2, 5]))).is_steady());
        assert_eq!(Pulse::of(&beats(&lines(&[1, 2, 5]))).missing, 2);
        assert_eq!(Pulse::of(&beats(&lines(&[1, 2, 2, 1]))).backwards, 2);
        let other = lines(&[9]).replace("6a1b", "0000");
        assert!(!Pulse::of(&beats(&(lines(&[1]) + &other))).is_steady());
    }
}
