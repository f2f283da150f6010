use uuid::Uuid;
use whimbrel_messages::compute::{ImageSpec, RollbackLiveMigrationAtDestination};
use whimbrel_model::ImageId;

use super::*;

fn spec() -> InstanceSpec {
    InstanceSpec {
        id: InstanceId(Uuid::now_v7()),
        name: "guest".to_owned(),
        resources: Resources { vcpus: 1, memory_mib: 64, disk_gib: 1 },
        image: ImageSpec {
            id: ImageId(Uuid::nil()),
            format: DiskFormat::Raw,
            sha256: String::new(),
            size: 0,
            virtual_size: 1 << 30,
        },
        ports: Vec::new(),
        volumes: Vec::new(),
        config_drive: None,
    }
}

fn driver(name: &str, config: &FakeConfig) -> FakeDriver {
    FakeDriver::new(name.parse().unwrap(), config.clone()).unwrap()
}

async fn prepared(source: &FakeDriver, destination: &FakeDriver) -> LiveMigrationJob {
    let instance = spec();
    source.spawn(&instance, 1).await.unwrap();
    let migration_id = MigrationId(Uuid::now_v7());
    let data = MigrateData { block_migration: false, disks: Vec::new() };
    let listen = destination.pre_live_migration(&instance, migration_id, &data, 2).await.unwrap();
    let host = destination.host.clone();
    LiveMigrationJob { instance, migration_id, destination: host, data, listen, owner_epoch: 2 }
}

async fn run(source: &FakeDriver, job: &LiveMigrationJob, resume: bool) -> JobOutcome {
    let (progress, _) = watch::channel(JobProgress::default());
    source.live_migration(job, resume, &progress).await.unwrap()
}

#[tokio::test]
async fn a_guest_is_on_one_host_before_and_on_the_other_after() {
    let folder = std::env::temp_dir().join(format!("whimbrel-world-{}", Uuid::now_v7()));
    for world_dir in [None, Some(folder.clone())] {
        let config = FakeConfig { world_dir, ..FakeConfig::default() };
        let (a, b) = (driver("a", &config), driver("b", &config));
        let job = prepared(&a, &b).await;
        assert!(matches!(run(&a, &job, false).await, JobOutcome::Completed(Some(_))));
        assert!(matches!(a.power_state(job.instance.id).await, Err(DriverError::NotFound(_))));
        assert_eq!(b.power_state(job.instance.id).await.unwrap(), PowerState::Running);
        // Asked again by a service that was away, it says what became of it.
        assert_eq!(run(&a, &job, true).await, JobOutcome::Completed(None));
        // The old owner's token is worth nothing there any more.
        assert!(matches!(
            b.power_on(&job.instance, 1).await,
            Err(DriverError::StaleOwner { seen: 2, asked: 1, .. })
        ));
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_job_that_is_called_off_leaves_the_guest_where_it_was() {
    let config = FakeConfig {
        bandwidth_mib_s: 1,
        dirty_rate_mib_s: 2,
        time_scale: 0.001,
        ..FakeConfig::default()
    };
    let (a, b) = (driver("a", &config), driver("b", &config));
    let job = prepared(&a, &b).await;
    let (outcome, aborted) = tokio::join!(run(&a, &job, false), async {
        while a.world.job(&a.host, job.instance.id).unwrap().is_none() {
            tokio::task::yield_now().await;
        }
        a.live_migration_abort(job.instance.id).await
    });
    aborted.unwrap();
    assert_eq!(outcome, JobOutcome::Aborted);
    let request = RollbackLiveMigrationAtDestination {
        instance_id: job.instance.id,
        migration_id: job.migration_id,
        destroy_disks: false,
        owner_epoch: 2,
        source_lost: false,
    };
    b.rollback_live_migration_at_destination(&request).await.unwrap();
    assert_eq!(a.power_state(job.instance.id).await.unwrap(), PowerState::Running);
    assert!(matches!(b.power_state(job.instance.id).await, Err(DriverError::NotFound(_))));
}
