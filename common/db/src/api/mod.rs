//! What the HTTP API reads and writes.
