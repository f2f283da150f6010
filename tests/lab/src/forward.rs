//! Forwarders: hosts reach broker and API at the switch, both listen on the machine's loopback only. Each
//! connection is carried by two threads; faults pause or reset them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use nix::sys::socket;

/// Carries connections from a listening socket, which may be in another network namespace, to a loopback port.
#[derive(Debug)]
pub(crate) struct Forwarder {
    shared: Arc<Shared>,
    wake: TcpListener,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    paused: bool,
    ended: bool,
    next: u64,
    open: Vec<(u64, TcpStream, TcpStream)>,
}

impl Forwarder {
    pub(crate) fn start(listener: TcpListener, to_port: u16) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            to: SocketAddr::from((Ipv4Addr::LOCALHOST, to_port)),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let wake = listener.try_clone().context("duplicating a socket")?;
        let accepting = Arc::clone(&shared);
        std::thread::Builder::new().name(format!("forward-{to_port}")).spawn(move || {
            for stream in listener.incoming() {
                if accepting.lock().ended {
                    break;
                }
                let Ok(near) = stream else { continue };
                let carrying = Arc::clone(&accepting);
                let _ = std::thread::Builder::new().spawn(move || carrying.carry(near));
            }
        })?;
        Ok(Self { shared, wake })
    }

    /// Lets nothing through any more, in either direction; connections stay open. As a network that swallows
    /// every packet.
    pub(crate) fn pause(&self) {
        self.shared.lock().paused = true;
    }

    /// Lets everything through again.
    pub(crate) fn resume(&self) {
        self.shared.lock().paused = false;
        self.shared.changed.notify_all();
    }

    /// Ends all connections; new ones are carried.
    pub(crate) fn reset(&self) {
        for (_, near, far) in self.shared.lock().open.drain(..) {
            let _ = near.shutdown(Shutdown::Both);
            let _ = far.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
        self.reset();
        // Makes `accept` return in the thread that waits in it. std offers this for streams alone.
        let _ = socket::shutdown(self.wake.as_raw_fd(), socket::Shutdown::Both);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when data may pass; `false` when the forwarder has ended.
    fn may_pass(&self) -> bool {
        let state = self.changed.wait_while(self.lock(), |state| state.paused && !state.ended);
        !state.unwrap_or_else(PoisonError::into_inner).ended
    }

    fn carry(self: &Arc<Self>, near: TcpStream) {
        if !self.may_pass() {
            return;
        }
        let Ok(far) = TcpStream::connect_timeout(&self.to, Duration::from_secs(5)) else { return };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let Some(id) = self.remember(&near, &far) else { return };
        let (Ok(near_again), Ok(far_again)) = (near.try_clone(), far.try_clone()) else { return };
        let other = Arc::clone(self);
        let back = std::thread::Builder::new().spawn(move || other.copy(far_again, near_again));
        self.copy(near, far);
        if let Ok(back) = back {
            let _ = back.join();
        }
        self.lock().open.retain(|(open, _, _)| *open != id);
    }

    fn remember(&self, near: &TcpStream, far: &TcpStream) -> Option<u64> {
        let pair = (near.try_clone().ok()?, far.try_clone().ok()?);
        let mut state = self.lock();
        state.next += 1;
        let id = state.next;
        state.open.push((id, pair.0, pair.1));
        Some(id)
    }

    /// Copies one direction; its end is passed on, the other direction goes on by itself.
    fn copy(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = match from.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(read) => read,
            };
            let passed = self.may_pass();
            if !passed || buffer.get(..read).is_none_or(|bytes| to.write_all(bytes).is_err()) {
                let _ = from.shutdown(Shutdown::Both);
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut from, mut to) = (stream.as_ref().unwrap(), stream.as_ref().unwrap());
                let _ = std::io::copy(&mut from, &mut to);
            }
        });
        port
    }

    fn forwarder() -> (Forwarder, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let forwarder = Forwarder::start(listener, echo()).unwrap();
        let stream = TcpStream::connect(address).unwrap();
        (forwarder, stream)
    }

    fn round_trip(stream: &mut TcpStream) -> std::io::Result<[u8; 4]> {
        stream.write_all(b"ping")?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).map(|()| answer)
    }

    #[test]
    fn what_is_sent_while_paused_arrives_afterwards() {
        let (forwarder, mut stream) = forwarder();
        assert_eq!(&round_trip(&mut stream).unwrap(), b"ping");
        forwarder.pause();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(round_trip(&mut stream).is_err());
        forwarder.resume();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut late = [0; 4];
        stream.read_exact(&mut late).unwrap();
        assert_eq!(&late, b"ping");
    }

    #[test]
    fn a_reset_ends_connections_and_lets_new_ones_in() {
        let (forwarder, mut stream) = forwarder();
        assert_eq!(&round_trip(&mut stream).unwrap(), b"ping");
        let address = stream.peer_addr().unwrap();
        forwarder.reset();
        assert!(round_trip(&mut stream).is_err());
        let mut stream = TcpStream::connect(address).unwrap();
        assert_eq!(&round_trip(&mut stream).unwrap(), b"ping");
    }

    #[test]
    fn after_its_end_nobody_listens() {
        let (forwarder, stream) = forwarder();
        let address = stream.peer_addr().unwrap();
        drop(forwarder);
        let deadline = crate::wait::Deadline::after(Duration::from_secs(5));
        crate::wait::until(deadline, "the port to be free", || {
            Ok(TcpStream::connect(address).is_err().then_some(()))
        })
        .unwrap();
    }
}
