//! Moves of guests that are shut off.

use tokio::sync::watch;
use whimbrel_messages::compute::{
    FinishResize, FinishRevertResize, PrepResize, PrepResizeReply, RebuildInstance, RebuildReply,
    ResizeInstance, ResizeInstanceReply, RevertResize,
};
use whimbrel_model::{InstanceId, MigrationId};
use whimbrel_virt::{DriverError, JobProgress};

use crate::driver::LibvirtDriver;

fn not_yet() -> DriverError {
    DriverError::PreCheck("this host's driver does not carry disks yet".to_owned())
}

impl LibvirtDriver {
    pub(crate) async fn prepare_for_disks(
        &self,
        _request: &PrepResize,
    ) -> Result<PrepResizeReply, DriverError> {
        Err(not_yet())
    }

    pub(crate) async fn carry_disks(
        &self,
        _request: &ResizeInstance,
        _progress: &watch::Sender<JobProgress>,
        _stop: watch::Receiver<bool>,
    ) -> Result<ResizeInstanceReply, DriverError> {
        Err(not_yet())
    }

    pub(crate) async fn make_from_carried(&self, _: &FinishResize) -> Result<(), DriverError> {
        Err(not_yet())
    }

    pub(crate) async fn drop_rollback_point(
        &self,
        _: InstanceId,
        _: MigrationId,
    ) -> Result<(), DriverError> {
        Err(not_yet())
    }

    pub(crate) async fn drop_moved(&self, _: &RevertResize) -> Result<(), DriverError> {
        Err(not_yet())
    }

    pub(crate) async fn take_back(&self, _: &FinishRevertResize) -> Result<(), DriverError> {
        Err(not_yet())
    }

    pub(crate) async fn make_again(
        &self,
        _: &RebuildInstance,
    ) -> Result<RebuildReply, DriverError> {
        Err(not_yet())
    }
}
