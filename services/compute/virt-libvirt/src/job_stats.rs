//! libvirt's figures of a job as ours.

use whimbrel_messages::report::JobStats;

use crate::raw::{Value, Values};

/// The figures that libvirt names so; zero where it says nothing.
pub(crate) fn job_stats(values: &Values) -> JobStats {
    let number = |name: &str| match values.get(name) {
        Some(Value::Number(number)) => *number,
        _ => 0,
    };
    let (memory_rate, disk_rate) = (number("memory_bps"), number("disk_bps"));
    JobStats {
        elapsed_ms: number("time_elapsed"),
        memory_total: number("memory_total"),
        memory_processed: number("memory_processed"),
        memory_remaining: number("memory_remaining"),
        disk_total: number("disk_total"),
        disk_processed: number("disk_processed"),
        disk_remaining: number("disk_remaining"),
        bandwidth: memory_rate.saturating_add(disk_rate),
        // libvirt tells pages a second.
        dirty_rate: number("memory_dirty_rate").saturating_mul(number("memory_page_size")),
        iteration: number("memory_iteration"),
        downtime_ms: number("downtime"),
    }
}

/// The figures of a job that succeeded. After a post-copy that broke and went on by itself, libvirt still
/// tells the memory of the moment when it broke, which is unknown to be anything now.
pub(crate) fn final_stats(values: &Values) -> JobStats {
    let stats = job_stats(values);
    match stats.memory_remaining {
        0 => stats,
        _ => JobStats { memory_processed: 0, memory_remaining: 0, ..stats },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_taken_over_in_our_units() {
        let values = [
            ("time_elapsed", 700),
            ("memory_total", 134_217_728),
            ("memory_dirty_rate", 100),
            ("memory_page_size", 4096),
            ("memory_bps", 5),
            ("disk_bps", 7),
            ("downtime", 31),
        ];
        let values: Values =
            values.iter().map(|(name, n)| ((*name).to_owned(), Value::Number(*n))).collect();
        let expected = JobStats {
            elapsed_ms: 700,
            memory_total: 134_217_728,
            dirty_rate: 409_600,
            bandwidth: 12,
            downtime_ms: 31,
            ..JobStats::default()
        };
        assert_eq!(job_stats(&values), expected);
    }

    #[test]
    fn a_job_that_succeeded_has_nothing_left_to_send() {
        let values = [("memory_processed", 5), ("memory_remaining", 7), ("downtime", 3)];
        let values: Values =
            values.iter().map(|(name, n)| ((*name).to_owned(), Value::Number(*n))).collect();
        let expected = JobStats { downtime_ms: 3, ..JobStats::default() };
        assert_eq!(final_stats(&values), expected);
    }

    #[test]
    fn a_job_that_says_nothing_yet_is_all_zero() {
        assert_eq!(job_stats(&Values::new()), JobStats::default());
    }
}
