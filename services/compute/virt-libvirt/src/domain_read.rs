//! What a domain's definition says, and the one thing in it that a move changes.

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, Writer};
use whimbrel_virt::DriverError;

use crate::domain_xml::{CONFIG_DRIVE, EPOCH_ATTRIBUTE, METADATA_ELEMENT, METADATA_PREFIX};
use crate::xml_tree::Element;

/// A disk on this host's storage, in a domain's definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct XmlDisk {
    /// `vda` and the like.
    pub(crate) target: String,
    /// Its file; none if it is not one.
    pub(crate) file: Option<String>,
    /// How the file's bytes are to be read.
    pub(crate) format: String,
}

/// The disks of a domain, without drives for removable media, without
/// volumes, which are where they are, and without what every host makes for itself (the config drive).
pub(crate) fn disks(domain: &Element) -> Vec<XmlDisk> {
    let Some(devices) = domain.child("devices") else { return Vec::new() };
    devices
        .children_named("disk")
        .filter(|disk| matches!(disk.attribute("device"), None | Some("disk" | "lun")))
        .filter(|disk| disk.attribute("type") != Some("network"))
        .filter(|disk| {
            disk.child("target").and_then(|at| at.attribute("dev")) != Some(CONFIG_DRIVE)
        })
        .map(|disk| {
            let attribute = |path: &[&str], name: &str| {
                disk.at(path).and_then(|element| element.attribute(name)).map(str::to_owned)
            };
            XmlDisk {
                target: attribute(&["target"], "dev").unwrap_or_default(),
                file: attribute(&["source"], "file"),
                format: attribute(&["driver"], "type").unwrap_or_default(),
            }
        })
        .collect()
}

/// The name of the disk with that serial number.
pub(crate) fn disk_of_serial(domain: &Element, serial: &str) -> Option<String> {
    let disks = domain.child("devices")?.children_named("disk");
    let mut named = disks.filter(|disk| disk.text_at(&["serial"]) == serial);
    named.next()?.child("target")?.attribute("dev").map(str::to_owned)
}

/// Devices that can't leave their host, by libvirt's names for them.
pub(crate) fn bound_devices(domain: &Element) -> Vec<String> {
    let Some(devices) = domain.child("devices") else { return Vec::new() };
    let bound = |element: &&Element| {
        matches!(element.name.as_str(), "hostdev" | "filesystem" | "shmem")
            || (element.name == "interface" && element.attribute("type") == Some("hostdev"))
    };
    devices.children.iter().filter(bound).map(|element| element.name.clone()).collect()
}

/// The fencing token in our metadata element, if it is one.
pub(crate) fn owner_epoch(metadata: &Element) -> Option<i64> {
    metadata.attribute(EPOCH_ATTRIBUTE)?.parse().ok()
}

/// The definition with another fencing token, and nothing else changed.
pub(crate) fn with_epoch(domain_xml: &str, owner_epoch: i64) -> Result<String, DriverError> {
    replace_epoch(domain_xml, owner_epoch).map_err(|message| DriverError::Hypervisor {
        doing: "put the new fencing token into the guest's definition",
        message,
    })
}

fn replace_epoch(domain_xml: &str, owner_epoch: i64) -> Result<String, String> {
    let name = format!("{METADATA_PREFIX}:{METADATA_ELEMENT}");
    let mut reader = Reader::from_str(domain_xml);
    let mut writer = Writer::new(Vec::with_capacity(domain_xml.len()));
    let mut replaced = 0;
    loop {
        let event = reader.read_event().map_err(|error| error.to_string())?;
        let event = match event {
            Event::Eof => break,
            Event::Empty(start) if start.name().as_ref() == name.as_bytes() => {
                replaced += 1;
                Event::Empty(renumbered(&start, owner_epoch)?)
            }
            Event::Start(start) if start.name().as_ref() == name.as_bytes() => {
                replaced += 1;
                Event::Start(renumbered(&start, owner_epoch)?)
            }
            event => event,
        };
        writer.write_event(event).map_err(|error| error.to_string())?;
    }
    if replaced != 1 {
        return Err(format!("it has {replaced} elements of ours, not one"));
    }
    String::from_utf8(writer.into_inner()).map_err(|error| error.to_string())
}

fn renumbered(start: &BytesStart<'_>, owner_epoch: i64) -> Result<BytesStart<'static>, String> {
    let mut changed = BytesStart::new(String::from_utf8_lossy(start.name().as_ref()).into_owned());
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|error| error.to_string())?;
        if attribute.key.as_ref() != EPOCH_ATTRIBUTE.as_bytes() {
            changed.push_attribute(attribute);
        }
    }
    changed.push_attribute((EPOCH_ATTRIBUTE, owner_epoch.to_string().as_str()));
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain_xml::domain_xml;
    use crate::paths::Paths;
    use crate::test_support::{instance, qemu_config};

    fn definition(owner_epoch: i64) -> String {
        let paths = Paths::new("/instances".into());
        domain_xml(&qemu_config(), &paths, &instance(), owner_epoch)
    }

    #[test]
    fn the_root_disk_is_found_with_its_file_and_format() {
        let domain = Element::parse(&definition(1)).unwrap();
        let file = format!("/instances/{}/disk", instance().id);
        let expected =
            XmlDisk { target: "vda".to_owned(), file: Some(file), format: "qcow2".to_owned() };
        assert_eq!(disks(&domain), [expected]);
        assert!(bound_devices(&domain).is_empty());
    }

    #[test]
    fn a_device_of_the_host_is_named() {
        let domain = Element::parse(
            "<domain><devices><hostdev/><interface type='hostdev'/><disk/></devices></domain>",
        )
        .unwrap();
        assert_eq!(bound_devices(&domain), ["hostdev", "interface"]);
    }

    #[test]
    fn a_definition_without_our_element_is_not_moved() {
        assert!(with_epoch("<domain><metadata/></domain>", 2).is_err());
    }

    proptest! {
        #[test]
        fn only_the_token_changes(from in 0i64.., to in 0i64..) {
            prop_assert_eq!(with_epoch(&definition(from), to).unwrap(), definition(to));
        }
    }
}
