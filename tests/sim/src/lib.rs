//! The whole control plane in one thread, with everything that can go wrong: for tests, for the replay of a run,
//! and for runs as long as one likes.

mod cli;
mod rows;
#[cfg(test)]
mod seeds;
mod shrink;
#[cfg_attr(not(test), expect(dead_code, reason = "only tests follow scripts and switch rules off"))]
mod world;

pub use cli::run;

#[cfg(test)]
mod tests;
