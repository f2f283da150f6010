//! `whimbrel network`

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Session, each, fields};
use crate::client::Service;
use crate::error::Failure;
use crate::names;
use crate::output::{Fields, List};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List networks
    List,
    /// Show a network
    Show(Name),
    /// Make a network of a bridge that every host has
    Create(Create),
    /// Delete networks that no server is plugged into
    Delete(Names),
}

#[derive(Debug, Args)]
pub(crate) struct Name {
    /// The network's name or id
    network: String,
}

#[derive(Debug, Args)]
pub(crate) struct Names {
    /// Names or ids
    #[arg(required = true)]
    networks: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  whimbrel network create --bridge br0 --cidr 10.20.0.0/24 net")]
pub(crate) struct Create {
    /// Its name
    name: String,
    /// The bridge
    #[arg(long)]
    bridge: String,
    /// Its addresses
    #[arg(long)]
    cidr: String,
    /// The first address that servers get; else the second of all
    #[arg(long, value_name = "ADDRESS")]
    pool_start: Option<String>,
    /// The last address that servers get; else the last but one of all
    #[arg(long, value_name = "ADDRESS")]
    pool_end: Option<String>,
}

fn shown(network: &Value, subnets: &[Value]) -> Fields {
    let mut shown =
        fields(network, &[("id", "id"), ("name", "name"), ("bridge", "provider:physical_network")]);
    let own = subnets.iter().find(|subnet| subnet["network_id"] == network["id"]);
    let own = own.cloned().unwrap_or_default();
    shown.push(("cidr", own["cidr"].clone().into()));
    let pool = &own["allocation_pools"][0];
    shown.push(("pool_start", pool["start"].clone().into()));
    shown.push(("pool_end", pool["end"].clone().into()));
    shown
}

async fn subnets(session: &Session) -> Result<Vec<Value>, Failure> {
    session.client.get(Service::Network, &["subnets"]).send().await?.read("subnets")
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::List => {
            let ask = session.client.get(Service::Network, &["networks"]);
            let all: Vec<Value> = ask.send().await?.read("networks")?;
            let subnets = subnets(session).await?;
            let row =
                |one: &Value| shown(one, &subnets).into_iter().map(|(_, cell)| cell).collect();
            session.list(&List {
                columns: vec!["id", "name", "bridge", "cidr", "pool_start", "pool_end"],
                rows: all.iter().map(row).collect(),
            })
        }
        Command::Show(name) => {
            let network = names::network(&session.client, &name.network).await?;
            session.show(&shown(&network, &subnets(session).await?))
        }
        Command::Create(create) => {
            let mut network = json!({
                "name": create.name, "provider:physical_network": create.bridge, "cidr": create.cidr,
            });
            for (name, value) in
                [("pool_start", &create.pool_start), ("pool_end", &create.pool_end)]
            {
                if let Some(value) = value {
                    network[name] = json!(value);
                }
            }
            let ask = session.client.ask(Method::POST, Service::Network, &["networks"]);
            let made: Value =
                ask.json(&json!({ "network": network })).send().await?.read("network")?;
            session.show(&shown(&made, &subnets(session).await?))
        }
        Command::Delete(names) => {
            each(session, &names.networks, |name| async move {
                let network = names::network(&session.client, name).await?;
                let path = ["networks", network["id"].as_str().unwrap_or_default()];
                session.client.ask(Method::DELETE, Service::Network, &path).send().await.map(drop)
            })
            .await
        }
    }
}
