//! As much HTTP as the broker's management API needs, without a runtime.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};

const PATIENCE: Duration = Duration::from_secs(10);
/// `whimbrel:whimbrel` in base 64.
const CREDENTIALS: &str = "d2hpbWJyZWw6d2hpbWJyZWw=";

/// Whether something accepts connections on a loopback port.
pub(super) fn listens(port: u16) -> bool {
    connect(port).is_ok()
}

/// Sends a request without a body and fails unless the status is 2xx.
pub(super) fn request(port: u16, method: &str, path: &str) -> anyhow::Result<()> {
    let answer = exchange(port, method, path).with_context(|| format!("{method} {path}"))?;
    let status = answer.split(' ').nth(1).unwrap_or_default();
    if !status.starts_with('2') {
        bail!("{method} {path}: {}", answer.lines().next().unwrap_or("no answer"));
    }
    Ok(())
}

fn exchange(port: u16, method: &str, path: &str) -> anyhow::Result<String> {
    let mut stream = connect(port)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {CREDENTIALS}\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn connect(port: u16) -> std::io::Result<TcpStream> {
    TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), PATIENCE)
}
