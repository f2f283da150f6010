//! What must hold in the simulated world, and that its checks notice when a rule is missing.

mod faults;
mod mutants;
mod seeds;
