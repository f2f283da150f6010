//! `auth = "keystone"`: tokens are shown to the identity service, API v3, which says who has them. Its answer counts
//! for a while; a token that is revoked meanwhile is good until then.

use std::time::Duration;

use anyhow::Context;
use axum::http::HeaderMap;
use chrono::{DateTime, Utc};
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use super::cache::Cache;
use super::{Identity, Role};
use crate::config::KeystoneConfig;
use crate::error::ApiError;

/// How long the identity service may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// A token that was refused is not shown again for this time.
const REFUSED: Duration = Duration::from_secs(10);
/// Longer ones are no tokens.
const LONGEST: usize = 8_192;

/// Knows users by tokens of the identity service.
pub(crate) struct Keystone {
    config: KeystoneConfig,
    client: Client,
    /// Our own token, by which others' are shown.
    own: Mutex<Option<String>>,
    known: Cache<Option<Identity>>,
}

#[derive(Deserialize)]
struct Answer {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    user: Named,
    project: Option<Named>,
    #[serde(default)]
    roles: Vec<NamedRole>,
    expires_at: DateTime<Utc>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

#[derive(Deserialize)]
struct NamedRole {
    name: String,
}

/// What the identity service says of a token.
enum Verdict {
    Good(Identity, Duration),
    Bad,
    /// Our own token is not good any more.
    Expired,
}

impl Keystone {
    /// Connects to nothing yet.
    pub(crate) fn new(config: KeystoneConfig) -> anyhow::Result<Self> {
        let client =
            Client::builder().timeout(PATIENCE).build().context("making an HTTP client")?;
        Ok(Self { config, client, own: Mutex::new(None), known: Cache::default() })
    }

    fn url(&self) -> String {
        format!("{}/auth/tokens", self.config.url.trim_end_matches('/'))
    }

    /// For those who come without a token: where to get one.
    pub(crate) fn challenge(&self) -> String {
        format!("Keystone uri=\"{}\"", self.config.url)
    }

    /// Who sends these headers.
    pub(crate) async fn identify(&self, headers: &HeaderMap) -> Result<Identity, ApiError> {
        let refused = || ApiError::Unauthorized(super::REQUIRED.to_owned());
        let token = headers.get("x-auth-token").and_then(|value| value.to_str().ok());
        let token = token.filter(|token| !token.is_empty() && token.len() <= LONGEST);
        let token = token.ok_or_else(refused)?;
        let key: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.known.get(&key) {
            return known.ok_or_else(refused);
        }
        let asked = self.ask(token).await.map_err(|error| {
            tracing::error!(error = format!("{error:#}"), "the identity service can't be asked");
            ApiError::NoIdentity
        })?;
        let Some((identity, lasts)) = asked else {
            self.known.put(key, None, REFUSED);
            return Err(refused());
        };
        let most = Duration::from_millis(self.config.cache_ms);
        self.known.put(key, Some(identity.clone()), lasts.min(most));
        Ok(identity)
    }

    /// Who has this token, and how long it is good; none if it is not.
    async fn ask(&self, token: &str) -> anyhow::Result<Option<(Identity, Duration)>> {
        for _ in 0..2 {
            let own = self.own_token().await?;
            match self.show(token, &own).await? {
                Verdict::Good(identity, lasts) => return Ok(Some((identity, lasts))),
                Verdict::Bad => return Ok(None),
                Verdict::Expired => {
                    let mut held = self.own.lock().await;
                    // Somebody else may have got a new one already.
                    if held.as_deref() == Some(own.as_str()) {
                        *held = None;
                    }
                }
            }
        }
        anyhow::bail!("it does not take our own token, although it has just given it")
    }

    async fn show(&self, token: &str, own: &str) -> anyhow::Result<Verdict> {
        let request = self.client.get(self.url()).query(&[("nocatalog", "")]);
        let request = request.header("x-auth-token", own).header("x-subject-token", token);
        let answer = request.send().await.context("showing a token")?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(Verdict::Bad),
            StatusCode::UNAUTHORIZED => return Ok(Verdict::Expired),
            other => anyhow::bail!("it answers {other} when it is shown a token"),
        }
        let Answer { token } = answer.json().await.context("reading what it says of a token")?;
        let Ok(lasts) = (token.expires_at - Utc::now()).to_std() else { return Ok(Verdict::Bad) };
        // A token without a project is good, but for nothing here.
        let role = match &token.project {
            Some(_) => Role::highest(token.roles.iter().map(|role| role.name.as_str())),
            None => Role::Nobody,
        };
        let project_id = token.project.map(|project| project.id).unwrap_or_default();
        Ok(Verdict::Good(Identity { user_id: token.user.id, project_id, role }, lasts))
    }

    /// Our own token: the one we have, or a new one.
    async fn own_token(&self) -> anyhow::Result<String> {
        let mut held = self.own.lock().await;
        if let Some(token) = &*held {
            return Ok(token.clone());
        }
        let config = &self.config;
        let body = json!({ "auth": {
            "identity": { "methods": ["password"], "password": { "user": {
                "name": config.username,
                "domain": { "id": config.user_domain_id },
                "password": config.password.reveal(),
            } } },
            "scope": { "project": {
                "name": config.project_name, "domain": { "id": config.project_domain_id },
            } },
        } });
        let request = self.client.post(self.url()).query(&[("nocatalog", "")]).json(&body);
        let answer = request.send().await.context("asking for a token of our own")?;
        let status = answer.status();
        anyhow::ensure!(status == StatusCode::CREATED, "it answers {status} to our own password");
        let token = answer.headers().get("x-subject-token").and_then(|value| value.to_str().ok());
        let token = token.context("it gives no token")?.to_owned();
        *held = Some(token.clone());
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::extract::State;
    use axum::response::IntoResponse;
    use axum::routing::get;
    use axum::{Json, Router};
    use serde_json::Value;

    use super::*;

    /// A small identity service: our own tokens are good for three questions, `ann` is a member, `old` is over.
    async fn shown(
        State(asked): State<Arc<AtomicUsize>>,
        headers: HeaderMap,
    ) -> (StatusCode, Json<Value>) {
        let count = asked.fetch_add(1, Ordering::Relaxed);
        if headers["x-auth-token"] == "own" && count == 2 {
            return (StatusCode::UNAUTHORIZED, Json(json!({})));
        }
        let until = Utc::now()
            + chrono::TimeDelta::hours(if headers["x-subject-token"] == "old" { -1 } else { 1 });
        let token = |role: &str, project: Value| {
            json!({ "token": { "user": { "id": "u" }, "project": project, "roles": [{ "name": role }],
                               "expires_at": until.to_rfc3339() } })
        };
        let project = json!({ "id": "p" });
        match headers["x-subject-token"].to_str().unwrap() {
            "ann" | "old" => (StatusCode::OK, Json(token("member", project))),
            "bare" => (StatusCode::OK, Json(token("admin", Value::Null))),
            _ => (StatusCode::NOT_FOUND, Json(json!({}))),
        }
    }

    async fn given(Json(body): Json<Value>) -> axum::response::Response {
        let right = body["auth"]["identity"]["password"]["user"]["password"] == "secret";
        let status = if right { StatusCode::CREATED } else { StatusCode::UNAUTHORIZED };
        (status, [("x-subject-token", "own")], Json(json!({ "token": {} }))).into_response()
    }

    async fn service() -> (Arc<AtomicUsize>, String) {
        let asked = Arc::new(AtomicUsize::new(0));
        let router = Router::new()
            .route("/v3/auth/tokens", get(shown).post(given))
            .with_state(Arc::clone(&asked));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v3", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (asked, url)
    }

    fn keystone(url: &str, password: &str, cache_ms: u64) -> Keystone {
        let config = json!({ "url": url, "username": "whimbrel", "password": password,
                             "project_name": "service", "cache_ms": cache_ms });
        Keystone::new(serde_json::from_value(config).unwrap()).unwrap()
    }

    async fn code(keystone: &Keystone, token: &'static str) -> u16 {
        let headers =
            HeaderMap::from_iter([("x-auth-token".parse().unwrap(), token.parse().unwrap())]);
        match keystone.identify(&headers).await {
            Ok(identity) => {
                assert_eq!(identity.user_id, "u");
                200 + identity.role as u16
            }
            Err(error) => error.into_response().status().as_u16(),
        }
    }

    #[tokio::test]
    async fn tokens_are_shown_once_and_remembered_and_our_own_is_renewed() {
        let (asked, url) = service().await;
        let keystone = keystone(&url, "secret", 60_000);
        assert_eq!(code(&keystone, "ann").await, 200 + Role::Member as u16);
        assert_eq!(code(&keystone, "ann").await, 200 + Role::Member as u16);
        assert_eq!(code(&keystone, "eve").await, 401);
        assert_eq!(code(&keystone, "eve").await, 401);
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        // The third question meets an own token that is over.
        assert_eq!(code(&keystone, "old").await, 401);
        assert_eq!(asked.load(Ordering::Relaxed), 4);
        assert_eq!(code(&keystone, "bare").await, 200 + Role::Nobody as u16);
    }

    #[tokio::test]
    async fn without_a_cache_every_request_asks() {
        let (asked, url) = service().await;
        let keystone = keystone(&url, "secret", 0);
        for _ in 0..2 {
            assert_eq!(code(&keystone, "ann").await, 200 + Role::Member as u16);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn an_identity_service_that_fails_is_503() {
        let (_, url) = service().await;
        assert_eq!(code(&keystone(&url, "wrong", 0), "ann").await, 503);
        assert_eq!(code(&keystone("http://127.0.0.1:1/v3", "secret", 0), "ann").await, 503);
    }
}
