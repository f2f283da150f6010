//! `whimbrel-sim --seed N` replays a run; `whimbrel-sim soak --seconds N` makes as many as it can.

use std::process::ExitCode;

fn main() -> ExitCode {
    whimbrel_sim::run()
}
