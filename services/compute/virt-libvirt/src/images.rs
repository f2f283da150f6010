//! Base images: fetched once, checked while they come, and then never written again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use whimbrel_messages::compute::ImageSpec;
use whimbrel_model::ImageId;
use whimbrel_virt::DriverError;

use crate::error::Doing;
use crate::files;
use crate::paths::Paths;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the store may be silent in the middle of an image.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const GIB: i64 = 1 << 30;

/// The cache of base images, `<instances_path>/_base`.
#[derive(Debug)]
pub(crate) struct BaseCache {
    paths: Paths,
    image_url: String,
    client: reqwest::Client,
    /// One lock for each image, so that those who want the same one share one fetch.
    fetching: Mutex<HashMap<ImageId, Arc<tokio::sync::Mutex<()>>>>,
}

impl BaseCache {
    pub(crate) fn new(paths: Paths, image_url: &str) -> Result<Self, DriverError> {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .build()
            .map_err(|error| DriverError::Refused(error.to_string()))?;
        let image_url = image_url.trim_end_matches('/').to_owned();
        Ok(Self { paths, image_url, client, fetching: Mutex::default() })
    }

    /// Whether the image is here already.
    pub(crate) async fn has(&self, id: ImageId) -> Result<bool, DriverError> {
        files::exists(&self.paths.base(id)).await
    }

    /// The image's base file, fetched if it is not here yet.
    pub(crate) async fn ensure(&self, image: &ImageSpec) -> Result<PathBuf, DriverError> {
        let base = self.paths.base(image.id);
        let lock = self.lock_of(image.id);
        let fetched = {
            let _fetching = lock.lock().await;
            match files::exists(&base).await {
                Ok(true) => Ok(()),
                Ok(false) => self.fetch(image, &base).await,
                Err(error) => Err(error),
            }
        };
        drop(lock);
        self.forget_unused_locks();
        fetched?;
        check(&base, image).await?;
        Ok(base)
    }

    fn lock_of(&self, id: ImageId) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(fetching.entry(id).or_default())
    }

    fn forget_unused_locks(&self) {
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        fetching.retain(|_, lock| Arc::strong_count(lock) > 1);
    }

    async fn fetch(&self, image: &ImageSpec, base: &Path) -> Result<(), DriverError> {
        let bases = self.paths.bases();
        files::blocking("make the directory of base images", move || {
            files::create_directory(&bases)
        })
        .await?;
        let temporary = files::temporary_beside(base);
        let outcome = self.fetch_into(image, &temporary, base).await;
        if outcome.is_err() {
            let _ = tokio::fs::remove_file(&temporary).await;
        }
        outcome
    }

    async fn fetch_into(
        &self,
        image: &ImageSpec,
        temporary: &Path,
        base: &Path,
    ) -> Result<(), DriverError> {
        const DOING: &str = "write a base image";
        let url = format!("{}/v2/images/{}/file", self.image_url, image.id);
        tracing::info!(image.id = %image.id, image.size = image.size, "fetching the image");
        let request = self.client.get(&url).send().await;
        let mut response = request
            .and_then(reqwest::Response::error_for_status)
            .map_err(|error| fetch_failed(image, &error))?;
        let mut file = tokio::fs::File::create_new(temporary).await.doing(DOING)?;
        let (mut digest, mut size) = (Sha256::new(), 0i64);
        while let Some(chunk) =
            response.chunk().await.map_err(|error| fetch_failed(image, &error))?
        {
            size += i64::try_from(chunk.len()).unwrap_or(i64::MAX);
            if size > image.size {
                break;
            }
            digest.update(&chunk);
            file.write_all(&chunk).await.doing(DOING)?;
        }
        file.flush().await.doing(DOING)?;
        drop(file);
        if size != image.size {
            return Err(invalid(
                image,
                &format!("it should have {} bytes, not {size}", image.size),
            ));
        }
        let sha256 = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        if sha256 != image.sha256 {
            return Err(invalid(image, &format!("its SHA-256 is {sha256}, not {}", image.sha256)));
        }
        check(temporary, image).await?;
        let (temporary, base) = (temporary.to_owned(), base.to_owned());
        files::blocking(DOING, move || files::publish(&temporary, &base)).await
    }
}

/// Whether a file is the image that it is said to be, as far as its header and size tell.
async fn check(path: &Path, image: &ImageSpec) -> Result<(), DriverError> {
    let path = path.to_owned();
    let (head, length) =
        files::blocking("read an image's header", move || whimbrel_disk_image::read_head(&path))
            .await?;
    if i64::try_from(length).ok() != Some(image.size) {
        return Err(invalid(image, &format!("it has {length} bytes, not {}", image.size)));
    }
    let virtual_size = whimbrel_disk_image::inspect(image.format, &head, length)
        .map_err(|error| invalid(image, &error.to_string()))?;
    if i64::try_from(virtual_size).ok() != Some(image.virtual_size) {
        let said = image.virtual_size;
        return Err(invalid(image, &format!("its disk has {virtual_size} bytes, not {said}")));
    }
    Ok(())
}

/// The size of the root disk, in bytes: the flavor's, or the image's own if the flavor names none.
pub(crate) fn root_disk_size(image: &ImageSpec, disk_gib: i64) -> Result<i64, DriverError> {
    if disk_gib == 0 {
        return Ok(image.virtual_size);
    }
    let size = disk_gib.saturating_mul(GIB);
    if image.virtual_size > size {
        return Err(DriverError::InvalidImage(format!(
            "image {} needs a disk of {} bytes, the flavor has {disk_gib} GiB: take a larger flavor",
            image.id, image.virtual_size
        )));
    }
    Ok(size)
}

fn invalid(image: &ImageSpec, problem: &str) -> DriverError {
    DriverError::InvalidImage(format!("image {} can't be used: {problem}", image.id))
}

/// A store that says no has not got the image; one that is silent may have it, so it is worth asking again.
fn fetch_failed(image: &ImageSpec, error: &reqwest::Error) -> DriverError {
    if error.status().is_some_and(|status| status.is_client_error()) {
        return invalid(image, &format!("the image store refuses it: {error}"));
    }
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    DriverError::Unavailable(format!("fetching image {}: {message}", image.id))
}

#[cfg(test)]
mod tests;
