//! The network between replicas: connections that are ordered and whole inside, and anything but
//! reliable.
//!
//! Contract: what one end queues arrives at the other in order, whole, or not at all; after a loss
//! nothing more arrives. The two ends may notice the end of a connection at different times. A
//! blocked direction delays; it does not lose until the connection is reset.

use std::collections::VecDeque;

/// What travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// The connection is there.
    Up,
    /// A message's bytes.
    Message(Vec<u8>),
    /// The other side closed it.
    Down,
    /// This side's own system gave it up: no wire is needed to learn that.
    Broken,
}

/// One process on a computer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The computer.
    pub node: usize,
    /// Which of its processes.
    pub incarnation: u64,
}

/// What is on its way to one end.
#[derive(Clone, Debug, Default)]
struct Flow {
    items: VecDeque<(u64, Item)>,
    last: u64,
}

/// A connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Both ends.
    pub ends: [End; 2],
    /// Whether each end's process still holds it.
    pub open: [bool; 2],
    /// To each end.
    flows: [Flow; 2],
    /// No more is taken.
    cut: bool,
}

impl Connection {
    /// Which end belongs to a process.
    #[must_use]
    pub fn end_of(&self, node: usize, incarnation: u64) -> Option<usize> {
        self.ends.iter().position(|end| *end == End { node, incarnation })
    }
}

/// All connections that ever were, by number, and the links below them.
#[derive(Clone, Debug)]
pub struct Network {
    connections: Vec<Connection>,
    /// From computer to computer: whether packets are lost.
    blocked: Vec<Vec<bool>>,
}

impl Network {
    /// A network of `nodes` computers.
    #[must_use]
    pub fn new(nodes: usize) -> Self {
        Self { connections: Vec::new(), blocked: vec![vec![false; nodes]; nodes] }
    }

    /// Blocks or frees one direction.
    pub fn block(&mut self, from: usize, to: usize, blocked: bool) {
        self.blocked[from][to] = blocked;
    }

    /// Whether packets of one direction are lost.
    #[must_use]
    pub fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.blocked[from][to]
    }

    /// A connection.
    #[must_use]
    pub fn get(&self, conn: usize) -> &Connection {
        &self.connections[conn]
    }

    /// Connections that a process holds.
    #[must_use]
    pub fn held_by(&self, node: usize, incarnation: u64) -> Vec<usize> {
        let held = self.connections.iter().enumerate().filter(|(_, connection)| {
            connection.end_of(node, incarnation).is_some_and(|end| connection.open[end])
        });
        held.map(|(conn, _)| conn).collect()
    }

    /// Connections of which an end is still held.
    #[must_use]
    pub fn alive(&self) -> Vec<usize> {
        let alive = self.connections.iter().enumerate();
        alive.filter(|(_, c)| !c.cut && c.open != [false; 2]).map(|(conn, _)| conn).collect()
    }

    /// A new connection from `ends[0]` to `ends[1]`, which they learn at `at`.
    pub fn connect(&mut self, ends: [End; 2], at: [u64; 2]) -> usize {
        let flow = |at| Flow { items: VecDeque::from([(at, Item::Up)]), last: at };
        let flows = at.map(flow);
        self.connections.push(Connection { ends, open: [true; 2], flows, cut: false });
        self.connections.len() - 1
    }

    /// Queues an item to an end, to arrive at `at` or after what is before it; the time.
    pub fn queue(&mut self, conn: usize, to: usize, at: u64, item: Item) -> Option<u64> {
        let connection = &mut self.connections[conn];
        if connection.cut || !connection.open[to] {
            return None;
        }
        let flow = &mut connection.flows[to];
        flow.last = flow.last.max(at);
        flow.items.push_back((flow.last, item));
        Some(flow.last)
    }

    /// Takes what has arrived at an end by `now`.
    pub fn arrive(&mut self, conn: usize, to: usize, now: u64) -> Option<Item> {
        let connection = &mut self.connections[conn];
        let (from, here) = (connection.ends[1 - to].node, connection.ends[to].node);
        let (at, item) = connection.flows[to].items.front()?;
        if *at > now || self.blocked[from][here] && *item != Item::Broken {
            return None;
        }
        let item = connection.flows[to].items.pop_front().map(|(_, item)| item);
        if !connection.open[to] {
            return None;
        }
        if matches!(item, Some(Item::Down | Item::Broken)) {
            connection.open[to] = false;
        }
        item
    }

    /// When the next item is due at an end.
    #[must_use]
    pub fn due(&self, conn: usize, to: usize) -> Option<u64> {
        self.connections[conn].flows[to].items.front().map(|(at, _)| *at)
    }

    /// One end closes, in order.
    pub fn close(&mut self, conn: usize, end: usize) {
        self.connections[conn].open[end] = false;
    }

    /// The connection is lost: to each end, `keep` items still arrive, then it notices at `at`, if
    /// at all.
    pub fn reset(&mut self, conn: usize, keep: [usize; 2], at: [Option<u64>; 2]) {
        let connection = &mut self.connections[conn];
        connection.cut = true;
        for end in 0..2 {
            let flow = &mut connection.flows[end];
            flow.items.truncate(keep[end]);
            if let Some(at) = at[end].filter(|_| connection.open[end]) {
                // What is kept arrives before the end does, if the wire lets it.
                for item in &mut flow.items {
                    item.0 = item.0.min(at);
                }
                flow.items.push_back((at, Item::Broken));
            }
        }
    }

    /// Connections on which something is on its way in one direction, with the end that it goes to.
    #[must_use]
    pub fn waiting_between(&self, from: usize, to: usize) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        for (conn, connection) in self.connections.iter().enumerate() {
            for end in 0..2 {
                let nodes = [1 - end, end].map(|end| connection.ends[end].node);
                if nodes == [from, to] && !connection.flows[end].items.is_empty() {
                    found.push((conn, end));
                }
            }
        }
        found
    }

    /// Items on their way to an end.
    #[must_use]
    pub fn waiting(&self, conn: usize, to: usize) -> usize {
        self.connections[conn].flows[to].items.len()
    }
}
