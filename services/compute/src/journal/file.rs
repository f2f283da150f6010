//! The journal's file and the one thread that writes it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::mpsc;

use tokio::sync::oneshot;

use super::Line;

/// Lines written with one sync at most.
const GROUP: usize = 512;

type Told = oneshot::Sender<std::io::Result<()>>;

enum Order {
    Append(Vec<u8>, Told),
    Rewrite(Vec<Line>, Told),
}

/// Hands lines to the thread that owns the file.
pub(super) struct Appender {
    orders: mpsc::Sender<Order>,
}

/// Reads all whole lines; what a crash tore is at the end and is dropped.
pub(super) fn read(path: &Path) -> std::io::Result<Vec<Line>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(mut file) => file.read_to_end(&mut bytes)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut lines = Vec::new();
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    for (number, text) in bytes[..whole].split(|byte| *byte == b'\n').enumerate() {
        if text.is_empty() {
            continue;
        }
        let line = serde_json::from_slice(text).map_err(|error| {
            let message = format!("{} line {}: {error}", path.display(), number + 1);
            std::io::Error::new(std::io::ErrorKind::InvalidData, message)
        })?;
        lines.push(line);
    }
    Ok(lines)
}

impl Appender {
    /// Writes the file anew with `lines` and starts the thread.
    pub(super) fn start(path: &Path, lines: &[Line]) -> std::io::Result<Self> {
        let mut file = rewrite(path, lines)?;
        let path = path.to_owned();
        let (orders, inbox) = mpsc::channel();
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || run(&path, &mut file, &inbox))?;
        Ok(Self { orders })
    }

    pub(super) async fn append(&self, line: &Line) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(line).expect("a line is plain data");
        text.push(b'\n');
        self.order(|told| Order::Append(text, told)).await
    }

    pub(super) async fn rewrite(&self, lines: Vec<Line>) -> std::io::Result<()> {
        self.order(|told| Order::Rewrite(lines, told)).await
    }

    async fn order(&self, order: impl FnOnce(Told) -> Order) -> std::io::Result<()> {
        let (told, done) = oneshot::channel();
        let gone = || std::io::Error::other("the journal's thread is gone");
        self.orders.send(order(told)).map_err(|_| gone())?;
        done.await.map_err(|_| gone())?
    }
}

fn run(path: &Path, file: &mut File, inbox: &mpsc::Receiver<Order>) {
    while let Ok(first) = inbox.recv() {
        let mut orders = vec![first];
        orders.extend(inbox.try_iter().take(GROUP));
        let mut text = Vec::new();
        let mut waiting = Vec::new();
        for order in orders {
            match order {
                Order::Append(line, told) => {
                    text.extend(line);
                    waiting.push(told);
                }
                Order::Rewrite(lines, told) => {
                    tell(&mut waiting, write(file, &mut text));
                    let rewritten = rewrite(path, &lines).map(|new| *file = new);
                    // Whoever asked may be gone; the file is as it should be all the same.
                    let _ = told.send(rewritten);
                }
            }
        }
        tell(&mut waiting, write(file, &mut text));
    }
}

/// All of it, durable, or nothing: half a line, on a disk that was full for a moment, would make everything after it
/// unreadable.
fn write(file: &mut File, text: &mut Vec<u8>) -> std::io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let before = file.metadata()?.len();
    let written = file.write_all(text).and_then(|()| file.sync_data());
    text.clear();
    if written.is_err() {
        file.set_len(before)?;
    }
    written
}

fn tell(waiting: &mut Vec<Told>, result: std::io::Result<()>) {
    let failed = result.err().map(|error| (error.kind(), error.to_string()));
    for told in waiting.drain(..) {
        let one = match &failed {
            None => Ok(()),
            Some((kind, message)) => Err(std::io::Error::new(*kind, message.clone())),
        };
        let _ = told.send(one);
    }
}

/// Replaces the file as a whole: under a temporary name, synced, renamed, the folder synced.
fn rewrite(path: &Path, lines: &[Line]) -> std::io::Result<File> {
    let temporary = path.with_extension("new");
    let mut text = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut text, line)?;
        text.push(b'\n');
    }
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&temporary)?;
    file.write_all(&text)?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&temporary, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    OpenOptions::new().append(true).open(path)
}
