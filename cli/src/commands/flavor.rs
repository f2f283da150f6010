//! `whimbrel flavor`

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Session, each, fields, listing};
use crate::client::Service;
use crate::error::Failure;
use crate::names;

const SHOWN: [(&str, &str); 8] = [
    ("id", "id"),
    ("name", "name"),
    ("vcpus", "vcpus"),
    ("ram_mib", "ram"),
    ("disk_gib", "disk"),
    ("public", "os-flavor-access:is_public"),
    ("description", "description"),
    ("extra_specs", "extra_specs"),
];

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List flavors
    List,
    /// Show a flavor
    Show(Name),
    /// Make a flavor
    Create(Create),
    /// Delete flavors; servers keep the sizes that they were made with
    Delete(Names),
}

#[derive(Debug, Args)]
pub(crate) struct Name {
    /// The flavor's name or id
    flavor: String,
}

#[derive(Debug, Args)]
pub(crate) struct Names {
    /// Names or ids
    #[arg(required = true)]
    flavors: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  whimbrel flavor create --vcpus 2 --ram 2048 --disk 20 small")]
pub(crate) struct Create {
    /// Its name
    name: String,
    /// Processors
    #[arg(long)]
    vcpus: u32,
    /// Memory in MiB
    #[arg(long, value_name = "MIB")]
    ram: u64,
    /// Disk in GiB; 0 is as large as the image
    #[arg(long, value_name = "GIB", default_value_t = 0)]
    disk: u64,
    /// Its id; else it is chosen
    #[arg(long)]
    id: Option<String>,
    /// Only for projects that are given the use of it
    #[arg(long)]
    private: bool,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::List => {
            let all = names::flavors(&session.client).await?;
            session.list(&listing(&all, &SHOWN[..6]))
        }
        Command::Show(name) => {
            let flavor = names::flavor(&session.client, &name.flavor).await?;
            session.show(&fields(&flavor, &SHOWN))
        }
        Command::Create(create) => {
            let mut flavor = json!({
                "name": create.name, "vcpus": create.vcpus, "ram": create.ram, "disk": create.disk,
                "os-flavor-access:is_public": !create.private,
            });
            for (name, value) in [("id", &create.id), ("description", &create.description)] {
                if let Some(value) = value {
                    flavor[name] = json!(value);
                }
            }
            let ask = session.client.ask(Method::POST, Service::Compute, &["flavors"]);
            let made: Value =
                ask.json(&json!({ "flavor": flavor })).send().await?.read("flavor")?;
            session.show(&fields(&made, &SHOWN))
        }
        Command::Delete(names) => {
            each(session, &names.flavors, |name| async move {
                let flavor = names::flavor(&session.client, name).await?;
                let path = ["flavors", flavor["id"].as_str().unwrap_or_default()];
                session.client.ask(Method::DELETE, Service::Compute, &path).send().await.map(drop)
            })
            .await
        }
    }
}
