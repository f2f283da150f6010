//! The fencing hook: a program of the operator's that sees to it that a host runs no guest any more, by cutting its
//! power above all. It is asked when somebody evacuates a server from a host that does not answer and that nobody has
//! forced down. What it says counts as if a person had said so (docs/adr/0008).

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::Mutex;
use whimbrel_db::api::{self, HostUpdate};

use crate::error::ApiError;
use crate::state::Api;

/// Of what the program says no more than so much is kept.
const MOST_BYTES: u64 = 2_000;

/// Section `[api.fencing]`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FencingConfig {
    /// The program; it gets the host's name as its last argument. Exit status 0 says that the host runs nothing and
    /// will not start again by itself; anything else, or no answer in time, says that nothing is certain. It may be
    /// asked again for a host that is off.
    pub program: PathBuf,
    /// Arguments before the name.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// How long it may take, in milliseconds; it is killed then.
    #[serde(default = "default_timeout")]
    pub timeout_ms: u64,
}

fn default_timeout() -> u64 {
    30_000
}

/// Asks the program, one host at a time.
#[derive(Debug)]
pub struct Fencing {
    config: Option<FencingConfig>,
    turn: Mutex<()>,
}

impl Fencing {
    pub(crate) fn new(config: Option<FencingConfig>) -> Self {
        Self { config, turn: Mutex::new(()) }
    }

    /// Sees to it that `host` is off and counts as such, if there is a program for that. Nothing is done for a host
    /// that reports, or that counts as off already.
    ///
    /// # Errors
    /// When the program does not say that the host is off. Nothing has changed then.
    pub(crate) async fn see_to(&self, api: &Api, host: &str) -> Result<(), ApiError> {
        let Some(config) = &self.config else { return Ok(()) };
        let _turn = self.turn.lock().await;
        // Whoever had the turn before may have seen to it; or the host is back.
        let mut connection = api.connection().await?;
        let row = api::host_get(&mut connection, host, api.config.service_down_time_ms).await?;
        drop(connection);
        if row.up || row.forced_down {
            return Ok(());
        }
        tracing::warn!(host, program = %config.program.display(), "asking the fencing hook");
        ask(config, host).await.map_err(|why| {
            tracing::error!(host, why, "the fencing hook has not fenced the host");
            ApiError::Conflict(format!(
                "{host} does not answer, and the fencing hook could not make sure that it is off: {why}. Power it off \
                 by hand and set forced_down, then evacuate again."
            ))
        })?;
        tracing::warn!(host, "fenced by the hook");
        let update = HostUpdate { forced_down: Some(true), ..HostUpdate::default() };
        Ok(api::host_update(&mut api.connection().await?, host, &update).await?)
    }
}

/// Runs the program; why nothing is certain, otherwise.
async fn ask(config: &FencingConfig, host: &str) -> Result<(), String> {
    let mut child = Command::new(&config.program)
        .args(&config.arguments)
        .arg(host)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{} can't be started: {error}", config.program.display()))?;
    let mut said = Vec::new();
    let running = async {
        if let Some(stderr) = child.stderr.take() {
            // More than that must not stop it from going on.
            let mut stderr = stderr.take(MOST_BYTES);
            let _ = stderr.read_to_end(&mut said).await;
            let _ = tokio::io::copy(&mut stderr.into_inner(), &mut tokio::io::sink()).await;
        }
        child.wait().await
    };
    let limit = Duration::from_millis(config.timeout_ms);
    let status = tokio::time::timeout(limit, running)
        .await
        .map_err(|_| format!("it gave no answer within {} ms", config.timeout_ms))?
        .map_err(|error| format!("its end was not seen: {error}"))?;
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    Err(if said.is_empty() { status.to_string() } else { format!("{status}: {said}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout_ms: u64) -> FencingConfig {
        let arguments = vec!["-c".to_owned(), script.to_owned()];
        FencingConfig { program: "/bin/sh".into(), arguments, timeout_ms }
    }

    #[tokio::test]
    async fn only_a_clear_yes_counts() {
        assert_eq!(ask(&shell("test \"$0\" = host-a", 5_000), "host-a").await, Ok(()));
        let no = ask(&shell("echo no power switch >&2; exit 3", 5_000), "host-a").await;
        assert!(no.unwrap_err().contains("no power switch"));
        let late = ask(&shell("exec sleep 60", 50), "host-a").await;
        assert!(late.unwrap_err().contains("no answer within 50 ms"));
        let missing = FencingConfig { program: "/no/such/program".into(), ..shell("", 1) };
        assert!(ask(&missing, "host-a").await.unwrap_err().contains("can't be started"));
    }

    #[tokio::test]
    async fn one_that_talks_without_end_is_not_held_up() {
        let talks = shell("head -c 1000000 /dev/zero >&2; exit 1", 10_000);
        assert!(ask(&talks, "host-a").await.unwrap_err().starts_with("exit status: 1"));
    }
}
