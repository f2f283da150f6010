//! `whimbrel server`

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::server_create::{self, Create};
use super::server_moves::{self, Evacuate, Migrate, One, Resize};
use super::{Session, each, migration};
use crate::client::Service;
use crate::error::Failure;
use crate::model::Server;
use crate::names;
use crate::output::{Fields, List};
use crate::wait::WaitOptions;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a server
    Create(Box<Create>),
    /// List servers
    List(ListOptions),
    /// Show a server
    Show(Name),
    /// Delete servers
    Delete(Several),
    /// Start servers that are shut off
    Start(Several),
    /// Shut servers off
    Stop(Several),
    /// Reboot servers
    Reboot(Reboot),
    /// Move a server to another host: live, or shut off on the way
    Migrate(Migrate),
    /// Give a server another size
    Resize(Resize),
    /// Keep the server where and as it is after a resize or cold migration
    Confirm(One),
    /// Bring the server back to where and as it was before a resize or cold migration
    Revert(One),
    /// Have a server of a lost host on another one
    Evacuate(Evacuate),
    /// List the migrations of a server
    Migrations(Name),
}

#[derive(Debug, Args)]
pub(crate) struct Name {
    /// The server's name or id
    server: String,
}

#[derive(Debug, Args)]
pub(crate) struct Several {
    /// Names or ids
    #[arg(required = true)]
    servers: Vec<String>,
    #[command(flatten)]
    wait: WaitOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Reboot {
    #[command(flatten)]
    some: Several,
    /// Do not ask the guest: switch it off and on
    #[arg(long)]
    hard: bool,
}

/// List servers
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  whimbrel server list --host host-a --all-projects\n  whimbrel server list --status ERROR -f value -c id"
)]
pub(crate) struct ListOptions {
    /// Those of all projects, for administrators
    #[arg(long)]
    all_projects: bool,
    /// Those on a host, for administrators
    #[arg(long)]
    host: Option<String>,
    /// Those in a state, such as ACTIVE
    #[arg(long)]
    status: Option<String>,
    /// Those whose names fit a regular expression
    #[arg(long, value_name = "PATTERN")]
    name: Option<String>,
    /// So many at most
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

/// What a server does at once.
#[derive(Clone, Copy, Debug)]
enum Simple {
    Start,
    Stop,
    Reboot,
    RebootHard,
    Delete,
}

impl Simple {
    fn action(self) -> Value {
        match self {
            Self::Start => json!({ "os-start": null }),
            Self::Stop => json!({ "os-stop": null }),
            Self::Reboot => json!({ "reboot": { "type": "SOFT" } }),
            Self::RebootHard => json!({ "reboot": { "type": "HARD" } }),
            Self::Delete => Value::Null,
        }
    }

    /// The state that it ends in, and how people say it.
    fn end(self) -> (&'static str, &'static str) {
        match self {
            Self::Start => ("ACTIVE", "started"),
            Self::Stop => ("SHUTOFF", "stopped"),
            Self::Reboot | Self::RebootHard => ("ACTIVE", "rebooted"),
            Self::Delete => ("DELETED", "deleted"),
        }
    }
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(create) => server_create::run(session, *create).await,
        Command::List(options) => list(session, &options).await,
        Command::Show(name) => {
            let server = names::server(&session.client, &name.server).await?;
            session.show(&fields(&server))
        }
        Command::Delete(some) => simple(session, some, Simple::Delete).await,
        Command::Start(some) => simple(session, some, Simple::Start).await,
        Command::Stop(some) => simple(session, some, Simple::Stop).await,
        Command::Reboot(Reboot { some, hard }) => {
            let kind = if hard { Simple::RebootHard } else { Simple::Reboot };
            simple(session, some, kind).await
        }
        Command::Migrate(migrate) => server_moves::migrate(session, migrate).await,
        Command::Resize(resize) => server_moves::resize(session, resize).await,
        Command::Confirm(one) => server_moves::confirm(session, one).await,
        Command::Revert(one) => server_moves::revert(session, one).await,
        Command::Evacuate(evacuate) => server_moves::evacuate(session, evacuate).await,
        Command::Migrations(name) => {
            let server = names::server(&session.client, &name.server).await?;
            let query = [("instance_uuid", server.id.as_str())];
            let found = names::migrations(&session.client, &query, None).await?;
            session.list(&migration::listing(&found))
        }
    }
}

async fn list(session: &Session, options: &ListOptions) -> Result<(), Failure> {
    let mut query = Vec::new();
    // Whoever asks for a host asks for whatever is on it.
    if options.all_projects || options.host.is_some() {
        query.push(("all_tenants", "1"));
    }
    let filters = [("host", &options.host), ("status", &options.status), ("name", &options.name)];
    query.extend(filters.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))));
    let marker = |server: &Server| Some(server.id.clone());
    let path = ["servers", "detail"];
    let found =
        session.client.pages::<Server>(&path, "servers", &query, options.limit, marker).await?;
    let row = |server: &Server| {
        vec![
            server.id.clone().into(),
            server.name.clone().into(),
            server.status.clone().into(),
            server.task.clone().into(),
            server.host.clone().into(),
            server.flavor().into(),
            server.addresses().into(),
        ]
    };
    session.list(&List {
        columns: vec!["id", "name", "status", "task", "host", "flavor", "addresses"],
        rows: found.iter().map(row).collect(),
    })
}

/// All of a server that people ask for.
pub(crate) fn fields(server: &Server) -> Fields {
    let flavor = server.field("flavor");
    let fault = server.fault.as_ref().map(|fault| fault.message.clone());
    let mut fields: Fields = vec![
        ("id", server.id.clone().into()),
        ("name", server.name.clone().into()),
        ("status", server.status.clone().into()),
        ("task", server.task.clone().into()),
        ("fault", fault.into()),
        ("host", server.host.clone().into()),
        ("flavor", server.flavor().into()),
        ("vcpus", flavor["vcpus"].clone().into()),
        ("ram_mib", flavor["ram"].clone().into()),
        ("disk_gib", flavor["disk"].clone().into()),
        ("addresses", server.addresses().into()),
        ("image_id", server.field("image")["id"].clone().into()),
    ];
    for (shown, name) in [
        ("zone", "OS-EXT-AZ:availability_zone"),
        ("key_name", "key_name"),
        ("description", "description"),
        ("properties", "metadata"),
        ("tags", "tags"),
        ("locked", "locked"),
        ("project_id", "tenant_id"),
        ("user_id", "user_id"),
        ("created_at", "created"),
        ("launched_at", "OS-SRV-USG:launched_at"),
        ("updated_at", "updated"),
    ] {
        fields.push((shown, server.field(name).into()));
    }
    fields
}

async fn simple(session: &Session, some: Several, what: Simple) -> Result<(), Failure> {
    let wait = some.wait;
    each(session, &some.servers, |name| one(session, name, wait, what)).await
}

async fn one(
    session: &Session,
    name: &str,
    wait: WaitOptions,
    what: Simple,
) -> Result<(), Failure> {
    let server = names::server(&session.client, name).await?;
    let request_id = match what {
        Simple::Delete => {
            let path = ["servers", server.id.as_str()];
            let ask = session.client.ask(Method::DELETE, Service::Compute, &path);
            ask.send().await?.request_id
        }
        other => names::act(&session.client, &server.id, &other.action(), None).await?,
    };
    if !wait.wait {
        return Ok(());
    }
    let watch = session.watch(wait.timeout);
    let mut line = session.board.line(&server.name);
    let (goal, done) = what.end();
    let goes_on = format!("It goes on; look: whimbrel server show {}", server.id);
    let work = async {
        match what {
            Simple::Delete => watch.gone(&mut line, &server.id).await,
            _ => {
                watch.server(&mut line, &server.id, &[goal], request_id.as_deref()).await.map(drop)
            }
        }?;
        line.end(done);
        Ok(())
    };
    watch.over(&goes_on, work).await
}
