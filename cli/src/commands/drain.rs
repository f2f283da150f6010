//! `whimbrel host drain`: every server off a host.

use std::cell::Cell as Counter;
use std::time::Instant;

use clap::Args;
use futures::StreamExt;
use serde_json::json;

use super::{Session, host, server_moves};
use crate::board::Line;
use crate::error::Failure;
use crate::model::Server;
use crate::names;
use crate::output::{Cell, List};
use crate::progress::clock;
use crate::wait::Watch;

/// States in which a server rests.
const RESTS: [&str; 5] = ["ACTIVE", "SHUTOFF", "VERIFY_RESIZE", "PAUSED", "ERROR"];

#[derive(Debug, Args)]
#[command(
    after_help = "The host is disabled first, so that nothing comes back, and stays so. Servers that can't be moved are named with\nthe reason, and the exit status is 1; run it again once that is mended. Ctrl-C begins no more moves and ends the\nwatching; moves that have begun go on.\n\nExamples:\n  whimbrel host drain host-a --dry-run\n  whimbrel host drain host-a --reason 'new memory' --concurrency 4"
)]
pub(crate) struct Drain {
    /// The host's name
    host: String,
    /// Why, for those who see that the host is disabled
    #[arg(long, value_name = "TEXT", default_value = "being drained")]
    reason: String,
    /// How many servers move at the same time
    #[arg(short = 'j', long, value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    concurrency: u16,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// How a server is brought away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Live,
    /// And confirmed at once: a server that is shut off has nothing to be looked at.
    Cold,
    /// It can't be, for this reason.
    Not(&'static str),
}

impl How {
    fn of(server: &Server) -> Self {
        match server.status.as_str() {
            "ACTIVE" => Self::Live,
            "SHUTOFF" => Self::Cold,
            "VERIFY_RESIZE" => Self::Not("it waits for its last move to be confirmed or reverted"),
            "ERROR" => Self::Not("it is in ERROR; see: whimbrel server show"),
            _ => Self::Not("it neither runs nor is shut off"),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Cold => "cold",
            Self::Not(_) => "",
        }
    }
}

/// What became of a server.
struct Outcome {
    server: Server,
    how: How,
    seconds: f64,
    result: Result<Option<String>, String>,
}

pub(crate) async fn run(session: &Session, drain: &Drain) -> Result<(), Failure> {
    let service = names::host(&session.client, &drain.host).await?;
    let name = service["host"].as_str().unwrap_or_default().to_owned();
    if !drain.dry_run && service["status"] != "disabled" {
        host::change(session, &name, &host::disabled(Some(&drain.reason))).await?;
    }
    let servers = on_host(session, &name).await?;
    if drain.dry_run {
        return plan(session, &servers);
    }
    let watch = session.watch(None);
    let goes_on = format!(
        "Moves that have begun go on. Watch them: whimbrel migration watch; go on: whimbrel host drain {name}"
    );
    let work = all(session, &watch, &name, servers, usize::from(drain.concurrency));
    let outcomes = watch.over(&goes_on, work).await?;
    session.list(&summary(&outcomes))?;
    let left = on_host(session, &name).await?;
    if left.is_empty() {
        session.board.note(&format!(
            "Nothing is left on {name}. It stays disabled: whimbrel host enable {name}"
        ));
        return Ok(());
    }
    let what = format!("{} of the servers on {name} could not be moved.", left.len());
    Err(Failure::failed(what)
        .next("Mend what the list says, then drain it again.")
        .next(format!("See them: whimbrel server list --host {name}")))
}

async fn on_host(session: &Session, host: &str) -> Result<Vec<Server>, Failure> {
    let query = [("all_tenants", "1"), ("host", host)];
    let marker = |server: &Server| Some(server.id.clone());
    session.client.pages(&["servers", "detail"], "servers", &query, None, marker).await
}

fn plan(session: &Session, servers: &[Server]) -> Result<(), Failure> {
    let row = |server: &Server| {
        let how = How::of(server);
        let why = if let How::Not(why) = how { why } else { "" };
        let task = server.task.clone();
        vec![
            server.name.clone().into(),
            server.id.clone().into(),
            server.status.clone().into(),
            task.into(),
            how.word().into(),
            why.into(),
        ]
    };
    session.list(&List {
        columns: vec!["name", "id", "status", "task", "how", "why"],
        rows: servers.iter().map(row).collect(),
    })
}

async fn all(
    session: &Session,
    watch: &Watch<'_>,
    host: &str,
    servers: Vec<Server>,
    at_once: usize,
) -> Result<Vec<Outcome>, Failure> {
    let total = servers.len();
    let done = Counter::new(0);
    let whole = std::cell::RefCell::new(session.board.line(host));
    whole.borrow_mut().part(0, total);
    let one = |server: Server| {
        let (done, whole) = (&done, &whole);
        async move {
            let begun = Instant::now();
            let mut line = session.board.line(&server.name);
            let (how, result) = away(session, watch, &mut line, host, &server).await;
            match &result {
                Ok(Some(to)) => line.end(&format!("now on {to}")),
                Ok(None) => line.end("gone by itself"),
                Err(why) => line.end(&format!("not moved: {why}")),
            }
            done.set(done.get() + 1);
            whole.borrow_mut().part(done.get(), total);
            Outcome { server, how, seconds: begun.elapsed().as_secs_f64(), result }
        }
    };
    Ok(futures::stream::iter(servers).map(one).buffer_unordered(at_once).collect().await)
}

/// Where it went; nothing if it had gone by itself, or why it is still there.
async fn away(
    session: &Session,
    watch: &Watch<'_>,
    line: &mut Line,
    host: &str,
    listed: &Server,
) -> (How, Result<Option<String>, String>) {
    // Whatever is going on with it comes to its end first.
    let server = match watch.server(line, &listed.id, &RESTS, None).await {
        Ok(server) => server,
        Err(failure) if failure.status == Some(404) => return (How::of(listed), Ok(None)),
        Err(failure) => return (How::of(listed), Err(failure.to_string())),
    };
    let how = How::of(&server);
    if server.host.as_deref() != Some(host) {
        return (how, Ok(server.host));
    }
    if let How::Not(why) = how {
        return (how, Err(why.to_owned()));
    }
    let moved = one(session, watch, line, &server, how).await;
    (how, moved.map(|server| server.host).map_err(|failure| failure.to_string()))
}

async fn one(
    session: &Session,
    watch: &Watch<'_>,
    line: &mut Line,
    server: &Server,
    how: How,
) -> Result<Server, Failure> {
    let (action, goals) = match how {
        How::Live => (server_moves::live(None, &json!("auto")), &["ACTIVE"][..]),
        _ => (server_moves::cold(None), &["VERIFY_RESIZE"][..]),
    };
    let begun = watch.begin(&server.id, &action, None).await?;
    let (moved, _) = watch.moved(line, server, &begun, goals).await?;
    if how == How::Live {
        return Ok(moved);
    }
    let confirm = json!({ "confirmResize": null });
    let request_id = names::act(&session.client, &server.id, &confirm, None).await?;
    watch.server(line, &server.id, &["SHUTOFF", "ACTIVE"], request_id.as_deref()).await
}

fn summary(outcomes: &[Outcome]) -> List {
    let row = |outcome: &Outcome| {
        let (result, destination, why) = match &outcome.result {
            Ok(to) => ("done", to.clone(), None),
            Err(why) => ("left", None, Some(why.clone())),
        };
        let time = std::time::Duration::from_secs_f64(outcome.seconds);
        vec![
            outcome.server.name.clone().into(),
            outcome.server.id.clone().into(),
            outcome.how.word().into(),
            result.into(),
            destination.into(),
            Cell::shown((outcome.seconds * 10.0).round() / 10.0, clock(time)),
            why.into(),
        ]
    };
    List {
        columns: vec!["name", "id", "how", "result", "destination", "seconds", "why"],
        rows: outcomes.iter().map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_servers_move_live_and_others_only_where_that_is_safe() {
        for (status, how) in
            [("ACTIVE", "live"), ("SHUTOFF", "cold"), ("ERROR", ""), ("VERIFY_RESIZE", "")]
        {
            let server = json!({ "id": "1", "name": "n", "status": status });
            assert_eq!(How::of(&serde_json::from_value(server).unwrap()).word(), how, "{status}");
        }
    }
}
