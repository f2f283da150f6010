//! `whimbrel event`: what was done with a server.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Session, fields, listing};
use crate::client::Service;
use crate::error::Failure;
use crate::names;
use crate::output::Format;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List what was done with a server, the newest first
    List(Name),
    /// Show what was done by one request, step by step
    Show(Request),
}

#[derive(Debug, Args)]
pub(crate) struct Name {
    /// The server's name or id, also of one that is deleted
    server: String,
}

#[derive(Debug, Args)]
pub(crate) struct Request {
    #[command(flatten)]
    name: Name,
    /// The request's id; the last one if none is given
    request: Option<String>,
}

const ACTION: [(&str, &str); 5] = [
    ("request_id", "request_id"),
    ("action", "action"),
    ("message", "message"),
    ("started_at", "start_time"),
    ("updated_at", "updated_at"),
];
const STEP: [(&str, &str); 6] = [
    ("event", "event"),
    ("host", "host"),
    ("result", "result"),
    ("started_at", "start_time"),
    ("finished_at", "finish_time"),
    ("details", "details"),
];

/// The id of a server: that of a deleted one is as good.
async fn id(session: &Session, wanted: &str) -> Result<String, Failure> {
    match wanted.parse::<uuid::Uuid>() {
        Ok(id) => Ok(id.to_string()),
        Err(_) => Ok(names::server(&session.client, wanted).await?.id),
    }
}

async fn actions(session: &Session, server: &str) -> Result<Vec<Value>, Failure> {
    let path = ["servers", server, "os-instance-actions"];
    let ask = session.client.get(Service::Compute, &path);
    ask.query(&[("limit", "1000")]).send().await?.read("instanceActions")
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::List(name) => {
            let server = id(session, &name.server).await?;
            session.list(&listing(&actions(session, &server).await?, &ACTION))
        }
        Command::Show(request) => {
            let server = id(session, &request.name.server).await?;
            let request = match request.request {
                Some(request) => request,
                None => {
                    let all = actions(session, &server).await?;
                    let last = all.first().and_then(|one| one["request_id"].as_str());
                    last.map(ToOwned::to_owned).ok_or_else(|| {
                        Failure::refused("Nothing has been done with this server.")
                    })?
                }
            };
            let path = ["servers", server.as_str(), "os-instance-actions", request.as_str()];
            let answer = session.client.get(Service::Compute, &path).send().await?;
            let action: Value = answer.read("instanceAction")?;
            let events = action["events"].as_array().cloned().unwrap_or_default();
            let steps = listing(&events, &STEP);
            if session.output.is(Format::Table) {
                session.show(&fields(&action, &ACTION))?;
                crate::output::print("\n")?;
            }
            session.list(&steps)
        }
    }
}
