//! `whimbrel server create`

use clap::Args;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::Session;
use super::server::fields;
use crate::client::Service;
use crate::error::Failure;
use crate::model::Server;
use crate::names;
use crate::wait::WaitOptions;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  whimbrel server create --image debian --flavor small --network net --wait web\n  whimbrel server create --image debian --flavor small --host host-a web"
)]
pub(crate) struct Create {
    /// Its name
    name: String,
    /// What its disk begins as
    #[arg(long)]
    image: String,
    /// Its size
    #[arg(long)]
    flavor: String,
    /// A network to plug it into, with an address of it if need be; may be given several times. The only network
    /// there is if none is given
    #[arg(long = "network", value_name = "NETWORK[=ADDRESS]", conflicts_with = "no_network")]
    networks: Vec<String>,
    /// Plug it into no network
    #[arg(long)]
    no_network: bool,
    /// The host to make it on, for administrators
    #[arg(long)]
    host: Option<String>,
    /// The availability zone to make it in
    #[arg(long)]
    zone: Option<String>,
    /// A key pair that its users log in with
    #[arg(long, value_name = "NAME")]
    key_name: Option<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// A property; may be given several times
    #[arg(long = "property", value_name = "NAME=VALUE")]
    properties: Vec<String>,
    /// A tag; may be given several times
    #[arg(long = "tag")]
    tags: Vec<String>,
    /// A hint for the scheduler, such as group=ID; may be given several times
    #[arg(long = "hint", value_name = "NAME=VALUE")]
    hints: Vec<String>,
    #[command(flatten)]
    wait: WaitOptions,
}

fn pairs(texts: &[String], flag: &str) -> Result<Map<String, Value>, Failure> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), json!(value))),
        _ => Err(Failure::usage(format!("'{text}' is no {flag}: it looks like NAME=VALUE."))),
    };
    texts.iter().map(pair).collect()
}

async fn networks(session: &Session, create: &Create) -> Result<Value, Failure> {
    if create.no_network {
        return Ok(json!("none"));
    }
    if create.networks.is_empty() {
        return Ok(json!("auto"));
    }
    let mut list = Vec::new();
    for text in &create.networks {
        let (name, address) = text
            .split_once('=')
            .map_or((text.as_str(), None), |(name, address)| (name, Some(address)));
        let network = names::network(&session.client, name).await?;
        let mut wanted = json!({ "uuid": network["id"] });
        if let Some(address) = address {
            wanted["fixed_ip"] = json!(address);
        }
        list.push(wanted);
    }
    Ok(json!(list))
}

async fn request(session: &Session, create: &Create) -> Result<Value, Failure> {
    let (image, flavor) = (&create.image, &create.flavor);
    let image = names::image(&session.client, image).await?;
    let flavor = names::flavor(&session.client, flavor).await?;
    let mut server = json!({
        "name": create.name,
        "imageRef": image["id"],
        "flavorRef": flavor["id"],
        "networks": networks(session, create).await?,
        "metadata": pairs(&create.properties, "property")?,
    });
    for (name, value) in [
        ("host", &create.host),
        ("availability_zone", &create.zone),
        ("key_name", &create.key_name),
        ("description", &create.description),
    ] {
        if let Some(value) = value {
            server[name] = json!(value);
        }
    }
    if !create.tags.is_empty() {
        server["tags"] = json!(create.tags);
    }
    let hints = pairs(&create.hints, "hint")?;
    let mut body = json!({ "server": server });
    if !hints.is_empty() {
        body["os:scheduler_hints"] = hints.into();
    }
    Ok(body)
}

pub(super) async fn run(session: &Session, create: Create) -> Result<(), Failure> {
    let body = request(session, &create).await?;
    let ask = session.client.ask(Method::POST, Service::Compute, &["servers"]).json(&body);
    let answer = ask.send().await?;
    let request_id = answer.request_id.clone();
    let id = answer.body["server"]["id"].as_str().unwrap_or_default().to_owned();
    if create.wait.wait {
        let watch = session.watch(create.wait.timeout);
        let mut line = session.board.line(&create.name);
        let goes_on = format!("It goes on; look: whimbrel server show {id}");
        let made = watch.server(&mut line, &id, &["ACTIVE"], request_id.as_deref());
        watch.over(&goes_on, made).await?;
        line.end("made");
    }
    let ask = session.client.get(Service::Compute, &["servers", &id]);
    session.show(&fields(&ask.send().await?.read::<Server>("server")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_to_the_first_equals_sign() {
        let texts = ["a=b=c".to_owned(), "d=".to_owned()];
        assert_eq!(Value::Object(pairs(&texts, "hint").unwrap()), json!({ "a": "b=c", "d": "" }));
        for bad in ["a", "=b"] {
            assert_eq!(pairs(&[bad.to_owned()], "hint").unwrap_err().kind as u8, 2);
        }
    }
}
