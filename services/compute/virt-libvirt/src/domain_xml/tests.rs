use std::path::PathBuf;

use expect_test::{Expect, expect};

use uuid::Uuid;
use whimbrel_messages::compute::{StorageAddress, VolumeSource, VolumeSpec};
use whimbrel_model::VolumeId;

use super::*;
use crate::domain_read::{disk_of_serial, disks};
use crate::test_support::{instance, qemu_config};
use crate::xml_tree::Element;

fn check(config: &LibvirtConfig, instance: &InstanceSpec, expected: &Expect) {
    let paths = Paths::new(PathBuf::from("/instances"));
    expected.assert_eq(&domain_xml(config, &paths, instance, 3));
}

#[test]
fn a_guest_on_the_emulator() {
    check(
        &qemu_config(),
        &instance(),
        &expect![[r#"
        <domain type="qemu">
          <name>instance-00000000-0000-0000-0000-000000000011</name>
          <uuid>00000000-0000-0000-0000-000000000011</uuid>
          <metadata>
            <whimbrel:instance xmlns:whimbrel="urn:whimbrel:instance:1" id="00000000-0000-0000-0000-000000000011" owner_epoch="3"/>
          </metadata>
          <memory unit="MiB">128</memory>
          <vcpu>1</vcpu>
          <os>
            <type arch="x86_64" machine="q35">hvm</type>
            <boot dev="hd"/>
          </os>
          <features>
            <acpi/>
            <apic/>
            <tcg>
              <tb-cache unit="MiB">32</tb-cache>
            </tcg>
          </features>
          <cpu mode="custom" match="exact" check="none">
            <model fallback="forbid">qemu64</model>
          </cpu>
          <clock offset="utc"/>
          <on_poweroff>destroy</on_poweroff>
          <on_reboot>restart</on_reboot>
          <on_crash>destroy</on_crash>
          <devices>
            <disk type="file" device="disk">
              <driver name="qemu" type="qcow2" cache="none" discard="unmap"/>
              <source file="/instances/00000000-0000-0000-0000-000000000011/disk"/>
              <backingStore type="file">
                <format type="raw"/>
                <source file="/instances/_base/00000000-0000-0000-0000-000000000022"/>
                <backingStore/>
              </backingStore>
              <target dev="vda" bus="virtio"/>
            </disk>
            <interface type="bridge">
              <mac address="fa:16:3e:4e:00:65"/>
              <source bridge="brt"/>
              <model type="virtio"/>
            </interface>
            <serial type="file">
              <source path="/instances/00000000-0000-0000-0000-000000000011/console.log" append="on"/>
              <target port="0"/>
            </serial>
            <controller type="usb" model="none"/>
            <controller type="pci" index="0" model="pcie-root"/>
            <controller type="pci" index="1" model="pcie-root-port"/>
            <memballoon model="virtio"/>
          </devices>
        </domain>"#]],
    );
}

#[test]
fn a_guest_on_kvm_without_network() {
    let mut config = qemu_config();
    config.virt_type = VirtType::Kvm;
    config.emulator = Some(PathBuf::from("/usr/bin/qemu-system-x86_64"));
    let mut instance = instance();
    instance.ports.clear();
    check(
        &config,
        &instance,
        &expect![[r#"
            <domain type="kvm">
              <name>instance-00000000-0000-0000-0000-000000000011</name>
              <uuid>00000000-0000-0000-0000-000000000011</uuid>
              <metadata>
                <whimbrel:instance xmlns:whimbrel="urn:whimbrel:instance:1" id="00000000-0000-0000-0000-000000000011" owner_epoch="3"/>
              </metadata>
              <memory unit="MiB">128</memory>
              <vcpu>1</vcpu>
              <os>
                <type arch="x86_64" machine="q35">hvm</type>
                <boot dev="hd"/>
              </os>
              <features>
                <acpi/>
                <apic/>
              </features>
              <cpu mode="host-model"/>
              <clock offset="utc"/>
              <on_poweroff>destroy</on_poweroff>
              <on_reboot>restart</on_reboot>
              <on_crash>destroy</on_crash>
              <devices>
                <emulator>/usr/bin/qemu-system-x86_64</emulator>
                <disk type="file" device="disk">
                  <driver name="qemu" type="qcow2" cache="none" discard="unmap"/>
                  <source file="/instances/00000000-0000-0000-0000-000000000011/disk"/>
                  <backingStore type="file">
                    <format type="raw"/>
                    <source file="/instances/_base/00000000-0000-0000-0000-000000000022"/>
                    <backingStore/>
                  </backingStore>
                  <target dev="vda" bus="virtio"/>
                </disk>
                <serial type="file">
                  <source path="/instances/00000000-0000-0000-0000-000000000011/console.log" append="on"/>
                  <target port="0"/>
                </serial>
                <controller type="usb" model="none"/>
                <controller type="pci" index="0" model="pcie-root"/>
                <controller type="pci" index="1" model="pcie-root-port"/>
                <memballoon model="virtio"/>
              </devices>
            </domain>"#]],
    );
}

#[test]
fn the_older_machine_needs_no_ports_to_plug_into() {
    let config = LibvirtConfig { machine: "pc".to_owned(), ..qemu_config() };
    let xml = domain_xml(&config, &Paths::new(PathBuf::from("/i")), &instance(), 1);
    assert!(!xml.contains("pcie-root-port"), "{xml}");
}

fn volume(device: &str, source: VolumeSource) -> VolumeSpec {
    VolumeSpec { id: VolumeId(Uuid::from_u128(0x44)), device: device.to_owned(), source }
}

fn at(host: &str, port: u16) -> StorageAddress {
    StorageAddress { host: host.to_owned(), port }
}

#[test]
fn each_kind_of_storage_is_described_in_full() {
    let secret = Some(Uuid::from_u128(0x55));
    let nbd =
        VolumeSource::Nbd { server: at("10.0.0.7", 10_809), export: "one".to_owned(), tls: true };
    expect![[r#"<disk type="network" device="disk"><driver name="qemu" type="raw" cache="none" discard="unmap"/><source protocol="nbd" name="one" tls="yes"><host name="10.0.0.7" port="10809"/></source><target dev="vdb" bus="virtio"/><serial>00000000-0000-0000-0000-000000000044</serial></disk>"#]]
        .assert_eq(&volume_xml(&volume("vdb", nbd)));
    let rbd = VolumeSource::Rbd {
        monitors: vec![at("mon-1", 3300), at("mon-2", 3300)],
        pool: "volumes".to_owned(),
        image: "one".to_owned(),
        user: Some("guests".to_owned()),
        secret,
    };
    expect![[r#"<disk type="network" device="disk"><driver name="qemu" type="raw" cache="none" discard="unmap"/><source protocol="rbd" name="volumes/one"><host name="mon-1" port="3300"/><host name="mon-2" port="3300"/><auth username="guests"><secret type="ceph" uuid="00000000-0000-0000-0000-000000000055"/></auth></source><target dev="vdc" bus="virtio"/><serial>00000000-0000-0000-0000-000000000044</serial></disk>"#]]
        .assert_eq(&volume_xml(&volume("vdc", rbd)));
    let iscsi = VolumeSource::Iscsi {
        portal: at("10.0.0.8", 3260),
        target: "iqn.2026-11.org.example:one".to_owned(),
        lun: 1,
        user: None,
        secret: None,
    };
    expect![[r#"<disk type="network" device="disk"><driver name="qemu" type="raw" cache="none" discard="unmap"/><source protocol="iscsi" name="iqn.2026-11.org.example:one/1"><host name="10.0.0.8" port="3260"/></source><target dev="vdd" bus="virtio"/><serial>00000000-0000-0000-0000-000000000044</serial></disk>"#]]
        .assert_eq(&volume_xml(&volume("vdd", iscsi)));
}

#[test]
fn a_volume_is_found_again_by_its_serial_number_and_is_no_disk_of_the_hosts() {
    let mut instance = instance();
    let nbd =
        VolumeSource::Nbd { server: at("10.0.0.7", 10_809), export: "one".to_owned(), tls: false };
    instance.volumes.push(volume("vdb", nbd));
    let xml = domain_xml(&qemu_config(), &Paths::new(PathBuf::from("/i")), &instance, 1);
    let domain = Element::parse(&xml).unwrap();
    let serial = serial(instance.volumes[0].id);
    assert_eq!(disk_of_serial(&domain, &serial).as_deref(), Some("vdb"));
    assert_eq!(disk_of_serial(&domain, "other"), None);
    let local: Vec<_> = disks(&domain).into_iter().map(|disk| disk.target).collect();
    assert_eq!(local, ["vda"]);
}

#[test]
fn what_a_user_wrote_cannot_become_markup() {
    let mut instance = instance();
    instance.name = "</name><devices>".to_owned();
    instance.ports[0].mac = "\"/><evil/>".to_owned();
    let xml = domain_xml(&qemu_config(), &Paths::new(PathBuf::from("/i")), &instance, 1);
    assert!(!xml.contains("<evil/>"), "{xml}");
    assert_eq!(xml.matches("<devices>").count(), 1, "{xml}");
}

#[test]
fn a_port_that_names_no_bridge_gets_the_hosts_own() {
    let config = LibvirtConfig { bridge: Some("br-own".to_owned()), ..qemu_config() };
    let mut instance = instance();
    assert_eq!(bridge_of(&config, &instance.ports[0]), "brt");
    instance.ports[0].bridge.clear();
    assert_eq!(bridge_of(&config, &instance.ports[0]), "br-own");
}

#[test]
fn metadata_is_one_element() {
    expect![[r#"<instance id="00000000-0000-0000-0000-000000000011" owner_epoch="9"/>"#]]
        .assert_eq(&metadata_xml(instance().id, 9));
}
