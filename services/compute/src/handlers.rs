//! From a command to the driver and back: one line for each method.

use serde::de::DeserializeOwned;
use serde_json::Value;
use whimbrel_messages::compute::{
    AttachVolume, BuildAndRunInstance, CheckCanLiveMigrateDestination, CheckCanLiveMigrateSource,
    CleanUpLiveMigrationCheck, ConfirmResize, DetachVolume, Done, Fence, FenceResize, FinishResize,
    FinishRevertResize, LiveMigration, LiveMigrationAbort, LiveMigrationForceComplete,
    LiveMigrationReply, PostLiveMigration, PostLiveMigrationAtDestination, PowerReply,
    PreLiveMigration, PrepResize, RebootInstance, RebuildInstance, ResizeInstance, RevertResize,
    RollbackLiveMigrationAtDestination, StartInstance, StopInstance, TerminateInstance,
};
use whimbrel_messages::{Command, Fault, FaultCode, Outcome, Rpc};
use whimbrel_model::InstanceId;
use whimbrel_virt::{Arrival, ComputeDriver, DriverError};

/// The hypervisor did not say; nothing is known.
pub(crate) struct Unanswered(pub(crate) String);

const METHODS: [(&str, (u16, u16)); 26] = [
    of::<BuildAndRunInstance>(),
    of::<TerminateInstance>(),
    of::<StartInstance>(),
    of::<StopInstance>(),
    of::<RebootInstance>(),
    of::<Fence>(),
    of::<CheckCanLiveMigrateDestination>(),
    of::<CleanUpLiveMigrationCheck>(),
    of::<CheckCanLiveMigrateSource>(),
    of::<PreLiveMigration>(),
    of::<RollbackLiveMigrationAtDestination>(),
    of::<LiveMigration>(),
    of::<LiveMigrationAbort>(),
    of::<LiveMigrationForceComplete>(),
    of::<PostLiveMigrationAtDestination>(),
    of::<PostLiveMigration>(),
    of::<PrepResize>(),
    of::<ResizeInstance>(),
    of::<FinishResize>(),
    of::<FenceResize>(),
    of::<ConfirmResize>(),
    of::<RevertResize>(),
    of::<FinishRevertResize>(),
    of::<RebuildInstance>(),
    of::<AttachVolume>(),
    of::<DetachVolume>(),
];

const fn of<R: Rpc>() -> (&'static str, (u16, u16)) {
    (R::METHOD, R::VERSION)
}

/// Refuses a method or version that this agent does not know.
pub(crate) fn known_version(command: &Command) -> Result<(), Fault> {
    let (major, minor) = command.version;
    let known = METHODS.iter().any(|(method, (our_major, our_minor))| {
        *method == command.method && major == *our_major && minor <= *our_minor
    });
    let message = || {
        format!(
            "this host does not know {} {major}.{minor}; upgrade its compute service",
            command.method
        )
    };
    if known { Ok(()) } else { Err(Fault::new(FaultCode::UnsupportedVersion, message())) }
}

/// The fault that a driver's error becomes.
pub(crate) fn fault_of(error: &DriverError) -> Fault {
    let code = match error {
        DriverError::PreCheck(_) => FaultCode::MigrationPreCheck,
        DriverError::InvalidImage(_) => FaultCode::InvalidImage,
        DriverError::NotFound(_) => FaultCode::InstanceNotFound,
        DriverError::StaleOwner { .. } => FaultCode::StaleOwner,
        DriverError::Refused(_) | DriverError::Hypervisor { .. } | DriverError::Unavailable(_) => {
            FaultCode::Hypervisor
        }
    };
    Fault::new(code, error.to_string())
}

/// Carries out a command that is no job and no fence.
pub(crate) async fn carry_out<D: ComputeDriver>(
    driver: &D,
    command: &Command,
) -> Result<Outcome, Unanswered> {
    match call(driver, command).await {
        Ok(body) => Ok(Outcome::Ok { body }),
        Err(Failed::Malformed(error)) => {
            let message = format!("{} can't be read: {error}", command.method);
            Ok(Outcome::Refused { fault: Fault::new(FaultCode::Malformed, message) })
        }
        Err(Failed::AlreadyDone(reply)) => {
            let body = serde_json::to_value(reply).expect("a reply is plain data");
            Ok(Outcome::AlreadyDone { body })
        }
        Err(Failed::Driver(DriverError::Unavailable(why))) => Err(Unanswered(why)),
        Err(Failed::Driver(error)) => Ok(Outcome::Refused { fault: fault_of(&error) }),
    }
}

enum Failed {
    /// What is to be undone is done, and stays.
    AlreadyDone(LiveMigrationReply),
    Malformed(serde_json::Error),
    Driver(DriverError),
}

impl From<serde_json::Error> for Failed {
    fn from(error: serde_json::Error) -> Self {
        Self::Malformed(error)
    }
}

impl From<DriverError> for Failed {
    fn from(error: DriverError) -> Self {
        Self::Driver(error)
    }
}

fn read<R: DeserializeOwned>(command: &Command) -> Result<R, serde_json::Error> {
    R::deserialize(&command.body)
}

fn done() -> Result<Value, Failed> {
    Ok(serde_json::to_value(Done {})?)
}

async fn power<D: ComputeDriver>(driver: &D, id: InstanceId) -> Result<Value, Failed> {
    let power_state = driver.power_state(id).await?;
    Ok(serde_json::to_value(PowerReply { power_state })?)
}

async fn call<D: ComputeDriver>(driver: &D, command: &Command) -> Result<Value, Failed> {
    match command.method.as_str() {
        BuildAndRunInstance::METHOD => {
            let r: BuildAndRunInstance = read(command)?;
            driver.spawn(&r.instance, r.owner_epoch).await?;
            power(driver, r.instance.id).await
        }
        TerminateInstance::METHOD => {
            let r: TerminateInstance = read(command)?;
            driver.destroy(r.instance_id, r.owner_epoch).await?;
            done()
        }
        StartInstance::METHOD => {
            let r: StartInstance = read(command)?;
            driver.power_on(&r.instance, r.owner_epoch).await?;
            power(driver, r.instance.id).await
        }
        StopInstance::METHOD => {
            let r: StopInstance = read(command)?;
            driver.power_off(r.instance_id, r.timeout_ms).await?;
            power(driver, r.instance_id).await
        }
        RebootInstance::METHOD => {
            let r: RebootInstance = read(command)?;
            driver.reboot(&r.instance, r.owner_epoch, r.kind).await?;
            power(driver, r.instance.id).await
        }
        AttachVolume::METHOD => {
            let r: AttachVolume = read(command)?;
            driver.attach_volume(&r.instance, r.volume_id, r.owner_epoch).await?;
            done()
        }
        DetachVolume::METHOD => {
            let r: DetachVolume = read(command)?;
            driver.detach_volume(r.instance_id, r.volume_id, r.timeout_ms).await?;
            done()
        }
        LiveMigrationForceComplete::METHOD => {
            let r: LiveMigrationForceComplete = read(command)?;
            driver.live_migration_force_complete(r.instance_id).await?;
            done()
        }
        _ => call_for_migration(driver, command).await,
    }
}

async fn call_for_migration<D: ComputeDriver>(
    driver: &D,
    command: &Command,
) -> Result<Value, Failed> {
    match command.method.as_str() {
        CheckCanLiveMigrateDestination::METHOD => {
            let r: CheckCanLiveMigrateDestination = read(command)?;
            let check = driver
                .check_can_live_migrate_destination(&r.instance, r.migration_id, r.block_migration)
                .await?;
            Ok(serde_json::to_value(check)?)
        }
        CleanUpLiveMigrationCheck::METHOD => {
            let r: CleanUpLiveMigrationCheck = read(command)?;
            driver.clean_up_live_migration_check(r.migration_id).await?;
            done()
        }
        CheckCanLiveMigrateSource::METHOD => {
            let r: CheckCanLiveMigrateSource = read(command)?;
            let data = driver
                .check_can_live_migrate_source(&r.instance, r.block_migration, &r.destination_check)
                .await?;
            Ok(serde_json::to_value(data)?)
        }
        PreLiveMigration::METHOD => {
            let r: PreLiveMigration = read(command)?;
            let reply = driver
                .pre_live_migration(&r.instance, r.migration_id, &r.migrate_data, r.owner_epoch)
                .await?;
            // The source has looked at it by now.
            driver.clean_up_live_migration_check(r.migration_id).await?;
            Ok(serde_json::to_value(reply)?)
        }
        RollbackLiveMigrationAtDestination::METHOD => {
            match driver.rollback_live_migration_at_destination(&read(command)?).await? {
                Arrival::Removed => done(),
                Arrival::Whole => Err(Failed::AlreadyDone(LiveMigrationReply { stats: None })),
            }
        }
        PostLiveMigrationAtDestination::METHOD => {
            let r: PostLiveMigrationAtDestination = read(command)?;
            driver.post_live_migration_at_destination(&r.instance, r.owner_epoch).await?;
            power(driver, r.instance.id).await
        }
        PostLiveMigration::METHOD => {
            driver.post_live_migration(&read(command)?).await?;
            done()
        }
        _ => call_for_cold_move(driver, command).await,
    }
}

async fn call_for_cold_move<D: ComputeDriver>(
    driver: &D,
    command: &Command,
) -> Result<Value, Failed> {
    match command.method.as_str() {
        PrepResize::METHOD => {
            let reply = driver.prep_resize(&read(command)?).await?;
            Ok(serde_json::to_value(reply)?)
        }
        FinishResize::METHOD => {
            let r: FinishResize = read(command)?;
            driver.finish_resize(&r).await?;
            power(driver, r.instance.id).await
        }
        ConfirmResize::METHOD => {
            let r: ConfirmResize = read(command)?;
            driver.confirm_resize(r.instance_id, r.migration_id).await?;
            done()
        }
        RevertResize::METHOD => {
            driver.revert_resize(&read(command)?).await?;
            done()
        }
        FinishRevertResize::METHOD => {
            let r: FinishRevertResize = read(command)?;
            driver.finish_revert_resize(&r).await?;
            power(driver, r.instance.id).await
        }
        RebuildInstance::METHOD => {
            let reply = driver.rebuild(&read(command)?).await?;
            Ok(serde_json::to_value(reply)?)
        }
        // `known_version` lets no other method pass, and fences and jobs have their own ways.
        other => Err(Failed::Driver(DriverError::Refused(format!("{other} is not known here")))),
    }
}
