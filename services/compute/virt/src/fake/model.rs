//! How a live migration goes: pass after pass over what the guest has dirtied meanwhile, until the rest fits
//! into the downtime that is allowed.

use whimbrel_messages::report::JobStats;

use super::FakeConfig;

const MIB: u64 = 1 << 20;
/// A migration that has not converged by then never does.
const MOST_PASSES: usize = 1_000;

/// The course of one migration.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Course {
    /// When each pass begins, in milliseconds, and what it has to send, in bytes.
    passes: Vec<(u64, u64)>,
    memory: u64,
    bytes_per_ms: u64,
    dirty_per_ms: u64,
    /// When it is over; never if it does not converge.
    pub(super) total_ms: Option<u64>,
    /// How long the guest stands still, in milliseconds.
    pub(super) downtime_ms: u64,
}

impl Course {
    pub(super) fn of(memory_mib: i64, config: &FakeConfig) -> Self {
        let memory = u64::try_from(memory_mib).unwrap_or_default() * MIB;
        let bytes_per_ms = config.bandwidth_mib_s * MIB / 1_000;
        let dirty_per_ms = config.dirty_rate_mib_s * MIB / 1_000;
        let working_set = config.working_set_mib.saturating_mul(MIB).min(memory);
        let mut course = Self {
            passes: vec![(0, memory)],
            memory,
            bytes_per_ms,
            dirty_per_ms,
            total_ms: None,
            downtime_ms: 0,
        };
        if bytes_per_ms == 0 {
            course.total_ms = Some(0);
            return course;
        }
        let (mut now, mut send) = (0, memory);
        for _ in 0..MOST_PASSES {
            let takes = send / bytes_per_ms;
            now += takes;
            send = dirty_per_ms.saturating_mul(takes).min(working_set);
            let downtime = send / bytes_per_ms;
            if downtime <= config.max_downtime_ms {
                course.downtime_ms = downtime;
                course.total_ms = Some(now + downtime);
                break;
            }
            course.passes.push((now, send));
        }
        course
    }

    /// The figures after `elapsed_ms`.
    pub(super) fn at(&self, elapsed_ms: u64) -> JobStats {
        let pass = self.passes.iter().rposition(|(begin, _)| *begin <= elapsed_ms).unwrap_or(0);
        let (begin, send) = self.passes[pass];
        let sent = self.bytes_per_ms.saturating_mul(elapsed_ms - begin).min(send);
        let earlier: u64 = self.passes[..pass].iter().map(|(_, send)| send).sum();
        let bytes = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let processed = if self.bytes_per_ms == 0 { self.memory } else { earlier + sent };
        JobStats {
            elapsed_ms: bytes(elapsed_ms),
            memory_total: bytes(self.memory),
            memory_processed: bytes(processed),
            memory_remaining: bytes(send - sent),
            bandwidth: bytes(self.bytes_per_ms * 1_000),
            dirty_rate: bytes(self.dirty_per_ms * 1_000),
            iteration: bytes(pass as u64 + 1),
            ..JobStats::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(bandwidth: u64, dirty: u64, working_set: u64) -> FakeConfig {
        FakeConfig {
            bandwidth_mib_s: bandwidth,
            dirty_rate_mib_s: dirty,
            working_set_mib: working_set,
            ..FakeConfig::default()
        }
    }

    #[test]
    fn an_idle_guest_takes_one_pass() {
        let course = Course::of(1_000, &config(100, 0, 1_000));
        assert_eq!((course.total_ms, course.downtime_ms), (Some(10_000), 0));
    }

    #[test]
    fn half_the_bandwidth_dirtied_halves_each_pass() {
        let course = Course::of(1_000, &config(100, 50, 1_000));
        let passes: Vec<u64> = course.passes.iter().map(|(_, send)| send / MIB).collect();
        assert_eq!(passes[..4], [1_000, 499, 249, 124]);
        assert!(course.downtime_ms <= 300 && course.downtime_ms > 100, "{course:?}");
    }

    #[test]
    fn a_guest_that_dirties_faster_than_it_is_sent_never_arrives() {
        assert_eq!(Course::of(1_000, &config(100, 200, 500)).total_ms, None);
    }

    #[test]
    fn without_a_bandwidth_it_is_over_at_once() {
        assert_eq!(Course::of(1_000, &config(0, 0, 0)).total_ms, Some(0));
    }
}
