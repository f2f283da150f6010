//! The real OpenStack clients, as their users run them.
//!
//! `tests/clients/set-up.sh` installs them into a virtual environment, once; `tests/clients/session.py` runs one
//! command after the other in one process, because loading the clients takes seconds.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use whimbrel_virt::fake::FakeConfig;

use crate::cloud::Cloud;

/// How long one command may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// The interpreter of the virtual environment that has the clients.
pub(crate) fn python() -> PathBuf {
    let set_up = Command::new(folder().join("set-up.sh")).output().expect("set-up.sh runs");
    assert!(set_up.status.success(), "{}", String::from_utf8_lossy(&set_up.stderr));
    PathBuf::from(String::from_utf8(set_up.stdout).unwrap().trim()).join("bin/python")
}

/// What a command answered.
#[derive(Debug)]
struct Answer {
    code: i64,
    out: String,
    err: String,
}

/// The clients, for one cloud.
pub(crate) struct Clients {
    child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    settings: PathBuf,
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        let _ = std::fs::remove_file(&self.settings);
    }
}

impl Clients {
    /// For whoever `auth` says: a part of `clouds.yaml`, in JSON, which is YAML as well.
    pub(crate) async fn start(cloud: &Cloud, auth: &Value) -> Self {
        let python = python();
        let url = cloud.url();
        let mut own = json!({
            "identity_api_version": "3",
            "volume_api_version": "3",
            "compute_endpoint_override": format!("{url}/v2.1"),
            "image_endpoint_override": format!("{url}/v2"),
            "network_endpoint_override": format!("{url}/v2.0"),
        });
        own.as_object_mut().unwrap().extend(auth.as_object().unwrap().clone());
        if own["auth_type"] != "password" {
            own["auth"]["endpoint"] = json!(format!("{url}/v2.1"));
        }
        let settings = std::env::temp_dir().join(format!("clouds-{}.yaml", uuid::Uuid::new_v4()));
        std::fs::write(&settings, json!({ "clouds": { "test": own } }).to_string()).unwrap();
        let mut child = tokio::process::Command::new(python)
            .arg(folder().join("session.py"))
            .env("OS_CLIENT_CONFIG_FILE", &settings)
            .env("OS_CLOUD", "test")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the clients start");
        let commands = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, commands, answers, settings }
    }

    async fn run(&mut self, line: &str) -> Answer {
        let words: Vec<&str> = line.split_whitespace().collect();
        let line_in = format!("{}\n", json!(words));
        self.commands.write_all(line_in.as_bytes()).await.unwrap();
        let answer = tokio::time::timeout(PATIENCE, self.answers.next_line()).await;
        let answer = answer.unwrap_or_else(|_| panic!("{line}: no answer")).unwrap();
        let answer: Value = serde_json::from_str(&answer.expect("the clients go on")).unwrap();
        let text = |name: &str| answer[name].as_str().unwrap().to_owned();
        Answer { code: answer["code"].as_i64().unwrap(), out: text("out"), err: text("err") }
    }

    /// Runs a command that must work; its output.
    pub(crate) async fn ok(&mut self, line: &str) -> String {
        let answer = self.run(line).await;
        assert_eq!(answer.code, 0, "{line}\n{}\n{}", answer.out, answer.err);
        answer.out
    }

    /// Runs a command that must work; its output, which is JSON.
    pub(crate) async fn json(&mut self, line: &str) -> Value {
        let out = self.ok(&format!("openstack {line} -f json")).await;
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{line}: {error}: {out}"))
    }

    /// Runs each of some commands; all must work.
    pub(crate) async fn all(&mut self, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            self.ok(line).await;
        }
    }

    /// Runs a command that must fail, and say so.
    pub(crate) async fn fails(&mut self, line: &str, says: &str) {
        let answer = self.run(line).await;
        assert_ne!(answer.code, 0, "{line}\n{}", answer.out);
        assert!(answer.err.contains(says), "{line}: '{says}' is not in {}", answer.err);
    }
}

pub(crate) fn nobody() -> Value {
    json!({ "auth_type": "none", "auth": {} })
}

pub(crate) fn hosts() -> [(&'static str, FakeConfig); 3] {
    ["a", "b", "c"].map(|name| (name, FakeConfig::default()))
}
