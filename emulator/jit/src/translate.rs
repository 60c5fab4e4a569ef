//! From guest bytes to host code: one block at a time, in one pass over its instructions.
//!
//! Contract: [`translate`] emits a block that starts at its first byte. What a family of
//! instructions needs is a method here; the families are in [`crate::lower`]. To add one: name its
//! instructions in [`crate::classify`] and emit them in a file there. The rules:
//! - RAX, RCX and RDX are scratch, [`layout::place`] says where guest registers are.
//! - [`Translator::access`] checks a memory operand, leads to the interpreter if it misses; until
//!   then nothing of the guest may have been changed. It uses RAX, RCX and RDX; afterwards RAX and
//!   RDX are free if `flat` was asked for.
//! - An instruction that sets the flags says so with [`Translator::produced`]; one that needs them
//!   asks [`Translator::want_flags`], after its access.

mod ways;

use crate::access::{Miss, Probes};
use crate::asm::alu::{ADD, CMP};
use crate::asm::reg::*;
use crate::asm::{Asm, Jump, Label, Rm};
use crate::classify::{Effect, Item, Shape, classify};
use crate::flags::{Kind, Recipe};
use crate::groups::Groups;
use crate::layout::{self, BUDGET, disp, in_memory, word};
use crate::lower;
use crate::shapes::Shapes;
use crate::thunks::Thunks;
use emulator::decode::MAX_LENGTH;
use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction};
use ways::Cold;
pub use ways::find;

/// Most instructions of a block.
pub const MOST: usize = 40;
/// Host bytes that a block of [`MOST`] instructions has at most.
pub const LARGEST: usize = 64 << 10;

/// An instruction that the interpreter may be asked to execute.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// Its RIP.
    pub rip: u64,
    /// Its decoded form, once it was needed.
    pub op: u32,
    /// Number of its block.
    pub block: u32,
    /// How many instructions of the block are left before it is executed, itself included.
    pub left: u8,
    /// Its bytes; 0 if translated code does not go on after it.
    pub len: u8,
    /// Its event matters only if an interrupt or a trap is due, or a device was met.
    pub quiet: bool,
    /// It has nothing to do with the status flags.
    pub flagless: bool,
}

/// In [`Site::op`]: not decoded yet.
pub const UNKNOWN: u32 = u32::MAX;

/// A way out of a block, to a RIP that is known.
#[derive(Clone, Copy, Debug)]
pub struct Edge {
    /// Where it leads.
    pub target: u64,
    /// Offset in the block's code of the displacement of its jump.
    pub jump: u32,
    /// Distance from there to what the jump leads to while the target is not translated.
    pub stub: u16,
    /// What the jump depends on.
    pub kind: EdgeKind,
}

/// What a way out depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeKind {
    /// It leads to the block's own page.
    Near,
    /// The same; the block there is to be a plain one.
    Plain,
    /// The number of the target's page is compared before it ([`NUMBER`]). Where it is another, the
    /// code goes on at this distance from the edge's jump once that is linked, at the stub before.
    Far(u16),
}

/// From the number that is compared, and from the displacement of the jump that is taken where it
/// differs, to the displacement of an edge's jump.
pub const NUMBER: u32 = 11;
/// See [`NUMBER`].
pub const DIFFERS: u32 = 5;

/// A translated block. The next one is made where it is, so that nothing is allocated anew.
#[derive(Default)]
pub struct Translation {
    /// The code, for [`Request::base`].
    pub code: Asm,
    /// Instructions.
    pub count: usize,
    /// Guest bytes.
    pub len: usize,
    /// Ways out.
    pub edges: Vec<Edge>,
    /// Instructions that may be interpreted.
    pub sites: Vec<Site>,
    /// Its last instruction lies on two pages.
    pub tail: Option<Tail>,
    work: Work,
}

/// What of a block lies on the next page.
#[derive(Clone, Copy)]
pub struct Tail {
    /// Bytes of it.
    pub len: usize,
    /// Offset in the block's code of the number that the next page must have, four bytes.
    pub number: usize,
}

/// What a translation needs while it is made.
#[derive(Default)]
struct Work {
    /// [`MOST`] of them: the first are the block's.
    items: Vec<Item>,
    cold: Vec<Cold>,
    misses: Vec<Miss>,
    group_misses: Vec<Miss>,
    cold_misses: Vec<Miss>,
    groups: Groups,
    probes: Probes,
    shapes: Shapes,
}

/// What the translator is told.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The guest's bytes, to the end of the page.
    pub bytes: &'a [u8],
    /// The first bytes of the next page, if it is known where that is.
    pub tail: &'a [u8],
    /// RIP of the first.
    pub rip: u64,
    /// Where the code will lie.
    pub base: usize,
    /// Numbers that the first edge, site and the block will have.
    pub numbers: (u32, u32, u32),
    /// Code shared by all blocks.
    pub thunks: &'a Thunks,
    /// Address of counters of executions, and of instructions not reached in them.
    pub counter: Option<usize>,
    /// Each access is checked by itself: see [`crate::groups`].
    pub plain: bool,
    /// 32-bit code with flat segments; else 64-bit code.
    pub narrow: bool,
    /// Whether a block that is worth a jump begins at an offset: this one ends there.
    pub is_begun: &'a dyn Fn(usize) -> bool,
}

/// Where the flags are.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlagState {
    /// The word is right.
    word: bool,
    /// The host's flags are the guest's.
    host: Option<Kind>,
    /// They can be made again.
    recipe: Option<Recipe>,
}

/// A block in the making. What is kept from block to block it borrows.
pub struct Translator<'a> {
    /// The code.
    pub a: &'a mut Asm,
    pub(crate) request: Request<'a>,
    /// Behind the check of the budget.
    body: Label,
    /// The instructions.
    pub(crate) items: &'a mut [Item],
    survey: Survey,
    /// Number of the instruction at hand.
    pub(crate) at: usize,
    /// Its shape.
    pub(crate) now: Shape,
    flags: FlagState,
    /// The state before the instruction at hand, for its slow path.
    before: FlagState,
    /// The instruction at hand has made the flags.
    fresh: bool,
    pub(crate) misses: &'a mut Vec<Miss>,
    /// Checks of groups that may fail: see [`crate::groups`].
    pub(crate) group_misses: &'a mut Vec<Miss>,
    /// The misses of what is in `cold`.
    pub(crate) cold_misses: &'a mut Vec<Miss>,
    /// The groups of accesses at hand.
    pub(crate) groups: &'a mut Groups,
    pub(crate) probes: &'a mut Probes,
    cold: &'a mut Vec<Cold>,
    edges: &'a mut Vec<Edge>,
    sites: &'a mut Vec<Site>,
    tail: Option<Tail>,
    joined: &'a Joined,
}

/// What is asked of a block's instructions again and again.
#[derive(Clone, Copy, Default)]
struct Survey {
    /// Behind the last one that uses the host's x87.
    x87: usize,
    /// Behind the last one that uses its XMM registers.
    vectors: usize,
    /// There is one whose code leaves flags undone.
    blind: bool,
}

impl Survey {
    fn of(items: &[Item]) -> Self {
        let mut survey = Self::default();
        for (n, item) in items.iter().enumerate() {
            if item.x87 {
                survey.x87 = n + 1;
            }
            if item.vector {
                survey.vectors = n + 1;
            }
            survey.blind |= item.blind;
        }
        survey
    }
}

/// The bytes of an instruction that lies on two pages, and what follows.
type Joined = [u8; 2 * MAX_LENGTH];

/// Translates the block that `request` describes into `to`.
pub fn translate(request: Request<'_>, to: &mut Translation) {
    let Translation { code, edges, sites, work, .. } = to;
    let Work { items, cold, misses, group_misses, cold_misses, groups, probes, shapes } = work;
    code.bytes.clear();
    code.base = request.base;
    edges.clear();
    sites.clear();
    cold.clear();
    misses.clear();
    group_misses.clear();
    cold_misses.clear();
    let mut joined = [0; 2 * MAX_LENGTH];
    let (count, len) = decode(&request, items, &mut joined, shapes);
    let items = &mut items[..count];
    let survey = Survey::of(items);
    if survey.blind {
        look_for_flags(items);
    }
    groups.prepare(if request.plain { &[] } else { &*items });
    let mut t = Translator {
        a: code,
        request,
        body: Label::default(),
        items,
        survey,
        at: 0,
        now: Shape::default(),
        flags: FlagState { word: true, host: None, recipe: None },
        before: FlagState::default(),
        fresh: false,
        misses,
        group_misses,
        cold_misses,
        groups,
        probes,
        cold,
        edges,
        sites,
        tail: None,
        joined: &joined,
    };
    t.head(count as u32);
    for at in 0..count {
        t.at = at;
        t.instruction();
    }
    if !t.items[count - 1].last {
        t.save_flags();
        t.edge(t.wrap(t.items[count - 1].i.next_ip()));
    }
    t.finish();
    (to.tail, to.count, to.len) = (t.tail, count, len);
}

/// The block's instructions; gives back how many they are, and how many bytes on the block's page.
fn decode(
    request: &Request<'_>,
    items: &mut Vec<Item>,
    joined: &mut Joined,
    shapes: &mut Shapes,
) -> (usize, usize) {
    let bits = if request.narrow { 32 } else { 64 };
    let mut decoder = Decoder::with_ip(bits, request.bytes, request.rip, DecoderOptions::NONE);
    items.resize(MOST, Item::default());
    let mut len = 0;
    for (n, item) in items.iter_mut().enumerate() {
        decoder.decode_out(&mut item.i);
        match decoder.last_error() {
            DecoderError::None => {}
            DecoderError::NoMoreBytes => {
                return match across(request, bits, len, joined) {
                    Some(crossing) => {
                        *item = crossing;
                        (n + 1, request.bytes.len())
                    }
                    None if n == 0 => {
                        // It crosses the page: the interpreter fetches it each time.
                        let mut crossing = Instruction::new();
                        // Its address is kept as that of the next one.
                        crossing.set_len(request.bytes.len());
                        crossing.set_ip(request.rip);
                        *item = classify(crossing, true);
                        (1, request.bytes.len())
                    }
                    None => (n, len),
                };
            }
            _ => {
                // How far it reaches is the interpreter's affair, which raises the fault.
                *item = classify(item.i, true);
                item.i.set_len(decoder.position() - len);
                return (n + 1, decoder.position());
            }
        }
        len = decoder.position();
        shapes.fill(item);
        if item.last || (request.is_begun)(len) {
            return (n + 1, len);
        }
    }
    (MOST, len)
}

/// The instruction at offset `at` of the block, which reaches into the next page; `None` if it is
/// not known what is there. Its bytes are put into `joined`.
fn across(request: &Request<'_>, bits: u32, at: usize, joined: &mut Joined) -> Option<Item> {
    let here = request.bytes.get(at..).filter(|here| (1..MAX_LENGTH).contains(&here.len()))?;
    let there = &request.tail[..request.tail.len().min(MAX_LENGTH)];
    let len = here.len() + there.len();
    joined[..here.len()].copy_from_slice(here);
    joined[here.len()..len].copy_from_slice(there);
    let rip = request.rip.wrapping_add(at as u64);
    let mut decoder = Decoder::with_ip(bits, &joined[..len], rip, DecoderOptions::NONE);
    let i = decoder.decode();
    (!i.is_invalid() && !there.is_empty()).then(|| {
        let mut item = classify(i, false);
        item.crossing();
        item
    })
}

impl Translator<'_> {
    /// The instruction at hand.
    pub fn item(&self) -> &Item {
        &self.items[self.at]
    }

    /// How many instructions of the block are left before it, itself included.
    pub fn left(&self) -> i32 {
        (self.items.len() - self.at) as i32
    }

    /// Bytes of what calls push, and of addresses.
    pub fn word(&self) -> u8 {
        if self.request.narrow { 4 } else { 8 }
    }

    /// An instruction pointer as wide as the code makes it.
    pub fn wrap(&self, rip: u64) -> u64 {
        if self.request.narrow { rip & 0xFFFF_FFFF } else { rip }
    }

    /// Its bytes.
    pub fn instruction_bytes(&self) -> &[u8] {
        let i = &self.item().i;
        if self.item().crosses {
            return &self.joined[..i.len()];
        }
        let at = i.ip().wrapping_sub(self.request.rip) as usize;
        &self.request.bytes[at..at + i.len()]
    }

    fn head(&mut self, count: u32) {
        if let Some(counter) = self.request.counter {
            self.a.set(RAX, counter as u64);
            self.a.step(0, 8, Rm::Mem(RAX, 0));
        }
        self.take(count, self.flags);
        self.body = self.a.label();
        let (x87, vectors) = self.wanted(0);
        let thunks = self.request.thunks;
        for (wanted, word, thunk) in [
            // The x87 comes first: its thunk takes away XMM registers.
            (x87, word::X87, thunks.x87_first),
            (vectors, word::XMM, thunks.vectors_first),
        ] {
            if wanted {
                self.a.alu_imm(CMP, 1, in_memory(word), 0);
                let jump = self.a.jcc_far(4);
                self.cold.push(Cold::Ready { jump, resume: self.a.bytes.len(), thunk });
            }
        }
    }

    /// Takes the block's instructions off the budget; leaves if that is not enough.
    fn take(&mut self, count: u32, state: FlagState) {
        const { assert!(MOST < 128 && BUDGET == R15) };
        // sub r15, imm8; js
        self.a.fixed([0x49, 0x83, 0xEF, count as u8, 0x0F, 0x88, 0, 0, 0, 0]);
        let jump = Jump::far(self.a.bytes.len() - 4);
        self.cold.push(Cold::Over { jump, state });
    }

    /// The block is left before its last `count` instructions. Uses RAX; the flags are in the word.
    fn count_skipped(&mut self, count: u32) {
        if let Some(counter) = self.request.counter {
            self.a.set(RAX, counter as u64);
            self.a.alu_imm(ADD, 8, Rm::Mem(RAX, 8), count as i32);
        }
    }

    /// Whether an instruction from number `at` on uses the host's x87, and its XMM registers.
    fn wanted(&self, at: usize) -> (bool, bool) {
        (at < self.survey.x87, at < self.survey.vectors)
    }

    /// What the instructions behind the one at hand want, after a call of the interpreter.
    fn bring_back(&mut self, (x87, vectors): (bool, bool)) {
        if x87 {
            self.a.call(self.request.thunks.x87_on);
        }
        if vectors {
            self.a.call(self.request.thunks.vectors_on);
        }
    }

    /// Whether the next instruction notes its address for the x87, whatever happens.
    pub fn next_notes(&self) -> bool {
        let next = self.items.get(self.at + 1);
        next.is_some_and(|item| item.x87 && !item.crosses && lower::x87::always_notes(&item.i))
    }

    fn instruction(&mut self) {
        let item = *self.item();
        self.now = item.shape;
        self.before = FlagState { host: None, ..self.flags };
        self.fresh = false;
        if item.lowered && item.crosses {
            self.check_tail(&item);
        }
        if !item.lowered || !lower::lower(self, &item.i) {
            self.interpret();
            self.groups.after(self.items, self.at, false);
            return;
        }
        assert!(item.memory || self.misses.is_empty(), "an access was promised to be safe");
        if !item.preserves && !self.fresh {
            // Not every access spoils them: see [`crate::groups`].
            self.spoil();
        }
        if !self.group_misses.is_empty() {
            let misses = self.cold_misses.len()..self.cold_misses.len() + self.group_misses.len();
            self.cold_misses.append(self.group_misses);
            let refund = (self.items.len() - self.at) as u32;
            let (target, state) = (item.i.ip(), self.before);
            self.cold.push(Cold::Plain { misses, target, refund, state });
        }
        if !self.misses.is_empty() {
            let misses = self.cold_misses.len()..self.cold_misses.len() + self.misses.len();
            self.cold_misses.append(self.misses);
            let site = self.site(item.last);
            let resume = self.a.bytes.len();
            let restore = self.flags.host.is_some();
            let before = self.before;
            let wanted = self.wanted(self.at + 1);
            self.cold.push(Cold::Slow { misses, resume, site, before, restore, wanted });
        }
        if let Some(recipe) = self.flags.recipe
            && recipe.registers() & item.writes != 0
            && !self.fresh
        {
            self.flags.recipe = None;
        }
        self.groups.after(self.items, self.at, true);
    }

    /// The interpreter executes the instruction unless the next page is where it was. Uses RAX.
    fn check_tail(&mut self, item: &Item) {
        let next = self.wrap((item.i.ip() | 0xFFF).wrapping_add(1));
        self.spoil();
        let number = self.compare_number(next);
        self.miss(5);
        let here = (next.wrapping_sub(item.i.ip()) & 0xFFF) as usize;
        self.tail = Some(Tail { len: item.i.len() - here, number });
    }

    /// Executes the instruction at hand by the interpreter.
    fn interpret(&mut self) {
        self.save_flags();
        let last = self.item().last;
        let site = self.site(last);
        self.a.call_with(site.into(), self.request.thunks.interpret);
        self.bring_back(self.wanted(self.at + 1));
        self.flags = FlagState { word: true, host: None, recipe: None };
    }

    fn site(&mut self, last: bool) -> u32 {
        let item = &self.items[self.at];
        let len = if last { 0 } else { item.i.len() as u8 };
        let left = (self.items.len() - self.at) as u8;
        let flagless = item.flagless || item.lowered && item.effect == Effect::None;
        let (rip, quiet) = (item.i.ip(), item.quiet);
        let (op, block) = (UNKNOWN, self.request.numbers.2);
        self.sites.push(Site { rip, op, block, left, len, quiet, flagless });
        self.request.numbers.1 + self.sites.len() as u32 - 1
    }

    // ---- flags ----

    /// The host's flags are about to change.
    pub fn spoil(&mut self) {
        self.flags.host = None;
    }

    /// Whether anybody can see the flags that the instruction at hand leaves.
    pub fn flags_live(&self) -> bool {
        self.lives(Some(self.at))
    }

    /// Nobody can see the flags from here on: see [`Translator::flags_live`].
    pub fn flags_dead(&mut self) {
        self.flags = FlagState::default();
        self.fresh = true;
    }

    /// The same after instruction `at`, or at the start of the block.
    fn lives(&self, at: Option<usize>) -> bool {
        seen(&self.items[at.map_or(0, |at| at + 1)..])
    }

    /// The instruction at hand has just set all flags: they are in the host's.
    pub fn produced(&mut self, kind: Kind, recipe: Option<Recipe>) {
        self.flags = FlagState { word: false, host: Some(kind), recipe };
        self.fresh = true;
        if self.must_save(recipe) {
            kind.save(self.a);
            self.flags.word = true;
        }
    }

    /// Whether flags just made in the host's must be saved at once, because later they cannot be
    /// had any more where they may be seen.
    fn must_save(&self, recipe: Option<Recipe>) -> bool {
        let registers = recipe.map_or(0, Recipe::registers);
        let mut again = recipe.is_some();
        let mut host = true;
        for (at, item) in self.items.iter().enumerate().skip(self.at + 1) {
            if !item.lowered || item.last && item.memory {
                return true;
            }
            if item.memory {
                host = false;
                if !again {
                    return true;
                }
            }
            match item.effect {
                Effect::None => {}
                Effect::Sets => return false,
                Effect::Changes => return !host && self.lives(Some(at)),
                _ if !host && !again => return true,
                Effect::ReadsAndSets => return false,
                Effect::Reads => {}
            }
            host &= item.preserves;
            again &= registers & item.writes == 0;
        }
        !host && !again
    }

    /// Sees to it that the word is right. Uses RAX and RDX.
    pub fn save_flags(&mut self) {
        save(self.a, &self.flags);
        self.flags.word = true;
        if !self.fresh {
            self.before.word = true;
        }
    }

    /// The word is about to be changed, or was: the flags are nowhere else.
    pub fn only_in_word(&mut self) {
        self.flags = FlagState { word: true, host: None, recipe: None };
    }

    /// Sees to it that condition `cc` can be asked of the host's flags. Uses RAX and RDX.
    pub fn want_flags(&mut self, cc: u8) {
        let overflow = matches!(cc & 0xE, 0x0 | 0xC | 0xE);
        match self.flags.host {
            Some(kind) if !overflow || kind.has_overflow() => return,
            Some(_) => self.save_flags(),
            None => {}
        }
        if let Some(recipe) = self.flags.recipe {
            recipe.emit(self.a);
            self.flags.host = Some(recipe.kind());
            return;
        }
        assert!(self.flags.word, "flags were lost");
        match cc & 0xE {
            0x2 => self.a.bit_imm(4, 4, in_memory(word::FLAGS), 8),
            _ if overflow => self.a.call(self.request.thunks.restore),
            _ => {
                self.a.load_ah(layout::STATE, disp(word::FLAGS) + 1);
                self.a.sahf();
            }
        }
        // Not all of them: nothing is to be saved from there.
        self.flags.host = None;
    }

    /// The thunk that gives the word an OF of its own.
    pub fn settle(&self) -> usize {
        self.request.thunks.settle
    }

    /// If `cc` holds, the interpreter executes the instruction, of which nothing was done yet.
    pub fn miss(&mut self, cc: u8) {
        let jump = self.a.jcc_far(cc);
        self.misses.push(Miss::plain(jump));
    }
}

/// Whether anybody can see the flags that are there before these instructions.
fn seen(items: &[Item]) -> bool {
    items
        .iter()
        .find_map(|item| {
            if !item.lowered || item.memory || item.jcc {
                return Some(true);
            }
            match item.effect {
                // What changes some flags needs the others only if they live on behind it.
                Effect::None | Effect::Changes => None,
                Effect::Sets => Some(false),
                _ => Some(true),
            }
        })
        .unwrap_or(true)
}

/// Leaves to the interpreter what is lowered only where nobody sees its flags.
fn look_for_flags(items: &mut [Item]) {
    for at in (0..items.len()).rev() {
        if items[at].lowered && items[at].blind && seen(&items[at + 1..]) {
            items[at].interpreted();
        }
    }
}

/// Makes the word right.
fn save(a: &mut Asm, state: &FlagState) {
    if state.word {
        return;
    }
    if let Some(kind) = state.host {
        kind.save(a);
        return;
    }
    let recipe = state.recipe.expect("flags that may be seen can be had");
    recipe.emit(a);
    recipe.kind().save(a);
}
