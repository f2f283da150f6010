//! From all hosts to those that will do, the best first. Pure.

use whimbrel_db::scheduling::{HostState, Ranking};
use whimbrel_messages::scheduler::SelectDestinations;

use crate::config::SchedulerConfig;
use crate::filters::{FILTERS, Question};
use crate::weighers::weigh;

/// Ranks `hosts` for `request`.
pub fn rank(
    request: &SelectDestinations,
    hosts: &[HostState],
    config: &SchedulerConfig,
) -> Ranking {
    let source = request.source.as_ref();
    let source = source.and_then(|name| hosts.iter().find(|host| host.name == *name));
    let question = Question { request, source, ratios: config.ratios() };
    let mut refused = Vec::new();
    let mut fit = Vec::new();
    for host in hosts {
        match FILTERS.iter().find_map(|(_, filter)| filter(&question, host)) {
            Some(reason) => refused.push((host.name.clone(), reason)),
            None => fit.push(host),
        }
    }
    let weights = weigh(&fit, config);
    let mut order: Vec<usize> = (0..fit.len()).collect();
    order.sort_by(|&a, &b| {
        weights[b].total_cmp(&weights[a]).then_with(|| fit[a].name.cmp(&fit[b].name))
    });
    Ranking { candidates: order.into_iter().map(|at| fit[at].name.clone()).collect(), refused }
}

/// The reasons as one text, at most `limit` hosts of them.
pub fn explain(
    request: &SelectDestinations,
    refused: &[(whimbrel_model::HostName, String)],
    limit: usize,
) -> String {
    let relevant = refused.iter().filter(|(host, _)| {
        request.requested_host.as_ref().is_none_or(|asked_for| asked_for == host)
    });
    let told: Vec<String> =
        relevant.clone().take(limit).map(|(host, reason)| format!("{host}: {reason}")).collect();
    let more = relevant.count().saturating_sub(limit);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    if told.is_empty() {
        let asked_for = request.requested_host.as_ref();
        return match asked_for {
            Some(host) => format!("No valid host was found: {host} is not known."),
            None => "No valid host was found: no host has reported yet.".to_owned(),
        };
    }
    format!("No valid host was found. {}{more}", told.join("; "))
}

#[cfg(test)]
mod tests {
    use whimbrel_messages::report::CpuInfo;
    use whimbrel_model::{InstanceId, Resources, ServiceStatus};

    use super::*;

    fn host(name: &str) -> HostState {
        HostState {
            name: name.parse().unwrap(),
            status: ServiceStatus::Enabled,
            disabled_reason: None,
            up: true,
            total: Resources { vcpus: 4, memory_mib: 8192, disk_gib: 100 },
            used: Resources::default(),
            hypervisor_type: "QEMU".to_owned(),
            hypervisor_version: 9_000_000,
            cpu: CpuInfo {
                arch: "x86_64".to_owned(),
                features: vec!["aes".to_owned(), "avx2".to_owned()],
                ..CpuInfo::default()
            },
        }
    }

    fn request() -> SelectDestinations {
        SelectDestinations {
            instance_id: InstanceId(uuid::Uuid::nil()),
            migration_id: None,
            resources: Resources { vcpus: 1, memory_mib: 1024, disk_gib: 10 },
            source: Some("src".parse().unwrap()),
            requested_host: None,
            excluded: Vec::new(),
        }
    }

    /// The reason why `changed` is out, after `change`.
    fn reason(change: impl FnOnce(&mut HostState, &mut SelectDestinations)) -> String {
        let (mut changed, mut request) = (host("dst"), request());
        change(&mut changed, &mut request);
        let ranking = rank(&request, &[host("src"), changed], &SchedulerConfig::default());
        assert_eq!(ranking.candidates, []);
        ranking.refused.into_iter().find(|(host, _)| host.as_str() == "dst").unwrap().1
    }

    #[test]
    fn each_filter_says_why() {
        assert_eq!(reason(|host, _| host.up = false), "its compute service is down");
        let disabled = reason(|host, _| {
            host.status = ServiceStatus::Disabled;
            host.disabled_reason = Some("new disks".to_owned());
        });
        assert_eq!(disabled, "its compute service is disabled (new disks)");
        assert_eq!(
            reason(|host, _| host.hypervisor_version = 8_002_001),
            "its hypervisor is older (8.2.1) than the one the guest runs on (9.0.0)"
        );
        assert_eq!(
            reason(|host, _| host.hypervisor_type = "Xen".to_owned()),
            "its hypervisor is Xen, the guest runs on QEMU"
        );
        assert_eq!(reason(|host, _| host.cpu.features.truncate(1)), "its CPU lacks avx2");
        assert_eq!(
            reason(|host, _| host.used.memory_mib = 12_000),
            "memory: 1024 MiB needed, 288 MiB free"
        );
        let excluded = reason(|host, request| request.excluded.push(host.name.clone()));
        assert_eq!(excluded, "it was tried before");
        let elsewhere =
            reason(|_, request| request.requested_host = Some("other".parse().unwrap()));
        assert_eq!(elsewhere, "other was asked for");
    }

    #[test]
    fn the_host_that_the_guest_is_on_is_never_chosen() {
        let ranking = rank(&request(), &[host("src")], &SchedulerConfig::default());
        assert_eq!(ranking.candidates, []);
    }

    #[test]
    fn the_host_with_most_room_comes_first_and_a_negative_multiplier_stacks() {
        let mut busy = host("a");
        busy.used.memory_mib = 4096;
        let hosts = [busy, host("b"), host("c")];
        let names = |config: &SchedulerConfig| {
            let ranking = rank(&request(), &hosts, config);
            ranking.candidates.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names(&SchedulerConfig::default()), ["b", "c", "a"]);
        let stacking =
            SchedulerConfig { ram_weight_multiplier: -1.0, ..SchedulerConfig::default() };
        assert_eq!(names(&stacking), ["a", "b", "c"]);
    }

    #[test]
    fn the_explanation_names_hosts_and_reasons_and_stays_short() {
        let refused: Vec<_> = (0..5)
            .map(|n| (format!("h{n}").parse().unwrap(), "its compute service is down".to_owned()))
            .collect();
        assert_eq!(
            explain(&request(), &refused, 2),
            "No valid host was found. h0: its compute service is down; h1: its compute service is down; and 3 more"
        );
    }
}
