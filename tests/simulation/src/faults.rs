//! Faults: what strikes, and the clearing up after.
//!
//! Contract: a fault does only what the world outside can do to a process, a wire, a disk or the
//! arbiter.

use crate::node::Todo;
use crate::weather::{Fault, MS, Weather};
use crate::world::{Due, NODES, World};
use ft::event::Event;

impl World {
    /// Bad weather begins.
    pub fn begin_faults(&mut self) {
        let wait = self.rng.below(2 * self.weather.between);
        self.after(wait, Due::Fault);
    }

    /// A fault strikes, and the next is on its way.
    pub(crate) fn fault(&mut self) {
        if self.now >= self.weather.until {
            return;
        }
        let wait = 1 + self.rng.below(2 * self.weather.between);
        self.after(wait, Due::Fault);
        if self.weather.power_off.is_some_and(|at| self.now >= at) {
            self.press_power_button();
            self.weather.power_off = Some(self.now + 400 * MS);
        }
        if self.weather.faults.is_empty() {
            return;
        }
        let all = self.weather.faults.clone();
        let fault = self.rng.pick(&all);
        self.strike(fault);
    }

    fn strike(&mut self, fault: Fault) {
        let node = self.rng.below(NODES as u64) as usize;
        let other = (node + 1 + self.rng.below(NODES as u64 - 1) as usize) % NODES;
        self.note(node, || format!("** {fault:?} (n{other})"));
        let long = self.rng.pick(&[30, 200, 600, 3000]) * MS;
        match fault {
            Fault::Kill => self.crash(node, true),
            Fault::PowerLoss => self.crash(node, false),
            Fault::Pause => self.pause(node, long),
            Fault::BlockOneWay => self.block(node, other, long),
            Fault::BlockBothWays => {
                self.block(node, other, long);
                self.block(other, node, long);
            }
            Fault::Isolate => {
                for other in (0..NODES).filter(|other| *other != node) {
                    self.block(node, other, long);
                    self.block(other, node, long);
                }
                self.cut_arbiter(node, [false; 2], long);
            }
            Fault::Reset | Fault::HalfOpen => {
                let alive = self.net.alive();
                if !alive.is_empty() {
                    let conn = self.rng.pick(&alive);
                    self.reset(conn, fault == Fault::HalfOpen);
                }
            }
            Fault::SecondConnection => self.connect([node, other], true),
            Fault::ArbiterCut => {
                let ways = self.rng.pick(&[[false, true], [true, false], [false, false]]);
                self.cut_arbiter(node, ways, long);
            }
            Fault::ArbiterSilent => {
                for node in 0..NODES {
                    self.cut_arbiter(node, [false; 2], long);
                }
            }
            Fault::Slow => self.nodes[node].slow_until = self.now + long,
            Fault::Promote => self.user(node, Event::Promote),
            Fault::Detach => self.user(node, Event::Detach),
            Fault::TransferBreaks => self.enqueue(node, Todo::BreakTransfer),
        }
    }

    /// The user tells a replica something.
    pub fn user(&mut self, node: usize, event: Event) {
        if self.nodes[node].process.is_some() {
            self.enqueue(node, Todo::Tell(event));
        }
    }

    /// Opens or cuts the link between two computers, both ways.
    pub fn set_link(&mut self, one: usize, two: usize, up: bool) {
        for (from, to) in [(one, two), (two, one)] {
            match up {
                true => self.unblock(from, to),
                false => self.net.block(from, to, true),
            }
        }
    }

    /// Blocks a direction for a time.
    pub fn block(&mut self, from: usize, to: usize, time: u64) {
        self.net.block(from, to, true);
        self.after(time, Due::Unblock(from, to));
    }

    /// Blocks a computer's ways to and from the arbiter for a time.
    pub fn cut_arbiter(&mut self, node: usize, ways: [bool; 2], time: u64) {
        self.arbiter_paths[node] = ways;
        self.after(time, Due::ArbiterBack(node));
    }

    /// A process stands still.
    pub fn pause(&mut self, node: usize, time: u64) {
        let here = &mut self.nodes[node];
        if here.process.is_some() {
            here.paused_until = here.paused_until.max(self.now + time);
            let until = here.paused_until;
            self.at(until, Due::Resume(node));
        }
    }

    /// A process goes on: it finds all that came meanwhile, its timer first or last.
    pub(crate) fn resume(&mut self, node: usize) {
        if self.nodes[node].paused_until > self.now {
            return;
        }
        let first = self.rng.one_in(2);
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        let timer = |todo: &Todo| matches!(todo, Todo::Tell(Event::Timer));
        // Behind what belongs to a step that was cut short: an input is applied right after it is
        // logged.
        if first
            && !process.agenda.iter().any(|todo| matches!(todo, Todo::Inject(_)))
            && let Some(at) = process.agenda.iter().position(timer)
            && let Some(timer) = process.agenda.remove(at)
        {
            process.agenda.push_front(timer);
        }
        self.work(node);
    }

    /// A process dies; `told`: its system lives, and says so to the others.
    pub fn crash(&mut self, node: usize, told: bool) {
        let Some(process) = self.nodes[node].process.take() else { return };
        self.note(node, || "!! dies".into());
        self.checker.counts.crashes += 1;
        self.lose_writes(node, process);
        self.hang_up(node, told);
        self.start_later(node);
    }

    /// Writes under way reach the disk, or do not.
    fn lose_writes(&mut self, node: usize, process: crate::node::Process) {
        let (Some(machine), true) = (process.machine, process.live.is_some()) else { return };
        for write in machine.writing() {
            if self.rng.one_in(2) {
                self.nodes[node].disk[usize::from(write.client)] = write.block;
            }
        }
    }

    /// The next process of a computer starts in a while.
    pub(crate) fn start_later(&mut self, node: usize) {
        if self.restarts {
            let wait = self.rng.below(2 * self.weather.restart);
            self.after(wait, Due::Start(node));
        }
    }

    /// The weather clears: everything works from now on.
    pub fn clear(&mut self) {
        self.weather = Weather::fair();
        for node in 0..NODES {
            for other in 0..NODES {
                self.unblock(node, other);
            }
            self.arbiter_paths[node] = [true; 2];
            self.nodes[node].slow_until = 0;
            if self.nodes[node].paused_until > self.now {
                self.nodes[node].paused_until = self.now;
                self.resume(node);
            }
            self.after(200 * MS, Due::Start(node));
        }
        for client in &mut self.clients {
            client.before_clear = client.request;
        }
    }
}
