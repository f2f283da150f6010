//! The agent's memory: what it was asked and what it answered, durable before anybody is told.
//!
//! A file of JSON lines, appended and synced by one thread; whoever waits for a line to be durable shares
//! the sync with all who wait at that moment. A line that was torn by a crash was never acted upon and is
//! dropped when the file is read again.

mod file;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Mutex;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use whimbrel_messages::{Command, Dir, Outcome, StepKey};
use whimbrel_model::SagaId;

use file::Appender;

/// How long answers and tombstones are kept: far longer than a message can be under way, which is at most the
/// time to live of a queue plus the longest deadline.
const RETENTION_HOURS: i64 = 24;
/// The file is written anew when it has this many more lines than are of use.
const SLACK: usize = 10_000;

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// A job was begun.
    Accepted { command: Command, at: DateTime<Utc> },
    /// A piece of work was answered.
    Answered { key: StepKey, outcome: Outcome, at: DateTime<Utc> },
    /// A piece of work was undone, or is about to be: it must not be begun any more.
    Buried { key: StepKey, at: DateTime<Utc> },
}

/// What the journal knows of a piece of work.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Known {
    /// Nothing.
    New,
    /// A job was begun and not answered.
    Accepted,
    /// It was answered so.
    Answered(Outcome),
    /// Its undo came first.
    Buried,
}

#[derive(Default)]
struct Index {
    accepted: HashMap<StepKey, (Command, DateTime<Utc>)>,
    answered: HashMap<StepKey, (Outcome, DateTime<Utc>)>,
    buried: HashMap<StepKey, DateTime<Utc>>,
    lines: usize,
}

impl Index {
    fn take(&mut self, line: Line) {
        self.lines += 1;
        match line {
            Line::Accepted { command, at } => {
                self.accepted.insert(command.key.clone(), (command, at));
            }
            Line::Answered { key, outcome, at } => {
                self.accepted.remove(&key);
                self.answered.insert(key, (outcome, at));
            }
            Line::Buried { key, at } => {
                self.buried.insert(key, at);
            }
        }
    }

    /// Forgets what no message can ask for any more, and says what is left as lines.
    fn compact(&mut self, now: DateTime<Utc>) -> Vec<Line> {
        let old = now - TimeDelta::hours(RETENTION_HOURS);
        let busy: HashSet<SagaId> = self.accepted.keys().map(|key| key.saga_id).collect();
        let keep = |key: &StepKey, at: DateTime<Utc>| at > old || busy.contains(&key.saga_id);
        self.answered.retain(|key, (_, at)| keep(key, *at));
        self.buried.retain(|key, at| keep(key, *at));
        let accepted = self.accepted.values();
        let accepted =
            accepted.map(|(command, at)| Line::Accepted { command: command.clone(), at: *at });
        let answered = self.answered.iter().map(|(key, (outcome, at))| Line::Answered {
            key: key.clone(),
            outcome: outcome.clone(),
            at: *at,
        });
        let buried = self.buried.iter().map(|(key, at)| Line::Buried { key: key.clone(), at: *at });
        let lines: Vec<Line> = accepted.chain(answered).chain(buried).collect();
        self.lines = lines.len();
        lines
    }

    fn is_wasteful(&self) -> bool {
        let wasted = self.lines - self.live().min(self.lines);
        wasted > SLACK || self.lines > 20 * SLACK
    }

    fn live(&self) -> usize {
        self.accepted.len() + self.answered.len() + self.buried.len()
    }
}

/// The journal of one host.
pub(crate) struct Journal {
    index: Mutex<Index>,
    /// Held by whoever appends from the file to the index, and alone by whoever writes the file anew from the index.
    appending: tokio::sync::RwLock<()>,
    appender: Appender,
}

impl Journal {
    /// Opens the journal at `path`, reading what is there.
    pub(crate) async fn open(path: &Path) -> std::io::Result<Self> {
        let path = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || {
            let mut index = Index::default();
            file::read(&path)?.into_iter().for_each(|line| index.take(line));
            // Whatever was torn or forgotten is gone from the file, too.
            let lines = index.compact(Utc::now());
            let appender = Appender::start(&path, &lines)?;
            Ok(Self {
                index: Mutex::new(index),
                appending: tokio::sync::RwLock::default(),
                appender,
            })
        });
        opened.await.map_err(std::io::Error::other)?
    }

    /// What is known of a piece of work.
    pub(crate) fn known(&self, key: &StepKey) -> Known {
        let index = self.index();
        if let Some((outcome, _)) = index.answered.get(key) {
            Known::Answered(outcome.clone())
        } else if index.accepted.contains_key(key) {
            Known::Accepted
        } else if key.dir == Dir::Do && index.buried.contains_key(key) {
            Known::Buried
        } else {
            Known::New
        }
    }

    /// Notes that a job is begun. Durable when it returns.
    pub(crate) async fn accept(&self, command: &Command) -> std::io::Result<()> {
        self.append(Line::Accepted { command: command.clone(), at: Utc::now() }).await
    }

    /// Notes an answer. Durable when it returns.
    pub(crate) async fn answer(&self, key: &StepKey, outcome: &Outcome) -> std::io::Result<()> {
        let (key, outcome) = (key.clone(), outcome.clone());
        self.append(Line::Answered { key, outcome, at: Utc::now() }).await
    }

    /// Notes that the step which `undo` undoes must not be begun any more. Durable when it returns.
    pub(crate) async fn bury(&self, undo: &StepKey) -> std::io::Result<()> {
        let key = StepKey { dir: Dir::Do, ..undo.clone() };
        if self.index().buried.contains_key(&key) {
            return Ok(());
        }
        self.append(Line::Buried { key, at: Utc::now() }).await
    }

    /// Whether the undo of a step has come.
    pub(crate) fn is_buried(&self, step: &StepKey) -> bool {
        self.index().buried.contains_key(step)
    }

    /// Jobs that were begun and not answered.
    pub(crate) fn unfinished(&self) -> Vec<Command> {
        self.index().accepted.values().map(|(command, _)| command.clone()).collect()
    }

    async fn append(&self, line: Line) -> std::io::Result<()> {
        let wasteful = {
            let _appending = self.appending.read().await;
            self.appender.append(&line).await?;
            let mut index = self.index();
            index.take(line);
            index.is_wasteful()
        };
        if wasteful { self.compact().await } else { Ok(()) }
    }

    /// Writes the file anew. Nobody appends meanwhile: a line that is in the file and not yet in the index would be lost.
    async fn compact(&self) -> std::io::Result<()> {
        let _alone = self.appending.write().await;
        let lines = {
            let mut index = self.index();
            if !index.is_wasteful() {
                return Ok(());
            }
            index.compact(Utc::now())
        };
        self.appender.rewrite(lines).await
    }

    fn index(&self) -> std::sync::MutexGuard<'_, Index> {
        self.index.lock().expect("nobody panics while holding it")
    }
}

#[cfg(test)]
mod tests;
