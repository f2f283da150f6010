//! Processors: what a host's can do for guests, and whether a guest finds there what it has here.

use std::collections::BTreeSet;

use quick_xml::Writer;
use quick_xml::events::BytesText;
use virt::connect::Connect;
use virt_sys as sys;
use whimbrel_messages::report::CpuInfo;
use whimbrel_virt::DriverError;

use crate::config::VirtType;
use crate::error::Doing;
use crate::xml_tree::Element;

/// What the hypervisor of this host can give guests, `virt_type` being what runs them.
pub(crate) fn host_cpu(
    connect: &Connect,
    virt_type: VirtType,
    emulator: Option<&str>,
    machine: &str,
) -> Result<CpuInfo, DriverError> {
    const DOING: &str = "ask what processors guests can have";
    let xml = connect
        .get_domain_capabilities(
            emulator,
            Some("x86_64"),
            Some(machine),
            Some(virt_type.as_str()),
            0,
        )
        .doing(DOING)?;
    let capabilities = Element::parse(&xml)?;
    let modes = capabilities.child("cpu").map(|cpu| cpu.children.as_slice()).unwrap_or_default();
    let host_model = modes.iter().find(|mode| mode.attribute("name") == Some("host-model"));
    let message = "host-model is not supported".to_owned();
    let cpu = host_model
        .filter(|mode| mode.child("model").is_some())
        .ok_or(DriverError::Hypervisor { doing: DOING, message })?;
    expand(connect, cpu)
}

/// All that the processor in a domain's definition has. `None` if that is the host's own, whatever it is.
pub(crate) fn guest_cpu(
    connect: &Connect,
    domain: &Element,
) -> Result<Option<CpuInfo>, DriverError> {
    match domain.child("cpu") {
        Some(cpu) if cpu.child("model").is_some() => expand(connect, cpu).map(Some),
        _ => Ok(None),
    }
}

/// A model and its changes as the full list of features.
fn expand(connect: &Connect, cpu: &Element) -> Result<CpuInfo, DriverError> {
    let model = cpu.text_at(&["model"]).to_owned();
    let xml = cpu_xml(&CpuInfo { model: model.clone(), ..plain() });
    let expanded = connect
        .baseline_cpu(&[&xml], sys::VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES)
        .doing("ask what a processor model has")?;
    let mut features = feature_names(&Element::parse(&expanded)?);
    apply_policies(&mut features, cpu);
    Ok(CpuInfo {
        model,
        vendor: cpu.text_at(&["vendor"]).to_owned(),
        features: features.into_iter().collect(),
        ..plain()
    })
}

fn plain() -> CpuInfo {
    CpuInfo { arch: "x86_64".to_owned(), ..CpuInfo::default() }
}

fn feature_names(cpu: &Element) -> BTreeSet<String> {
    cpu.children_named("feature")
        .filter_map(|feature| feature.attribute("name").map(str::to_owned))
        .collect()
}

fn apply_policies(features: &mut BTreeSet<String>, cpu: &Element) {
    for feature in cpu.children_named("feature") {
        let Some(name) = feature.attribute("name") else { continue };
        match feature.attribute("policy") {
            Some("disable" | "forbid") => {
                features.remove(name);
            }
            Some("optional") => {}
            _ => {
                features.insert(name.to_owned());
            }
        }
    }
}

/// A processor in libvirt's form for a host's.
pub(crate) fn cpu_xml(cpu: &CpuInfo) -> String {
    let mut writer = Writer::new(Vec::new());
    writer
        .create_element("cpu")
        .write_inner_content(|w| {
            w.create_element("arch").write_text_content(BytesText::new(&cpu.arch))?;
            w.create_element("model").write_text_content(BytesText::new(&cpu.model))?;
            if !cpu.vendor.is_empty() {
                w.create_element("vendor").write_text_content(BytesText::new(&cpu.vendor))?;
            }
            for feature in &cpu.features {
                let attribute = ("name", feature.as_str());
                w.create_element("feature").with_attribute(attribute).write_empty()?;
            }
            Ok(())
        })
        .expect("writing to memory does not fail");
    String::from_utf8(writer.into_inner()).expect("only text was written")
}

/// The reverse of [`cpu_xml`].
pub(crate) fn parse_cpu(xml: &str) -> Result<CpuInfo, DriverError> {
    let cpu = Element::parse(xml)?;
    Ok(CpuInfo {
        arch: cpu.text_at(&["arch"]).to_owned(),
        model: cpu.text_at(&["model"]).to_owned(),
        vendor: cpu.text_at(&["vendor"]).to_owned(),
        features: feature_names(&cpu).into_iter().collect(),
    })
}

/// What `guest` has and a host with `host` lacks, each as a person would name it.
pub(crate) fn missing(guest: &CpuInfo, host: &CpuInfo, virt_type: VirtType) -> Vec<String> {
    let mut missing = Vec::new();
    if guest.arch != host.arch {
        missing.push(format!("architecture {}", guest.arch));
    }
    // The emulator plays any vendor's processor; a real one is what it is.
    let other_vendor =
        !guest.vendor.is_empty() && !host.vendor.is_empty() && guest.vendor != host.vendor;
    if virt_type == VirtType::Kvm && other_vendor {
        missing.push(format!("vendor {}", guest.vendor));
    }
    let has: BTreeSet<&String> = host.features.iter().collect();
    missing.extend(guest.features.iter().filter(|feature| !has.contains(feature)).cloned());
    missing
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cpu(vendor: &str, features: &[&str]) -> CpuInfo {
        CpuInfo {
            model: "EPYC".to_owned(),
            vendor: vendor.to_owned(),
            features: features.iter().map(|name| (*name).to_owned()).collect(),
            ..plain()
        }
    }

    #[test]
    fn missing_features_are_named() {
        let guest = cpu("AMD", &["aes", "avx2", "sse"]);
        let host = cpu("AMD", &["sse", "avx512f", "aes"]);
        assert_eq!(missing(&guest, &host, VirtType::Kvm), ["avx2"]);
        assert!(missing(&host, &host, VirtType::Kvm).is_empty());
    }

    #[test]
    fn another_vendor_matters_only_to_a_real_processor() {
        let (guest, host) = (cpu("Intel", &[]), cpu("AMD", &[]));
        assert_eq!(missing(&guest, &host, VirtType::Kvm), ["vendor Intel"]);
        assert!(missing(&guest, &host, VirtType::Qemu).is_empty());
        assert!(missing(&cpu("", &[]), &host, VirtType::Kvm).is_empty());
    }

    #[test]
    fn a_disabled_feature_of_the_model_is_not_had() {
        let cpu = Element::parse(
            "<cpu><model>M</model><feature policy='disable' name='a'/>\
             <feature policy='require' name='b'/><feature policy='optional' name='c'/></cpu>",
        )
        .unwrap();
        let mut features = BTreeSet::from(["a".to_owned(), "z".to_owned()]);
        apply_policies(&mut features, &cpu);
        assert_eq!(features, BTreeSet::from(["b".to_owned(), "z".to_owned()]));
    }

    proptest! {
        #[test]
        fn a_processor_survives_the_message(
            model in "[!-~]{1,20}", vendor in "[A-Za-z]{0,9}",
            features in proptest::collection::btree_set("[a-z0-9.-]{1,9}", 0..9),
        ) {
            let cpu = CpuInfo {
                model,
                vendor,
                features: features.into_iter().collect(),
                ..plain()
            };
            prop_assert_eq!(parse_cpu(&cpu_xml(&cpu)).unwrap(), cpu);
        }
    }
}
