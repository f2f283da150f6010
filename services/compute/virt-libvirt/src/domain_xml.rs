//! The definition of a guest, written with a real XML writer.
//!
//! libvirt gives every device its PCI address when the definition is first stored. From then on the stored
//! definition is what the guest is started and moved with, so its layout stays.

use std::io;
use std::path::Path;

use quick_xml::Writer;
use quick_xml::events::BytesText;
use whimbrel_messages::compute::{InstanceSpec, PortSpec};
use whimbrel_model::InstanceId;

use crate::config::{DiskCache, LibvirtConfig, VirtType};
use crate::paths::Paths;

mod volume;

pub(crate) use volume::{device_xml, serial, volume_xml};

/// Namespace of our element in a domain's metadata.
pub(crate) const METADATA_URI: &str = "urn:whimbrel:instance:1";
/// Prefix of that namespace.
pub(crate) const METADATA_PREFIX: &str = "whimbrel";
/// Name of that element, without the prefix.
pub(crate) const METADATA_ELEMENT: &str = "instance";
/// Its attribute with the fencing token.
pub(crate) const EPOCH_ATTRIBUTE: &str = "owner_epoch";
/// Its attribute with the instance's id.
pub(crate) const ID_ATTRIBUTE: &str = "id";

/// The name of the disk that tells a guest of itself.
pub(crate) const CONFIG_DRIVE: &str = "vdzz";

/// The name of a guest's domain.
pub(crate) fn domain_name(id: InstanceId) -> String {
    format!("instance-{id}")
}

/// Our element for a domain's metadata, in the form that libvirt's call for it takes.
pub(crate) fn metadata_xml(id: InstanceId, owner_epoch: i64) -> String {
    let mut writer = Writer::new(Vec::new());
    writer
        .create_element(METADATA_ELEMENT)
        .with_attributes([
            (ID_ATTRIBUTE, id.to_string().as_str()),
            (EPOCH_ATTRIBUTE, owner_epoch.to_string().as_str()),
        ])
        .write_empty()
        .expect("writing to memory does not fail");
    into_text(writer)
}

/// The definition of a guest that is to run under `owner_epoch`.
pub(crate) fn domain_xml(
    config: &LibvirtConfig,
    paths: &Paths,
    instance: &InstanceSpec,
    owner_epoch: i64,
) -> String {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    writer
        .create_element("domain")
        .with_attribute(("type", config.virt_type.as_str()))
        .write_inner_content(|w| {
            text(w, "name", &domain_name(instance.id))?;
            text(w, "uuid", &instance.id.to_string())?;
            write_metadata(w, instance, owner_epoch)?;
            w.create_element("memory")
                .with_attribute(("unit", "MiB"))
                .write_text_content(BytesText::new(&instance.resources.memory_mib.to_string()))?;
            text(w, "vcpu", &instance.resources.vcpus.to_string())?;
            write_machine(w, config)?;
            write_devices(w, config, paths, instance)
        })
        .expect("writing to memory does not fail");
    into_text(writer)
}

type Xml = Writer<Vec<u8>>;

fn into_text(writer: Xml) -> String {
    String::from_utf8(writer.into_inner()).expect("only text was written")
}

fn text(w: &mut Xml, name: &str, value: &str) -> io::Result<()> {
    w.create_element(name).write_text_content(BytesText::new(value)).map(drop)
}

fn empty(w: &mut Xml, name: &str, attributes: &[(&str, &str)]) -> io::Result<()> {
    w.create_element(name).with_attributes(attributes.iter().copied()).write_empty().map(drop)
}

fn write_metadata(w: &mut Xml, instance: &InstanceSpec, owner_epoch: i64) -> io::Result<()> {
    let element = format!("{METADATA_PREFIX}:{METADATA_ELEMENT}");
    let namespace = format!("xmlns:{METADATA_PREFIX}");
    let (id, epoch) = (instance.id.to_string(), owner_epoch.to_string());
    let attributes = [
        (namespace.as_str(), METADATA_URI),
        (ID_ATTRIBUTE, id.as_str()),
        (EPOCH_ATTRIBUTE, epoch.as_str()),
    ];
    w.create_element("metadata").write_inner_content(|w| empty(w, &element, &attributes)).map(drop)
}

fn write_machine(w: &mut Xml, config: &LibvirtConfig) -> io::Result<()> {
    w.create_element("os").write_inner_content(|w| {
        w.create_element("type")
            .with_attributes([("arch", "x86_64"), ("machine", config.machine.as_str())])
            .write_text_content(BytesText::new("hvm"))?;
        empty(w, "boot", &[("dev", "hd")])
    })?;
    w.create_element("features").write_inner_content(|w| {
        empty(w, "acpi", &[])?;
        empty(w, "apic", &[])?;
        if config.virt_type == VirtType::Qemu {
            write_translation_cache(w, config.tcg_tb_cache_mib)?;
        }
        Ok(())
    })?;
    write_cpu(w, config)?;
    empty(w, "clock", &[("offset", "utc")])?;
    text(w, "on_poweroff", "destroy")?;
    text(w, "on_reboot", "restart")?;
    text(w, "on_crash", "destroy")
}

/// QEMU's default would let it grow to a quarter of the memory of a host full of guests.
fn write_translation_cache(w: &mut Xml, mib: u32) -> io::Result<()> {
    w.create_element("tcg")
        .write_inner_content(|w| {
            w.create_element("tb-cache")
                .with_attribute(("unit", "MiB"))
                .write_text_content(BytesText::new(&mib.to_string()))
                .map(drop)
        })
        .map(drop)
}

fn write_cpu(w: &mut Xml, config: &LibvirtConfig) -> io::Result<()> {
    match config.cpu_model() {
        mode @ ("host-model" | "host-passthrough") => empty(w, "cpu", &[("mode", mode)]),
        model => {
            // The emulator lacks odd features of some named models and says so only in a warning, so
            // libvirt's own check would refuse guests that run well on it.
            let check = match config.virt_type {
                VirtType::Kvm => "partial",
                VirtType::Qemu => "none",
            };
            w.create_element("cpu")
                .with_attributes([("mode", "custom"), ("match", "exact"), ("check", check)])
                .write_inner_content(|w| {
                    w.create_element("model")
                        .with_attribute(("fallback", "forbid"))
                        .write_text_content(BytesText::new(model))
                        .map(drop)
                })
                .map(drop)
        }
    }
}

fn write_devices(
    w: &mut Xml,
    config: &LibvirtConfig,
    paths: &Paths,
    instance: &InstanceSpec,
) -> io::Result<()> {
    w.create_element("devices")
        .write_inner_content(|w| {
            if let Some(emulator) = &config.emulator {
                text(w, "emulator", &emulator.to_string_lossy())?;
            }
            write_disk(w, config.disk_cache, paths, instance)?;
            if instance.config_drive.is_some() {
                write_config_drive(w, config.disk_cache, &paths.config_drive(instance.id))?;
            }
            for volume in &instance.volumes {
                volume::write_volume(w, volume)?;
            }
            for port in &instance.ports {
                write_interface(w, config, port)?;
            }
            write_serial(w, &paths.console_log(instance.id).to_string_lossy())?;
            empty(w, "controller", &[("type", "usb"), ("model", "none")])?;
            volume::write_hotplug_ports(w, config)?;
            empty(w, "memballoon", &[("model", "virtio")])
        })
        .map(drop)
}

/// The chain is spelled out to its end, formats and all, so that nobody probes what a guest may have
/// written (OSSA-2026-002).
fn write_disk(
    w: &mut Xml,
    cache: DiskCache,
    paths: &Paths,
    instance: &InstanceSpec,
) -> io::Result<()> {
    let disk = paths.root_disk(instance.id);
    let base = paths.base(instance.image.id);
    let driver = [
        ("name", "qemu"),
        ("type", "qcow2"),
        ("cache", cache.as_str()),
        // A copy of the disk to another host stays as sparse as the disk.
        ("discard", "unmap"),
    ];
    w.create_element("disk")
        .with_attributes([("type", "file"), ("device", "disk")])
        .write_inner_content(|w| {
            empty(w, "driver", &driver)?;
            empty(w, "source", &[("file", &disk.to_string_lossy())])?;
            w.create_element("backingStore").with_attribute(("type", "file")).write_inner_content(
                |w| {
                    empty(w, "format", &[("type", &instance.image.format.to_string())])?;
                    empty(w, "source", &[("file", &base.to_string_lossy())])?;
                    empty(w, "backingStore", &[])
                },
            )?;
            empty(w, "target", &[("dev", "vda"), ("bus", "virtio")])
        })
        .map(drop)
}

/// By its last name, so that volumes have theirs from the beginning.
fn write_config_drive(w: &mut Xml, cache: DiskCache, path: &Path) -> io::Result<()> {
    w.create_element("disk")
        .with_attributes([("type", "file"), ("device", "disk")])
        .write_inner_content(|w| {
            empty(w, "driver", &[("name", "qemu"), ("type", "raw"), ("cache", cache.as_str())])?;
            empty(w, "source", &[("file", &path.to_string_lossy())])?;
            empty(w, "target", &[("dev", CONFIG_DRIVE), ("bus", "virtio")])?;
            empty(w, "readonly", &[])
        })
        .map(drop)
}

fn write_interface(w: &mut Xml, config: &LibvirtConfig, port: &PortSpec) -> io::Result<()> {
    let bridge = bridge_of(config, port);
    w.create_element("interface")
        .with_attribute(("type", "bridge"))
        .write_inner_content(|w| {
            empty(w, "mac", &[("address", &port.mac)])?;
            empty(w, "source", &[("bridge", bridge)])?;
            empty(w, "model", &[("type", "virtio")])
        })
        .map(drop)
}

/// The bridge on this host for a port.
pub(crate) fn bridge_of<'a>(config: &'a LibvirtConfig, port: &'a PortSpec) -> &'a str {
    match &config.bridge {
        Some(default) if port.bridge.is_empty() => default,
        _ => &port.bridge,
    }
}

/// Appended to, as every incoming migration opens it anew and would truncate it otherwise.
fn write_serial(w: &mut Xml, path: &str) -> io::Result<()> {
    w.create_element("serial")
        .with_attribute(("type", "file"))
        .write_inner_content(|w| {
            empty(w, "source", &[("path", path), ("append", "on")])?;
            empty(w, "target", &[("port", "0")])
        })
        .map(drop)
}

#[cfg(test)]
mod tests;
