//! A real identity service, from the environment of the OpenStack clients.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

pub(crate) struct Keystone {
    /// Where its API v3 is.
    pub(crate) url: String,
    folder: PathBuf,
    /// It ends when its standard input does.
    _child: Child,
}

impl Keystone {
    pub(crate) async fn start() -> Self {
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clients");
        let set_up = Command::new(clients.join("set-up.sh")).output().await.unwrap();
        assert!(set_up.status.success(), "{}", String::from_utf8_lossy(&set_up.stderr));
        let python = String::from_utf8(set_up.stdout).unwrap();
        let folder = std::env::temp_dir().join(format!("keystone-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut child = Command::new(PathBuf::from(python.trim()).join("bin/python"))
            .arg(clients.join("identity_service.py"))
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = lines.next_line().await.unwrap().expect("Keystone starts");
        Self { url, folder, _child: child }
    }

    /// As the administrator asks it.
    pub(crate) async fn ask(
        &self,
        token: Option<&str>,
        path: &str,
        body: &serde_json::Value,
    ) -> reqwest::Response {
        let mut request = reqwest::Client::new().post(format!("{}{path}", self.url)).json(body);
        if let Some(token) = token {
            request = request.header("x-auth-token", token);
        }
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.text().await.unwrap());
        answer
    }
}

impl Drop for Keystone {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
