//! The program as its users run it.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::cloud::Cloud;

/// How long one command may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program, with a `clouds.yaml` for one cloud.
pub(crate) struct Program {
    folder: PathBuf,
    environment: Vec<(String, String)>,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// An address where nobody listens.
pub(crate) fn nobody() -> String {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", free.local_addr().unwrap())
}

pub(crate) struct Running(Child);

impl Program {
    /// For whoever may everything without saying who they are.
    pub(crate) fn of(cloud: &Cloud) -> Self {
        Self::with(
            &json!({ "auth_type": "none", "auth": { "endpoint": format!("{}/v2.1", cloud.url()) } }),
        )
    }

    /// With this as the cloud `test`.
    pub(crate) fn with(cloud: &Value) -> Self {
        let folder = std::env::temp_dir().join(format!("whimbrel-cli-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        let text = json!({ "clouds": { "test": cloud } }).to_string();
        std::fs::write(folder.join("clouds.yaml"), text).unwrap();
        Self { folder, environment: Vec::new() }
    }

    /// Puts a file where it runs.
    pub(crate) fn file(&self, name: &str, text: &str) {
        std::fs::write(self.folder.join(name), text).unwrap();
    }

    /// A file that it wrote.
    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.join(name)).unwrap()
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn spawn(&self, line: &str) -> Running {
        let child = Command::new(env!("CARGO_BIN_EXE_whimbrel"))
            .args(line.split_whitespace())
            .env_clear()
            .envs(self.environment.iter().cloned())
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        Running(child.expect("the program starts"))
    }

    async fn run(&self, line: &str) -> (i32, String, String) {
        self.spawn(line).end().await
    }

    /// Runs what must work; what it prints.
    pub(crate) async fn ok(&self, line: &str) -> String {
        let (code, out, err) = self.run(line).await;
        assert_eq!(code, 0, "whimbrel {line}\n{out}\n{err}");
        out
    }

    /// Runs what must work; what it tells meanwhile.
    pub(crate) async fn err(&self, line: &str) -> String {
        let (code, out, err) = self.run(line).await;
        assert_eq!(code, 0, "whimbrel {line}\n{out}\n{err}");
        err
    }

    /// Runs what must work; what it prints, which is JSON.
    pub(crate) async fn json(&self, line: &str) -> Value {
        let out = self.ok(&format!("{line} -f json")).await;
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{line}: {error}: {out}"))
    }

    /// Runs what must fail with this status, and say so.
    pub(crate) async fn fails(&self, line: &str, status: i32, says: &str) -> String {
        let (code, out, err) = self.run(line).await;
        assert_eq!(code, status, "whimbrel {line}\n{out}\n{err}");
        assert!(err.contains(says), "whimbrel {line}: '{says}' is not in {err}");
        assert_eq!(out, "", "whimbrel {line}: errors are no output");
        err
    }
}

impl Running {
    /// Ctrl-C.
    pub(crate) fn interrupt(&self) {
        let id = self.0.id().expect("it runs");
        kill(Pid::from_raw(i32::try_from(id).unwrap()), Signal::SIGINT).unwrap();
    }

    /// Its status, what it has printed, and what it has told.
    pub(crate) async fn end(self) -> (i32, String, String) {
        let ended = tokio::time::timeout(PATIENCE, self.0.wait_with_output()).await;
        let ended = ended.expect("the program ends in time").unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (ended.status.code().expect("it was not killed"), text(ended.stdout), text(ended.stderr))
    }
}
