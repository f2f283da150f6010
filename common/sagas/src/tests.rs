//! What the definitions promise: their frozen shape, and, in a simulated world, that whatever goes wrong
//! the rows and the guests agree in the end.

mod faults;
mod golden;
mod lost;
mod mutants;
mod rows;
mod seeds;
mod sim;
