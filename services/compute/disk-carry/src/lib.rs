//! Carries files from host to host: sparse, checked, whole or not at all.
//!
//! ```text
//! sender                                              receiver
//! MAGIC, ticket, name, length            ────────▶    is the ticket known, the name plain?
//!                                        ◀────────    yes, or no and why
//! offset, length, bytes   (data only, in order) ──▶   written to a temporary name, hashed
//! …
//! END, BLAKE3 of all that was sent       ────────▶    the same? then fsync, rename, fsync of the directory
//!                                        ◀────────    yes, or no and why
//! ```
//! Numbers are big-endian. Holes are not sent, and are holes again at the other end. The hash covers offsets
//! and lengths, too. A connection that breaks leaves nothing; the sender begins anew. All of it blocks and
//! belongs on threads of its own. Both ends work over any `Read + Write`, so a TLS session fits as well as a
//! TCP connection; without one the network must be trusted, as with any migration without TLS.

mod frames;
mod receive;
mod send;

pub use receive::{Place, Receiver, receive};
pub use send::{Pace, send, send_to};

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// The connection or a file failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The other end said no, for this reason.
    #[error("the other host refuses: {0}")]
    Refused(String),
    /// The other end does not speak as it should.
    #[error("the other host is not understood: {0}")]
    Protocol(&'static str),
    /// It was called off.
    #[error("called off")]
    Stopped,
}

impl CarryError {
    fn io(doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }

    /// Whether a new connection might do better.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.raw_os_error() != Some(nix::libc::ENOSPC),
            Self::Refused(_) | Self::Protocol(_) | Self::Stopped => false,
        }
    }
}

#[cfg(test)]
mod tests;
