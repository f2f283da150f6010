//! Moves that go well.

use std::time::Instant;

use serde_json::json;
use uuid::Uuid;
use whimbrel_messages::compute::{
    BlockMigration, DestinationCheck, InstanceSpec, MigrateData, PreLiveMigrationReply,
};
use whimbrel_messages::report::Guest;
use whimbrel_model::{InstanceId, MigrationId, PowerState};

use crate::agent::{Command, Job, Outcome};
use crate::host::{Host, Lab, Storage};

/// Both checks and the destination made ready: the job is next.
pub(crate) async fn prepare(
    source: &mut Host,
    destination: &mut Host,
    instance: &InstanceSpec,
    epoch: i64,
) -> Job {
    let migration_id = MigrationId(Uuid::new_v4());
    let (block, instance) = (BlockMigration::Auto, instance.clone());
    let check: DestinationCheck = destination
        .call(Command::CheckDestination { instance: instance.clone(), migration_id, block })
        .await
        .unwrap();
    let data: MigrateData = source
        .call(Command::CheckSource { instance: instance.clone(), block, check })
        .await
        .unwrap();
    let pre = Command::Pre { instance: instance.clone(), migration_id, data: data.clone(), epoch };
    // Asked twice, as after a lost answer.
    destination.call::<PreLiveMigrationReply>(pre.clone()).await.unwrap();
    let listen: PreLiveMigrationReply = destination.call(pre).await.unwrap();
    Job { instance, migration_id, data, listen, epoch }
}

/// What follows a job that has moved the guest.
pub(crate) async fn settle(source: &mut Host, destination: &mut Host, job: &Job) {
    let (id, epoch) = (job.instance.id, job.epoch);
    let take_over = Command::PostDestination { instance: job.instance.clone(), epoch };
    destination.call::<()>(take_over).await.unwrap();
    let destroy_disks = job.data.block_migration;
    source.call::<()>(Command::PostSource { id, destroy_disks, epoch }).await.unwrap();
    let clean_up = Command::CleanUpCheck { migration_id: job.migration_id };
    destination.call::<()>(clean_up).await.unwrap();
}

/// The guest is here, wholly, and nowhere else.
pub(crate) async fn assert_moved(source: &mut Host, destination: &mut Host, job: &Job) {
    let id = job.instance.id;
    assert_eq!(source.domstate(id), "", "the source forgot the guest");
    let guests: Vec<Guest> = destination.call(Command::Guests).await.unwrap();
    let expected = Guest {
        instance_id: id,
        power_state: PowerState::Running,
        owner_epoch: job.epoch,
        migrating: false,
    };
    assert!(guests.contains(&expected), "{guests:?}");
    let stored = destination.shell(&format!("virsh dumpxml --inactive {id}"));
    let epoch = format!("owner_epoch=\"{}\"", job.epoch);
    assert!(stored.replace('\'', "\"").contains(&epoch), "{stored}");
}

/// The move itself has brought the new token, and what is stored is what runs (OSSA-2020-006).
fn assert_definition_moved(destination: &Host, job: &Job) {
    let id = job.instance.id;
    let epoch = format!("owner_epoch='{}'", job.epoch);
    let devices = |flags: &str| {
        let xml = destination.shell(&format!("virsh dumpxml {flags} {id}")).replace('"', "'");
        assert!(xml.contains(&epoch), "{xml}");
        let told = ["<source", "<mac", "<address", "<backingStore", "<type arch", "<model"];
        let wanted = |line: &&str| told.iter().any(|start| line.trim().starts_with(start));
        xml.lines().filter(wanted).map(|line| plain(line.trim())).collect::<Vec<_>>()
    };
    assert_eq!(devices("--inactive"), devices(""));
}

/// A line of a definition without what only a running guest has.
fn plain(line: &str) -> String {
    let line = line.split(" index='").next().unwrap();
    line.trim_end_matches(['/', '>']).to_owned()
}

/// How much a guest's disk holds that is not from its image.
const PATTERN_BYTES: i64 = 4 << 20;

/// Writes a pattern to a disk that is not in use, or reads it again.
fn pattern(host: &Host, id: InstanceId, verb: &str) {
    let disk = host.file(id, "disk");
    let command = format!("{verb} -P 0x5a 600M {PATTERN_BYTES}");
    let said = host.shell(&format!("qemu-io -f qcow2 -c '{command}' {} 2>&1", disk.display()));
    assert!(said.contains("4 MiB") && !said.contains("failed"), "{said}");
}

async fn there_and_back(storage: Storage) {
    let mut lab = Lab::start(storage, json!({})).await;
    let instance = lab.instance();
    let id = instance.id;
    let (first, rest) = lab.hosts.split_at_mut(1);
    let (a, b) = (&mut first[0], &mut rest[0]);
    let spawn = Command::Spawn { instance: instance.clone(), epoch: 1 };
    a.call::<()>(spawn.clone()).await.unwrap();
    a.call::<()>(Command::PowerOff { id, timeout_ms: 0 }).await.unwrap();
    pattern(a, id, "write");
    a.shell(&format!("rm {}", a.file(id, "console.log").display()));
    a.call::<()>(spawn).await.unwrap();
    let (boot, mut number) = a.wait_for_heartbeat(id, 3).await;
    for (epoch, there) in [(2, true), (3, false)] {
        let (source, destination) = if there { (&mut *a, &mut *b) } else { (&mut *b, &mut *a) };
        let job = prepare(source, destination, &instance, epoch).await;
        assert_eq!(job.data.block_migration, storage == Storage::Local);
        let started = Instant::now();
        let outcome: Outcome =
            source.call(Command::Live { job: job.clone(), resume: false }).await.unwrap();
        println!("moved in {:?}: {outcome:?}", started.elapsed());
        let Outcome::Completed(Some(stats)) = outcome else { panic!("{outcome:?}") };
        assert!(stats.memory_processed > 0 && stats.downtime_ms > 0, "{stats:?}");
        assert_definition_moved(destination, &job);
        settle(source, destination, &job).await;
        assert_moved(source, destination, &job).await;
        let (same_boot, later) = destination.wait_for_heartbeat(id, number).await;
        assert_eq!(same_boot, boot, "the guest was not booted anew");
        number = later;
        if storage == Storage::Local {
            assert_eq!(source.files(id), Vec::<String>::new(), "no disk is left at the source");
            assert!(stats.disk_total >= PATTERN_BYTES, "{stats:?}");
        }
    }
    a.call::<()>(Command::PowerOff { id, timeout_ms: 0 }).await.unwrap();
    pattern(a, id, "read");
    let disk = a.shell(&format!("qemu-img info -f qcow2 {}", a.file(id, "disk").display()));
    let base = format!("backing file: ../_base/{}", instance.image.id);
    assert!(disk.contains(&base), "{disk}");
    lab.end(id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_moves_there_and_back_over_shared_storage() {
    there_and_back(Storage::Shared).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_moves_there_and_back_with_its_disks() {
    there_and_back(Storage::Local).await;
}
