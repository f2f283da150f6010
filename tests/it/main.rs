//! Checks of the repository as a whole: its structure, its schemas, its style.

mod schemas;
mod tidy;
