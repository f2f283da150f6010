//! What can go wrong, which exit status it makes, and what to do next.

use std::fmt;

/// Why a command did not do what it was asked to. Each kind is an exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It was begun, and ended badly.
    Failed = 1,
    /// The command line or the configuration is wrong; nothing was asked.
    Usage = 2,
    /// The service said no: not there, not unambiguous, not allowed, not in this state.
    Refused = 3,
    /// The service can't be reached, or does not know the caller, or has a failure of its own.
    Unreachable = 4,
    /// The time for waiting is over; what was begun goes on.
    TimedOut = 5,
    /// Whoever watched stopped it; what was begun goes on.
    Interrupted = 130,
}

/// What went wrong, and what to do next.
#[derive(Debug, thiserror::Error)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    message: String,
    next: Vec<String>,
    /// The HTTP status, if there was one.
    pub(crate) status: Option<u16>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Failure {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), next: Vec::new(), status: None, source: None }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Refused, message)
    }

    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unreachable, message)
    }

    pub(crate) fn timed_out(message: impl Into<String>) -> Self {
        Self::new(Kind::TimedOut, message)
    }

    pub(crate) fn interrupted(message: impl Into<String>) -> Self {
        Self::new(Kind::Interrupted, message)
    }

    /// Something to do about it.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next.push(next.into());
        self
    }

    pub(crate) fn because(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The answer was an HTTP status that is an error.
    pub(crate) fn answered(status: u16, message: &str, request_id: Option<&str>) -> Self {
        let message = message.trim();
        let message = if message.is_empty() { "The service gave no reason." } else { message };
        let request = request_id.map(|id| format!(", request {id}")).unwrap_or_default();
        let kind = match status {
            401 | 500.. => Kind::Unreachable,
            _ => Kind::Refused,
        };
        // 501 is what services say of what they never do.
        let kind = if status == 501 { Kind::Refused } else { kind };
        let this = Self {
            status: Some(status),
            ..Self::new(kind, format!("{message} (HTTP {status}{request})"))
        };
        match status {
            401 => this.next("Check the user name and the password or application credential that your clouds.yaml or OS_* variables give."),
            403 => this.next("Ask for a higher role in this project, or somebody who has it."),
            406 => this.next("Ask by an older version: --os-compute-api-version 2.79, for example."),
            409 => this.next("Look at what it is doing now: whimbrel server show, whimbrel event list."),
            503 => this.next("Try again in a moment."),
            500 | 502 | 504 => this.next("The log of the service says more; look for the request's id."),
            _ => this,
        }
    }

    /// All there is to say, in lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![match self.kind {
            Kind::Interrupted => self.message.clone(),
            _ => format!("error: {}", self.message),
        }];
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            lines.push(format!("  because: {error}"));
            source = error.source();
        }
        lines.extend(self.next.iter().map(|next| format!("  next: {next}")));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_become_exit_codes() {
        for (status, code) in
            [(400, 3), (401, 4), (403, 3), (404, 3), (409, 3), (500, 4), (501, 3), (503, 4)]
        {
            let failure = Failure::answered(status, "no", None);
            assert_eq!(failure.kind as u8, code, "{status}");
        }
    }

    #[test]
    fn lines_say_what_and_why_and_what_next() {
        let failure = Failure::unreachable("Nobody answers at http://h:1.")
            .because(std::io::Error::other("connection refused"))
            .next("Is it up?");
        assert_eq!(
            failure.lines(),
            [
                "error: Nobody answers at http://h:1.",
                "  because: connection refused",
                "  next: Is it up?",
            ]
        );
    }
}
