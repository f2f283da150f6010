//! Filters: each says yes, or why not, in words that an operator can act on.

use whimbrel_db::scheduling::{HostState, Ratios};
use whimbrel_messages::scheduler::SelectDestinations;
use whimbrel_model::ServiceStatus;

/// What a filter looks at.
pub struct Question<'a> {
    /// The request.
    pub request: &'a SelectDestinations,
    /// The host that the guest is on now, when it moves.
    pub source: Option<&'a HostState>,
    /// Allocation ratios.
    pub ratios: Ratios,
}

/// Says why `host` is out, if it is.
pub type Filter = fn(&Question<'_>, &HostState) -> Option<String>;

/// All filters, the cheapest and most telling first.
pub const FILTERS: [(&str, Filter); 7] = [
    ("RequestedHostFilter", requested_host),
    ("DifferentHostFilter", different_host),
    ("ComputeFilter", compute),
    ("HypervisorFilter", hypervisor),
    ("CpuFeaturesFilter", cpu_features),
    ("ResourcesFilter", resources),
    ("RetryFilter", retry),
];

fn requested_host(question: &Question<'_>, host: &HostState) -> Option<String> {
    let asked_for = question.request.requested_host.as_ref()?;
    (*asked_for != host.name).then(|| format!("{asked_for} was asked for"))
}

fn different_host(question: &Question<'_>, host: &HostState) -> Option<String> {
    (question.request.source.as_ref() == Some(&host.name)).then(|| "the guest is there".to_owned())
}

fn retry(question: &Question<'_>, host: &HostState) -> Option<String> {
    question.request.excluded.contains(&host.name).then(|| "it was tried before".to_owned())
}

fn compute(_: &Question<'_>, host: &HostState) -> Option<String> {
    if !host.up {
        return Some("its compute service is down".to_owned());
    }
    (host.status == ServiceStatus::Disabled).then(|| {
        let why = host.disabled_reason.as_deref().unwrap_or("no reason given");
        format!("its compute service is disabled ({why})")
    })
}

/// The destination must be able to read what the source's hypervisor writes: same type, and not older.
fn hypervisor(question: &Question<'_>, host: &HostState) -> Option<String> {
    let source = question.source?;
    if source.hypervisor_type != host.hypervisor_type {
        let (theirs, ours) = (&host.hypervisor_type, &source.hypervisor_type);
        return Some(format!("its hypervisor is {theirs}, the guest runs on {ours}"));
    }
    (host.hypervisor_version < source.hypervisor_version).then(|| {
        format!(
            "its hypervisor is older ({}) than the one the guest runs on ({})",
            version(host.hypervisor_version),
            version(source.hypervisor_version)
        )
    })
}

fn version(number: i64) -> String {
    format!("{}.{}.{}", number / 1_000_000, number / 1_000 % 1_000, number % 1_000)
}

/// A running guest has seen its processor's features; it can't go where one is missing.
fn cpu_features(question: &Question<'_>, host: &HostState) -> Option<String> {
    let source = question.source?;
    if source.cpu.arch != host.cpu.arch {
        return Some(format!("its CPU is {}, the guest's {}", host.cpu.arch, source.cpu.arch));
    }
    let missing: Vec<&str> = source
        .cpu
        .features
        .iter()
        .filter(|feature| !host.cpu.features.contains(feature))
        .map(String::as_str)
        .collect();
    (!missing.is_empty()).then(|| format!("its CPU lacks {}", missing.join(", ")))
}

fn resources(question: &Question<'_>, host: &HostState) -> Option<String> {
    let need = question.request.resources;
    let short = |what: &str, unit: &str, need: i64, used: i64, total: i64, ratio: f64| {
        let free = limit(total, ratio) - used;
        (need > free).then(|| format!("{what}: {need}{unit} needed, {}{unit} free", free.max(0)))
    };
    let ratios = question.ratios;
    let (total, used) = (host.total, host.used);
    let lacks: Vec<String> = [
        short(
            "VCPUs",
            "",
            i64::from(need.vcpus),
            i64::from(used.vcpus),
            i64::from(total.vcpus),
            ratios.vcpus,
        ),
        short("memory", " MiB", need.memory_mib, used.memory_mib, total.memory_mib, ratios.memory),
        short("disk", " GiB", need.disk_gib, used.disk_gib, total.disk_gib, ratios.disk),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!lacks.is_empty()).then(|| lacks.join("; "))
}

/// What may be promised of `total`.
pub(crate) fn limit(total: i64, ratio: f64) -> i64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "resources of a host are far below 2^52"
    )]
    let limit = (total as f64 * ratio).floor() as i64;
    limit
}
