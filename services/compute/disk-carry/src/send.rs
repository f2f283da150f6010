//! The sending end.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use uuid::Uuid;

use crate::CarryError;
use crate::frames::{FRAME, Hello, digest_piece, read_answer, write_data, write_end};

const CONNECT: Duration = Duration::from_secs(10);
/// A connection on which nothing moves for this long is lost.
pub(crate) const STALL: Duration = Duration::from_secs(30);

/// How fast, how far, and whether to go on.
pub struct Pace<'a> {
    /// Most bytes a second; 0 is no limit.
    pub bytes_s: u64,
    /// Told how many bytes of data were sent so far, and how many there are.
    pub progress: &'a mut dyn FnMut(u64, u64),
    /// Asked between any two pieces.
    pub stopped: &'a dyn Fn() -> bool,
}

/// Sends the file at `path` to the receiver at `address`, under `name`. Returns the hash of what was sent, in
/// hexadecimal, and how many bytes of data that were.
///
/// # Errors
/// When it did not arrive whole; nothing is left of it there then.
pub fn send_to(
    address: &str,
    ticket: Uuid,
    name: &str,
    path: &Path,
    pace: &mut Pace<'_>,
) -> Result<(String, u64), CarryError> {
    let known = address.to_socket_addrs().map_err(CarryError::io("looking up the other host"))?;
    let known = known.into_iter().next().ok_or(CarryError::Protocol("no address"))?;
    let mut stream =
        TcpStream::connect_timeout(&known, CONNECT).map_err(CarryError::io("connecting"))?;
    stream
        .set_nodelay(true)
        .and_then(|()| stream.set_read_timeout(Some(STALL)))
        .and_then(|()| stream.set_write_timeout(Some(STALL)))
        .map_err(CarryError::io("connecting"))?;
    send(&mut stream, ticket, name, path, pace)
}

/// As [`send_to`], over a connection that stands.
///
/// # Errors
/// As [`send_to`].
pub fn send(
    stream: &mut (impl Read + Write),
    ticket: Uuid,
    name: &str,
    path: &Path,
    pace: &mut Pace<'_>,
) -> Result<(String, u64), CarryError> {
    let file = File::open(path).map_err(CarryError::io("opening a disk"))?;
    let metadata = file.metadata().map_err(CarryError::io("opening a disk"))?;
    let length = metadata.len();
    Hello { ticket, name: name.to_owned(), length }.write(stream)?;
    read_answer(stream)?;
    // What is allocated, not what is data: an estimate for whoever looks on.
    let total = std::os::unix::fs::MetadataExt::blocks(&metadata).saturating_mul(512).min(length);
    let (mut sent, mut hasher) = (0, blake3::Hasher::new());
    let mut buffer = vec![0; FRAME];
    let begun = Instant::now();
    let mut at = 0;
    while let Some((from, to)) = next_data(&file, at, length)? {
        at = from;
        while at < to {
            if (pace.stopped)() {
                return Err(CarryError::Stopped);
            }
            let want = usize::try_from(to - at).unwrap_or(FRAME).min(FRAME);
            let piece = &mut buffer[..want];
            file.read_exact_at(piece, at).map_err(CarryError::io("reading a disk"))?;
            digest_piece(&mut hasher, at, piece);
            write_data(stream, at, piece)?;
            at += want as u64;
            sent += want as u64;
            (pace.progress)(sent, total.max(sent));
            hold_back(pace.bytes_s, sent, begun.elapsed());
        }
    }
    hasher.update(&length.to_be_bytes());
    let digest = hasher.finalize();
    write_end(stream, *digest.as_bytes())?;
    read_answer(stream)?;
    Ok((digest.to_hex().to_string(), sent))
}

/// The next piece of the file that is no hole, at or after `at`.
fn next_data(file: &File, at: u64, length: u64) -> Result<Option<(u64, u64)>, CarryError> {
    let seek = |at: u64, whence| {
        let at = i64::try_from(at).map_err(|_| Errno::EOVERFLOW)?;
        lseek(file.as_fd(), at, whence).map(|found| u64::try_from(found).unwrap_or_default())
    };
    if at >= length {
        return Ok(None);
    }
    match seek(at, Whence::SeekData) {
        Ok(from) => {
            let to = seek(from, Whence::SeekHole).map_err(|e| io("looking for holes", e))?;
            Ok((from < length).then(|| (from, to.min(length))))
        }
        // Nothing but a hole is left.
        Err(Errno::ENXIO) => Ok(None),
        // A file system without holes.
        Err(Errno::EINVAL) => Ok(Some((at, length))),
        Err(error) => Err(io("looking for holes", error)),
    }
}

fn io(doing: &'static str, error: Errno) -> CarryError {
    CarryError::Io { doing, source: error.into() }
}

/// Waits as long as what was sent is ahead of its time.
fn hold_back(bytes_s: u64, sent: u64, elapsed: Duration) {
    if bytes_s > 0 {
        let due = Duration::from_secs_f64(sent as f64 / bytes_s as f64);
        std::thread::sleep(due.saturating_sub(elapsed));
    }
}
