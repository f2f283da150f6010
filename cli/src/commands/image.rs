//! `whimbrel image`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use futures::TryStreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use super::{Session, each};
use crate::client::Service;
use crate::error::Failure;
use crate::model::Migration;
use crate::names;
use crate::output::{Cell, Fields, List};
use crate::progress::size;

/// How much of a file is sent at once.
const CHUNK: usize = 1 << 18;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List images
    List,
    /// Show an image
    Show(Name),
    /// Make an image of a file
    Create(Create),
    /// Save an image's data into a file
    Save(Save),
    /// Delete images that no server was made from
    Delete(Names),
}

#[derive(Debug, Args)]
pub(crate) struct Name {
    /// The image's name or id
    image: String,
}

#[derive(Debug, Args)]
pub(crate) struct Names {
    /// Names or ids
    #[arg(required = true)]
    images: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DiskFormat {
    Raw,
    Qcow2,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  whimbrel image create --file debian.qcow2 --disk-format qcow2 --public debian"
)]
pub(crate) struct Create {
    /// Its name
    name: String,
    /// The file
    #[arg(long)]
    file: PathBuf,
    /// How the file is to be read; it is never guessed, because what a guest wrote could be taken for another format
    #[arg(long, value_enum)]
    disk_format: DiskFormat,
    /// For all projects, for administrators
    #[arg(long)]
    public: bool,
    /// The least disk in GiB that servers made of it must have
    #[arg(long, value_name = "GIB", default_value_t = 0)]
    min_disk: u64,
    /// The least memory in MiB that servers made of it must have
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    min_ram: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Save {
    #[command(flatten)]
    name: Name,
    /// The file; it must not be there yet
    #[arg(long)]
    file: PathBuf,
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::List => {
            let all = names::images(&session.client, None).await?;
            let row = |one: &Value| fields(one).into_iter().take(6).map(|(_, cell)| cell).collect();
            session.list(&List {
                columns: vec!["id", "name", "status", "disk_format", "size_bytes", "visibility"],
                rows: all.iter().map(row).collect(),
            })
        }
        Command::Show(name) => {
            session.show(&fields(&names::image(&session.client, &name.image).await?))
        }
        Command::Create(options) => create(session, &options).await,
        Command::Save(options) => save(session, &options).await,
        Command::Delete(names) => {
            each(session, &names.images, |name| async move {
                let image = names::image(&session.client, name).await?;
                let path = ["images", image["id"].as_str().unwrap_or_default()];
                session.client.ask(Method::DELETE, Service::Image, &path).send().await.map(drop)
            })
            .await
        }
    }
}

fn fields(image: &Value) -> Fields {
    let bytes = image["size"].as_u64();
    let bytes = bytes.map_or_else(Cell::default, |value| Cell::shown(value, size(value as f64)));
    let mut shown = super::fields(
        image,
        &[("id", "id"), ("name", "name"), ("status", "status"), ("disk_format", "disk_format")],
    );
    shown.push(("size_bytes", bytes));
    shown.extend(super::fields(
        image,
        &[
            ("visibility", "visibility"),
            ("virtual_size_bytes", "virtual_size"),
            ("min_disk_gib", "min_disk"),
            ("min_ram_mib", "min_ram"),
            ("hash_algorithm", "os_hash_algo"),
            ("hash", "os_hash_value"),
            ("tags", "tags"),
            ("owner", "owner"),
            ("created_at", "created_at"),
        ],
    ));
    shown
}

/// How far the bytes of a file are, as a migration's would be.
fn transfer(status: &str, total: u64, processed: u64) -> Migration {
    Migration {
        status: status.to_owned(),
        disk_total_bytes: Some(total),
        disk_processed_bytes: Some(processed),
        disk_remaining_bytes: Some(total.saturating_sub(processed)),
        ..Migration::default()
    }
}

fn file_failed(path: &std::path::Path, what: &str) -> impl Fn(std::io::Error) -> Failure {
    let text = format!("{} can't be {what}.", path.display());
    move |error| Failure::usage(text.clone()).because(error)
}

async fn create(session: &Session, options: &Create) -> Result<(), Failure> {
    let unreadable = file_failed(&options.file, "read");
    let file = tokio::fs::File::open(&options.file).await.map_err(&unreadable)?;
    let total = file.metadata().await.map_err(&unreadable)?.len();
    let disk_format = options.disk_format.to_possible_value();
    let disk_format = disk_format.map(|value| value.get_name().to_owned());
    let mut image = json!({
        "name": options.name, "disk_format": disk_format, "container_format": "bare",
        "min_disk": options.min_disk, "min_ram": options.min_ram,
    });
    if options.public {
        image["visibility"] = json!("public");
    }
    let ask = session.client.ask(Method::POST, Service::Image, &["images"]);
    let made = ask.json(&image).send().await?.body;
    let id = made["id"].as_str().unwrap_or_default().to_owned();
    let mut line = session.board.line(&options.name);
    let mut sent = 0;
    let stream = ReaderStream::with_capacity(file, CHUNK).inspect_ok(move |chunk| {
        sent += u64::try_from(chunk.len()).unwrap_or_default();
        line.migration(&transfer("sending", total, sent));
    });
    let ask = session.client.ask(Method::PUT, Service::Image, &["images", &id, "file"]);
    if let Err(failure) = ask.bytes(reqwest::Body::wrap_stream(stream)).send().await {
        // An image without data is of no use to anybody.
        let path = ["images", id.as_str()];
        let removed = session.client.ask(Method::DELETE, Service::Image, &path).send().await;
        return Err(match removed {
            Ok(_) => failure,
            Err(_) => failure.next(format!("Remove what was begun: whimbrel image delete {id}")),
        });
    }
    session.show(&fields(&names::image(&session.client, &id).await?))
}

async fn save(session: &Session, options: &Save) -> Result<(), Failure> {
    let image = names::image(&session.client, &options.name.image).await?;
    let id = image["id"].as_str().unwrap_or_default();
    let unwritable = file_failed(&options.file, "written");
    let file = tokio::fs::File::create_new(&options.file).await;
    let mut file = file.map_err(&unwritable)?;
    let mut line = session.board.line(&options.name.image);
    let (total, mut received) = (image["size"].as_u64().unwrap_or_default(), 0);
    let mut response = session.client.stream(Service::Image, &["images", id, "file"]).await?;
    loop {
        let chunk = response.chunk().await.map_err(|error| {
            Failure::unreachable("The image did not come whole.").because(error)
        })?;
        let Some(chunk) = chunk else { break };
        file.write_all(&chunk).await.map_err(&unwritable)?;
        received += u64::try_from(chunk.len()).unwrap_or_default();
        line.migration(&transfer("receiving", total, received));
    }
    file.sync_all().await.map_err(&unwritable)?;
    line.end("saved");
    Ok(())
}
