//! `auth = "http_basic"`: users and bcrypt hashes in a file as `htpasswd -B` writes it, their projects and roles in
//! another. Both are read again when they change.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use super::cache::Cache;
use super::{Identity, Role};
use crate::config::HttpBasicConfig;
use crate::error::ApiError;

/// A password that was right is not hashed again for this time: that takes long on purpose.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Files are looked at this often at most.
const LOOK: Duration = Duration::from_secs(1);
/// What unknown users' passwords are compared with, so that it takes as long to refuse them.
const NOBODYS: &str = "$2b$10$CwTycUXWue0Thq9StjUM0uJ8.1yHHbDvSAt7pbWcX9DjhL6J0k6mK";

/// What a user has: in the roles file, a table of this form for each name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Grant {
    /// The project's id.
    project: String,
    /// `reader`, `member`, `manager` or `admin`.
    roles: Vec<String>,
    /// The user's id; the name unless given.
    user_id: Option<String>,
}

#[derive(Debug, Default)]
struct Users {
    hashes: HashMap<String, String>,
    grants: HashMap<String, Grant>,
}

impl Users {
    fn read(config: &HttpBasicConfig) -> anyhow::Result<Self> {
        let text = |path: &Path| {
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
        };
        let mut hashes = HashMap::new();
        for line in text(&config.users_file)?.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, hash) = line.split_once(':').with_context(|| {
                format!("{}: a line without a colon", config.users_file.display())
            })?;
            let known = ["$2y$", "$2b$", "$2a$"].iter().any(|kind| hash.starts_with(kind));
            anyhow::ensure!(
                known,
                "{}: the hash of {name} is not bcrypt; make it with htpasswd -B",
                config.users_file.display()
            );
            hashes.insert(name.to_owned(), hash.to_owned());
        }
        let grants = toml::from_str(&text(&config.roles_file)?)
            .with_context(|| format!("reading {}", config.roles_file.display()))?;
        Ok(Self { hashes, grants })
    }

    fn identity(&self, name: &str) -> Option<Identity> {
        let grant = self.grants.get(name)?;
        Some(Identity {
            user_id: grant.user_id.clone().unwrap_or_else(|| name.to_owned()),
            project_id: grant.project.clone(),
            role: Role::highest(grant.roles.iter().map(String::as_str)),
        })
    }
}

/// Knows users by name and password.
pub(crate) struct Basic {
    config: HttpBasicConfig,
    state: Mutex<State>,
    known: Cache<Identity>,
}

struct State {
    users: std::sync::Arc<Users>,
    read_at: [Option<SystemTime>; 2],
    looked_at: Instant,
}

fn changed_at(config: &HttpBasicConfig) -> [Option<SystemTime>; 2] {
    [&config.users_file, &config.roles_file]
        .map(|path| std::fs::metadata(path).and_then(|data| data.modified()).ok())
}

impl Basic {
    /// Reads both files.
    pub(crate) fn new(config: HttpBasicConfig) -> anyhow::Result<Self> {
        let read_at = changed_at(&config);
        let users = std::sync::Arc::new(Users::read(&config)?);
        let state = Mutex::new(State { users, read_at, looked_at: Instant::now() });
        Ok(Self { config, state, known: Cache::default() })
    }

    async fn users(&self) -> std::sync::Arc<Users> {
        let mut state = self.state.lock().await;
        if state.looked_at.elapsed() >= LOOK {
            state.looked_at = Instant::now();
            let at = changed_at(&self.config);
            if at != state.read_at {
                match Users::read(&self.config) {
                    Ok(users) => {
                        state.users = std::sync::Arc::new(users);
                        state.read_at = at;
                        self.known.clear();
                        tracing::info!("users read again");
                    }
                    // Half written, perhaps; those known before stay.
                    Err(error) => tracing::warn!(error = format!("{error:#}"), "users not read"),
                }
            }
        }
        std::sync::Arc::clone(&state.users)
    }

    /// Who sends these headers.
    pub(crate) async fn identify(&self, headers: &HeaderMap) -> Result<Identity, ApiError> {
        let refused = || ApiError::Unauthorized(super::REQUIRED.to_owned());
        let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let (name, password) = header.and_then(credentials).ok_or_else(refused)?;
        let users = self.users().await;
        let key: [u8; 32] = Sha256::digest(format!("{name}\0{password}")).into();
        if let Some(identity) = self.known.get(&key) {
            return Ok(identity);
        }
        let hash = users.hashes.get(&name).cloned().unwrap_or_else(|| NOBODYS.to_owned());
        let verified = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash)).await;
        let right = matches!(verified, Ok(Ok(true))) && users.hashes.contains_key(&name);
        if !right {
            tracing::info!(user = name, "wrong name or password");
            return Err(refused());
        }
        let identity = users.identity(&name).ok_or_else(|| {
            ApiError::Forbidden(format!("User {name} has no project: see the roles file."))
        })?;
        self.known.put(key, identity.clone(), REMEMBERED);
        Ok(identity)
    }
}

/// Name and password of an `Authorization` header.
fn credentials(header: &str) -> Option<(String, String)> {
    let (scheme, encoded) = header.split_once(' ')?;
    let decoded =
        STANDARD.decode(encoded.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"));
    let text = String::from_utf8(decoded?).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    fn headers(name: &str, password: &str) -> HeaderMap {
        let value = format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    async fn code(basic: &Basic, headers: &HeaderMap) -> u16 {
        match basic.identify(headers).await {
            Ok(_) => 200,
            Err(error) => error.into_response().status().as_u16(),
        }
    }

    #[tokio::test]
    async fn users_are_known_by_name_and_password_and_files_are_read_again() {
        let folder = std::env::temp_dir().join(format!("whimbrel-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        let config = HttpBasicConfig {
            users_file: folder.join("htpasswd"),
            roles_file: folder.join("roles.toml"),
        };
        let hash = |password: &str| bcrypt::hash(password, 4).unwrap().replace("$2b$", "$2y$");
        let users = format!("ann:{}\nbob:{}\n", hash("one"), hash("two"));
        std::fs::write(&config.users_file, &users).unwrap();
        let roles = "[ann]\nproject = \"p\"\nroles = [\"member\", \"reader\"]\n";
        std::fs::write(&config.roles_file, roles).unwrap();
        let basic = Basic::new(config.clone()).unwrap();
        for _ in 0..2 {
            let ann = basic.identify(&headers("ann", "one")).await.unwrap();
            assert_eq!((ann.project_id.as_str(), ann.role), ("p", Role::Member));
        }
        assert_eq!(code(&basic, &headers("ann", "two")).await, 401);
        assert_eq!(code(&basic, &headers("eve", "one")).await, 401);
        assert_eq!(code(&basic, &HeaderMap::new()).await, 401);
        assert_eq!(code(&basic, &headers("bob", "two")).await, 403);

        std::fs::write(&config.users_file, format!("bob:{}\n", hash("two"))).unwrap();
        let state = SystemTime::now() - Duration::from_secs(9);
        basic.state.lock().await.read_at = [Some(state), None];
        basic.state.lock().await.looked_at = Instant::now().checked_sub(LOOK).unwrap();
        assert_eq!(code(&basic, &headers("ann", "one")).await, 401);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn other_hashes_than_bcrypt_are_refused() {
        let folder = std::env::temp_dir().join(format!("whimbrel-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        let config = HttpBasicConfig {
            users_file: folder.join("htpasswd"),
            roles_file: folder.join("roles.toml"),
        };
        std::fs::write(&config.users_file, "ann:$apr1$x$y\n").unwrap();
        std::fs::write(&config.roles_file, "").unwrap();
        let error = Users::read(&config).unwrap_err().to_string();
        assert!(error.contains("not bcrypt"), "{error}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
