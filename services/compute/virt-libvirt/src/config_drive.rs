//! The disk that tells a guest of itself: names, keys, addresses, and what its user has for cloud-init.
//!
//! It is made from the guest's spec alone and is the same to the last byte wherever and whenever it is made. So it
//! never travels: a live migration's destination makes it anew under a guest that has it mounted.

use std::io::{self, Cursor, Write};
use std::net::Ipv4Addr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use serde_json::{Value, json};
use whimbrel_messages::compute::{ConfigDrive, InstanceSpec, PortSpec};
use whimbrel_virt::DriverError;

use crate::driver::LibvirtDriver;
use crate::files;

/// By which cloud-init knows it: the label of the file system.
const LABEL: [u8; 11] = *b"config-2   ";
/// What is on it is much less: 64 KiB of user data, 128 texts.
const BYTES: usize = 1 << 20;
/// The folder that stands for the newest form that a reader knows.
const FOLDER: &str = "openstack/latest";

impl LibvirtDriver {
    /// The guest's config drive, if it is to have one.
    pub(crate) async fn ensure_config_drive(
        &self,
        instance: &InstanceSpec,
    ) -> Result<(), DriverError> {
        let Some(told) = &instance.config_drive else { return Ok(()) };
        let path = self.paths.config_drive(instance.id);
        if files::exists(&path).await? {
            return Ok(());
        }
        let bytes = image(instance, told).map_err(|error| {
            DriverError::Refused(format!("the config drive can't be made: {error}"))
        })?;
        files::blocking("write the config drive", move || files::write_atomic(&path, &bytes)).await
    }
}

/// The whole disk: a FAT file system, without times.
fn image(instance: &InstanceSpec, told: &ConfigDrive) -> io::Result<Vec<u8>> {
    let mut disk = Cursor::new(vec![0; BYTES]);
    let (_, _, _, tail) = instance.id.0.as_fields();
    let serial = u32::from_be_bytes([tail[4], tail[5], tail[6], tail[7]]);
    format_volume(&mut disk, FormatVolumeOptions::new().volume_label(LABEL).volume_id(serial))?;
    let system = FileSystem::new(&mut disk, FsOptions::new())?;
    let mut folder = system.root_dir();
    for name in FOLDER.split('/') {
        folder = folder.create_dir(name)?;
    }
    let mut files = vec![
        ("meta_data.json", meta_data(instance, told).to_string().into_bytes()),
        ("network_data.json", network_data(&instance.ports).to_string().into_bytes()),
        ("vendor_data.json", b"{}".to_vec()),
    ];
    if let Some(data) = &told.user_data {
        files.push(("user_data", BASE64_STANDARD.decode(data).map_err(io::Error::other)?));
    }
    for (name, content) in files {
        folder.create_file(name)?.write_all(&content)?;
    }
    drop(folder);
    system.unmount()?;
    Ok(disk.into_inner())
}

fn meta_data(instance: &InstanceSpec, told: &ConfigDrive) -> Value {
    let keys = told.public_keys.iter();
    let keys: Vec<Value> =
        keys.map(|(name, key)| json!({ "name": name, "type": "ssh", "data": key })).collect();
    json!({
        "uuid": instance.id, "name": told.name, "hostname": told.hostname, "project_id": told.project_id,
        "availability_zone": told.availability_zone, "launch_index": 0, "devices": [], "meta": told.metadata,
        "public_keys": told.public_keys, "keys": keys,
    })
}

/// Addresses are given out by the API, not by a server in the network, so the guest must be told.
fn network_data(ports: &[PortSpec]) -> Value {
    let mut links = Vec::with_capacity(ports.len());
    let mut networks = Vec::with_capacity(ports.len());
    for (number, port) in ports.iter().enumerate() {
        let link = format!("tap{number}");
        links.push(json!({
            "id": link, "vif_id": port.id, "type": "bridge", "ethernet_mac_address": port.mac, "mtu": null,
        }));
        networks.push(json!({
            "id": format!("network{number}"), "link": link, "type": "ipv4", "network_id": port.id,
            "ip_address": port.address, "netmask": netmask(port.prefix), "routes": [],
        }));
    }
    json!({ "links": links, "networks": networks, "services": [] })
}

fn netmask(prefix: u8) -> Ipv4Addr {
    let host_bits = 32 - u32::from(prefix.min(32));
    Ipv4Addr::from(u32::MAX.checked_shl(host_bits).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;

    use expect_test::expect;
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::test_support::instance;

    fn told() -> ConfigDrive {
        ConfigDrive {
            hostname: "web-1".to_owned(),
            name: "Web 1".to_owned(),
            project_id: "p".to_owned(),
            availability_zone: None,
            metadata: BTreeMap::from([("role".to_owned(), "web".to_owned())]),
            public_keys: BTreeMap::from([("me".to_owned(), "ssh-ed25519 AAAA me".to_owned())]),
            user_data: Some(BASE64_STANDARD.encode("#cloud-config\n")),
        }
    }

    fn read(bytes: Vec<u8>, name: &str) -> String {
        let system = FileSystem::new(Cursor::new(bytes), FsOptions::new()).unwrap();
        let mut text = String::new();
        let folder = system.root_dir().open_dir(FOLDER).unwrap();
        folder.open_file(name).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// A guest has it mounted while it moves, also to a host with a newer version of this program: if this fails, what
    /// older versions have made must still be made for guests that have it.
    #[test]
    fn it_is_the_same_to_the_last_byte() {
        let bytes = image(&instance(), &told()).unwrap();
        let hash =
            Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        expect!["5a827daf201fb80ca6f44860fa98218b56b4afc589c7a33256ebe393cc044631"]
            .assert_eq(&hash);
    }

    #[test]
    fn a_reader_finds_what_the_guest_is_told() {
        let bytes = image(&instance(), &told()).unwrap();
        assert_eq!(&bytes[43..54], &LABEL, "the label, where FAT12 has it");
        assert_eq!(read(bytes.clone(), "user_data"), "#cloud-config\n");
        let meta: Value = serde_json::from_str(&read(bytes.clone(), "meta_data.json")).unwrap();
        assert_eq!(meta["hostname"], "web-1");
        assert_eq!(meta["public_keys"]["me"], "ssh-ed25519 AAAA me");
        assert_eq!(meta["meta"]["role"], "web");
        let network: Value = serde_json::from_str(&read(bytes, "network_data.json")).unwrap();
        assert_eq!(network["networks"][0]["ip_address"], "10.78.0.101");
        assert_eq!(network["networks"][0]["netmask"], "255.255.0.0");
        assert_eq!(network["links"][0]["ethernet_mac_address"], "fa:16:3e:4e:00:65");
    }

    /// As much as the API lets through.
    #[test]
    fn the_most_there_can_be_fits() {
        let long = "x".repeat(255);
        let metadata = (0..128).map(|n| (format!("{n:0255}"), long.clone())).collect();
        let user_data = Some(BASE64_STANDARD.encode("y".repeat(49_000)));
        let most = ConfigDrive { metadata, user_data, ..told() };
        assert_eq!(image(&instance(), &most).unwrap().len(), BYTES);
    }

    #[test]
    fn a_netmask_has_as_many_bits_as_the_network() {
        let shown = |prefix| netmask(prefix).to_string();
        assert_eq!(shown(24), "255.255.255.0");
        assert_eq!(shown(32), "255.255.255.255");
        assert_eq!(shown(0), "0.0.0.0");
    }
}
