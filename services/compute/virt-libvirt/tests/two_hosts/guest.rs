//! A guest on one host.

use serde_json::json;
use whimbrel_messages::compute::RebootKind;
use whimbrel_messages::report::{Guest, Inventory};
use whimbrel_model::PowerState;

use crate::agent::Command;
use crate::host::{Lab, Storage};

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_made_stopped_started_restarted_and_removed() {
    let mut lab = Lab::start(Storage::Local, json!({})).await;
    let instance = lab.instance();
    let id = instance.id;
    let host = &mut lab.hosts[0];
    let inventory: Inventory = host.call(Command::Inventory).await.unwrap();
    assert_eq!(inventory.hypervisor_type, "QEMU");
    assert!(inventory.hypervisor_version > 7_000_000 && inventory.total.vcpus > 0);
    assert!(inventory.cpu.features.contains(&"sse2".to_owned()), "{:?}", inventory.cpu);

    let spawn = Command::Spawn { instance: instance.clone(), epoch: 1 };
    host.call::<()>(spawn.clone()).await.unwrap();
    let (boot, number) = host.wait_for_heartbeat(id, 1).await;
    host.call::<()>(spawn).await.unwrap();
    assert_eq!(host.wait_for_heartbeat(id, number).await.0, boot, "made once");
    let guests: Vec<Guest> = host.call(Command::Guests).await.unwrap();
    let power_state = PowerState::Running;
    let expected = Guest { instance_id: id, power_state, owner_epoch: 1, migrating: false };
    assert_eq!(guests, [expected]);

    for timeout_ms in [0, 300] {
        let off = Command::PowerOff { id, timeout_ms };
        host.call::<()>(off.clone()).await.unwrap();
        host.call::<()>(off).await.unwrap();
        let state: PowerState = host.call(Command::PowerState { id }).await.unwrap();
        assert_eq!(state, PowerState::Shutdown);
        let on = Command::PowerOn { instance: instance.clone(), epoch: 2 };
        host.call::<()>(on.clone()).await.unwrap();
        host.call::<()>(on).await.unwrap();
    }
    let stale = Command::PowerOn { instance: instance.clone(), epoch: 1 };
    assert_eq!(host.call::<()>(stale).await.unwrap_err().0, "stale-owner");
    let reboot = Command::Reboot { instance: instance.clone(), epoch: 2, kind: RebootKind::Hard };
    host.call::<()>(reboot).await.unwrap();
    assert!(host.domstate(id).starts_with("running"));

    let stale = Command::Destroy { id, epoch: 1 };
    assert_eq!(host.call::<()>(stale).await.unwrap_err().0, "stale-owner");
    let destroy = Command::Destroy { id, epoch: 2 };
    host.call::<()>(destroy.clone()).await.unwrap();
    host.call::<()>(destroy).await.unwrap();
    assert_eq!(host.domstate(id), "");
    assert_eq!(host.files(id), Vec::<String>::new());
    let gone = host.call::<PowerState>(Command::PowerState { id }).await.unwrap_err();
    assert_eq!(gone.0, "not-found");
    lab.end(id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spawn_that_was_cut_short_goes_on() {
    let mut lab = Lab::start(Storage::Local, json!({})).await;
    let instance = lab.instance();
    let id = instance.id;
    let host = &mut lab.hosts[0];
    let spawn = Command::Spawn { instance: instance.clone(), epoch: 1 };
    // Defined and not running is as far as a spawn can come without the guest.
    host.call::<()>(spawn.clone()).await.unwrap();
    host.shell(&format!("virsh destroy {id}"));
    host.call::<()>(spawn.clone()).await.unwrap();
    assert!(host.domstate(id).starts_with("running"));
    // A disk, but no definition.
    host.shell(&format!("virsh destroy {id}; virsh undefine {id}"));
    host.call::<()>(spawn).await.unwrap();
    assert!(host.domstate(id).starts_with("running"));
    lab.end(id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_libvirtd_that_was_restarted_is_found_again() {
    let mut lab = Lab::start(Storage::Local, json!({})).await;
    let instance = lab.instance();
    let host = &mut lab.hosts[0];
    let spawn = Command::Spawn { instance: instance.clone(), epoch: 1 };
    host.call::<()>(spawn).await.unwrap();
    host.kill_libvirtd().await;
    let silence = host.call::<Vec<Guest>>(Command::Guests).await.unwrap_err();
    assert_eq!(silence.0, "unavailable", "{silence:?}");
    host.start_libvirtd();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let guests = loop {
        match host.call::<Vec<Guest>>(Command::Guests).await {
            Ok(guests) => break guests,
            Err((kind, _)) => assert_eq!(kind, "unavailable"),
        }
        assert!(std::time::Instant::now() < deadline, "libvirtd was not found again");
    };
    assert_eq!(guests.len(), 1);
    lab.end(instance.id).await;
}
