//! Tokens of the identity service, API v3: one for each run.

use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{message, no_answer, request_id};
use crate::config::{Identity, Named};
use crate::error::Failure;

/// Where services are.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Catalog(Vec<Entry>);

#[derive(Debug, Deserialize)]
struct Entry {
    r#type: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    url: String,
    interface: String,
    region_id: Option<String>,
}

impl Catalog {
    /// Where a kind of service is.
    pub(super) fn endpoint(
        &self,
        kind: &str,
        interface: &str,
        region: Option<&str>,
    ) -> Option<String> {
        let entries = self.0.iter().filter(|entry| entry.r#type == kind);
        let here = |endpoint: &&Endpoint| {
            endpoint.interface == interface
                && region.is_none_or(|region| endpoint.region_id.as_deref() == Some(region))
        };
        let found = entries.flat_map(|entry| &entry.endpoints).find(here)?;
        Some(found.url.clone())
    }
}

fn named(one: &Named) -> Value {
    if let Some(id) = &one.id {
        return json!({ "id": id });
    }
    let mut value = json!({ "name": one.name });
    if let Some(owner) = &one.owner {
        value["user"] = named(owner);
    } else if let Some(domain) = &one.domain_name {
        value["domain"] = json!({ "name": domain });
    } else if let Some(domain) = &one.domain_id {
        value["domain"] = json!({ "id": domain });
    }
    value
}

fn request(identity: &Identity) -> Value {
    match identity {
        Identity::Password { user, password, project } => {
            let mut user = named(user);
            user["password"] = json!(password.reveal());
            json!({ "auth": {
                "identity": { "methods": ["password"], "password": { "user": user } },
                "scope": { "project": named(project) },
            } })
        }
        Identity::ApplicationCredential { credential, secret } => {
            let mut credential = named(credential);
            credential["secret"] = json!(secret.reveal());
            json!({ "auth": { "identity": {
                "methods": ["application_credential"], "application_credential": credential,
            } } })
        }
    }
}

/// A token, and where services are.
pub(super) async fn token(
    http: &reqwest::Client,
    url: &Url,
    identity: &Identity,
) -> Result<(HeaderValue, Catalog), Failure> {
    let mut url = url.clone();
    url.path_segments_mut()
        .expect("an address by HTTP has a path")
        .pop_if_empty()
        .extend(["auth", "tokens"]);
    let response = http.post(url).json(&request(identity)).send().await.map_err(no_answer)?;
    let (status, id) = (response.status(), request_id(response.headers()));
    let token = response.headers().get("x-subject-token").cloned();
    let text = response.text().await.map_err(no_answer)?;
    let mut body: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    if !status.is_success() {
        let code = status.as_u16();
        // Whoever is not known to it is not known to any service.
        let code = if matches!(code, 400 | 403 | 404) { 401 } else { code };
        let what = format!("The identity service says: {}", message(&body, &text));
        return Err(Failure::answered(code, &what, id.as_deref()));
    }
    let mut token = token.ok_or_else(|| {
        Failure::unreachable("The identity service gave no token.")
            .next("Is auth_url the address of an identity service, API v3?")
    })?;
    token.set_sensitive(true);
    let catalog = serde_json::from_value(body["token"]["catalog"].take()).unwrap_or_default();
    Ok((token, catalog))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalog_is_read_by_kind_interface_and_region() {
        let endpoint = |url: &str, interface: &str, region: &str| json!({ "url": url, "interface": interface, "region_id": region });
        let catalog: Catalog = serde_json::from_value(json!([
            { "type": "identity", "endpoints": [] },
            { "type": "compute", "endpoints": [
                endpoint("http://a", "public", "one"), endpoint("http://b", "internal", "one"),
                endpoint("http://c", "public", "two"),
            ] },
        ]))
        .unwrap();
        let find = |interface, region| catalog.endpoint("compute", interface, region);
        assert_eq!(find("public", None).as_deref(), Some("http://a"));
        assert_eq!(find("internal", None).as_deref(), Some("http://b"));
        assert_eq!(find("public", Some("two")).as_deref(), Some("http://c"));
        assert_eq!(find("admin", None), None);
    }

    #[test]
    fn an_application_credential_by_its_name_says_whose_it_is() {
        let user =
            Named { name: Some("ann".into()), domain_id: Some("d".into()), ..Named::default() };
        let credential =
            Named { name: Some("ci".into()), owner: Some(Box::new(user)), ..Named::default() };
        let secret = "s".to_owned().into();
        let body = request(&Identity::ApplicationCredential { credential, secret });
        assert_eq!(
            body["auth"]["identity"]["application_credential"],
            json!({ "name": "ci", "secret": "s", "user": { "name": "ann", "domain": { "id": "d" } } })
        );
        assert!(body["auth"]["scope"].is_null(), "its project comes with it");
    }
}
