//! Everything that can go wrong once at every step, every two such things together, and a crash of the
//! conductor in every transaction. No chance in it.

use whimbrel_messages::Dir;
use whimbrel_model::VmState;
use whimbrel_saga::{Phase, StepKind};

use crate::world::{Chaos, Crash, Fault, Hit, Op, Script, Sim};

/// An operation and the world that it begins in.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    saga: &'static str,
    op: Op,
    /// Whether there is a guest yet, and whether it runs.
    guest: Option<bool>,
}

const SCENARIOS: [Scenario; 8] = [
    Scenario { saga: "boot", op: Op::Boot, guest: None },
    Scenario { saga: "delete", op: Op::Delete, guest: Some(true) },
    Scenario { saga: "start", op: Op::Start, guest: Some(false) },
    Scenario { saga: "stop", op: Op::Stop, guest: Some(true) },
    Scenario { saga: "reboot", op: Op::Reboot, guest: Some(true) },
    Scenario { saga: "reboot", op: Op::RebootHard, guest: Some(false) },
    Scenario { saga: "live-migrate", op: Op::LiveMigrate, guest: Some(true) },
    Scenario { saga: "live-migrate", op: Op::LiveMigrateTo(2), guest: Some(true) },
];

impl Scenario {
    /// Runs it to the end. A saga that is stuck is deleted, and nothing may stay of it.
    fn run(self, script: &Script) -> Sim {
        let mut sim = self.sim(script);
        let end = sim.run().and_then(|()| {
            let saga = sim.sagas.first().ok_or("nothing was begun")?;
            let stuck = saga.row.phase == Phase::Stuck;
            let asked = |step| saga.history.iter().any(|entry| entry.next == step);
            let reached = script.faults.iter().all(|fault| asked(fault.step));
            let must = script.give_up.is_none() && script.faults.len() < 2 && reached;
            if stuck != self.may_stick(script) && (stuck || must) {
                return Err(format!("{self:?} is {}: {:?}", saga.row.phase, saga.row.fault));
            }
            if stuck {
                sim.wish(Op::Delete);
                sim.run()?;
                let vm = sim.rows.instance.state.vm;
                if vm != VmState::Deleted {
                    return Err(format!("deleted, but {vm}"));
                }
            }
            Ok(())
        });
        if let Err(violation) = end {
            let mut again = self.sim(script).traced();
            let _ = again.run();
            panic!("{self:?} with {script:?}\n{}\n{violation}", again.trace());
        }
        sim
    }

    fn sim(self, script: &Script) -> Sim {
        let mut sim = Sim::new(Chaos::script(script.clone()), None);
        if let Some(running) = self.guest {
            sim = sim.with_guest(running);
        }
        sim.wish(self.op);
        sim
    }

    /// A refusal past the point of no return, or of an undo, has no way out but an operator.
    fn may_stick(self, script: &Script) -> bool {
        let refused = |fault: &Fault| {
            fault.hit == Hit::Refuse && (fault.dir == Dir::Undo || self.is_retriable(fault.step))
        };
        let forgetful =
            |fault: &Fault| fault.hit == Hit::RefuseTwice && self.is_retriable(fault.step);
        script.give_up.is_some()
            || script.faults.iter().any(|fault| refused(fault) || forgetful(fault))
    }

    fn is_retriable(self, name: &str) -> bool {
        let shape = whimbrel_sagas::registry().get(self.saga, 1).expect("a definition").shape();
        shape.iter().any(|step| step.name == name && step.kind == StepKind::Retriable)
    }

    /// All that can go wrong once.
    fn faults(self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for step in whimbrel_sagas::registry().get(self.saga, 1).expect("a definition").shape() {
            for hit in Hit::ALL {
                // A refusal that a host does not remember is against its rules, but for an undo it may wait.
                let forgetful = hit == Hit::RefuseTwice;
                for once in [true, false] {
                    if !forgetful {
                        faults.push(Fault { step: step.name, dir: Dir::Do, hit, once });
                    }
                    if step.undo.is_some() && hit != Hit::Cancel {
                        faults.push(Fault { step: step.name, dir: Dir::Undo, hit, once });
                    }
                }
            }
        }
        faults
    }

    fn forward(self) -> impl Iterator<Item = Fault> {
        self.faults().into_iter().filter(|fault| fault.dir == Dir::Do)
    }
}

impl Sim {
    /// Transactions that are worth a crash: after so many of them the rest ask for the same again.
    fn transactions(&self) -> usize {
        self.chaos.transactions().min(30)
    }
}

fn script(faults: &[&Fault]) -> Script {
    Script { faults: faults.iter().copied().cloned().collect(), ..Script::default() }
}

#[test]
fn when_nothing_goes_wrong_every_operation_completes() {
    for scenario in SCENARIOS {
        let sim = scenario.run(&Script::default());
        assert_eq!(sim.sagas[0].row.phase, Phase::Completed, "{scenario:?}");
    }
}

#[test]
fn one_fault_at_any_step_leaves_a_whole_world() {
    for scenario in SCENARIOS {
        for fault in scenario.forward() {
            scenario.run(&script(&[&fault]));
        }
    }
}

#[test]
fn a_fault_going_forward_and_one_going_back_leave_a_whole_world() {
    for scenario in SCENARIOS {
        let faults = scenario.faults();
        for first in scenario.forward() {
            let back = |fault: &&Fault| fault.dir == Dir::Undo && fault.once == first.once;
            for second in faults.iter().filter(back) {
                scenario.run(&script(&[&first, second]));
            }
        }
    }
}

#[test]
fn any_two_faults_going_forward_leave_a_whole_world() {
    for scenario in SCENARIOS {
        let faults: Vec<_> = scenario.forward().filter(|fault| fault.once).collect();
        for (at, first) in faults.iter().enumerate() {
            for second in &faults[at + 1..] {
                scenario.run(&script(&[first, second]));
            }
        }
    }
}

#[test]
fn a_crash_of_the_conductor_in_any_transaction_leaves_a_whole_world() {
    for scenario in SCENARIOS {
        let faults = scenario.forward().map(|fault| vec![fault]);
        for faults in std::iter::once(Vec::new()).chain(faults) {
            let script = Script { faults, ..Script::default() };
            for at in 0..scenario.run(&script).transactions() {
                for crash in [Crash::Before, Crash::After, Crash::Lost] {
                    // Sent late by the sweeper is between sent and lost, which are both run in full.
                    if crash != Crash::After || script.faults.is_empty() {
                        scenario.run(&Script { crash: Some((at, crash)), ..script.clone() });
                    }
                }
            }
        }
    }
}

#[test]
fn whenever_a_saga_is_given_up_a_deletion_leaves_nothing() {
    for scenario in SCENARIOS.into_iter().filter(|scenario| scenario.op != Op::Delete) {
        let faults = scenario.forward().map(|fault| vec![fault]);
        for faults in std::iter::once(Vec::new()).chain(faults) {
            let script = Script { faults, ..Script::default() };
            for at in 0..scenario.run(&script).transactions() {
                scenario.run(&Script { give_up: Some(at), ..script.clone() });
            }
        }
    }
}

#[test]
fn a_source_that_does_not_answer_is_not_held_against_the_destination() {
    let scenario = SCENARIOS[6];
    for (step, rounds) in
        [("check-source", 0), ("check-destination", 2), ("prepare-destination", 2)]
    {
        let fault = Fault { step, dir: Dir::Do, hit: Hit::LoseRequests, once: false };
        let sim = scenario.run(&script(&[&fault]));
        let row = &sim.sagas[0].row;
        assert_eq!((row.phase, row.round), (Phase::Unwound, rounds), "{step}");
    }
}
