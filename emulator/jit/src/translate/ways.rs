//! The ways out of a block, and the code off its usual path.
//!
//! Contract: an [`Edge`] leads to a stub, which leaves with its number, until its target is
//! translated. On another page, and behind a call, the page's number is compared first: until then
//! with one that no page has, after that the code looks its target up where it differs.

use super::{FlagState, Translator, save};
use crate::asm::alu::{ADD, AND, CMP, XOR};
use crate::asm::reg::*;
use crate::asm::{Asm, Jump, Rm};
use crate::cache::{JUMP_SHIFT, JUMPS, JumpTarget};
use crate::layout::{self, BUDGET, in_memory, word};
use crate::thunks::{LINK, OVER, REFUSED};
use crate::translate::{DIFFERS, Edge, EdgeKind, NUMBER};
use core::mem::offset_of;
use core::ops::Range;
use emulator::mmu::tlb::Tlb;

/// The host's stack pointer.
const HOST_STACK: u8 = RSP;

/// Code that is emitted behind the block's last instruction.
pub(super) enum Cold {
    Slow {
        misses: Range<usize>,
        resume: usize,
        site: u32,
        before: FlagState,
        restore: bool,
        wanted: (bool, bool),
    },
    /// To a plain block that begins with the instruction at hand.
    Plain {
        misses: Range<usize>,
        target: u64,
        refund: u32,
        state: FlagState,
    },
    Side {
        jump: Jump,
        target: u64,
        refund: u32,
        state: FlagState,
    },
    Page {
        target: u64,
        edge: u32,
        /// It is called, and the block goes on here.
        resume: Option<usize>,
    },
    /// A return to elsewhere than the last call came from.
    Elsewhere {
        jump: Jump,
        stack: i32,
        site: u32,
    },
    /// Too many calls are open.
    Deep {
        jump: Jump,
        resume: usize,
    },
    Over {
        jump: Jump,
        state: FlagState,
    },
    Lost {
        jumps: [Jump; 2],
        site: u32,
        then: Then,
    },
    Ready {
        jump: Jump,
        resume: usize,
        thunk: usize,
    },
}

/// What follows when the target of an indirect branch was not found.
pub(super) enum Then {
    /// The stack pointer moves up by this much, and the block is left.
    Leave(i32),
    /// The block goes on here, with the address of what leaves in RAX.
    Later(usize),
}

impl Translator<'_> {
    /// A conditional jump to `target`: the block goes on where it is not taken.
    pub fn branch(&mut self, cc: u8, target: u64) {
        self.want_flags(cc);
        let refund = (self.items.len() - self.at - 1) as u32;
        let state = self.flags;
        if target <= self.item().i.ip() {
            let over = self.a.jcc_near(cc ^ 1);
            self.side(target, refund, state);
            self.a.bind(over);
        } else {
            let jump = self.a.jcc_far(cc);
            self.cold.push(Cold::Side { jump, target, refund, state });
        }
    }

    fn side(&mut self, target: u64, refund: u32, state: FlagState) {
        // A plain block leads back to the one with groups, whose checks may hold by now.
        let same = target == self.request.rip && !self.request.plain;
        if same && self.request.counter.is_none() {
            self.again(refund, state);
            return;
        }
        save(self.a, &state);
        if refund != 0 {
            self.a.lea(8, BUDGET, Rm::Mem(BUDGET, refund as i32));
            self.count_skipped(refund);
        }
        self.edge(target);
    }

    /// Goes on at the block's own start.
    fn again(&mut self, refund: u32, mut state: FlagState) {
        // The start of the block may leave, if it wants more than general registers.
        let wants = self.wanted(0) != (false, false);
        if !state.word && (wants || self.lives(None) || state.recipe.is_none()) {
            save(self.a, &state);
            state.word = true;
        }
        state.host = None;
        let count = self.items.len() as u32 - refund;
        self.take(count, state);
        self.a.jmp_label(self.body);
    }

    /// Goes on at `target`; the flags are in the word.
    pub fn edge(&mut self, target: u64) {
        self.way(target, false);
    }

    fn way(&mut self, target: u64, plain: bool) {
        let kind = if plain { EdgeKind::Plain } else { self.check_other(target) };
        let jump = self.a.jmp_far();
        self.link(target, jump, kind, None);
    }

    /// Compares the number of the page of `la`, as the TLB has it, with one that no page has: at
    /// the offset given back, four bytes, the right one is put in later. Uses RAX.
    pub(super) fn compare_number(&mut self, la: u64) -> usize {
        self.a.load(8, RAX, in_memory(word::NUMBERS));
        // An immediate that takes four bytes.
        let known = Rm::Mem(RAX, 4 * Tlb::number_index(la) as i32);
        self.a.alu_imm(CMP, 4, known, i32::MAX);
        self.a.bytes.len() - 4
    }

    /// Whether the target's page is still what it was, which only the code that is patched then
    /// knows: before the jump to it. Uses RAX.
    fn check_page(&mut self, target: u64) -> EdgeKind {
        let number = self.compare_number(target);
        let differs = self.a.jcc_far(5).at;
        // The next instruction's opcode has one byte.
        let jump = self.a.bytes.len() as u32 + 1;
        debug_assert_eq!((number as u32 + NUMBER, differs as u32 + DIFFERS), (jump, jump));
        EdgeKind::Far(0)
    }

    /// The same for a target that may lie on the block's own page.
    fn check_other(&mut self, target: u64) -> EdgeKind {
        let other = target >> 12 != self.request.rip >> 12;
        if other { self.check_page(target) } else { EdgeKind::Near }
    }

    /// A way out through `jump`, which is yet to be bound. It is a call if the block goes on at
    /// `resume`.
    fn link(&mut self, target: u64, jump: Jump, kind: EdgeKind, resume: Option<usize>) {
        let edge = self.request.numbers.0 + self.edges.len() as u32;
        self.edges.push(Edge { target, jump: jump.at as u32, stub: 0, kind });
        if let EdgeKind::Far(_) = kind {
            self.cold.push(Cold::Page { target, edge, resume });
        }
    }

    /// Calls `target`, or the code whose address is in [`word::SPILL`], which will give back to the
    /// guest's address `back`: see [`crate::thunks`]. The flags are in the word.
    pub fn call(&mut self, back: u64, target: Option<u64>) {
        self.a.alu_from(CMP, 8, HOST_STACK, layout::limit());
        let jump = self.a.jcc_far(2);
        self.cold.push(Cold::Deep { jump, resume: self.a.bytes.len() });
        let back = self.wrap(back);
        if back as i32 as i64 as u64 == back {
            self.a.push_imm(back as i32);
        } else {
            self.a.set(RDX, back);
            self.a.push(RDX);
        }
        match target {
            None => self.a.call_rm(in_memory(word::SPILL)),
            Some(target) => {
                let kind = self.check_other(target);
                let call = self.a.call_far();
                self.link(target, call, kind, Some(self.a.bytes.len()));
            }
        }
        self.a.lea(8, HOST_STACK, Rm::Mem(HOST_STACK, 8));
        // Much may have happened, even if it is the block's own page.
        let kind = self.check_page(back);
        let jump = self.a.jmp_far();
        self.link(back, jump, kind, None);
    }

    /// A return to the address in RAX, with the stack pointer moved up by `stack`. The flags are in
    /// the word.
    pub fn give_back(&mut self, stack: i32) {
        self.a.alu_from(CMP, 8, RAX, Rm::Mem(HOST_STACK, 8));
        let jump = self.a.jcc_far(5);
        self.adjust(stack);
        self.a.ret();
        let site = self.site(true);
        self.cold.push(Cold::Elsewhere { jump, stack, site });
    }

    /// Goes on at the address in RAX. The flags are in the word.
    pub fn indirect(&mut self) {
        let jumps = find(self.a);
        self.a.jmp_rm(Rm::Mem(RCX, 16));
        let site = self.site(true);
        self.cold.push(Cold::Lost { jumps, site, then: Then::Leave(0) });
    }

    /// Puts the address of the code to go on with for the address in RAX into [`word::SPILL`].
    pub fn indirect_later(&mut self) {
        let jumps = find(self.a);
        self.a.load(8, RAX, Rm::Mem(RCX, 16));
        let later = self.a.bytes.len();
        self.a.store(8, in_memory(word::SPILL), RAX);
        let site = self.site(true);
        self.cold.push(Cold::Lost { jumps, site, then: Then::Later(later) });
    }

    // ---- cold code ----

    pub(super) fn finish(&mut self) {
        // Side exits make edges in turn.
        while let Some(cold) = self.cold.pop() {
            match cold {
                Cold::Lost { jumps, site, then } => self.lost(jumps, site, &then),
                Cold::Slow { misses, resume, site, before, restore, wanted } => {
                    self.slow(misses);
                    save(self.a, &before);
                    self.a.call_with(site.into(), self.request.thunks.interpret);
                    self.bring_back(wanted);
                    if restore {
                        self.a.call(self.request.thunks.restore);
                    }
                    let jump = self.a.jmp_far();
                    self.a.bind_at(jump, resume);
                }
                Cold::Side { jump, target, refund, state } => {
                    self.a.bind(jump);
                    self.side(target, refund, state);
                }
                Cold::Plain { misses, target, refund, state } => {
                    self.slow(misses);
                    save(self.a, &state);
                    self.a.lea(8, BUDGET, Rm::Mem(BUDGET, refund as i32));
                    self.count_skipped(refund);
                    self.way(target, true);
                }
                Cold::Page { target, edge, resume } => {
                    let look = self.a.bytes.len() as u32;
                    let known = &mut self.edges[(edge - self.request.numbers.0) as usize];
                    known.kind = EdgeKind::Far(distance(look, known.jump));
                    self.a.set(RAX, target);
                    self.a.set(RDX, u64::from(edge) << 3 | LINK);
                    let Some(resume) = resume else {
                        self.a.jmp(self.request.thunks.find);
                        continue;
                    };
                    self.a.call(self.request.thunks.find);
                    let jump = self.a.jmp_far();
                    self.a.bind_at(jump, resume);
                }
                Cold::Elsewhere { jump, stack, site } => {
                    self.a.bind(jump);
                    self.a.load(8, HOST_STACK, layout::base());
                    let jumps = find(self.a);
                    self.adjust(stack);
                    self.a.jmp_rm(Rm::Mem(RCX, 16));
                    self.lost(jumps, site, &Then::Leave(stack));
                }
                Cold::Deep { jump, resume } => {
                    self.a.bind(jump);
                    self.a.load(8, HOST_STACK, layout::base());
                    let jump = self.a.jmp_far();
                    self.a.bind_at(jump, resume);
                }
                Cold::Ready { jump, resume, thunk } => {
                    self.a.bind(jump);
                    self.a.call_with(u64::from(self.request.numbers.2) << 3 | REFUSED, thunk);
                    let jump = self.a.jmp_far();
                    self.a.bind_at(jump, resume);
                }
                Cold::Over { jump, state } => {
                    self.a.bind(jump);
                    save(self.a, &state);
                    self.count_skipped(self.items.len() as u32);
                    let exit = u64::from(self.request.numbers.2) << 3 | OVER;
                    self.a.jmp_with(exit, self.request.thunks.leave);
                }
            }
        }
        for (n, edge) in self.edges.iter_mut().enumerate() {
            edge.stub = distance(self.a.bytes.len() as u32, edge.jump);
            if let EdgeKind::Far(_) = edge.kind {
                self.a.bind(Jump::far((edge.jump - DIFFERS) as usize));
            }
            self.a.bind(Jump::far(edge.jump as usize));
            let exit = u64::from(self.request.numbers.0 + n as u32) << 3 | LINK;
            self.a.jmp_with(exit, self.request.thunks.leave);
        }
    }

    /// The target in RAX is not in the table: leaves, or has the interpreter raise the fault of a
    /// target that is not canonical.
    fn lost(&mut self, jumps: [Jump; 2], site: u32, then: &Then) {
        let a = &mut self.a;
        for jump in jumps {
            a.bind(jump);
        }
        a.mov(RDX, RAX);
        a.shift(4, 8, Rm::Reg(RDX), 16);
        a.shift(7, 8, Rm::Reg(RDX), 16);
        a.alu_from(CMP, 8, RDX, Rm::Reg(RAX));
        let wrong = a.jcc_near(5);
        a.store(8, layout::rip(), RAX);
        match *then {
            Then::Leave(stack) => {
                self.adjust(stack);
                self.a.jmp(self.request.thunks.lost);
            }
            Then::Later(at) => {
                self.a.set(RAX, self.request.thunks.lost as u64);
                let jump = self.a.jmp_far();
                self.a.bind_at(jump, at);
            }
        }
        self.a.bind(wrong);
        self.a.call_with(site.into(), self.request.thunks.interpret);
    }
}

/// From the displacement of an edge's jump to code behind it.
fn distance(to: u32, jump: u32) -> u16 {
    u16::try_from(to - jump).expect("a block is no larger")
}

/// Looks for the entry of the address in RAX in the table of jump targets: RCX points to it unless
/// one of the jumps is taken. Uses RDX.
pub fn find(a: &mut Asm) -> [Jump; 2] {
    a.rorx(4, RCX, RAX, 12);
    a.alu_from(XOR, 4, RCX, Rm::Reg(RAX));
    a.alu_imm(AND, 4, Rm::Reg(RCX), JUMPS as i32 - 1);
    a.shift(4, 4, Rm::Reg(RCX), JUMP_SHIFT);
    a.alu_from(ADD, 8, RCX, in_memory(word::JUMPS));
    a.alu_to(CMP, 8, Rm::Mem(RCX, 0), RAX);
    let other = a.jcc_far(5);
    a.load(4, RDX, Rm::Mem(RCX, offset_of!(JumpTarget, at) as i32));
    a.alu_from(ADD, 8, RDX, in_memory(word::NUMBERS));
    a.load(4, RDX, Rm::Mem(RDX, 0));
    a.alu_to(CMP, 4, Rm::Mem(RCX, 8), RDX);
    [other, a.jcc_far(5)]
}
