//! The rules of the engine, one test each, over a toy definition that has every kind of step.

mod back;
mod cancel;
mod forward;
mod machine;
mod properties;
mod stuck;
mod toy;
mod waiting;
