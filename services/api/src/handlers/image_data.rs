//! The data of images: taken in once, checked, and never changed again.

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;
use uuid::Uuid;
use whimbrel_db::api;
use whimbrel_model::DiskFormat;

use super::images::{get, get_own};
use crate::auth::Context;
use crate::error::ApiError;
use crate::state::Api;

fn path(api: &Api, id: Uuid) -> PathBuf {
    api.config.image_dir.join(id.to_string())
}

/// A file that goes unless it is kept.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // It has been renamed, or was never made, in the best case.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Removes an image's data, if there is any.
pub(crate) async fn remove(api: &Api, id: Uuid) -> Result<(), ApiError> {
    match tokio::fs::remove_file(path(api, id)).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Takes an image's data in.
#[utoipa::path(put, path = "/v2/images/{image_id}/file", tag = "images",
    params(("image_id" = Uuid, Path)),
    responses((status = 204), (status = 400), (status = 404), (status = 409), (status = 413)))]
pub(crate) async fn upload(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    context: Context,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let row = get_own(&api, &context, &id).await?;
    if row.status == "active" {
        return Err(ApiError::Conflict(format!(
            "Image {id} has its data already, which never changes; make another image."
        )));
    }
    let wanted = request.headers().get("x-image-meta-sha256").cloned();
    let temporary = Temporary(path(&api, row.id).with_extension(Uuid::new_v4().to_string()));
    let (sha256, size) = store(&api, request.into_body(), &temporary).await?;
    if wanted.is_some_and(|wanted| wanted.as_bytes() != sha256.as_bytes()) {
        return Err(ApiError::BadRequest(format!(
            "What arrived has the SHA-256 {sha256}, not the one that was announced. Send it again."
        )));
    }
    let format: DiskFormat =
        row.format.parse().map_err(|_| ApiError::Internal(anyhow::anyhow!("unknown format")))?;
    let file = temporary.0.clone();
    let head = tokio::task::spawn_blocking(move || whimbrel_disk_image::read_head(&file));
    let (head, length) = head.await.map_err(|error| ApiError::Internal(error.into()))??;
    let virtual_size = whimbrel_disk_image::inspect(format, &head, length).map_err(|error| {
        ApiError::BadRequest(format!("Image {id} is not accepted as {format}: {error}."))
    })?;
    let virtual_size = i64::try_from(virtual_size).ok().filter(|size| *size > 0);
    let virtual_size = virtual_size
        .ok_or_else(|| ApiError::BadRequest(format!("Image {id} is not accepted: it is empty.")))?;
    tokio::fs::rename(&temporary.0, path(&api, row.id)).await?;
    tokio::fs::File::open(&api.config.image_dir).await?.sync_all().await?;
    api::image_activate(&mut api.connection().await?, row.id, &sha256, size, virtual_size).await?;
    tracing::info!(image.id = id, size, virtual_size, "image taken in");
    Ok(StatusCode::NO_CONTENT)
}

/// Writes what arrives, and says what it was: SHA-256 in hexadecimal and bytes.
async fn store(api: &Api, body: Body, to: &Temporary) -> Result<(String, i64), ApiError> {
    let mut file = tokio::fs::File::create_new(&to.0).await?;
    let (mut hash, mut size) = (Sha256::new(), 0u64);
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| {
            ApiError::BadRequest(format!("The data ended too early: {error}. Send it again."))
        })?;
        size += chunk.len() as u64;
        if size > api.config.max_image_bytes {
            return Err(ApiError::TooLarge(format!(
                "An image may have {} bytes at most.",
                api.config.max_image_bytes
            )));
        }
        hash.update(&chunk);
        file.write_all(&chunk).await?;
    }
    file.flush().await?;
    file.sync_all().await?;
    let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((sha256, i64::try_from(size).unwrap_or(i64::MAX)))
}

/// Gives an image's data out.
#[utoipa::path(get, path = "/v2/images/{image_id}/file", tag = "images",
    params(("image_id" = Uuid, Path)), responses((status = 200), (status = 204), (status = 404)))]
pub(crate) async fn download(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    context: Context,
) -> Result<Response, ApiError> {
    let row = get(&api, &context, &id).await?;
    if row.status != "active" {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let file = tokio::fs::File::open(path(&api, row.id)).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, row.size.to_string()),
    ];
    Ok((headers, Body::from_stream(ReaderStream::with_capacity(file, 1 << 18))).into_response())
}
