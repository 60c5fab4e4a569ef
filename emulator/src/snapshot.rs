//! The machine's state as bytes, and as a hash.
//!
//! Contract: one list of fields, `State`, serves saving, loading and digests; what is not in it
//! is a cache. Loading never panics on hostile bytes.

use crate::core::Core;
use crate::cpu::{BLOCK_RIP, Cpu};
use crate::machine::{Config, ConfigError, Digest};
use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use devices::board::Board;
use devices::ram::{PAGE, Ram};
use devices::time::Clock;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

const MAGIC: &[u8; 8] = b"ftemuSNP";
/// Raised when the format changes.
const VERSION: u32 = 1;

/// Everything but RAM.
#[derive(Serialize, Deserialize)]
struct State<'a> {
    config: Cow<'a, Config>,
    cpu: Cow<'a, Cpu>,
    icount: u64,
    clock: Cow<'a, Clock>,
    shadow_writable: u16,
}

/// Hashes of the pages of RAM, kept up to date by the list of dirty pages.
pub struct PageHashes {
    pages: Vec<u128>,
    sum: u128,
    zero: u128,
    fresh: bool,
}

impl PageHashes {
    /// For a RAM of `pages` pages.
    pub fn new(pages: usize) -> Self {
        let zero = xxh3_128(&[0; PAGE]);
        Self { pages: vec![zero; pages], sum: 0, zero, fresh: true }
    }

    /// Hashes the state. Cost: the pages written since the last call.
    pub fn digest(&mut self, core: &mut Core) -> Digest {
        if core::mem::take(&mut self.fresh) {
            self.sum = 0;
            for page in 0..self.pages.len() {
                self.sum = self.sum.wrapping_add(place(self.zero, page));
                self.update(core, page);
            }
            core.ram.take_dirty();
        } else {
            for page in core.ram.take_dirty() {
                if (page as usize) < self.pages.len() {
                    self.update(core, page as usize);
                }
            }
        }
        core.tlb.forget_writes();
        core.cpu.regs[BLOCK_RIP] = 0;
        let state = (&core.cpu, core.icount, &core.clock, core.ram.shadow_writable());
        let cpu = xxh3_128(&encode(&state));
        let board = xxh3_128(&encode(&core.board));
        Digest { cpu, devices: vec![(String::from("board"), board)], ram: self.sum }
    }

    fn update(&mut self, core: &Core, page: usize) {
        let hash = xxh3_128(core.ram.page(page));
        self.sum =
            self.sum.wrapping_sub(place(self.pages[page], page)).wrapping_add(place(hash, page));
        self.pages[page] = hash;
    }
}

/// The hash of a page at its place: equal pages elsewhere count differently.
fn place(hash: u128, page: usize) -> u128 {
    let odd = (page as u128).wrapping_mul(2).wrapping_add(1);
    hash.wrapping_mul(odd.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec(value).expect("state has no unserializable values")
}

/// Magic, version, length and hash, then the state, the board, and the pages that are not zero.
pub fn save(config: &Config, core: &mut Core) -> Vec<u8> {
    core.cpu.regs[BLOCK_RIP] = 0;
    let state = encode(&State {
        config: Cow::Borrowed(config),
        cpu: Cow::Borrowed(&core.cpu),
        icount: core.icount,
        clock: Cow::Borrowed(&core.clock),
        shadow_writable: core.ram.shadow_writable(),
    });
    let board = encode(&core.board);
    let mut body = Vec::new();
    for part in [&state, &board] {
        body.extend_from_slice(&(part.len() as u64).to_le_bytes());
        body.extend_from_slice(part);
    }
    for page in 0..core.ram.pages() {
        let bytes = core.ram.page(page);
        if bytes.iter().any(|&b| b != 0) {
            body.extend_from_slice(&(page as u64).to_le_bytes());
            body.extend_from_slice(bytes);
        }
    }
    let mut out = Vec::with_capacity(body.len() + 28);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(body.len() as u64).to_le_bytes());
    out.extend_from_slice(&xxh3_64(&body).to_le_bytes());
    out.extend_from_slice(&body);
    out
}

/// Takes `n` bytes off the front.
fn take<'a>(bytes: &mut &'a [u8], n: u64) -> Option<&'a [u8]> {
    let n = usize::try_from(n).ok()?;
    let (head, rest) = bytes.split_at_checked(n)?;
    *bytes = rest;
    Some(head)
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes, 8).map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes")))
}

/// The inverse of [`save`].
///
/// # Errors
/// Bytes that are not a whole snapshot of this version, with the reason.
pub fn load(bytes: &[u8]) -> Result<(Config, Core), ConfigError> {
    let bad = |why: &str| ConfigError(format!("snapshot: {why}"));
    let mut rest = bytes;
    if take(&mut rest, 8) != Some(MAGIC) {
        return Err(bad("not a snapshot of ftemu"));
    }
    let version = take(&mut rest, 4).ok_or_else(|| bad("truncated"))?;
    if version != VERSION.to_le_bytes() {
        return Err(bad("of another version"));
    }
    let len = number(&mut rest).ok_or_else(|| bad("truncated"))?;
    let hash = number(&mut rest).ok_or_else(|| bad("truncated"))?;
    if rest.len() as u64 != len {
        return Err(bad("truncated"));
    }
    if xxh3_64(rest) != hash {
        return Err(bad("damaged"));
    }
    let mut part = || {
        let len = number(&mut rest)?;
        take(&mut rest, len)
    };
    let state = part().ok_or_else(|| bad("no state"))?;
    let board = part().ok_or_else(|| bad("no devices"))?;
    let state: State = rmp_serde::from_slice(state).map_err(|e| bad(&format!("{e}")))?;
    let board: Board = rmp_serde::from_slice(board).map_err(|e| bad(&format!("{e}")))?;
    let config = state.config.into_owned();
    let fits = config.ram_bytes & 0xF_FFFF == 0
        && (4 << 20..=devices::ram::MAX).contains(&config.ram_bytes);
    if !fits {
        return Err(bad("impossible RAM size"));
    }
    let mut core = Core::new(Ram::new(config.ram_bytes, &firmware::rom()), board);
    for page in 0..core.ram.pages() {
        if core.ram.page(page).iter().any(|&b| b != 0) {
            core.ram.load_page(page, &[0; PAGE]);
        }
    }
    while !rest.is_empty() {
        let page = number(&mut rest).ok_or_else(|| bad("truncated page"))?;
        let data = take(&mut rest, PAGE as u64).ok_or_else(|| bad("truncated page"))?;
        let data: &[u8; PAGE] = data.try_into().expect("a page");
        if page >= core.ram.pages() as u64 {
            return Err(bad("page outside RAM"));
        }
        core.ram.load_page(page as usize, data);
    }
    core.ram.set_shadow_writable(state.shadow_writable);
    core.cpu = state.cpu.into_owned();
    core.cpu.regs[crate::cpu::ZERO..].fill(0);
    core.icount = state.icount;
    core.clock = state.clock.into_owned();
    core.update_mode();
    core.flush_tlb();
    Ok((config, core))
}
