//! Connections as the computers see them: dialling, sending, arriving, breaking.
//!
//! Contract: an event of a connection is told to the process that holds the end, in order, and to
//! nobody else.

use crate::network::{End, Item};
use crate::node::Todo;
use crate::weather::MS;
use crate::world::{Due, World};
use ft::event::Event;
use ft::message::Message;
use ft::types::Conn;

/// The number by which a process knows its end of a connection.
#[must_use]
pub fn name(conn: usize, end: usize) -> Conn {
    Conn((conn * 2 + end) as u64)
}

/// The connection and end of a number.
#[must_use]
pub fn place(conn: Conn) -> (usize, usize) {
    ((conn.0 / 2) as usize, (conn.0 % 2) as usize)
}

impl World {
    fn delay(&mut self) -> u64 {
        let (least, spread) = self.weather.delay;
        let spike = if self.rng.millionths(self.weather.spikes) { 400 * MS } else { 0 };
        least + self.rng.below(spread) + self.rng.below(spike)
    }

    /// Sends an item from the other end to `to`.
    fn post(&mut self, conn: usize, to: usize, item: Item) {
        let at = self.now + self.delay();
        if let Some(at) = self.net.queue(conn, to, at, item) {
            self.at(at, Due::Arrival(conn, to));
        }
    }

    /// A process sends a message.
    pub(crate) fn send(&mut self, node: usize, conn: Conn, message: &Message) {
        let (conn, end) = place(conn);
        let here = End { node, incarnation: self.nodes[node].incarnation };
        if self.net.get(conn).ends[end] == here && self.net.get(conn).open[end] {
            self.post(conn, 1 - end, Item::Message(message.encode()));
        }
    }

    /// A process closes a connection in order.
    pub(crate) fn close(&mut self, conn: Conn) {
        let (conn, end) = place(conn);
        if self.net.get(conn).open[end] {
            self.post(conn, 1 - end, Item::Down);
            self.net.close(conn, end);
        }
    }

    /// Something may have arrived.
    pub(crate) fn arrival(&mut self, conn: usize, to: usize) {
        let End { node, incarnation } = self.net.get(conn).ends[to];
        while let Some(item) = self.net.arrive(conn, to, self.now) {
            if self.nodes[node].process.is_none() || self.nodes[node].incarnation != incarnation {
                continue;
            }
            let name = name(conn, to);
            let event = match item {
                Item::Up => Event::Connected(name),
                Item::Message(bytes) => match Message::decode(&bytes) {
                    Ok(message) => Event::Received(name, message),
                    Err(e) => return self.checker.violated(format!("on the wire: {e}")),
                },
                Item::Down | Item::Broken => Event::Disconnected(name),
            };
            self.enqueue(node, Todo::Tell(event));
        }
    }

    /// Two computers connect now and then, if they are not connected.
    pub(crate) fn dial(&mut self, one: usize, two: usize) {
        let wait = self.rng.range(100, 400) * MS;
        self.after(wait, Due::Dial(one, two));
        let ends = if self.rng.one_in(2) { [one, two] } else { [two, one] };
        self.connect(ends, false);
    }

    /// `ends[0]` connects to `ends[1]`; `again`: although it has a connection.
    pub(crate) fn connect(&mut self, ends: [usize; 2], again: bool) {
        let [from, to] = ends;
        let runs = |node: usize| {
            self.nodes[node].process.is_some() && self.nodes[node].paused_until <= self.now
        };
        if !runs(from) || self.nodes[to].process.is_none() {
            return;
        }
        if self.net.is_blocked(from, to) || self.net.is_blocked(to, from) {
            return;
        }
        let held = self.net.held_by(from, self.nodes[from].incarnation);
        let other = |conn: &usize| self.net.get(*conn).ends.iter().any(|end| end.node == to);
        if held.iter().any(other) && !again {
            return;
        }
        let ends = ends.map(|node| End { node, incarnation: self.nodes[node].incarnation });
        let there = self.now + self.delay();
        let back = there + self.delay();
        let conn = self.net.connect(ends, [back, there]);
        self.note(from, || format!("-- connects to n{to} ({conn})"));
        self.at(back, Due::Arrival(conn, 0));
        self.at(there, Due::Arrival(conn, 1));
    }

    /// A direction is free again: what waited comes.
    pub(crate) fn unblock(&mut self, from: usize, to: usize) {
        if !self.net.is_blocked(from, to) {
            return;
        }
        self.note(from, || format!("-- the way to n{to} is free"));
        self.net.block(from, to, false);
        for (conn, end) in self.net.waiting_between(from, to) {
            let wait = self.delay();
            self.after(wait, Due::Arrival(conn, end));
        }
    }

    /// A connection is lost; `late`: one side notices much later.
    pub(crate) fn reset(&mut self, conn: usize, late: bool) {
        let mut keep = [0; 2];
        let mut at = [None; 2];
        let slow = if late { self.rng.below(2) as usize } else { 2 };
        for end in 0..2 {
            keep[end] = self.rng.below(self.net.waiting(conn, end) as u64 + 1) as usize;
            let wait = if end == slow { self.rng.range(500, 9000) * MS } else { self.delay() };
            at[end] = Some(self.now + wait);
        }
        self.lose(conn, keep, at);
    }

    fn lose(&mut self, conn: usize, keep: [usize; 2], at: [Option<u64>; 2]) {
        self.net.reset(conn, keep, at);
        for (end, at) in at.into_iter().enumerate() {
            if let Some(at) = at {
                self.at(at, Due::Arrival(conn, end));
            }
            let kept = self.net.due(conn, end);
            if let Some(due) = kept {
                self.at(due, Due::Arrival(conn, end));
            }
        }
    }

    /// A process is gone; `told`: its system says so to the others.
    pub(crate) fn hang_up(&mut self, node: usize, told: bool) {
        for conn in self.net.held_by(node, self.nodes[node].incarnation) {
            let incarnation = self.nodes[node].incarnation;
            let Some(end) = self.net.get(conn).end_of(node, incarnation) else { continue };
            self.net.close(conn, end);
            let there = 1 - end;
            let mut keep = [0; 2];
            let waiting = self.net.waiting(conn, there);
            // What was on the wire arrives; a reset may overtake what the other side has not read.
            keep[there] = match told && self.rng.one_in(2) {
                true => self.rng.below(waiting as u64 + 1) as usize,
                false => waiting,
            };
            let mut at = [None; 2];
            let wait = if told { self.delay() } else { self.rng.range(2000, 9000) * MS };
            at[there] = Some(self.now + wait);
            self.lose(conn, keep, at);
        }
    }
}
