//! The driver of one host, in a process of its own inside that host, told what to do line by line.
//!
//! It is this very test binary, started again in the host's namespaces. Killing it is killing the service.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use whimbrel_messages::compute::{
    BlockMigration, DestinationCheck, InstanceSpec, MigrateData, PostLiveMigration,
    PreLiveMigrationReply, RebootKind, RollbackLiveMigrationAtDestination,
};
use whimbrel_messages::report::JobStats;
use whimbrel_model::{InstanceId, MigrationId};
use whimbrel_virt::{ComputeDriver, DriverError, JobOutcome, JobProgress, LiveMigrationJob};
use whimbrel_virt_libvirt::{HostContext, LibvirtConfig, LibvirtDriver};

/// What an answer's line begins with; the test harness writes lines, too.
pub(crate) const MARK: &str = "@@";
/// Environment variable with an agent's [`Setup`].
pub(crate) const SETUP: &str = "WHIMBREL_TEST_AGENT";

/// What an agent needs to know.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) name: String,
    pub(crate) state_dir: PathBuf,
    /// The file that every image is made of.
    pub(crate) image: PathBuf,
    /// `[libvirt]`.
    pub(crate) config: Value,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Command {
    Inventory,
    Guests,
    Spawn { instance: InstanceSpec, epoch: i64 },
    Destroy { id: InstanceId, epoch: i64 },
    PowerOn { instance: InstanceSpec, epoch: i64 },
    PowerOff { id: InstanceId, timeout_ms: i64 },
    Reboot { instance: InstanceSpec, epoch: i64, kind: RebootKind },
    PowerState { id: InstanceId },
    CheckDestination { instance: InstanceSpec, migration_id: MigrationId, block: BlockMigration },
    CleanUpCheck { migration_id: MigrationId },
    CheckSource { instance: InstanceSpec, block: BlockMigration, check: DestinationCheck },
    Pre { instance: InstanceSpec, migration_id: MigrationId, data: MigrateData, epoch: i64 },
    Rollback { id: InstanceId, migration_id: MigrationId, destroy_disks: bool, epoch: i64 },
    Live { job: Job, resume: bool },
    Abort { id: InstanceId },
    Force { id: InstanceId },
    PostDestination { instance: InstanceSpec, epoch: i64 },
    PostSource { id: InstanceId, destroy_disks: bool, epoch: i64 },
}

/// A [`LiveMigrationJob`] that can be sent.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) instance: InstanceSpec,
    pub(crate) migration_id: MigrationId,
    pub(crate) data: MigrateData,
    pub(crate) listen: PreLiveMigrationReply,
    pub(crate) epoch: i64,
}

/// A [`JobOutcome`] that can be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Completed(Option<JobStats>),
    Failed(String),
    Aborted,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) number: u64,
    pub(crate) command: Command,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The call's value, or the kind and text of its error.
    Done { number: u64, result: Result<Value, (String, String)> },
    /// How far a migration is.
    Progress { number: u64, stats: JobStats, post_copy: bool },
}

/// The agent's process: ends with its standard input.
pub(crate) async fn run(setup: Setup) {
    let image_url = serve_image(setup.image).await;
    let config: LibvirtConfig = serde_json::from_value(setup.config).unwrap();
    let context =
        HostContext { host: setup.name.parse().unwrap(), state_dir: setup.state_dir, image_url };
    let driver = Arc::new(LibvirtDriver::new(config, context).await.unwrap());
    let (lines, mut requests) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let _ = lines.send(serde_json::from_str::<Request>(&line.unwrap()).unwrap());
        }
    });
    while let Some(Request { number, command }) = requests.recv().await {
        let driver = Arc::clone(&driver);
        tokio::spawn(async move {
            let result = carry_out(&driver, number, command).await;
            let result = result.map_err(|error| (kind(&error).to_owned(), error.to_string()));
            answer(&Answer::Done { number, result });
        });
    }
}

fn answer(answer: &Answer) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{MARK}{}", serde_json::to_string(answer).unwrap()).unwrap();
    out.flush().unwrap();
}

fn kind(error: &DriverError) -> &'static str {
    match error {
        DriverError::Refused(_) => "refused",
        DriverError::PreCheck(_) => "pre-check",
        DriverError::InvalidImage(_) => "invalid-image",
        DriverError::NotFound(_) => "not-found",
        DriverError::StaleOwner { .. } => "stale-owner",
        DriverError::Unavailable(_) => "unavailable",
        DriverError::Hypervisor { .. } => "hypervisor",
    }
}

async fn carry_out(
    driver: &LibvirtDriver,
    number: u64,
    command: Command,
) -> Result<Value, DriverError> {
    Ok(match command {
        Command::Inventory => json!(driver.inventory().await?),
        Command::Guests => json!(driver.guests().await?),
        Command::Spawn { instance, epoch } => json!(driver.spawn(&instance, epoch).await?),
        Command::Destroy { id, epoch } => json!(driver.destroy(id, epoch).await?),
        Command::PowerOn { instance, epoch } => json!(driver.power_on(&instance, epoch).await?),
        Command::PowerOff { id, timeout_ms } => json!(driver.power_off(id, timeout_ms).await?),
        Command::Reboot { instance, epoch, kind } => {
            json!(driver.reboot(&instance, epoch, kind).await?)
        }
        Command::PowerState { id } => json!(driver.power_state(id).await?),
        Command::CheckDestination { instance, migration_id, block } => {
            json!(driver.check_can_live_migrate_destination(&instance, migration_id, block).await?)
        }
        Command::CleanUpCheck { migration_id } => {
            json!(driver.clean_up_live_migration_check(migration_id).await?)
        }
        Command::CheckSource { instance, block, check } => {
            json!(driver.check_can_live_migrate_source(&instance, block, &check).await?)
        }
        Command::Pre { instance, migration_id, data, epoch } => {
            json!(driver.pre_live_migration(&instance, migration_id, &data, epoch).await?)
        }
        Command::Rollback { id, migration_id, destroy_disks, epoch } => {
            let request = RollbackLiveMigrationAtDestination {
                instance_id: id,
                migration_id,
                destroy_disks,
                owner_epoch: epoch,
                source_lost: false,
            };
            driver.rollback_live_migration_at_destination(&request).await?;
            json!(())
        }
        Command::Live { job, resume } => json!(live(driver, number, job, resume).await?),
        Command::Abort { id } => json!(driver.live_migration_abort(id).await?),
        Command::Force { id } => json!(driver.live_migration_force_complete(id).await?),
        Command::PostDestination { instance, epoch } => {
            json!(driver.post_live_migration_at_destination(&instance, epoch).await?)
        }
        Command::PostSource { id, destroy_disks, epoch } => {
            let request = PostLiveMigration {
                instance_id: id,
                migration_id: MigrationId(uuid::Uuid::now_v7()),
                destroy_disks,
                owner_epoch: epoch,
                lost: false,
            };
            json!(driver.post_live_migration(&request).await?)
        }
    })
}

async fn live(
    driver: &LibvirtDriver,
    number: u64,
    job: Job,
    resume: bool,
) -> Result<Outcome, DriverError> {
    let job = LiveMigrationJob {
        instance: job.instance,
        migration_id: job.migration_id,
        destination: "the-other".parse().unwrap(),
        data: job.data,
        listen: job.listen,
        owner_epoch: job.epoch,
    };
    let (progress, mut seen) = watch::channel(JobProgress::default());
    tokio::spawn(async move {
        while seen.changed().await.is_ok() {
            let JobProgress { stats, post_copy } = *seen.borrow_and_update();
            answer(&Answer::Progress { number, stats, post_copy });
        }
    });
    Ok(match driver.live_migration(&job, resume, &progress).await? {
        JobOutcome::Completed(stats) => Outcome::Completed(stats),
        JobOutcome::Failed(why) => Outcome::Failed(why),
        JobOutcome::Aborted => Outcome::Aborted,
    })
}

/// An image store of this process, which has one image.
async fn serve_image(image: PathBuf) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let mut file = tokio::fs::File::open(&image).await.unwrap();
            let length = file.metadata().await.unwrap().len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = tokio::io::copy(&mut file, &mut stream).await;
        }
    });
    url
}
