//! How commands reach the process that owns a lab: a line of JSON each way over a socket in its directory.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use whimbrel_lab::{Lab, labs_dir};

use super::fault::Fault;

/// How long one who has connected may take to say what he wants.
const ASK_PATIENCE: Duration = Duration::from_secs(2);

/// What can be asked of the owner of a lab.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// What runs.
    Status,
    /// Make something go wrong.
    Fault(Fault),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Response {
    Done(Value),
    Failed(String),
}

/// Where the owner of a lab listens.
pub(super) fn socket(name: &str) -> PathBuf {
    labs_dir().join(name).join("control.sock")
}

/// Asks the owner of a lab and returns its answer.
pub(super) fn ask(name: &str, request: &Request) -> anyhow::Result<Value> {
    let mut stream = UnixStream::connect(socket(name))
        .map_err(|_| anyhow!("the lab '{name}' does not run; start it with: make up"))?;
    let line = serde_json::to_string(request)? + "\n";
    stream.write_all(line.as_bytes()).context("asking the owner of the lab")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).context("hearing from the owner of the lab")?;
    match serde_json::from_str(&answer).context("the owner of the lab ended meanwhile")? {
        Response::Done(value) => Ok(value),
        Response::Failed(why) => bail!(why),
    }
}

/// Answers until the process is interrupted.
pub(super) fn serve(lab: &Lab, listener: &UnixListener) {
    std::thread::scope(|scope| {
        for stream in listener.incoming() {
            if whimbrel_lab::is_interrupted() {
                return;
            }
            // Each on a thread of its own: a fault may take a while. One who goes away before he is answered
            // knows why.
            scope.spawn(|| {
                stream.map_err(anyhow::Error::from).and_then(|stream| answer(lab, stream))
            });
        }
    });
}

fn answer(lab: &Lab, mut stream: UnixStream) -> anyhow::Result<()> {
    let mut line = String::new();
    stream.set_read_timeout(Some(ASK_PATIENCE))?;
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    let done = match serde_json::from_str(&line)? {
        Request::Status => serde_json::to_value(lab.status()).map_err(anyhow::Error::from),
        Request::Fault(fault) => fault.inject(lab).map(Value::from),
    };
    let response = match done {
        Ok(value) => Response::Done(value),
        Err(error) => Response::Failed(format!("{error:#}")),
    };
    stream.write_all((serde_json::to_string(&response)? + "\n").as_bytes())?;
    Ok(())
}
