//! Weighers: among hosts that will do, the one with the most room left is best. As Nova's, each is
//! normalised to 0..1 over the hosts at hand before it is multiplied.

use whimbrel_db::scheduling::{HostState, Ratios};

use crate::config::SchedulerConfig;
use crate::filters::limit;

/// How good a host is, before normalisation; more is better.
pub type Weigher = fn(&HostState, Ratios) -> i64;

fn free_memory(host: &HostState, ratios: Ratios) -> i64 {
    limit(host.total.memory_mib, ratios.memory) - host.used.memory_mib
}

fn free_vcpus(host: &HostState, ratios: Ratios) -> i64 {
    limit(i64::from(host.total.vcpus), ratios.vcpus) - i64::from(host.used.vcpus)
}

fn free_disk(host: &HostState, ratios: Ratios) -> i64 {
    limit(host.total.disk_gib, ratios.disk) - host.used.disk_gib
}

/// The weight of each of `hosts`, in their order.
pub fn weigh(hosts: &[&HostState], config: &SchedulerConfig) -> Vec<f64> {
    let weighers: [(Weigher, f64); 3] = [
        (free_memory, config.ram_weight_multiplier),
        (free_vcpus, config.cpu_weight_multiplier),
        (free_disk, config.disk_weight_multiplier),
    ];
    let mut weights = vec![0.0; hosts.len()];
    for (weigher, multiplier) in weighers {
        let raw: Vec<i64> = hosts.iter().map(|host| weigher(host, config.ratios())).collect();
        let least = raw.iter().min().copied().unwrap_or_default();
        let span = raw.iter().max().copied().unwrap_or_default() - least;
        if span == 0 {
            continue;
        }
        for (weight, value) in weights.iter_mut().zip(raw) {
            #[expect(clippy::cast_precision_loss, reason = "a share of 1 needs no more precision")]
            let share = (value - least) as f64 / span as f64;
            *weight += share * multiplier;
        }
    }
    weights
}
