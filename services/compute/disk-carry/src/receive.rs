//! The receiving end.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::CarryError;
use crate::frames::{FRAME, Frame, Hello, digest_piece, is_plain, read_frame, write_answer};
use crate::send::STALL;

/// Says where the file of that name goes that comes under that ticket, and why it may not.
pub type Place = dyn Fn(Uuid, &str, u64) -> Result<PathBuf, String> + Send + Sync;

/// Most senders at once; more have to wait in the kernel's queue.
const SENDERS: usize = 16;

/// After a call that could not be taken.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes files for as long as the process lives.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
}

impl Receiver {
    /// Listens at `address`.
    ///
    /// # Errors
    /// When it can't.
    pub fn start(address: &str, place: &Arc<Place>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        for number in 0..SENDERS {
            let (listener, place) = (listener.try_clone()?, Arc::clone(place));
            std::thread::Builder::new().name(format!("disks-{number}")).spawn(move || {
                loop {
                    match listener.accept() {
                        // Whoever sent it knows by its answer, or the lack of one.
                        Ok((stream, _)) => drop(serve(stream, &*place)),
                        // A caller who hung up, or no file descriptor left for the moment.
                        Err(_) => std::thread::sleep(PAUSE),
                    }
                }
            })?;
        }
        Ok(Self { address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn serve(mut stream: TcpStream, place: &Place) -> Result<(), CarryError> {
    stream
        .set_nodelay(true)
        .and_then(|()| stream.set_read_timeout(Some(STALL)))
        .and_then(|()| stream.set_write_timeout(Some(STALL)))
        .map_err(CarryError::io("taking a connection"))?;
    receive(&mut stream, place)
}

/// Takes one file. It has its name only when it is whole, checked and durable.
///
/// # Errors
/// When it did not arrive; nothing is left of it.
pub fn receive(stream: &mut (impl Read + Write), place: &Place) -> Result<(), CarryError> {
    let hello = Hello::read(stream)?;
    let target = if is_plain(&hello.name) {
        place(hello.ticket, &hello.name, hello.length)
    } else {
        Err("that is no name for a disk".to_owned())
    };
    let target = match target {
        Ok(target) => target,
        Err(why) => return refuse(stream, &why),
    };
    let temporary = target.with_extension(format!("{}.partial", Uuid::new_v4().simple()));
    let taken = take(stream, &hello, &temporary).and_then(|()| publish(&temporary, &target));
    match taken {
        Ok(()) => write_answer(stream, Ok(())),
        Err(error) => {
            let _ = std::fs::remove_file(&temporary);
            refuse(stream, &error.to_string())
        }
    }
}

fn refuse(stream: &mut impl Write, why: &str) -> Result<(), CarryError> {
    write_answer(stream, Err(why))?;
    Err(CarryError::Refused(why.to_owned()))
}

fn take(
    stream: &mut (impl Read + Write),
    hello: &Hello,
    temporary: &Path,
) -> Result<(), CarryError> {
    let file = File::create_new(temporary).map_err(CarryError::io("making a disk"))?;
    file.set_len(hello.length).map_err(CarryError::io("making a disk"))?;
    write_answer(stream, Ok(()))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; FRAME];
    let mut next = 0;
    loop {
        match read_frame(stream)? {
            Frame::Data { offset, length } => {
                let end = offset.checked_add(length as u64);
                // In order and inside, so that nothing is written twice or beyond what was announced.
                if offset < next || end.is_none_or(|end| end > hello.length) {
                    return Err(CarryError::Protocol("a piece that does not belong to the disk"));
                }
                let piece = &mut buffer[..length];
                stream.read_exact(piece).map_err(CarryError::io("receiving"))?;
                digest_piece(&mut hasher, offset, piece);
                file.write_all_at(piece, offset).map_err(CarryError::io("writing a disk"))?;
                next = offset + length as u64;
            }
            Frame::End(digest) => {
                hasher.update(&hello.length.to_be_bytes());
                if hasher.finalize().as_bytes() != &digest {
                    return Err(CarryError::Protocol("what arrived is not what was sent"));
                }
                return file.sync_all().map_err(CarryError::io("writing a disk"));
            }
        }
    }
}

fn publish(temporary: &Path, target: &Path) -> Result<(), CarryError> {
    const DOING: &str = "giving a disk its name";
    std::fs::rename(temporary, target).map_err(CarryError::io(DOING))?;
    let directory = target.parent().unwrap_or(Path::new("."));
    File::open(directory).and_then(|it| it.sync_all()).map_err(CarryError::io(DOING))
}
