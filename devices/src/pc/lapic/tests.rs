//! The local APIC by SDM 3A chapter 11.

use super::*;
use alloc::vec::Vec;

const NOW: VirtualNs = VirtualNs(1_000);

const ID: u64 = 0x20;
const TPR: u64 = 0x80;
const PPR: u64 = 0xA0;
const EOI: u64 = 0xB0;
const LDR: u64 = 0xD0;
const DFR: u64 = 0xE0;
const SVR: u64 = 0xF0;
const ESR: u64 = 0x280;
const ICR_LOW: u64 = 0x300;
const ICR_HIGH: u64 = 0x310;
const TIMER: u64 = 0x320;
const LINT0: u64 = 0x350;
const LINT1: u64 = 0x360;
const ERROR: u64 = 0x370;
const INITIAL: u64 = 0x380;
const CURRENT: u64 = 0x390;
const DIVIDE: u64 = 0x3E0;

fn enabled() -> Lapic {
    let mut lapic = Lapic::default();
    lapic.write(NOW, SVR, 0x1FF);
    lapic
}

fn fixed(vector: u8) -> Message {
    Message { vector, delivery: FIXED, logical: false, level: false, destination: 0 }
}

/// Acknowledges and ends everything that is admitted.
fn serve(lapic: &mut Lapic) -> Vec<u8> {
    let mut vectors = Vec::new();
    while let Some(vector) = lapic.acknowledge() {
        vectors.push(vector);
        lapic.write(NOW, EOI, 0);
    }
    vectors
}

#[test]
fn power_up_state() {
    let mut lapic = Lapic::default();
    for (offset, value) in [
        (ID, 0),
        (0x30, 0x0005_0014),
        (TPR, 0),
        (PPR, 0),
        (LDR, 0),
        (DFR, 0xFFFF_FFFF),
        (SVR, 0xFF),
        (ESR, 0),
        (ICR_LOW, 0),
        (TIMER, 0x1_0000),
        (0x330, 0x1_0000),
        (0x340, 0x1_0000),
        (LINT0, 0x1_0000),
        (LINT1, 0x1_0000),
        (ERROR, 0x1_0000),
        (INITIAL, 0),
        (CURRENT, 0),
        (DIVIDE, 0),
    ] {
        assert_eq!(lapic.read(NOW, offset), value, "{offset:X}");
    }
    assert_eq!(lapic.base(), 0xFEE0_0900);
}

#[test]
fn registers_keep_their_bits() {
    let mut lapic = enabled();
    for (offset, written, read) in [
        (ID, 0xFFFF_FFFF, 0xFF00_0000),
        (TPR, 0xFFFF_FFFF, 0xFF),
        (LDR, 0xFFFF_FFFF, 0xFF00_0000),
        (DFR, 0x0000_0000, 0x0FFF_FFFF),
        (SVR, 0xFFFF_FFFF, 0x3FF),
        (ICR_HIGH, 0xFFFF_FFFF, 0xFF00_0000),
        (TIMER, 0xFFFF_FFFF, 0x7_00FF),
        (0x330, 0xFFFF_FFFF, 0x1_07FF),
        (LINT0, 0xFFFF_FFFF, 0x1_A7FF),
        (ERROR, 0xFFFF_FFFF, 0x1_00FF),
        (DIVIDE, 0xFFFF_FFFF, 0x0B),
        (PPR, 0xFFFF_FFFF, 0xFF),
    ] {
        lapic.write(NOW, offset, written);
        assert_eq!(lapic.read(NOW, offset), read, "{offset:X}");
    }
}

#[test]
fn software_disable_masks_and_refuses() {
    let mut lapic = Lapic::default();
    lapic.write(NOW, TIMER, 0x40);
    assert_eq!(lapic.read(NOW, TIMER), 0x1_0040, "the mask cannot be cleared");
    assert!(!lapic.deliver(fixed(0x40)));
    assert!(lapic.deliver(Message { delivery: NMI, ..fixed(0) }), "NMI goes through");
    assert!(lapic.take_nmi() && !lapic.take_nmi());
    lapic.write(NOW, SVR, 0x1FF);
    lapic.write(NOW, LINT0, 0x700);
    assert!(lapic.lint0_is_extint());
    lapic.write(NOW, SVR, 0xFF);
    assert_eq!(lapic.read(NOW, LINT0), 0x1_0700);
    assert!(!lapic.lint0_is_extint());
}

#[test]
fn priorities() {
    let mut lapic = enabled();
    for vector in [0x31, 0x52, 0x51, 0xFF, 0x20] {
        assert!(lapic.deliver(fixed(vector)));
    }
    assert_eq!(lapic.read(NOW, 0x220), 0b11 << 17);
    assert_eq!(lapic.acknowledge(), Some(0xFF));
    assert_eq!((lapic.read(NOW, 0x170), lapic.read(NOW, PPR)), (1 << 31, 0xF0));
    assert_eq!(lapic.acknowledge(), None);
    lapic.write(NOW, EOI, 0);
    lapic.write(NOW, TPR, 0x4F);
    assert_eq!(lapic.read(NOW, PPR), 0x4F);
    assert_eq!(lapic.acknowledge(), Some(0x52));
    assert_eq!(lapic.read(NOW, PPR), 0x50);
    assert_eq!(lapic.acknowledge(), None, "same class");
    lapic.write(NOW, EOI, 0);
    assert_eq!(serve(&mut lapic), [0x51]);
    lapic.write(NOW, TPR, 0);
    assert_eq!(serve(&mut lapic), [0x31, 0x20]);
}

#[test]
fn level_vectors_are_broadcast_at_their_end() {
    let mut lapic = enabled();
    lapic.deliver(Message { level: true, ..fixed(0x61) });
    lapic.deliver(fixed(0x62));
    assert_eq!(lapic.read(NOW, 0x1B0), 0b10);
    assert_eq!(lapic.acknowledge(), Some(0x62));
    lapic.write(NOW, EOI, 0);
    assert_eq!(lapic.take_events().eoi, None);
    assert_eq!(lapic.acknowledge(), Some(0x61));
    lapic.write(NOW, EOI, 0);
    assert_eq!(lapic.take_events().eoi, Some(0x61));
    lapic.write(NOW, EOI, 0);
    assert_eq!(lapic.take_events().eoi, None, "nothing in service");
}

#[test]
fn destinations() {
    // (logical, destination, model, LDR, accepted); the ID is 3
    for (logical, destination, dfr, ldr, accepted) in [
        (false, 3, 0xF, 0, true),
        (false, 0xFF, 0xF, 0, true),
        (false, 2, 0xF, 0, false),
        (true, 0x10, 0xF, 0x90, true),
        (true, 0x20, 0xF, 0x90, false),
        (true, 0x93, 0x0, 0x92, true),
        (true, 0x91, 0x0, 0x92, false),
        (true, 0x83, 0x0, 0x92, false),
        (true, 0xFF, 0x0, 0x92, true),
    ] {
        let mut lapic = enabled();
        lapic.write(NOW, ID, 3 << 24);
        lapic.write(NOW, DFR, dfr << 28);
        lapic.write(NOW, LDR, ldr << 24);
        let message = Message { logical, destination, ..fixed(0x40) };
        assert_eq!(lapic.deliver(message), accepted, "{message:?} {dfr:X} {ldr:X}");
        lapic.write(NOW, ICR_HIGH, u32::from(destination) << 24);
        lapic.write(NOW, ICR_LOW, 0x4041 | u32::from(logical) << 11);
        assert_eq!(lapic.irr[2] & 0b10 != 0, accepted);
    }
}

#[test]
fn interprocessor_interrupts() {
    // (ICR low, vectors that arrive, NMI, INIT)
    for (icr, vectors, nmi, init) in [
        (0x4_4055, &[0x55][..], false, false),
        (0x8_4055, &[0x55], false, false),
        (0xC_4055, &[], false, false),
        (0x4_4155, &[0x55], false, false),
        (0x4_4400, &[], true, false),
        (0x4_4500, &[], false, true),
        (0x4_8500, &[], false, false),
        (0x4_4600, &[], false, false),
        (0xC_4600, &[], false, false),
    ] {
        let mut lapic = enabled();
        lapic.write(NOW, ICR_LOW, icr);
        assert_eq!(lapic.read(NOW, ICR_LOW), icr, "delivered at once");
        assert_eq!(serve(&mut lapic), vectors, "{icr:X}");
        assert_eq!((lapic.take_nmi(), lapic.take_events().init), (nmi, init), "{icr:X}");
    }
}

#[test]
fn errors() {
    let mut lapic = enabled();
    lapic.write(NOW, ERROR, 0xFE);
    lapic.write(NOW, ICR_LOW, 0x4_4005);
    lapic.deliver(fixed(0x0F));
    lapic.read(NOW, 0x40);
    lapic.write(NOW, 0x3F0, 1);
    assert_eq!(lapic.read(NOW, ESR), 0, "shown after a write");
    lapic.write(NOW, ESR, 0);
    assert_eq!(lapic.read(NOW, ESR), 0xE0);
    lapic.write(NOW, ESR, 0);
    assert_eq!(lapic.read(NOW, ESR), 0);
    assert_eq!(serve(&mut lapic), [0xFE]);
}

#[test]
fn one_shot_timer() {
    // (divide configuration, nanoseconds per count)
    for (divide, ns) in [
        (0xB, 40),
        (0x0, 80),
        (0x1, 160),
        (0x2, 320),
        (0x3, 640),
        (0x8, 1280),
        (0x9, 2560),
        (0xA, 5120),
    ] {
        let mut lapic = enabled();
        lapic.write(NOW, DIVIDE, divide);
        lapic.write(NOW, TIMER, 0x70);
        lapic.write(NOW, INITIAL, 100);
        let due = NOW.after(100 * ns);
        assert_eq!(lapic.deadline(), Some(due));
        assert_eq!(lapic.read(NOW.after(30 * ns), CURRENT), 70);
        assert_eq!(lapic.read(NOW.after(30 * ns + ns - 1), CURRENT), 70);
        lapic.advance(VirtualNs(due.0 - 1));
        assert!(!lapic.intr());
        lapic.advance(due);
        assert_eq!(serve(&mut lapic), [0x70]);
        assert_eq!((lapic.deadline(), lapic.read(due, CURRENT)), (None, 0));
    }
}

#[test]
fn periodic_timer_masked_and_not() {
    let mut lapic = enabled();
    lapic.write(NOW, DIVIDE, 0xB);
    lapic.write(NOW, TIMER, 0x2_0070);
    lapic.write(NOW, INITIAL, 100);
    for n in 1..4 {
        let due = NOW.after(n * 4_000);
        assert_eq!(lapic.deadline(), Some(due));
        lapic.advance(due);
        assert_eq!(serve(&mut lapic), [0x70]);
    }
    lapic.write(NOW.after(12_000), TIMER, 0x3_0070);
    assert_eq!(lapic.deadline(), None);
    assert_eq!(lapic.read(NOW.after(21_000), CURRENT), 75);
    lapic.write(NOW.after(21_000), TIMER, 0x2_0070);
    assert_eq!((lapic.intr(), lapic.deadline()), (false, Some(NOW.after(24_000))));
    lapic.write(NOW.after(21_000), INITIAL, 0);
    assert_eq!(lapic.deadline(), None);
    // A divisor that changes stretches the rest.
    lapic.write(NOW, INITIAL, 100);
    lapic.write(NOW.after(2_000), DIVIDE, 0x0);
    assert_eq!(lapic.deadline(), Some(NOW.after(6_000)));
}

#[test]
fn tsc_deadline_timer() {
    let mut lapic = enabled();
    lapic.set_tsc_deadline(NOW, 5_000, 0);
    assert_eq!(lapic.tsc_deadline(NOW), 0, "not in this mode");
    lapic.write(NOW, TIMER, 0x4_0070);
    lapic.write(NOW, INITIAL, 100);
    assert_eq!((lapic.deadline(), lapic.read(NOW, INITIAL)), (None, 0));
    lapic.set_tsc_deadline(NOW, 5_000, 500);
    assert_eq!(lapic.deadline(), Some(VirtualNs(4_500)));
    lapic.tsc_offset_changed(NOW, 1_500);
    assert_eq!(lapic.deadline(), Some(VirtualNs(3_500)));
    lapic.advance(VirtualNs(3_500));
    assert_eq!((serve(&mut lapic), lapic.tsc_deadline(VirtualNs(3_500))), (Vec::from([0x70]), 0));
    // In the past: at once. Zero: never. Masked: unseen.
    lapic.set_tsc_deadline(VirtualNs(9_000), 1, 0);
    assert_eq!(lapic.deadline(), Some(VirtualNs(9_000)));
    lapic.set_tsc_deadline(VirtualNs(9_000), 0, 0);
    assert_eq!(lapic.deadline(), None);
    lapic.write(NOW, TIMER, 0x5_0070);
    lapic.set_tsc_deadline(VirtualNs(9_000), 10_000, 0);
    assert_eq!(lapic.tsc_deadline(VirtualNs(9_999)), 10_000);
    assert_eq!(lapic.tsc_deadline(VirtualNs(10_000)), 0);
    assert!(!lapic.intr());
    // Another mode disarms.
    lapic.set_tsc_deadline(VirtualNs(10_000), 20_000, 0);
    lapic.write(VirtualNs(10_000), TIMER, 0x70);
    assert_eq!(lapic.deadline(), None);
}

#[test]
fn local_interrupt_pins() {
    let mut lapic = enabled();
    lapic.write(NOW, LINT1, 0x400);
    lapic.set_lint1(true);
    assert!(lapic.take_nmi());
    lapic.set_lint1(true);
    assert!(!lapic.take_nmi());
    lapic.write(NOW, LINT0, 0x44);
    for _ in 0..2 {
        lapic.set_lint0(true);
        lapic.set_lint0(true);
        assert_eq!(serve(&mut lapic), [0x44]);
        lapic.set_lint0(false);
    }
    // Level-triggered: again while it stands, after EOI only.
    lapic.write(NOW, LINT0, 0x8045);
    lapic.set_lint0(true);
    assert_eq!(lapic.read(NOW, LINT0), 0xC045);
    assert_eq!(lapic.acknowledge(), Some(0x45));
    assert_eq!(lapic.acknowledge(), None);
    lapic.write(NOW, EOI, 0);
    assert_eq!(lapic.acknowledge(), Some(0x45));
    lapic.set_lint0(false);
    lapic.write(NOW, EOI, 0);
    assert_eq!((lapic.acknowledge(), lapic.read(NOW, LINT0)), (None, 0x8045));
}

#[test]
fn disabling_by_msr_is_a_reset() {
    let mut lapic = enabled();
    lapic.write(NOW, TPR, 0x50);
    lapic.write(NOW, LINT0, 0x44);
    assert!(lapic.set_base(0xFEE0_0100));
    assert!(!lapic.deliver(fixed(0x70)) && lapic.lint0_is_extint() && lapic.page().is_none());
    lapic.set_lint1(true);
    assert!(lapic.take_nmi(), "LINT1 is the NMI pin");
    assert!(lapic.set_base(0xFEE0_0900));
    assert_eq!(lapic.read(NOW, TPR), 0);
    assert_eq!(lapic.read(NOW, LINT0), 0x1_0000);
}
