//! What the definitions promise: their frozen shape, and what becomes of them when hosts are lost. That rows and
//! guests agree whatever goes wrong is shown in a simulated world: `tests/sim`.

mod golden;
mod lost;
