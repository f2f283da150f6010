use std::path::PathBuf;

use expect_test::{Expect, expect};

use super::*;
use crate::test_support::{instance, qemu_config};

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
            <memballoon model="virtio"/>
          </devices>
        </domain>"#]],
    );
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
