//! A guest's own directory and the disks in it.

use std::path::Path;

use whimbrel_messages::compute::ImageSpec;
use whimbrel_model::{DiskFormat, InstanceId};
use whimbrel_virt::DriverError;

use crate::files;
use crate::paths::Paths;
use crate::qemu_img::{self, Backing};

/// Makes the guest's own directory. Fine if it exists.
pub(crate) async fn create_instance_directory(
    paths: &Paths,
    id: InstanceId,
) -> Result<(), DriverError> {
    let directory = paths.instance(id);
    files::blocking("make the guest's directory", move || files::create_directory(&directory)).await
}

/// Makes a disk at `path`, whole or not at all: over the image's base file, or with `image` absent, empty.
/// A disk that is there already stays.
pub(crate) async fn create_disk(
    qemu_img: &Path,
    path: &Path,
    format: DiskFormat,
    virtual_size: i64,
    image: Option<&ImageSpec>,
) -> Result<(), DriverError> {
    if files::exists(path).await? {
        return Ok(());
    }
    let backing = image
        .map(|image| Backing { file: Paths::base_from_instance(image.id), format: image.format });
    let temporary = files::temporary_beside(path);
    let created =
        qemu_img::create(qemu_img, &temporary, format, virtual_size, backing.as_ref()).await;
    let (from, to) = (temporary.clone(), path.to_owned());
    let outcome = match created {
        Ok(()) => files::blocking("give a disk its name", move || files::publish(&from, &to)).await,
        Err(error) => Err(error),
    };
    if outcome.is_err() {
        let _ = files::blocking("remove a disk", move || files::remove_file(&temporary)).await;
    }
    outcome
}

/// Removes the guest's directory and all disks in it, unless an emulator uses one, here or on another
/// host that shares the storage.
pub(crate) async fn remove_instance_directory(
    paths: &Paths,
    id: InstanceId,
) -> Result<(), DriverError> {
    let directory = paths.instance(id);
    let in_use = files::blocking("remove the guest's directory", move || {
        let in_use = files::first_file_in_use(&directory)?;
        if in_use.is_none() {
            files::remove_directory(&directory)?;
        }
        Ok(in_use)
    })
    .await?;
    match in_use {
        None => Ok(()),
        Some(file) => Err(DriverError::Refused(format!(
            "{} is in use by an emulator, so the guest's disks are not removed",
            file.display()
        ))),
    }
}
