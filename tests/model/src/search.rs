//! Every state, breadth first.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::hosts;
use crate::sagas::Conductor;
use crate::state::{Bounds, Job, Kind, Mutant, Request, State};

/// What leads from one state to the next. Faults and wishes may happen; the others go on happening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A move is asked for, to that host.
    Begins(Kind, u8),
    /// Somebody calls it off.
    IsCalledOff,
    /// A request of that move is carried out, or answered from the journal.
    Delivered(u8, Request),
    /// It is carried out, and the agent dies before it has written that down.
    DiesAt(u8, Request),
    /// Work that was put off is carried out.
    Owed(u8, Request),
    /// The guest of that move changes hosts.
    SwitchesOver(u8),
    /// Its job ends without that.
    JobFails(u8),
    /// The end of its job is written down.
    JobAnswered(u8),
    /// A conductor asks what it has asked before.
    AskedAgain,
    /// A conductor takes an answer.
    Learns,
    /// A conductor has asked often enough.
    GivesUp,
    /// A conductor acts on its peer's silence, or on its having been forced down.
    TakesForLost,
    /// A host loses power.
    LosesPower(u8),
    /// An operator sees to it that a host runs nothing, and says so.
    ForcedDown(u8),
    /// A host has power again.
    Boots(u8),
    /// An operator lets a host in again.
    LetIn(u8),
    /// A user starts a guest that has lost power.
    StartsGuest,
}

/// A rule that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: &'static str,
    /// What led there; nothing shorter does.
    pub way: Vec<Action>,
    /// Where.
    pub state: State,
}

impl Action {
    /// Whether nothing bad and no new wish is needed for it. Hosts return.
    fn goes_on(self) -> bool {
        !matches!(
            self,
            Self::Begins(..)
                | Self::IsCalledOff
                | Self::DiesAt(..)
                | Self::LosesPower(_)
                | Self::ForcedDown(_)
        )
    }
}

/// What a search has seen.
#[derive(Debug)]
pub struct Report {
    /// Different states.
    pub states: usize,
    /// Steps between them.
    pub steps: usize,
    /// How long it took.
    pub time: Duration,
    /// The nearest state that breaks a rule.
    pub violation: Option<Violation>,
}

struct Search {
    conductor: Conductor,
    states: Vec<State>,
    numbers: HashMap<State, u32>,
    from: Vec<(u32, Action)>,
    /// From, to: of what goes on.
    edges: Vec<(u32, u32)>,
    steps: usize,
}

/// Visits every state within the bounds, with a rule taken out or none, until a rule is broken.
pub fn explore(bounds: Bounds, mutant: Option<Mutant>) -> Report {
    let begun = Instant::now();
    let mut search = Search {
        conductor: Conductor { bounds, mutant },
        states: Vec::new(),
        numbers: HashMap::new(),
        from: Vec::new(),
        edges: Vec::new(),
        steps: 0,
    };
    let violation = search.run().err();
    Report { states: search.states.len(), steps: search.steps, time: begun.elapsed(), violation }
}

impl Search {
    fn run(&mut self) -> Result<(), Violation> {
        self.visit(State::first(), (0, Action::Learns))?;
        let mut at = 0;
        while at < self.states.len() {
            let number = index(at);
            let state = self.states[at];
            let mut next = Vec::new();
            self.happens(state, &mut next);
            for (action, to) in next {
                self.steps += 1;
                let to = to.without_the_past(self.conductor.mutant);
                let to = self.visit(to, (number, action))?;
                if action.goes_on() && to != number {
                    self.edges.push((number, to));
                }
            }
            at += 1;
        }
        self.everything_ends()
    }

    fn visit(&mut self, state: State, from: (u32, Action)) -> Result<u32, Violation> {
        if let Some(number) = self.numbers.get(&state) {
            return Ok(*number);
        }
        let number = index(self.states.len());
        self.numbers.insert(state, number);
        self.states.push(state);
        self.from.push(from);
        state.check().map_err(|why| self.way_to(number, why))?;
        Ok(number)
    }

    /// From each state an end can be reached without anything more going wrong.
    fn everything_ends(&self) -> Result<(), Violation> {
        // Sorted by where they lead, so that those into a state lie together.
        let mut first = vec![0_u32; self.states.len() + 1];
        for (_, to) in &self.edges {
            first[*to as usize + 1] += 1;
        }
        for at in 0..self.states.len() {
            first[at + 1] += first[at];
        }
        let mut free = first.clone();
        let mut into = vec![0_u32; self.edges.len()];
        for (from, to) in &self.edges {
            into[free[*to as usize] as usize] = *from;
            free[*to as usize] += 1;
        }
        let mut ends: Vec<bool> = self.states.iter().map(State::has_ended).collect();
        let mut todo: Vec<usize> = (0..ends.len()).filter(|at| ends[*at]).collect();
        while let Some(at) = todo.pop() {
            for before in &into[first[at] as usize..first[at + 1] as usize] {
                let before = *before as usize;
                if !ends[before] {
                    ends[before] = true;
                    todo.push(before);
                }
            }
        }
        let lost = ends.iter().position(|ends| !ends);
        lost.map_or(Ok(()), |at| Err(self.way_to(index(at), "it never ends")))
    }

    fn way_to(&self, number: u32, rule: &'static str) -> Violation {
        let mut way = Vec::new();
        let mut at = number;
        while at != 0 {
            let (before, action) = self.from[at as usize];
            way.push(action);
            at = before;
        }
        way.reverse();
        Violation { rule, way, state: self.states[number as usize] }
    }

    fn happens(&self, state: State, next: &mut Vec<(Action, State)>) {
        self.conductors(state, next);
        self.agents(state, next);
        self.hosts(state, next);
    }

    fn conductors(&self, state: State, next: &mut Vec<(Action, State)>) {
        let conductor = self.conductor;
        if state.saga.is_none() {
            for host in 0..conductor.bounds.hosts {
                for kind in [Kind::Live, Kind::Evacuation] {
                    let begun = conductor.begin(state, kind, host);
                    next.extend(begun.map(|to| (Action::Begins(kind, host), to)));
                }
            }
            let mut to = state;
            let here = to.at(state.host);
            if here.powered && !here.forced_down && here.guest.is_some_and(|guest| !guest.running) {
                here.guest = here.guest.map(|guest| crate::state::Guest { running: true, ..guest });
                to.off = false;
                next.push((Action::StartsGuest, to));
            }
            return;
        }
        next.push((Action::AskedAgain, conductor.ask_again(state)));
        next.extend(conductor.learn(state).into_iter().map(|to| (Action::Learns, to)));
        next.extend(conductor.turn_back(state, true).map(|to| (Action::IsCalledOff, to)));
        next.extend(conductor.turn_back(state, false).map(|to| (Action::GivesUp, to)));
        let lost = conductor.peer_is_lost(state);
        next.extend(lost.into_iter().map(|to| (Action::TakesForLost, to)));
    }

    fn agents(&self, state: State, next: &mut Vec<(Action, State)>) {
        let mutant = self.conductor.mutant;
        for number in 0..state.begun {
            let one = state.moves[usize::from(number)].expect("a move that was begun");
            for request in Request::ALL {
                let host = hosts::peer(&state, number, request);
                if !state.hosts[usize::from(host)].powered {
                    continue;
                }
                let bit = request.bit();
                if one.sent & bit != 0 {
                    let done = hosts::deliver(state, number, request, false, mutant);
                    let dies = hosts::deliver(state, number, request, true, mutant);
                    next.push((Action::Delivered(number, request), done));
                    next.push((Action::DiesAt(number, request), dies));
                }
                if one.owed & bit != 0 {
                    let done = hosts::deliver(state, number, request, false, mutant);
                    next.push((Action::Owed(number, request), done));
                }
            }
            if one.job == Job::Running {
                let moved = hosts::switch_over(state, number);
                next.extend(moved.map(|to| (Action::SwitchesOver(number), to)));
                let mut failed = state;
                failed.of(number).job = Job::Failed;
                next.push((Action::JobFails(number), failed));
            }
            let answered = hosts::answer_job(state, number);
            next.extend(answered.map(|to| (Action::JobAnswered(number), to)));
        }
    }

    fn hosts(&self, state: State, next: &mut Vec<(Action, State)>) {
        for host in 0..self.conductor.bounds.hosts {
            let here = state.hosts[usize::from(host)];
            if here.powered && state.losses < self.conductor.bounds.losses {
                for forced_down in [false, true] {
                    let mut to = state;
                    to.losses += 1;
                    hosts::lose_power(&mut to, host);
                    to.at(host).forced_down |= forced_down;
                    let action = if forced_down {
                        Action::ForcedDown(host)
                    } else {
                        Action::LosesPower(host)
                    };
                    next.push((action, to));
                }
            }
            if !here.powered {
                next.push((Action::Boots(host), hosts::boot(state, host, self.conductor.mutant)));
            }
            if !here.powered && !here.forced_down {
                // Somebody sees that it is off and says so.
                let mut to = state;
                to.at(host).forced_down = true;
                next.push((Action::ForcedDown(host), to));
            }
            let let_in = self.conductor.let_in(state, host);
            next.extend(let_in.map(|to| (Action::LetIn(host), to)));
        }
    }
}

fn index(at: usize) -> u32 {
    u32::try_from(at).expect("fewer states than that")
}
