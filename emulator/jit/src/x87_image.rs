//! The x87 state as the host's FNSAVE and FRSTOR have it (SDM 1 figure 8-9).
//!
//! Contract: [`take`] undoes [`make`], but for what translated code keeps by itself: the addresses
//! and the opcode of the last instruction.

use emulator::cpu::Fpu;

/// Control, status and tag word, 16 bytes of addresses, then ST0-ST7.
pub type Image = [u8; 108];

/// An image of nothing.
pub const EMPTY: Image = [0; 108];

/// The image of `fpu`.
pub fn make(fpu: &Fpu) -> Image {
    let mut image = EMPTY;
    // Of a tag FRSTOR only heeds whether it is 3.
    let tags =
        (0..8).fold(0u16, |tags, n| tags | if fpu.valid >> n & 1 == 0 { 3 << (2 * n) } else { 0 });
    for (at, word) in [(0, fpu.control), (4, fpu.status), (8, tags)] {
        image[at..at + 2].copy_from_slice(&word.to_le_bytes());
    }
    for (i, at) in (28..108).step_by(10).enumerate() {
        let n = fpu.physical(i as u8);
        image[at..at + 8].copy_from_slice(&fpu.significand[n].to_le_bytes());
        image[at + 8..at + 10].copy_from_slice(&fpu.sign_exponent[n].to_le_bytes());
    }
    image
}

/// Takes the state from `image`.
pub fn take(fpu: &mut Fpu, image: &Image) {
    let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
    fpu.control = word(0);
    fpu.status = word(4);
    fpu.set_tags(word(8));
    for (i, at) in (28..108).step_by(10).enumerate() {
        let n = fpu.physical(i as u8);
        let bytes = image[at..at + 8].try_into().expect("eight bytes");
        fpu.significand[n] = u64::from_le_bytes(bytes);
        fpu.sign_exponent[n] = word(at + 8);
    }
}
