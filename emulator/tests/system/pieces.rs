//! The machine moved in pieces while it runs, and the record of the last digests.

use crate::invariants::{Dice, END, guest, run_to};
use devices::ram::PAGE;
use devices::time::Icount;
use emulator::fingerprint::{Fingerprint, first_difference};
use emulator::machine::Machine;
use emulator::snapshot::Loader;

/// Copies pages of a machine that goes on running: all once, then what changed, and at the end the
/// rest with the state. `drop_one`: forgets the n-th changed page that is not as it was sent.
fn moved(machine: &mut Machine, dice: &mut Dice, drop_one: Option<usize>) -> Machine {
    machine.track_dirty(true);
    let mut loader = Loader::new(machine.config()).expect("its own configuration");
    let mut go_on = |machine: &mut Machine| {
        run_to(machine, machine.icount().0 + dice.below(3_000));
        match dice.below(6) {
            0 => drop(machine.digest()),
            1 => drop(machine.prepare_digest(100)),
            2 => machine.drop_caches(),
            _ => {}
        }
    };
    for page in 0..machine.pages() {
        if page % 64 == 0 {
            go_on(machine);
        }
        loader.load_page(page, machine.page(page)).expect("inside");
    }
    for _ in 0..5 {
        for page in machine.take_dirty_pages() {
            loader.load_page(page, machine.page(page)).expect("inside");
        }
        go_on(machine);
    }
    let mut left = drop_one;
    for page in machine.take_dirty_pages() {
        if let Some(n) = &mut left
            && loader.page(page).expect("inside") != machine.page(page)
        {
            let forgotten = *n == 0;
            *n = n.wrapping_sub(1);
            if forgotten {
                continue;
            }
        }
        loader.load_page(page, machine.page(page)).expect("inside");
    }
    assert!(machine.take_dirty_pages().is_empty());
    machine.track_dirty(false);
    loader.finish(&machine.save_state()).expect("its own state")
}

#[test]
fn a_machine_moves_while_it_runs() {
    for seed in 0..6 {
        let (mut machine, mut dice) = (guest(), Dice(seed));
        run_to(&mut machine, 1 + dice.below(20_000));
        let mut copy = moved(&mut machine, &mut dice, None);
        assert_eq!(copy.digest(), machine.digest(), "seed {seed}");
        assert!(copy.icount() < Icount(END));
        run_to(&mut machine, END);
        run_to(&mut copy, END);
        assert_eq!(copy.digest(), machine.digest(), "seed {seed}, later");
        assert_eq!(copy.save(), machine.save(), "seed {seed}, later");
    }
}

#[test]
fn a_page_left_behind_is_noticed_and_named() {
    let (mut machine, mut dice) = (guest(), Dice(3));
    run_to(&mut machine, 10_000);
    machine.keep_history(2);
    let mut copy = moved(&mut machine, &mut dice, Some(0));
    copy.keep_history(1);
    assert_ne!(copy.digest(), machine.digest());
    let here = machine.state_at(machine.icount()).expect("just taken");
    let there = copy.state_at(copy.icount()).expect("just taken");
    let page = (0..machine.pages()).find(|&n| machine.page(n) != copy.page(n)).expect("one");
    let at = page as usize * PAGE;
    assert_eq!(first_difference(&here, &there), Some(format!("page {page:#x} (physical {at:#x})")));
}

#[test]
fn dirty_pages_are_those_written_and_cost_nothing_when_off() {
    let mut machine = guest();
    run_to(&mut machine, 50_000);
    assert_eq!(machine.dirty_pages(), 0, "not asked for");
    machine.track_dirty(true);
    let before: Vec<[u8; PAGE]> = (0..machine.pages()).map(|n| *machine.page(n)).collect();
    run_to(&mut machine, 60_000);
    machine.digest();
    let count = machine.dirty_pages();
    let mut dirty = machine.take_dirty_pages();
    assert_eq!(dirty.len(), count);
    dirty.sort_unstable();
    for page in 0..machine.pages() {
        let changed = before[page as usize] != *machine.page(page);
        assert!(!changed || dirty.binary_search(&page).is_ok(), "page {page:#x}");
    }
    assert!(dirty.len() < 64, "and not many more: {}", dirty.len());
    assert!(dirty.windows(2).all(|pair| pair[0] < pair[1]), "each once");
    machine.track_dirty(false);
    let untouched: Vec<u32> = (0..machine.pages()).filter(|&n| !machine.is_touched(n)).collect();
    assert!(untouched.len() > 100 && untouched.iter().all(|&n| *machine.page(n) == [0; PAGE]));
    run_to(&mut machine, 70_000);
    assert_eq!(machine.dirty_pages(), 0);
}

#[test]
fn pages_as_they_were_are_kept() {
    let (mut machine, mut dice) = (guest(), Dice(9));
    run_to(&mut machine, 20_000);
    machine.keep_old_pages(1000);
    for round in 0..5 {
        let before: Vec<[u8; PAGE]> = (0..machine.pages()).map(|n| *machine.page(n)).collect();
        for _ in 0..4 {
            let end = machine.icount().0 + dice.below(4_000);
            run_to(&mut machine, end);
            match dice.below(4) {
                0 => drop(machine.digest()),
                1 => machine.drop_caches(),
                2 => drop(machine.take_dirty_pages()),
                _ => machine.track_dirty(dice.below(2) == 0),
            }
        }
        let now: Vec<[u8; PAGE]> = (0..machine.pages()).map(|n| *machine.page(n)).collect();
        let mut back = now.clone();
        let old =
            if round == 4 { machine.old_pages().clone() } else { machine.keep_old_pages(1000) };
        assert!(old.is_complete() && old.iter().count() > 0);
        for (page, bytes) in old.iter() {
            back[page as usize] = *bytes;
        }
        assert!(back == before && now != before, "round {round}");
    }
    machine.keep_old_pages(1);
    let end = machine.icount().0 + 10_000;
    run_to(&mut machine, end);
    let old = machine.keep_old_pages(1000);
    assert!(!old.is_complete() && old.iter().count() == 1);
    let before: Vec<[u8; PAGE]> = (0..machine.pages()).map(|n| *machine.page(n)).collect();
    let end = machine.icount().0 + 10_000;
    run_to(&mut machine, end);
    let mut back: Vec<[u8; PAGE]> = (0..machine.pages()).map(|n| *machine.page(n)).collect();
    for (page, bytes) in machine.keep_old_pages(0).iter() {
        back[page as usize] = *bytes;
    }
    assert!(back == before, "what did not fit before is kept again");
    run_to(&mut machine, END);
    assert_eq!(machine.old_pages().iter().count(), 0);
}

/// The fingerprint from a machine that is asked only once.
fn fresh(at: u64) -> Fingerprint {
    let mut machine = guest();
    run_to(&mut machine, at);
    machine.keep_history(1);
    machine.digest();
    machine.state_at(Icount(at)).expect("just taken")
}

#[test]
fn the_last_digests_can_be_described_later() {
    let mut machine = guest();
    machine.keep_history(4);
    let counts: Vec<u64> = (1..=9).map(|n| n * n * 2_111).collect();
    for &at in &counts {
        run_to(&mut machine, at);
        machine.digest();
    }
    run_to(&mut machine, END);
    for &at in &counts[5..] {
        let kept = machine.state_at(Icount(at)).expect("one of the last four");
        assert_eq!(first_difference(&kept, &fresh(at)), None, "at {at}");
        assert_eq!(kept, fresh(at));
        let bytes = kept.to_bytes();
        assert_eq!(Fingerprint::from_bytes(&bytes, machine.pages()), Ok(kept));
        assert!(Fingerprint::from_bytes(&bytes, machine.pages() + 1).is_err());
        assert!(Fingerprint::from_bytes(&bytes[1..], machine.pages()).is_err());
    }
    assert_eq!(machine.state_at(Icount(counts[4])), None, "forgotten");
    assert_eq!(machine.state_at(Icount(END)), None, "no digest was taken there");
    machine.keep_history(0);
    machine.digest();
    assert_eq!(machine.state_at(Icount(END)), None);
}

#[test]
fn differences_are_named() {
    let here = fresh(30_000);
    let differing = |change: &dyn Fn(&mut Machine)| {
        let mut machine = guest();
        run_to(&mut machine, 30_000);
        change(&mut machine);
        machine.keep_history(1);
        machine.digest();
        let there = machine.state_at(Icount(30_000)).expect("just taken");
        first_difference(&here, &there).expect("changed")
    };
    let mut machine = guest();
    run_to(&mut machine, 30_000);
    let rounds = machine.core().cpu.regs[15];
    let text = differing(&|machine| machine.core_mut().cpu.regs[15] += 1);
    assert_eq!(text, format!("register r15: {rounds:#x} here, {:#x} there", rounds + 1));
    let text = differing(&|machine| machine.core_mut().cpu.xmm[3] = 7);
    assert_eq!(text, "register xmm3: 0x0 here, 0x7 there");
    let text = differing(&|machine| machine.core_mut().cpu.regs[..8].fill(99));
    assert!(text.starts_with("register rax: ") && text.ends_with("(and 4 more)"), "{text}");
    let text = differing(&|machine| {
        machine.inject(devices::io::Input::Entropy([1; 32]));
    });
    assert_eq!(text, "the random number generator");
    let text = differing(&|machine| {
        machine.inject(devices::io::Input::Key(vec![0x1C]));
    });
    assert!(text.starts_with("device i8042: byte "), "{text}");
    let text = differing(&|machine| machine.core_mut().ram.dma_write(0x8_0000, &[1; 8192]));
    assert_eq!(text, "page 0x80 (physical 0x80000) and 1 more");
}

/// `state` with its hash made right again.
fn sealed(mut state: Vec<u8>) -> Vec<u8> {
    let hash = xxhash_rust::xxh3::xxh3_64(&state[28..]);
    state[20..28].copy_from_slice(&hash.to_le_bytes());
    state
}

#[test]
fn hostile_states_are_refused_or_harmless() {
    let mut machine = guest();
    run_to(&mut machine, 20_000);
    let state = machine.save_state();
    let config = machine.config().clone();
    let finish = |state: &[u8]| Loader::new(&config).expect("its own").finish(state);
    assert!(finish(&state).is_ok() && sealed(state.clone()) == state);
    let mut dice = Dice(11);
    let (mut refused, mut taken) = (0, 0);
    for round in 0..400 {
        let mut hostile = state.clone();
        let reach = if round % 2 == 0 { 2_000 } else { state.len() as u64 - 28 };
        for _ in 0..=dice.below(3) {
            let at = 28 + dice.below(reach) as usize;
            hostile[at] = dice.below(256) as u8;
        }
        if hostile != state {
            assert!(finish(&hostile).is_err(), "the hash tells");
        }
        match finish(&sealed(hostile)) {
            Err(_) => refused += 1,
            Ok(mut machine) => {
                machine.digest();
                machine.save_state();
                taken += 1;
            }
        }
    }
    assert!(refused > 20 && taken > 20, "{refused} refused, {taken} taken");
    for len in (0..state.len()).step_by(997).chain([27, 28, 35, 36]) {
        assert!(finish(&state[..len]).is_err());
        if len >= 28 {
            let mut cut = state[..len].to_vec();
            cut[12..20].copy_from_slice(&(len as u64 - 28).to_le_bytes());
            assert!(finish(&sealed(cut)).is_err(), "cut to {len}");
        }
    }
    let mut other = config.clone();
    other.ram_bytes += 1 << 20;
    assert!(Loader::new(&other).expect("a machine").finish(&state).is_err());
    let mut loader = Loader::new(&config).expect("its own");
    assert!(loader.load_page(machine.pages(), &[1; PAGE]).is_err());
    assert!(loader.page(u32::MAX).is_err());
    other.ram_bytes = 1 << 62;
    assert!(Loader::new(&other).is_err());
}
