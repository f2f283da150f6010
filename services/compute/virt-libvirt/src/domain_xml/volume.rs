//! Volumes in a guest's definition. The emulator connects to the storage itself.

use std::io;

use quick_xml::Writer;
use uuid::Uuid;
use whimbrel_messages::compute::{StorageAddress, VolumeSource, VolumeSpec};
use whimbrel_model::VolumeId;

use super::{Xml, empty, into_text, text};
use crate::config::LibvirtConfig;

/// Ports that devices can be plugged into while a `q35` guest runs. Each takes one device, and a running machine
/// grows no more of them. The other machine, `pc`, has a bus with room for some 30.
pub(super) fn write_hotplug_ports(w: &mut Xml, config: &LibvirtConfig) -> io::Result<()> {
    if config.machine.contains("q35") && config.hotplug_ports > 0 {
        // libvirt gives the first controller that is named the first place, which is the root's.
        empty(w, "controller", &[("type", "pci"), ("index", "0"), ("model", "pcie-root")])?;
        for index in 1..=config.hotplug_ports {
            let index = index.to_string();
            let port = [("type", "pci"), ("index", &index), ("model", "pcie-root-port")];
            empty(w, "controller", &port)?;
        }
    }
    Ok(())
}

/// A volume as a device by itself, for attaching it.
pub(crate) fn volume_xml(volume: &VolumeSpec) -> String {
    let mut writer = Writer::new(Vec::new());
    write_volume(&mut writer, volume).expect("writing to memory does not fail");
    into_text(writer)
}

/// What libvirt needs to know which disk is meant.
pub(crate) fn device_xml(device: &str) -> String {
    let mut writer = Writer::new(Vec::new());
    writer
        .create_element("disk")
        .with_attributes([("type", "network"), ("device", "disk")])
        .write_inner_content(|w| {
            // It is found by its name, but the rest must be a disk, too.
            let nowhere = StorageAddress { host: "localhost".to_owned(), port: 10_809 };
            write_source_of(w, "nbd", "any", &[], &[nowhere], None)?;
            empty(w, "target", &[("dev", device), ("bus", "virtio")])
        })
        .expect("writing to memory does not fail");
    into_text(writer)
}

/// The serial number that a volume's disk has.
pub(crate) fn serial(id: VolumeId) -> String {
    id.to_string()
}

/// Format and caching are said, never guessed: a volume's bytes are the guest's, and two hosts may have it open in turn.
pub(super) fn write_volume(w: &mut Xml, volume: &VolumeSpec) -> io::Result<()> {
    let driver = [("name", "qemu"), ("type", "raw"), ("cache", "none"), ("discard", "unmap")];
    w.create_element("disk")
        .with_attributes([("type", "network"), ("device", "disk")])
        .write_inner_content(|w| {
            empty(w, "driver", &driver)?;
            write_source(w, &volume.source)?;
            empty(w, "target", &[("dev", &volume.device), ("bus", "virtio")])?;
            text(w, "serial", &serial(volume.id))
        })
        .map(drop)
}

fn write_source(w: &mut Xml, source: &VolumeSource) -> io::Result<()> {
    match source {
        VolumeSource::Nbd { server, export, tls } => {
            let tls: &[_] = if *tls { &[("tls", "yes")] } else { &[] };
            let host = std::slice::from_ref(server);
            write_source_of(w, "nbd", export, tls, host, None)
        }
        VolumeSource::Rbd { monitors, pool, image, user, secret } => {
            let auth = user.as_deref().zip(*secret).map(|(user, secret)| ("ceph", user, secret));
            write_source_of(w, "rbd", &format!("{pool}/{image}"), &[], monitors, auth)
        }
        VolumeSource::Iscsi { portal, target, lun, user, secret } => {
            let auth = user.as_deref().zip(*secret).map(|(user, secret)| ("iscsi", user, secret));
            let host = std::slice::from_ref(portal);
            write_source_of(w, "iscsi", &format!("{target}/{lun}"), &[], host, auth)
        }
    }
}

fn write_source_of(
    w: &mut Xml,
    protocol: &str,
    name: &str,
    more: &[(&str, &str)],
    hosts: &[StorageAddress],
    auth: Option<(&str, &str, Uuid)>,
) -> io::Result<()> {
    w.create_element("source")
        .with_attributes([("protocol", protocol), ("name", name)])
        .with_attributes(more.iter().copied())
        .write_inner_content(|w| {
            for StorageAddress { host, port } in hosts {
                empty(w, "host", &[("name", host), ("port", &port.to_string())])?;
            }
            let Some((kind, user, secret)) = auth else { return Ok(()) };
            w.create_element("auth")
                .with_attribute(("username", user))
                .write_inner_content(|w| {
                    empty(w, "secret", &[("type", kind), ("uuid", &secret.to_string())])
                })
                .map(drop)
        })
        .map(drop)
}
