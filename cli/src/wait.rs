//! Watching what was begun until it ends.

use std::time::Duration;

use clap::Args;
use reqwest::Method;
use tokio::time::{Instant, sleep};

use crate::board::Line;
use crate::client::{Client, Service};
use crate::error::{Failure, Kind};
use crate::model::{Migration, Server};
use crate::names;

/// How often it is looked.
const INTERVAL: Duration = Duration::from_millis(500);
/// For how long a service may be away while somebody watches.
const AWAY: Duration = Duration::from_secs(120);
/// How long a new migration may take to be listed.
const LISTED: Duration = Duration::from_secs(10);

/// Whether and how long it is waited.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct WaitOptions {
    /// Wait until it is over, and show how far it is
    #[arg(short, long)]
    pub(crate) wait: bool,
    /// Wait for so long at most; what was begun goes on
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    pub(crate) timeout: Option<u64>,
}

/// Watches for as long as it may.
#[derive(Clone, Debug)]
pub(crate) struct Watch<'a> {
    client: &'a Client,
    until: Option<Instant>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(client: &'a Client, timeout: Option<u64>) -> Self {
        let until = timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        Self { client, until }
    }

    /// Runs `work` unless the time is over or somebody presses Ctrl-C first: that ends the watching only.
    pub(crate) async fn over<T>(
        &self,
        goes_on: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let until = self.until;
        let late = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            done = work => done,
            () = late => Err(Failure::timed_out("The time for waiting is over.").next(goes_on)),
            told = tokio::signal::ctrl_c() => {
                told.map_err(|error| Failure::failed("Ctrl-C can't be heard.").because(error))?;
                Err(Failure::interrupted("Stopped watching; nothing was called off.").next(goes_on))
            }
        }
    }

    /// Looks once more, also if the service is away for a while.
    async fn look<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        line: &mut Line,
        mut look: impl FnMut() -> F,
    ) -> Result<T, Failure> {
        let begun = Instant::now();
        loop {
            match look().await {
                // Nobody becomes known by asking again.
                Err(failure)
                    if failure.kind == Kind::Unreachable
                        && failure.status != Some(401)
                        && begun.elapsed() < AWAY =>
                {
                    line.say("the service is away; looking again");
                    sleep(INTERVAL).await;
                }
                other => return other,
            }
        }
    }

    /// Why a request ended badly, if it did.
    async fn fault(&self, server: &str, request_id: Option<&str>) -> Option<String> {
        let path = ["servers", server, "os-instance-actions", request_id?];
        let answer = self.client.get(Service::Compute, &path).send().await.ok()?;
        let action = &answer.body["instanceAction"];
        let message = action["message"].as_str()?;
        let events = action["events"].as_array().into_iter().flatten();
        let details = events.filter_map(|event| event["details"].as_str()).next_back();
        Some(match details.filter(|details| !message.contains(details)) {
            Some(details) => format!("{message} ({details})"),
            None => message.to_owned(),
        })
    }

    /// Until a server rests in one of these states, or can't.
    pub(crate) async fn server(
        &self,
        line: &mut Line,
        id: &str,
        goals: &[&str],
        request_id: Option<&str>,
    ) -> Result<Server, Failure> {
        loop {
            let server: Server = self
                .look(line, || async {
                    self.client.get(Service::Compute, &["servers", id]).send().await?.read("server")
                })
                .await?;
            let doing = server.task.as_deref().map(|task| format!(", {task}")).unwrap_or_default();
            line.say(&format!("{}{doing}", server.status));
            if server.task.is_none() {
                let there = goals.contains(&server.status.as_str());
                let fault = self.fault(id, request_id).await;
                if let Some(message) = fault {
                    return Err(ended_badly(&server, &message));
                }
                if there {
                    return Ok(server);
                }
                if server.status == "ERROR" {
                    let message = server.fault.as_ref().map(|fault| fault.message.as_str());
                    return Err(ended_badly(&server, message.unwrap_or("no reason is given")));
                }
            }
            sleep(INTERVAL).await;
        }
    }

    /// Until a server is gone.
    pub(crate) async fn gone(&self, line: &mut Line, id: &str) -> Result<(), Failure> {
        loop {
            let looked = self
                .look(line, || async {
                    match self.client.get(Service::Compute, &["servers", id]).send().await {
                        Ok(answer) => answer.read::<Server>("server").map(Some),
                        Err(failure) if failure.status == Some(404) => Ok(None),
                        Err(failure) => Err(failure),
                    }
                })
                .await?;
            let Some(server) = looked else { return Ok(()) };
            if server.status == "ERROR" && server.task.is_none() {
                let message = server.fault.as_ref().map(|fault| fault.message.as_str());
                return Err(ended_badly(&server, message.unwrap_or("no reason is given")));
            }
            line.say(server.task.as_deref().unwrap_or(&server.status));
            sleep(INTERVAL).await;
        }
    }

    /// All that the caller may know of a migration.
    pub(crate) async fn migration_now(&self, known: &Migration) -> Result<Migration, Failure> {
        let (server, number) = (known.instance_uuid.as_str(), known.id.to_string());
        let path = ["servers", server, "migrations", &number];
        // Whimbrel tells administrators everything at once.
        match self.client.get(Service::Own, &path).send().await {
            Ok(answer) => return answer.read("migration"),
            Err(failure) if matches!(failure.status, Some(403 | 404)) => {}
            Err(failure) => return Err(failure),
        }
        match self.client.get(Service::Compute, &path).send().await {
            Ok(answer) => {
                let migration_type = known.migration_type.clone();
                return Ok(Migration { migration_type, ..answer.read("migration")? });
            }
            Err(failure) if failure.status == Some(404) => {}
            Err(failure) => return Err(failure),
        }
        // It is no live migration, or it has ended.
        let all = names::migrations(self.client, &[("instance_uuid", server)], None).await?;
        all.into_iter().find(|one| one.id == known.id).ok_or_else(|| {
            Failure::refused(format!("The migration {number} is not listed any more."))
        })
    }

    /// Until a migration is over, whichever way.
    pub(crate) async fn migration(
        &self,
        line: &mut Line,
        known: &Migration,
    ) -> Result<Migration, Failure> {
        loop {
            let now = self.look(line, || self.migration_now(known)).await?;
            line.migration(&now);
            if now.is_over() {
                return Ok(now);
            }
            sleep(INTERVAL).await;
        }
    }

    /// The last migration of a server, if the caller may know; none if there is none.
    pub(crate) async fn last(&self, server: &str) -> Result<Option<Migration>, Failure> {
        match names::migrations(self.client, &[("instance_uuid", server)], Some(1)).await {
            // Users who may resize need not be allowed to see migrations.
            Err(failure) if failure.status == Some(403) => Ok(None),
            other => Ok(other?.into_iter().next()),
        }
    }

    /// Begins a move of a server. Its migration, if the caller may know it, and the id of the request.
    pub(crate) async fn begin(
        &self,
        server: &str,
        action: &serde_json::Value,
        version: Option<&str>,
    ) -> Result<(Option<Migration>, Option<String>), Failure> {
        let path = [("instance_uuid", server)];
        let before = match names::migrations(self.client, &path, Some(1)).await {
            Ok(list) => Some(list.first().map_or(0, |one| one.id)),
            Err(failure) if failure.status == Some(403) => None,
            Err(failure) => return Err(failure),
        };
        let request_id = names::act(self.client, server, action, version).await?;
        let Some(before) = before else { return Ok((None, request_id)) };
        // Other services of this API list it some time later.
        let begun = Instant::now();
        loop {
            let new = self.last(server).await?.filter(|one| one.id != before);
            if new.is_some() || begun.elapsed() > LISTED {
                return Ok((new, request_id));
            }
            sleep(INTERVAL).await;
        }
    }

    /// Follows a move that has begun to its end.
    pub(crate) async fn moved(
        &self,
        line: &mut Line,
        server: &Server,
        begun: &(Option<Migration>, Option<String>),
        goals: &[&str],
    ) -> Result<(Server, Option<Migration>), Failure> {
        let (migration, request_id) = begun;
        let ended = match migration {
            Some(migration) => Some(self.migration(line, migration).await?),
            None => None,
        };
        if let Some(ended) = ended.as_ref().filter(|ended| !ended.ended_well()) {
            let told = self.fault(&server.id, request_id.as_deref()).await;
            let told = told.or_else(|| ended.fault().map(ToOwned::to_owned));
            let what = match (ended.status.as_str(), told) {
                ("cancelled", _) => "it was called off".to_owned(),
                (status, None) => format!("the migration ended as {status}"),
                (_, Some(told)) => told,
            };
            let failure = Failure::failed(format!("{} was not moved: {what}", server.name));
            let server = &server.name;
            return Err(failure
                .next(format!("See where it is: whimbrel server show {server}"))
                .next(format!("See what was tried: whimbrel event list {server}")));
        }
        // Of a move that is over nobody asks whether the request that began it went well.
        let request_id = request_id.as_deref().filter(|_| ended.is_none());
        let server = self.server(line, &server.id, goals, request_id).await?;
        Ok((server, ended))
    }

    /// Calls a migration off, or has it end soon.
    pub(crate) async fn decide(
        &self,
        migration: &Migration,
        method: Method,
        action: Option<&serde_json::Value>,
    ) -> Result<(), Failure> {
        let number = migration.id.to_string();
        let server = migration.instance_uuid.as_str();
        let mut path = vec!["servers", server, "migrations", &number];
        path.extend(action.map(|_| "action"));
        let ask = self.client.ask(method, Service::Compute, &path);
        match action {
            Some(action) => ask.json(action).send().await?,
            None => ask.send().await?,
        };
        Ok(())
    }
}

fn ended_badly(server: &Server, why: &str) -> Failure {
    let Server { name, status, .. } = server;
    Failure::failed(format!("{name} is {status}: {why}"))
        .next(format!("See what was tried: whimbrel event list {name}"))
}
