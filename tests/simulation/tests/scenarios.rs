//! Stories with one end each, in fair weather.

use ft::types::ReplicaId;
use ft::{Config, Event};
use simulation::World;
use simulation::weather::{MS, Weather};

fn pair(seed: u64) -> World {
    let mut world = World::new(seed, Weather::fair(), Config::new(ReplicaId(0)), None);
    wait_for(&mut world, "a pair", World::is_protected);
    world
}

fn wait_for(world: &mut World, what: &str, mut there: impl FnMut(&World) -> bool) {
    let latest = world.now + 10_000 * MS;
    while !there(world) {
        assert!(world.now < latest, "never {what}");
        world.run_until(world.now + MS / 2);
        assert_eq!(world.checker.violation(), None, "before {what}");
    }
}

fn live(world: &World) -> usize {
    let is_live = |node: &usize| {
        world.nodes[*node].process.as_ref().is_some_and(|process| process.live.is_some())
    };
    (0..3).find(is_live).expect("a live replica")
}

fn backup(world: &World) -> usize {
    let follows =
        |node: &usize| world.nodes[*node].process.as_ref().is_some_and(|process| process.following);
    (0..3).find(follows).expect("a backup")
}

/// The next who is live, other than `old`.
fn next_live(world: &mut World, old: usize) -> usize {
    let other = |world: &World| {
        (0..3).find(|node| {
            let process = world.nodes[*node].process.as_ref();
            *node != old && process.is_some_and(|process| process.live.is_some())
        })
    };
    wait_for(world, "another is live", |world| other(world).is_some());
    other(world).expect("it was waited for")
}

#[test]
fn twenty_deaths_in_a_row_are_survived_without_a_boot() {
    let mut world = pair(1);
    for death in 0..20 {
        let old = live(&world);
        world.crash(old, death % 2 == 0);
        next_live(&mut world, old);
        wait_for(&mut world, "a pair again", World::is_protected);
    }
    let counts = world.counts();
    assert_eq!((counts.boots, counts.takeovers), (1, 20), "{counts:?}");
    assert!(counts.answered > 100);
}

#[test]
fn a_silent_death_is_noticed_within_the_timeout() {
    for seed in 0..20 {
        let mut world = pair(seed);
        let old = live(&world);
        world.weather.restart = 5000 * MS;
        let died = world.now;
        world.crash(old, false);
        next_live(&mut world, old);
        let gap = (world.now - died) / MS;
        assert!((250..=450).contains(&gap), "{gap} ms");
    }
}

#[test]
fn the_user_promotes_a_backup() {
    for seed in 0..20 {
        let mut world = pair(seed);
        let (old, new) = (live(&world), backup(&world));
        world.user(new, Event::Promote);
        assert_eq!(next_live(&mut world, old), new);
        wait_for(&mut world, "a pair again", World::is_protected);
        assert_eq!(world.counts().boots, 1);
    }
}

#[test]
fn the_user_detaches_either_side() {
    for seed in 0..20 {
        for from_primary in [false, true] {
            let mut world = pair(seed);
            let old = live(&world);
            let node = if from_primary { old } else { backup(&world) };
            world.user(node, Event::Detach);
            wait_for(&mut world, "alone", |world| !world.is_protected());
            wait_for(&mut world, "a pair again", World::is_protected);
            assert_eq!(live(&world), old, "the machine stays where it is");
            assert_eq!(world.counts().takeovers, 0);
        }
    }
}

#[test]
fn a_guest_that_is_switched_off_ends_both_sides() {
    for seed in 0..20 {
        let mut world = pair(seed);
        let (one, two) = (live(&world), backup(&world));
        world.press_power_button();
        wait_for(&mut world, "both ended", |w| w.nodes[one].finished && w.nodes[two].finished);
        world.run_until(world.now + 2000 * MS);
        assert_eq!(world.checker.violation(), None);
        assert_eq!(world.counts().live, 1, "nobody goes live because of it");
    }
}

#[test]
fn a_backup_with_a_broken_memory_stops_and_the_primary_goes_on() {
    for seed in 0..20 {
        let mut world = pair(seed);
        let (old, bad) = (live(&world), backup(&world));
        let epoch = |world: &World| world.nodes[old].process.as_ref().and_then(|p| p.live);
        let before = epoch(&world);
        let process = world.nodes[bad].process.as_mut().expect("a backup");
        process.machine.as_mut().expect("its machine").disturb(1);
        process.broken = true;
        wait_for(&mut world, "a difference", |world| {
            world.nodes[bad].process.as_ref().is_none_or(|process| !process.broken)
        });
        wait_for(&mut world, "a pair again", World::is_protected);
        assert!(epoch(&world) > before, "it asked the arbiter before it went on alone");
        assert_eq!((live(&world), world.counts().takeovers), (old, 0));
    }
}

/// A pair of two computers at the moment when all of the state is on its way: the live one, and the
/// one that has no machine yet.
fn cut_over(seed: u64) -> (World, usize, usize) {
    let mut world = World::new(seed, Weather::fair(), Config::new(ReplicaId(0)), None);
    world.nodes[2].finished = true;
    let cut = |world: &World| world.nodes[0].process.as_ref().is_some_and(|p| p.cut.is_some());
    wait_for(&mut world, "cut over", cut);
    (world, 0, 1)
}

#[test]
fn a_backup_that_dies_before_it_has_the_machine_holds_outputs_for_the_timeout() {
    let mut waited = 0;
    for seed in 0..40 {
        let (mut world, live, joining) = cut_over(seed);
        world.weather.restart = 5000 * MS;
        let died = world.now;
        world.crash(joining, false);
        let is_cut = |w: &World| w.nodes[live].process.as_ref().is_some_and(|p| p.cut.is_some());
        if !is_cut(&world) {
            continue;
        }
        wait_for(&mut world, "alone", |world| !is_cut(world));
        let gap = (world.now - died) / MS;
        assert!((250..=450).contains(&gap), "seed {seed}: {gap} ms");
        waited += 1;
        wait_for(&mut world, "a pair again", World::is_protected);
        assert_eq!((world.counts().boots, world.counts().takeovers), (1, 0));
    }
    assert!(waited > 10, "{waited}");
}

#[test]
fn a_machine_that_ends_while_a_backup_joins_ends_that_one_too() {
    for seed in 0..20 {
        let mut world = World::new(seed, Weather::fair(), Config::new(ReplicaId(0)), None);
        world.nodes[2].finished = true;
        let sends = |w: &World| w.nodes[0].process.as_ref().is_some_and(|p| p.outgoing.is_some());
        wait_for(&mut world, "joining", sends);
        world.press_power_button();
        wait_for(&mut world, "both ended", |w| w.nodes[0].finished && w.nodes[1].finished);
        assert!(world.nodes[1].process.is_none(), "nobody waits for a machine that is gone");
    }
}

#[test]
fn an_epoch_that_was_won_and_not_used_is_given_back() {
    let mut given_back = 0;
    for seed in 0..60 {
        let mut world = pair(seed);
        let (old, new) = (live(&world), backup(&world));
        world.nodes[3 - old - new].finished = true;
        let epoch = world.nodes[old].process.as_ref().and_then(|p| p.live).expect("live");
        world.weather.restart = 300 * MS;
        world.crash(old, true);
        // The winner dies with its answer on the way.
        let won = |world: &World| world.arbiter.latest().is_some_and(|(won, _)| won == epoch);
        wait_for(&mut world, "the epoch is won", won);
        if world.nodes[new].process.as_ref().is_none_or(|process| process.live.is_some()) {
            continue;
        }
        world.crash(new, true);
        wait_for(&mut world, "a pair again", World::is_protected);
        assert_eq!(live(&world), old, "the copy that has everything");
        given_back += world.counts().given_back;
    }
    assert!(given_back > 20, "{given_back}");
}
