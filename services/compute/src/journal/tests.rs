use serde_json::json;
use uuid::Uuid;
use whimbrel_messages::{Fault, FaultCode};
use whimbrel_model::RequestId;

use super::*;

struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("whimbrel-journal-{}", Uuid::now_v7()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> std::path::PathBuf {
        self.0.join("journal.jsonl")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn key(step: &str, dir: Dir) -> StepKey {
    StepKey { saga_id: SagaId(Uuid::nil()), round: 0, step: step.to_owned(), dir }
}

fn command(step: &str) -> Command {
    Command {
        message_id: Uuid::nil(),
        method: "live_migration".to_owned(),
        version: (1, 0),
        key: key(step, Dir::Do),
        attempt: 1,
        request_id: RequestId("req-1".to_owned()),
        deadline: Utc::now(),
        sent_at: Utc::now(),
        must: false,
        body: json!({}),
    }
}

fn refused() -> Outcome {
    Outcome::Refused { fault: Fault::new(FaultCode::Hypervisor, "no") }
}

#[tokio::test]
async fn what_was_noted_is_known_after_a_restart() {
    let folder = Folder::new();
    let journal = Journal::open(&folder.file()).await.unwrap();
    journal.accept(&command("move")).await.unwrap();
    journal.accept(&command("other")).await.unwrap();
    journal.answer(&key("other", Dir::Do), &refused()).await.unwrap();
    journal.bury(&key("prepare", Dir::Undo)).await.unwrap();
    drop(journal);

    let journal = Journal::open(&folder.file()).await.unwrap();
    assert_eq!(journal.known(&key("move", Dir::Do)), Known::Accepted);
    assert_eq!(journal.known(&key("other", Dir::Do)), Known::Answered(refused()));
    assert_eq!(journal.known(&key("prepare", Dir::Do)), Known::Buried);
    assert_eq!(journal.known(&key("prepare", Dir::Undo)), Known::New);
    let unfinished: Vec<String> =
        journal.unfinished().into_iter().map(|command| command.key.step).collect();
    assert_eq!(unfinished, ["move"]);
}

/// A crash may end the file at any byte. What was durable before is known, the torn line is not, and the
/// journal goes on.
#[tokio::test]
async fn a_file_that_ends_at_any_byte_is_read_up_to_its_last_whole_line() {
    let folder = Folder::new();
    let journal = Journal::open(&folder.file()).await.unwrap();
    for step in ["a", "b", "c"] {
        journal.answer(&key(step, Dir::Do), &refused()).await.unwrap();
    }
    drop(journal);
    let whole = std::fs::read(folder.file()).unwrap();
    for length in 0..=whole.len() {
        std::fs::write(folder.file(), &whole[..length]).unwrap();
        let journal = Journal::open(&folder.file()).await.unwrap();
        let lines = whole[..length].iter().filter(|byte| **byte == b'\n').count();
        let known = ["a", "b", "c"].map(|step| journal.known(&key(step, Dir::Do)) != Known::New);
        assert_eq!(known.iter().filter(|known| **known).count(), lines, "{length}");
        journal.answer(&key("d", Dir::Do), &refused()).await.unwrap();
        drop(journal);
        let again = Journal::open(&folder.file()).await.unwrap();
        assert_eq!(again.known(&key("d", Dir::Do)), Known::Answered(refused()), "{length}");
    }
}

#[tokio::test]
async fn many_at_once_are_all_durable() {
    let folder = Folder::new();
    let journal = std::sync::Arc::new(Journal::open(&folder.file()).await.unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..500 {
        let journal = std::sync::Arc::clone(&journal);
        tasks.spawn(async move {
            journal.answer(&key(&n.to_string(), Dir::Do), &refused()).await.unwrap();
        });
    }
    tasks.join_all().await;
    drop(journal);
    assert_eq!(file::read(&folder.file()).unwrap().len(), 500);
}

#[test]
fn old_answers_are_forgotten_but_not_those_of_a_saga_at_work() {
    let mut index = Index::default();
    let long_ago = Utc::now() - TimeDelta::hours(RETENTION_HOURS + 1);
    let busy = SagaId(Uuid::from_u128(7));
    let of = |saga_id, step: &str| StepKey { saga_id, ..key(step, Dir::Do) };
    let answered = |key| Line::Answered { key, outcome: refused(), at: long_ago };
    index.take(answered(of(SagaId(Uuid::nil()), "done")));
    index.take(answered(of(busy, "prepare")));
    let mut job = command("move");
    job.key.saga_id = busy;
    index.take(Line::Accepted { command: job, at: long_ago });
    let lines = index.compact(Utc::now());
    assert_eq!(lines.len(), 2);
    assert!(index.answered.contains_key(&of(busy, "prepare")));
}
