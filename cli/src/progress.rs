//! How far a transfer is, how fast it goes, and how long it will still take.

use std::collections::VecDeque;
use std::time::Duration;

/// How much of the past counts for the speed.
const WINDOW: Duration = Duration::from_secs(10);
/// Less than this says nothing about the speed.
const LEAST: Duration = Duration::from_millis(300);
/// For so long a transfer must not have come nearer to its end to count as one that never ends.
const PATIENCE: Duration = Duration::from_secs(4);

/// Bytes, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bytes {
    pub(crate) total: u64,
    pub(crate) processed: u64,
    pub(crate) remaining: u64,
}

impl Bytes {
    /// 0 to 1, if anything is known.
    pub(crate) fn fraction(self) -> Option<f64> {
        let left = self.remaining.min(self.total) as f64 / self.total as f64;
        (self.total > 0).then_some(1.0 - left)
    }
}

/// How long it will still take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Eta {
    Unknown,
    In(Duration),
    /// What is left does not become less: the guest writes as fast as its memory travels.
    Never,
}

/// Remembers the last seconds of a transfer.
#[derive(Debug, Default)]
pub(crate) struct Estimator {
    /// The oldest first.
    samples: VecDeque<(Duration, Bytes)>,
}

impl Estimator {
    /// What was seen at a time since any beginning.
    pub(crate) fn see(&mut self, at: Duration, bytes: Bytes) {
        // Nothing travels yet.
        if bytes.total == 0 {
            self.samples.clear();
            return;
        }
        // Another round, or another transfer: what was before says nothing about it.
        if self.samples.back().is_some_and(|(_, last)| last.processed > bytes.processed) {
            self.samples.clear();
        }
        self.samples.push_back((at, bytes));
        while self.samples.front().is_some_and(|(first, _)| at.saturating_sub(*first) > WINDOW) {
            self.samples.pop_front();
        }
    }

    fn ends(&self) -> Option<(Duration, Bytes, Bytes)> {
        let ((from, first), (to, last)) = (self.samples.front()?, self.samples.back()?);
        let span = to.saturating_sub(*from);
        (span >= LEAST).then_some((span, *first, *last))
    }

    /// Bytes that travel in a second.
    pub(crate) fn rate(&self) -> Option<f64> {
        let (span, first, last) = self.ends()?;
        Some((last.processed - first.processed) as f64 / span.as_secs_f64())
    }

    /// From how fast that becomes less which is left. That is slower than what travels, because guests write on.
    pub(crate) fn eta(&self) -> Eta {
        let Some((span, first, last)) = self.ends() else { return Eta::Unknown };
        if last.remaining == 0 {
            return if last.total > 0 { Eta::In(Duration::ZERO) } else { Eta::Unknown };
        }
        let gained = first.remaining as f64 - last.remaining as f64;
        if gained > 0.0 {
            let seconds = last.remaining as f64 * span.as_secs_f64() / gained;
            return Duration::try_from_secs_f64(seconds).map_or(Eta::Unknown, Eta::In);
        }
        let travelled = last.processed > first.processed;
        if travelled && span >= PATIENCE { Eta::Never } else { Eta::Unknown }
    }
}

/// `1.5 GiB`.
pub(crate) fn size(bytes: f64) -> String {
    let mut value = bytes;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" {
                format!("{value:.0} B")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// `1:05`, `2:03:04`.
pub(crate) fn clock(time: Duration) -> String {
    // What is left of a second counts: nothing is over before it is.
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

/// `32.0 MiB/s, 64.0 MiB left, ETA 0:02`: as much of it as is known.
pub(crate) fn sentence(estimator: &Estimator, bytes: Bytes) -> String {
    let mut parts = Vec::new();
    if let Some(rate) = estimator.rate() {
        parts.push(format!("{}/s", size(rate)));
    }
    if bytes.total > 0 {
        parts.push(format!("{} left", size(bytes.remaining as f64)));
    }
    match estimator.eta() {
        Eta::In(time) => parts.push(format!("ETA {}", clock(time))),
        Eta::Never => parts.push("gets no nearer to its end".to_owned()),
        Eta::Unknown => {}
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn seen(samples: &[(u64, u64, u64)]) -> Estimator {
        let mut estimator = Estimator::default();
        for (ms, processed, remaining) in samples {
            let bytes =
                Bytes { total: 100 * MIB, processed: processed * MIB, remaining: remaining * MIB };
            estimator.see(Duration::from_millis(*ms), bytes);
        }
        estimator
    }

    #[test]
    fn one_look_says_nothing_about_speed() {
        let estimator = seen(&[(0, 10, 90)]);
        assert_eq!((estimator.rate(), estimator.eta()), (None, Eta::Unknown));
        assert_eq!(seen(&[(0, 10, 90), (100, 20, 80)]).rate(), None, "nor do two at once");
    }

    #[test]
    fn the_end_is_told_from_what_is_left() {
        let still = seen(&[(0, 0, 100), (2_000, 20, 80)]);
        assert_eq!(still.rate(), Some(10.0 * MIB as f64));
        assert_eq!(still.eta(), Eta::In(Duration::from_secs(8)));
        // Half of what travels is written anew.
        let busy = seen(&[(0, 0, 100), (2_000, 20, 90)]);
        assert_eq!(busy.rate(), Some(10.0 * MIB as f64));
        assert_eq!(busy.eta(), Eta::In(Duration::from_secs(18)));
        assert_eq!(seen(&[(0, 0, 100), (2_000, 100, 0)]).eta(), Eta::In(Duration::ZERO));
    }

    #[test]
    fn a_guest_that_writes_as_fast_as_it_travels_never_arrives() {
        let short = seen(&[(0, 0, 90), (1_000, 10, 90)]);
        assert_eq!(short.eta(), Eta::Unknown, "too early to say");
        let long = seen(&[(0, 0, 90), (2_000, 20, 91), (5_000, 50, 90)]);
        assert_eq!(long.eta(), Eta::Never);
        let idle = seen(&[(0, 0, 90), (5_000, 0, 90)]);
        assert_eq!(
            idle.eta(),
            Eta::Unknown,
            "nothing travels: it has not begun, or the copy is over"
        );
    }

    #[test]
    fn only_the_last_seconds_count() {
        let estimator = seen(&[(0, 0, 100), (1_000, 60, 40), (11_000, 70, 30), (12_000, 71, 29)]);
        assert_eq!(estimator.rate(), Some(MIB as f64), "slow now, fast at first");
        let again = seen(&[(0, 50, 50), (1_000, 60, 40), (2_000, 5, 95)]);
        assert_eq!(again.rate(), None, "another round begins from nothing");
        let mut late = Estimator::default();
        late.see(Duration::ZERO, Bytes::default());
        late.see(Duration::from_secs(5), Bytes { total: MIB, processed: 0, remaining: MIB });
        assert_eq!((late.rate(), late.eta()), (None, Eta::Unknown), "nor does time before it");
    }

    #[test]
    fn numbers_are_told_for_people() {
        assert_eq!(size(0.0), "0 B");
        assert_eq!(size(1536.0), "1.5 KiB");
        assert_eq!(size(3.0 * 1024.0 * 1024.0 * 1024.0), "3.0 GiB");
        assert_eq!(clock(Duration::from_millis(64_100)), "1:05");
        assert_eq!(clock(Duration::from_secs(7_384)), "2:03:04");
        let estimator = seen(&[(0, 0, 100), (2_000, 20, 80)]);
        let bytes = Bytes { total: 100 * MIB, processed: 20 * MIB, remaining: 80 * MIB };
        assert_eq!(sentence(&estimator, bytes), "10.0 MiB/s, 80.0 MiB left, ETA 0:08");
        assert_eq!(bytes.fraction().map(|part| (part * 100.0).round()), Some(20.0));
        assert_eq!(Bytes::default().fraction(), None);
    }
}
