//! What is refused before a move, with reasons that a person can act on.

use serde_json::json;
use uuid::Uuid;
use whimbrel_messages::compute::{
    BlockMigration, DestinationCheck, InstanceSpec, MigrateData, PreLiveMigrationReply,
};
use whimbrel_model::MigrationId;

use crate::agent::Command;
use crate::host::{Host, Lab, Storage};
use crate::moves::prepare;

type Refusal = (String, String);

async fn check(
    source: &mut Host,
    destination: &mut Host,
    instance: &InstanceSpec,
    block: BlockMigration,
    change: impl FnOnce(&mut DestinationCheck),
) -> Result<MigrateData, Refusal> {
    let migration_id = MigrationId(Uuid::new_v4());
    let instance = instance.clone();
    let asked = Command::CheckDestination { instance: instance.clone(), migration_id, block };
    let mut check: DestinationCheck = destination.call(asked).await?;
    change(&mut check);
    let outcome = source.call(Command::CheckSource { instance, block, check }).await;
    destination.call::<()>(Command::CleanUpCheck { migration_id }).await?;
    outcome
}

fn assert_reason(outcome: Result<MigrateData, Refusal>, words: &[&str]) {
    let (kind, text) = outcome.unwrap_err();
    println!("{kind}: {text}");
    assert_eq!(kind, "pre-check");
    for word in words {
        assert!(text.contains(word), "'{text}' does not say '{word}'");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_cannot_work_is_refused_with_its_reason() {
    let mut lab = Lab::start(Storage::Local, json!({})).await;
    let instance = lab.instance();
    let id = instance.id;
    let (first, rest) = lab.hosts.split_at_mut(1);
    let (a, b) = (&mut first[0], &mut rest[0]);
    a.call::<()>(Command::Spawn { instance: instance.clone(), epoch: 1 }).await.unwrap();
    let auto = BlockMigration::Auto;

    let data = check(a, b, &instance, auto, |_| ()).await.unwrap();
    assert!(data.block_migration && data.disks[0].has_base, "{data:?}");
    let no = check(a, b, &instance, BlockMigration::No, |_| ()).await;
    assert_reason(no, &["do not share"]);
    let own = check(a, &mut *b, &instance, auto, |check| check.disk_available = 10).await;
    assert_reason(own, &["10 free"]);
    let old = check(a, b, &instance, auto, |check| check.hypervisor_version = 7_002_022).await;
    assert_reason(old, &["7.2.22", "upgrade"]);
    let weak = check(a, b, &instance, auto, |check| {
        check.cpu_xml = check.cpu_xml.replace("<feature name=\"sse2\"/>", "");
    });
    assert_reason(weak.await, &["sse2", "qemu64"]);
    let probe = check(a, b, &instance, auto, |check| check.probe_file = "../x".to_owned()).await;
    assert_reason(probe, &["../x"]);

    let mut elsewhere = instance.clone();
    elsewhere.ports[0].bridge = "br-none".to_owned();
    assert_reason(check(a, b, &elsewhere, auto, |_| ()).await, &["br-none", b.name()]);

    let migration_id = MigrationId(Uuid::new_v4());
    let block = auto;
    let same = Command::CheckDestination { instance: instance.clone(), migration_id, block };
    let same = a.call::<DestinationCheck>(same).await.unwrap_err();
    assert!(same.1.contains("already"), "{same:?}");

    a.call::<()>(Command::PowerOff { id, timeout_ms: 0 }).await.unwrap();
    assert_reason(check(a, b, &instance, auto, |_| ()).await, &["does not run"]);
    lab.end(id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_share_storage_copy_nothing() {
    let mut lab = Lab::start(Storage::Shared, json!({})).await;
    let instance = lab.instance();
    let (first, rest) = lab.hosts.split_at_mut(1);
    let (a, b) = (&mut first[0], &mut rest[0]);
    a.call::<()>(Command::Spawn { instance: instance.clone(), epoch: 1 }).await.unwrap();
    let data = check(a, b, &instance, BlockMigration::Auto, |_| ()).await.unwrap();
    assert!(!data.block_migration);
    assert_reason(check(a, b, &instance, BlockMigration::Yes, |_| ()).await, &["share"]);

    // A destination that is wrongly told to copy does not touch what it sees.
    let migration_id = MigrationId(Uuid::new_v4());
    let data = MigrateData { block_migration: true, ..data };
    let pre = Command::Pre { instance: instance.clone(), migration_id, data, epoch: 2 };
    let refused = b.call::<PreLiveMigrationReply>(pre).await.unwrap_err();
    assert_eq!(refused.0, "refused", "{refused:?}");
    let id = instance.id;
    let rollback = Command::Rollback { id, migration_id, destroy_disks: true, epoch: 2 };
    b.call::<()>(rollback).await.unwrap();
    assert!(b.files(id).contains(&"disk".to_owned()), "the only copy stays");
    lab.end(id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_rollback_of_one_move_leaves_the_next_one_alone() {
    let mut lab = Lab::start(Storage::Local, json!({})).await;
    let instance = lab.instance();
    let id = instance.id;
    let (first, rest) = lab.hosts.split_at_mut(1);
    let (a, b) = (&mut first[0], &mut rest[0]);
    a.call::<()>(Command::Spawn { instance: instance.clone(), epoch: 1 }).await.unwrap();
    let earlier = prepare(a, b, &instance, 2).await;
    let rollback =
        |migration_id, epoch| Command::Rollback { id, migration_id, destroy_disks: true, epoch };

    // While something of the earlier move is left, the later one is not let in, nor its token taken for seen.
    let pre = |migration_id, epoch| Command::Pre {
        instance: instance.clone(),
        migration_id,
        data: earlier.data.clone(),
        epoch,
    };
    let refused = b.call::<PreLiveMigrationReply>(pre(MigrationId(Uuid::new_v4()), 3)).await;
    assert_eq!(refused.unwrap_err().0, "pre-check");
    b.call::<()>(rollback(earlier.migration_id, 2)).await.unwrap();
    assert_eq!(b.files(id), Vec::<String>::new());

    let later = prepare(a, b, &instance, 3).await;
    // Asked again, late, it removes what carries the earlier move's mark: nothing any more.
    b.call::<()>(rollback(earlier.migration_id, 2)).await.unwrap();
    assert!(b.files(id).contains(&"disk".to_owned()), "what the later move needs stays");
    b.call::<()>(rollback(later.migration_id, 3)).await.unwrap();
    assert_eq!(b.files(id), Vec::<String>::new());

    // And the source keeps what still runs there.
    let clear = Command::PostSource { id, destroy_disks: true, epoch: 4 };
    assert_eq!(a.call::<()>(clear).await.unwrap_err().0, "refused");
    assert!(a.domstate(id).starts_with("running"));
    lab.end(id).await;
}
