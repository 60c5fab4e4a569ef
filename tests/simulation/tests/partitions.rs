//! All partitions of two replicas and the arbiter, at every role: who goes on, as a table.
//!
//! The live side is A, the other B. Links: A-B, A-arbiter, B-arbiter.

use ft::Config;
use ft::types::{HostNs, ReplicaId};
use simulation::World;
use simulation::weather::{MS, Weather};

/// What the two are doing when the links break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A is alone; B is a spare that has not reached it yet.
    Solo,
    /// A's state is being transferred to B.
    Joining,
    /// All of A's state is on its way to B; A does not know whether it came.
    CutOver,
    /// B has the machine, and A does not know it yet.
    Adopted,
    /// A protected pair.
    Pair,
    /// A has taken over from B, which has started again as a spare.
    AfterGoLive,
}

/// Who lets new outputs leave, once timeouts are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Emits {
    /// A, with B as its backup.
    Protected,
    /// A alone.
    A,
    /// B alone.
    B,
    /// One of them, whichever the arbiter hears first.
    One,
    /// Nobody until links come back.
    Nobody,
}

use Emits::{A, B, Nobody, One, Protected};

/// Links: A-B, A-arbiter, B-arbiter.
const LINKS: [[bool; 3]; 8] = [
    [true, true, true],
    [true, true, false],
    [true, false, true],
    [true, false, false],
    [false, true, true],
    [false, true, false],
    [false, false, true],
    [false, false, false],
];

/// What follows, in the order of [`LINKS`]. While the two see each other nobody needs the arbiter.
/// When they do not, a side that is alone for certain goes on; one that may have a rival needs the
/// arbiter.
const TABLE: [(Role, [Emits; 8]); 6] = [
    (Role::Solo, [Protected, Protected, Protected, Protected, A, A, A, A]),
    (Role::Joining, [Protected, Protected, Protected, Protected, A, A, A, A]),
    (Role::CutOver, [Protected, Protected, Protected, Protected, A, A, Nobody, Nobody]),
    (Role::Adopted, [Protected, Protected, Protected, Protected, One, A, B, Nobody]),
    (Role::Pair, [Protected, Protected, Protected, Protected, One, A, B, Nobody]),
    (Role::AfterGoLive, [Protected, Protected, Protected, Protected, A, A, A, A]),
];

fn world(seed: u64) -> World {
    let mut config = Config::new(ReplicaId(0));
    config.joining_timeout = 1000 * HostNs::MS;
    let mut world = World::new(seed, Weather::fair(), config, None);
    // Two computers are enough.
    world.nodes[2].finished = true;
    world
}

fn wait_for(world: &mut World, what: &str, mut there: impl FnMut(&World) -> bool) {
    let latest = world.now + 10_000 * MS;
    while !there(world) {
        assert!(world.now < latest, "never {what}");
        world.run_until(world.now + MS / 20);
        assert_eq!(world.checker.violation(), None);
    }
}

/// Brings two computers into a role; which of them is A.
fn bring_to(world: &mut World, role: Role) -> usize {
    let process = |world: &World, node: usize| world.nodes[node].process.is_some();
    let backup = |world: &World, node: usize| {
        world.nodes[node].process.as_ref().is_some_and(|process| process.following)
    };
    let first = |world: &World, holds: fn(&simulation::node::Process) -> bool| {
        world.nodes[0].process.as_ref().is_some_and(holds)
    };
    match role {
        Role::Solo => {
            world.set_link(0, 1, false);
            wait_for(world, "two processes", |w| process(w, 1) && w.now > 500 * MS);
        }
        Role::Joining => wait_for(world, "joining", |world| {
            first(world, |p| p.outgoing.as_ref().is_some_and(|outgoing| outgoing.rounds > 0))
        }),
        Role::CutOver => wait_for(world, "cut over", |world| first(world, |p| p.cut.is_some())),
        Role::Adopted => wait_for(world, "adopted", |world| backup(world, 1)),
        Role::Pair => wait_for(world, "a pair", World::is_protected),
        Role::AfterGoLive => {
            wait_for(world, "a pair", World::is_protected);
            world.weather.restart = 4000 * MS;
            world.crash(0, true);
            wait_for(world, "going live", |world| {
                let live = |node: usize| {
                    world.nodes[node].process.as_ref().is_some_and(|p| p.live.is_some())
                };
                live(1) && process(world, 0)
            });
            return 1;
        }
    }
    0
}

fn node_of(replica: ReplicaId) -> usize {
    (replica.0 >> 64) as usize - 1
}

/// Who emits in the second second after the links broke.
fn observe(world: &mut World, a: usize) -> Emits {
    world.run_until(world.now + 2000 * MS);
    world.checker.take_last_emitter();
    let until = world.now + 1000 * MS;
    let mut seen = [false; 2];
    while world.now < until {
        world.run_until(world.now + MS);
        if let Some(replica) = world.checker.take_last_emitter() {
            seen[usize::from(node_of(replica) != a)] = true;
        }
    }
    assert_eq!(world.checker.violation(), None);
    match (seen, world.is_protected()) {
        ([true, false], true) => Protected,
        ([true, false], false) => A,
        ([false, true], false) => B,
        ([false, false], _) => Nobody,
        other => panic!("two emitters, or B protected by A: {other:?}"),
    }
}

#[test]
fn every_partition_at_every_role_leaves_who_the_table_says() {
    let mut wrong = Vec::new();
    let mut ones = [0, 0];
    for (role, row) in TABLE {
        for (links, expected) in LINKS.into_iter().zip(row) {
            for seed in 0..10 {
                let mut world = world(seed);
                let a = bring_to(&mut world, role);
                world.set_link(0, 1, links[0]);
                world.arbiter_paths[a] = [links[1]; 2];
                world.arbiter_paths[1 - a] = [links[2]; 2];
                let found = observe(&mut world, a);
                let right = match expected {
                    One => [A, B].contains(&found),
                    expected => found == expected,
                };
                if expected == One {
                    ones[usize::from(found == B)] += 1;
                }
                if !right {
                    wrong.push(format!("{role:?} {links:?} seed {seed}: {expected:?}, {found:?}"));
                }
                // Links come back: whatever happened, the machine is whole again.
                world.clear();
                wait_for(&mut world, "whole again", World::is_well);
            }
        }
    }
    assert!(wrong.is_empty(), "role, [A-B, A-arbiter, B-arbiter]:\n  {}", wrong.join("\n  "));
    assert!(ones[0] > 0 && ones[1] > 0, "either side may win: {ones:?}");
}

#[test]
fn one_direction_is_as_bad_as_two() {
    for (from, to) in [(0, 1), (1, 0)] {
        for seed in 0..20 {
            let mut world = world(seed);
            bring_to(&mut world, Role::Pair);
            world.net.block(from, to, true);
            let found = observe(&mut world, 0);
            assert!([A, B].contains(&found), "{from} to {to}, seed {seed}: {found:?}");
            world.clear();
            wait_for(&mut world, "whole again", World::is_well);
        }
    }
}
