//! [`classify`] remembered: most instructions are what the last one of their code was.
//!
//! Contract: [`Shapes::fill`] gives what [`classify`] gives.
//!
//! [`classify`]: crate::classify::classify

use crate::classify::{Family, Item, Shape, is_narrow, memory_operand, shape, wide_address};
use iced_x86::{Instruction, OpKind, Register};

/// The shapes of the codes that were met.
#[derive(Default)]
pub struct Shapes {
    /// One more than the number of the shape, by code, memory operand and width; 0: not known.
    numbers: Vec<u16>,
    shapes: Vec<Shape>,
}

impl Shapes {
    /// Makes of a valid instruction the item that [`classify`](crate::classify::classify) makes
    /// of it.
    #[inline]
    pub fn fill(&mut self, item: &mut Item) {
        let memory = memory_operand(&item.i);
        if !is_usual(&item.i, memory) {
            item.fill(shape(&item.i, false));
            return;
        }
        let narrow = is_narrow(&item.i);
        let key = (item.i.code() as usize) << 2 | usize::from(memory) << 1 | usize::from(narrow);
        let number = self.numbers.get(key).copied().unwrap_or(0);
        match self.shapes.get(usize::from(number).wrapping_sub(1)) {
            Some(&shape) => item.fill(shape),
            None => self.meet(item, key),
        }
    }

    /// The same for the first of its code.
    #[cold]
    fn meet(&mut self, item: &mut Item, key: usize) {
        let shape = shape(&item.i, false);
        if is_general(&shape) {
            if key >= self.numbers.len() {
                self.numbers.resize(key + 1, 0);
            }
            self.shapes.push(shape);
            // There are fewer than 2^14 codes, with four keys each.
            self.numbers[key] = self.shapes.len() as u16;
        }
        item.fill(shape);
    }
}

/// Whether `i` is like most instructions of its code: without prefixes that change what it does,
/// without AH, BH, CH and DH, with an address of the usual width or a canonical target.
fn is_usual(i: &Instruction, memory: bool) -> bool {
    let high = |r: Register| (r as usize).wrapping_sub(Register::AH as usize) < 4;
    let odd = high(i.op0_register())
        | high(i.op1_register())
        | high(i.op2_register())
        | i.has_lock_prefix()
        | i.has_rep_prefix()
        | i.has_repne_prefix();
    let far = i.op0_kind() == OpKind::NearBranch64 && !emulator::core::canonical(i.near_branch64());
    !odd && !far && (!memory || wide_address(i))
}

/// Whether the next instruction of its code, if it [`is_usual`] as well, has the same shape. Of
/// shifts and strings immediates and prefixes decide, of the x87 the segment.
fn is_general(shape: &Shape) -> bool {
    use Family::{Alu, Bit, Branch, Mov, MulDiv, Stack};
    let family = matches!(shape.family, Mov | Alu | Stack | Branch | Bit | MulDiv);
    shape.lowered && (family || shape.vector)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::classify;
    use iced_x86::{Code, Decoder, DecoderOptions};
    use std::collections::HashSet;

    #[test]
    fn what_is_remembered_is_what_would_be_found() {
        let mut shapes = Shapes::default();
        let (mut state, mut codes) = (0x1234_5678_9ABC_DEF1_u64, HashSet::<Code>::new());
        let mut bytes = [0; 32];
        for n in 0..2_000_000_u64 {
            for chunk in bytes.chunks_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                chunk.copy_from_slice(&state.to_le_bytes());
            }
            // Opcodes of the second map, with prefixes of SSE, are rare in random bytes.
            match n % 4 {
                1 => bytes[0] = 0x0F,
                2 => (bytes[0], bytes[1]) = ([0x66, 0xF2, 0xF3, 0x67][n as usize / 4 % 4], 0x0F),
                _ => {}
            }
            let bits = if n.is_multiple_of(3) { 32 } else { 64 };
            let rip = if n.is_multiple_of(5) { 0x7FFF_FFFF_F000 } else { 0x1000 };
            let i = Decoder::with_ip(bits, &bytes, rip, DecoderOptions::NONE).decode();
            if i.is_invalid() {
                continue;
            }
            codes.insert(i.code());
            let (found, mut remembered) = (classify(i, false), Item { i, ..Item::default() });
            shapes.fill(&mut remembered);
            assert_eq!(format!("{found:?}"), format!("{remembered:?}"), "{bytes:x?}");
        }
        assert!(
            codes.len() > 1000 && shapes.shapes.len() > 400,
            "{}, {}",
            codes.len(),
            shapes.shapes.len()
        );
    }
}
