use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::frames::{Hello, is_plain, read_answer, write_data, write_end};
use crate::{CarryError, Pace, Place, Receiver, send_to};

const TICKET: Uuid = Uuid::from_u128(7);
const MIB: u64 = 1 << 20;

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("whimbrel-carry-{}", Uuid::new_v4()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// 64 MiB, of which 5 in three places are data.
fn sparse(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(64 * MIB).unwrap();
    for (at, mib) in [(0, 1), (20, 3), (63, 1)] {
        let data: Vec<u8> = (0..mib * MIB).map(|n| (n % 251) as u8 ^ at as u8).collect();
        file.write_all_at(&data, at * MIB).unwrap();
    }
    file.sync_all().unwrap();
}

fn receiver(folder: &Folder) -> Receiver {
    let to = folder.0.clone();
    let place: Arc<Place> = Arc::new(move |ticket, name, _| {
        if ticket == TICKET { Ok(to.join(name)) } else { Err("no such ticket".to_owned()) }
    });
    Receiver::start("127.0.0.1:0", &place).unwrap()
}

fn carry(
    address: &str,
    ticket: Uuid,
    name: &str,
    path: &Path,
) -> Result<(String, u64), CarryError> {
    let mut pace = Pace { bytes_s: 0, progress: &mut |_, _| {}, stopped: &|| false };
    send_to(address, ticket, name, path, &mut pace)
}

#[test]
fn a_sparse_file_arrives_equal_and_sparse() {
    let (here, there) = (Folder::new(), Folder::new());
    let source = here.0.join("disk");
    sparse(&source);
    let receiver = receiver(&there);
    let mut seen = Vec::new();
    let mut progress = |sent, total| seen.push((sent, total));
    let mut pace = Pace { bytes_s: 0, progress: &mut progress, stopped: &|| false };
    let address = receiver.address().to_string();
    let (digest, sent) = send_to(&address, TICKET, "disk", &source, &mut pace).unwrap();
    assert_eq!(digest.len(), 64);
    assert!((5 * MIB..8 * MIB).contains(&sent), "{sent}");
    assert_eq!(seen.last().map(|(sent, _)| *sent), Some(sent));
    let target = there.0.join("disk");
    assert!(std::fs::read(&source).unwrap() == std::fs::read(&target).unwrap(), "other content");
    let allocated = std::fs::metadata(&target).unwrap().blocks() * 512;
    assert!(allocated < 8 * MIB, "{allocated} bytes are allocated");
    assert_eq!(there.names(), ["disk"]);
}

#[test]
fn an_empty_file_and_one_that_is_all_hole_arrive() {
    let (here, there) = (Folder::new(), Folder::new());
    let receiver = receiver(&there);
    for (name, length) in [("empty", 0), ("hole", 3 * MIB)] {
        let source = here.0.join(name);
        File::create(&source).unwrap().set_len(length).unwrap();
        let (_, sent) = carry(&receiver.address().to_string(), TICKET, name, &source).unwrap();
        assert_eq!(sent, 0);
        assert_eq!(std::fs::metadata(there.0.join(name)).unwrap().len(), length);
    }
}

#[test]
fn a_wrong_ticket_and_a_name_that_is_a_path_are_refused() {
    let (here, there) = (Folder::new(), Folder::new());
    let source = here.0.join("disk");
    sparse(&source);
    let address = receiver(&there).address().to_string();
    for (ticket, name) in
        [(Uuid::nil(), "disk"), (TICKET, "../disk"), (TICKET, ".disk"), (TICKET, "")]
    {
        let refused = carry(&address, ticket, name, &source).unwrap_err();
        assert!(matches!(refused, CarryError::Refused(_)), "{name}: {refused}");
        assert!(!refused.is_transient());
    }
    assert!(there.names().is_empty());
    assert!(!is_plain("a/b") && !is_plain("A") && is_plain("disk.config"));
}

/// Whoever is between the hosts and breaks what passes after `bytes`.
fn breaking_after(bytes: u64, to: std::net::SocketAddr) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (from, _) = listener.accept().unwrap();
        let mut there = TcpStream::connect(to).unwrap();
        let (mut answers, mut back) = (there.try_clone().unwrap(), from.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut answers, &mut back));
        std::io::copy(&mut (&from).take(bytes), &mut there).unwrap();
        let _ = there.shutdown(std::net::Shutdown::Both);
        let _ = from.shutdown(std::net::Shutdown::Both);
    });
    address
}

#[test]
fn a_connection_that_breaks_leaves_nothing_and_the_next_one_succeeds() {
    let (here, there) = (Folder::new(), Folder::new());
    let source = here.0.join("disk");
    sparse(&source);
    let receiver = receiver(&there);
    let broken = breaking_after(2 * MIB, receiver.address());
    let error = carry(&broken, TICKET, "disk", &source).unwrap_err();
    assert!(error.is_transient() || matches!(error, CarryError::Refused(_)), "{error}");
    carry(&receiver.address().to_string(), TICKET, "disk", &source).unwrap();
    assert_eq!(there.names(), ["disk"]);
}

#[test]
fn what_is_called_off_leaves_nothing() {
    let (here, there) = (Folder::new(), Folder::new());
    let source = here.0.join("disk");
    sparse(&source);
    let receiver = receiver(&there);
    let sent = std::cell::Cell::new(0);
    let mut pace = Pace {
        bytes_s: 0,
        progress: &mut |so_far, _| sent.set(so_far),
        stopped: &|| sent.get() >= 2 * MIB,
    };
    let address = receiver.address().to_string();
    let stopped = send_to(&address, TICKET, "disk", &source, &mut pace).unwrap_err();
    assert!(matches!(stopped, CarryError::Stopped), "{stopped}");
    // When the next has arrived, what the first left is gone, too.
    carry(&address, TICKET, "disk", &source).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while there.names() != ["disk"] {
        assert!(std::time::Instant::now() < deadline, "{:?}", there.names());
        std::thread::yield_now();
    }
}

/// A sender that does not keep to the rules.
fn misbehave(
    act: impl FnOnce(&mut TcpStream) -> Result<(), CarryError>,
) -> (CarryError, Vec<String>) {
    let there = Folder::new();
    let mut stream = TcpStream::connect(receiver(&there).address()).unwrap();
    let hello = Hello { ticket: TICKET, name: "disk".to_owned(), length: 100 };
    hello.write(&mut stream).unwrap();
    read_answer(&mut stream).unwrap();
    act(&mut stream).unwrap();
    let answer = read_answer(&mut stream).unwrap_err();
    (answer, there.names())
}

#[test]
fn what_is_not_what_was_sent_is_refused_and_leaves_nothing() {
    let (answer, left) = misbehave(|stream| {
        write_data(stream, 0, &[1; 100])?;
        write_end(stream, [0; 32])
    });
    assert!(answer.to_string().contains("not what was sent"), "{answer}");
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_piece_beyond_the_end_is_refused_and_leaves_nothing() {
    let (answer, left) = misbehave(|stream| write_data(stream, 50, &[1; 51]));
    assert!(answer.to_string().contains("does not belong"), "{answer}");
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_frame_longer_than_any_is_refused() {
    let (answer, left) = misbehave(|stream| {
        let mut head = 0u64.to_be_bytes().to_vec();
        head.extend(u32::MAX.to_be_bytes());
        stream.write_all(&head).map_err(CarryError::io("sending"))
    });
    assert!(answer.to_string().contains("wrong length"), "{answer}");
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_limit_is_kept() {
    let (here, there) = (Folder::new(), Folder::new());
    let source = here.0.join("disk");
    std::fs::write(&source, vec![1; 2 * MIB as usize]).unwrap();
    let receiver = receiver(&there);
    let mut pace = Pace { bytes_s: 8 * MIB, progress: &mut |_, _| {}, stopped: &|| false };
    let begun = std::time::Instant::now();
    send_to(&receiver.address().to_string(), TICKET, "disk", &source, &mut pace).unwrap();
    assert!(begun.elapsed() >= std::time::Duration::from_millis(240), "{:?}", begun.elapsed());
}
