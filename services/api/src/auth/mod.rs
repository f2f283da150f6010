//! Who is asking, and whether they may.
//!
//! One layer around all routes: it finds out the caller by the configured way, looks the route up in the table of
//! policies, and refuses servers of other projects as if they were not there. What handlers decide besides is in
//! `policy`, too.

mod basic;
mod cache;
mod keystone;
mod policy;

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context as _;
use axum::extract::{FromRequestParts, MatchedPath, Path, Request, State};
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use uuid::Uuid;
use whimbrel_db::DbError;
use whimbrel_db::api::{self, Caller};
use whimbrel_model::RequestId;

use crate::config::{ApiConfig, AuthMode};
use crate::error::ApiError;
use crate::state::Api;

use basic::Basic;
use keystone::Keystone;
pub(crate) use policy::*;

/// To those who did not say who they are.
const REQUIRED: &str = "The request you have made requires authentication.";

/// The project and user of `auth = "none"`.
const NOBODY: (&str, &str) = ("default", "admin");

/// Somebody who is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user_id: String,
    pub(crate) project_id: String,
    pub(crate) role: Role,
}

impl Identity {
    fn nobody() -> Self {
        Self { user_id: String::new(), project_id: String::new(), role: Role::Nobody }
    }
}

/// Finds out who is asking, by the configured way.
pub struct Authenticator(Way);

enum Way {
    None,
    Basic(Box<Basic>),
    Keystone(Box<Keystone>),
}

impl Authenticator {
    /// The way that `config` says.
    ///
    /// # Errors
    /// When what that way needs is missing, or can't be read.
    pub fn new(config: &ApiConfig) -> anyhow::Result<Self> {
        Ok(Self(match config.auth {
            AuthMode::None => Way::None,
            AuthMode::HttpBasic => {
                let own = config.http_basic.clone();
                let own = own.context(
                    "api.auth is \"http_basic\"; the section [api.http_basic] is missing",
                )?;
                Way::Basic(Box::new(Basic::new(own)?))
            }
            AuthMode::Keystone => {
                let own = config.keystone.clone();
                let own =
                    own.context("api.auth is \"keystone\"; the section [api.keystone] is missing")?;
                Way::Keystone(Box::new(Keystone::new(own)?))
            }
        }))
    }

    async fn identify(&self, headers: &HeaderMap) -> Result<Identity, ApiError> {
        match &self.0 {
            Way::None => Ok(Identity {
                user_id: NOBODY.1.to_owned(),
                project_id: NOBODY.0.to_owned(),
                role: Role::Admin,
            }),
            Way::Basic(basic) => basic.identify(headers).await,
            Way::Keystone(keystone) => keystone.identify(headers).await,
        }
    }

    /// What those are told who did not say who they are.
    fn challenge(&self) -> String {
        match &self.0 {
            Way::None => String::new(),
            Way::Basic(_) => "Basic realm=\"Whimbrel\"".to_owned(),
            Way::Keystone(keystone) => keystone.challenge(),
        }
    }
}

/// Who is asking, by which request, and what they are.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) caller: Caller,
    pub(crate) role: Role,
}

impl Context {
    pub(crate) fn is_admin(&self) -> bool {
        self.role == Role::Admin
    }

    /// Refuses callers below the role that `rule` asks for.
    pub(crate) fn check(&self, rule: Rule) -> Result<(), ApiError> {
        if self.role >= rule.least {
            return Ok(());
        }
        Err(ApiError::Forbidden(format!(
            "Policy doesn't allow {} to be performed: it needs the role {}.",
            rule.name, rule.least
        )))
    }

    /// The project whose things are listed: none is all of them.
    pub(crate) fn project(&self, all: bool) -> Option<String> {
        (!all).then(|| self.caller.project_id.clone())
    }

    /// Whether the caller may see what belongs to `project`.
    pub(crate) fn sees(&self, project: &str) -> bool {
        self.is_admin() || self.caller.project_id == project
    }
}

/// Puts a [`Context`] into the request and the request's id into the answer.
pub(crate) async fn layer(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let request_id = RequestId::from_uuid(Uuid::new_v4());
    let (mut parts, body) = request.into_parts();
    let mut response = match admit(&api, &mut parts, request_id.clone()).await {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(refused) => refused.into_response(),
    };
    if response.status() == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_str(&api.authenticator.challenge());
        challenge.into_iter().for_each(|value| {
            response.headers_mut().insert(WWW_AUTHENTICATE, value);
        });
    }
    if let Ok(value) = HeaderValue::from_str(&request_id.0) {
        response.headers_mut().insert("x-openstack-request-id", value.clone());
        response.headers_mut().insert("x-compute-request-id", value);
    }
    response
}

async fn admit(api: &Api, parts: &mut Parts, request_id: RequestId) -> Result<(), ApiError> {
    let path = parts.extensions.get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let open = path.as_deref().is_some_and(|path| VERSIONS.contains(&path));
    let Identity { user_id, project_id, role } =
        if open { Identity::nobody() } else { api.authenticator.identify(&parts.headers).await? };
    let caller = Caller { project_id, user_id, request_id };
    let context = Context { caller, role };
    if let Some(path) = path {
        context.check(policy::of_route(&parts.method, &path))?;
        own_server(api, parts, &context).await?;
    }
    parts.extensions.insert(context);
    Ok(())
}

/// A server of another project is not there, for all but administrators.
async fn own_server(api: &Api, parts: &mut Parts, context: &Context) -> Result<(), ApiError> {
    if context.is_admin() {
        return Ok(());
    }
    let path = Path::<HashMap<String, String>>::from_request_parts(parts, &()).await;
    let server = path.ok().and_then(|Path(path)| path.get("server_id").cloned());
    // What is no id is refused where it is read.
    let Some(id) = server.as_ref().and_then(|text| text.parse::<Uuid>().ok()) else {
        return Ok(());
    };
    let none = || ApiError::NotFound(format!("Instance {id} could not be found."));
    match api::server_project(&mut api.connection().await?, id).await {
        Ok(project) if context.sees(&project) => Ok(()),
        Ok(_) | Err(DbError::NotFound { .. }) => Err(none()),
        Err(error) => Err(error.into()),
    }
}

impl<S: Sync> FromRequestParts<S> for Context {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let none = || ApiError::Internal(anyhow::anyhow!("a route without the layer of callers"));
        parts.extensions.get::<Self>().cloned().ok_or_else(none)
    }
}
