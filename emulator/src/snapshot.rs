//! The machine's state as bytes, whole or in pieces.
//!
//! Contract: one list of fields, `Processor` and the board, serves saving, loading and digests;
//! what is not in it is a cache. A machine that goes on running can be carried over in pieces: its
//! pages as they are, again those that changed meanwhile, and at one instant `save_state` with
//! the last of them; [`Loader`] takes the pieces. Loading never panics on hostile bytes, and holds
//! no more than the RAM that the configuration asks for.

use crate::core::Core;
use crate::cpu::{BLOCK_RIP, Cpu, ZERO};
use crate::digest::PageHashes;
use crate::machine::{Config, ConfigError, Machine};
use alloc::borrow::Cow;
use alloc::format;
use alloc::vec::Vec;
use devices::board::Board;
use devices::ram::{PAGE, Ram};
use devices::time::Clock;
use firmware::DirectBoot;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// What begins a whole snapshot.
const SNAPSHOT: &[u8; 8] = b"ftemuSNP";
/// What begins a state without RAM.
const STATE: &[u8; 8] = b"ftemuSTA";
/// Raised when a format changes.
pub const VERSION: u32 = 3;

/// Everything but RAM and board.
#[derive(Serialize, Deserialize)]
pub(crate) struct Processor<'a> {
    pub cpu: Cow<'a, Cpu>,
    pub icount: u64,
    pub clock: Cow<'a, Clock>,
    pub shadow_writable: u16,
}

impl<'a> Processor<'a> {
    /// That of `core`. What only a running block needs is cleared: it is no state.
    pub fn of(core: &'a mut Core) -> Self {
        core.cpu.regs[BLOCK_RIP] = 0;
        Self {
            cpu: Cow::Borrowed(&core.cpu),
            icount: core.icount,
            clock: Cow::Borrowed(&core.clock),
            shadow_writable: core.ram.shadow_writable(),
        }
    }
}

fn bad(why: &str) -> ConfigError {
    ConfigError(format!("snapshot: {why}"))
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec(value).expect("state has no unserializable values")
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ConfigError> {
    rmp_serde::from_slice(bytes).map_err(|e| bad(&format!("{e}")))
}

/// Magic, version, length and hash, then `body`.
pub(crate) fn seal(magic: &[u8; 8], body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 28);
    out.extend_from_slice(magic);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(body.len() as u64).to_le_bytes());
    out.extend_from_slice(&xxh3_64(body).to_le_bytes());
    out.extend_from_slice(body);
    out
}

/// The body that [`seal`] was given.
pub(crate) fn unseal<'a>(magic: &[u8; 8], bytes: &'a [u8]) -> Result<&'a [u8], ConfigError> {
    let mut rest = bytes;
    if take(&mut rest, 8) != Some(magic) {
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
    Ok(rest)
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

/// Takes bytes preceded by their length off the front.
fn part<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = number(bytes)?;
    take(bytes, len)
}

/// A hash of a configuration.
pub(crate) type Identity = [u8; 16];

/// A hash of the configuration: what it boots may be large.
pub(crate) fn identity(config: &Config) -> Identity {
    let mut hash = Xxh3::new();
    let mut add = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    let Config { ram_bytes, board, direct_boot } = config;
    add(&encode(&(ram_bytes, board, direct_boot.is_some())));
    if let Some(DirectBoot { kernel, initrd, append }) = direct_boot {
        [kernel, initrd, append].into_iter().for_each(|bytes| add(bytes));
    }
    hash.digest128().to_le_bytes()
}

fn add_part(body: &mut Vec<u8>, part: &[u8]) {
    body.extend_from_slice(&(part.len() as u64).to_le_bytes());
    body.extend_from_slice(part);
}

/// The configuration's hash, processor and board, each preceded by its length.
fn state_body(identity: &Identity, core: &mut Core) -> Vec<u8> {
    let mut body = Vec::new();
    add_part(&mut body, identity);
    add_part(&mut body, &encode(&Processor::of(core)));
    add_part(&mut body, &encode(&core.board));
    body
}

/// Everything but RAM.
pub(crate) fn save_state(identity: &Identity, core: &mut Core) -> Vec<u8> {
    seal(STATE, &state_body(identity, core))
}

/// The whole state: the configuration, as [`save_state`], then the pages that are not zero, each
/// after its number.
pub(crate) fn save(config: &Config, identity: &Identity, core: &mut Core) -> Vec<u8> {
    let mut body = Vec::new();
    add_part(&mut body, &encode(config));
    add_part(&mut body, &state_body(identity, core));
    for page in (0..core.ram.pages()).filter(|&page| core.ram.is_touched(page)) {
        let bytes = core.ram.page(page);
        if !is_zero(bytes) {
            body.extend_from_slice(&(page as u64).to_le_bytes());
            body.extend_from_slice(bytes);
        }
    }
    seal(SNAPSHOT, &body)
}

/// The inverse of [`save`].
pub(crate) fn load(bytes: &[u8]) -> Result<Machine, ConfigError> {
    let mut rest = unseal(SNAPSHOT, bytes)?;
    let config = part(&mut rest).ok_or_else(|| bad("no configuration"))?;
    let state = part(&mut rest).ok_or_else(|| bad("no state"))?;
    let mut loader = Loader::new(&decode(config)?)?;
    while !rest.is_empty() {
        let page = number(&mut rest).ok_or_else(|| bad("truncated page"))?;
        let data = take(&mut rest, PAGE as u64).ok_or_else(|| bad("truncated page"))?;
        let data: &[u8; PAGE] = data.try_into().expect("a page");
        loader.load_page(u32::try_from(page).unwrap_or(u32::MAX), data)?;
    }
    loader.assemble(state)
}

/// Whether there are only zeros.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |or, byte| or | byte) == 0)
        && rest.iter().all(|&byte| byte == 0)
}

/// A machine on its way in: pages in any order, the last content of each counting, then the state.
pub struct Loader {
    config: Config,
    identity: Identity,
    ram: Ram,
    /// Kept up with each page, so that the machine's first digest is cheap.
    hashes: PageHashes,
}

impl Loader {
    /// For a machine of this configuration; all of its RAM is zero yet.
    ///
    /// # Errors
    /// A configuration that no machine can have.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        config.check()?;
        let mut ram = Ram::new(config.ram_bytes, &firmware::rom());
        for page in 0..ram.pages() {
            if ram.is_touched(page) {
                ram.load_page(page, &[0; PAGE]);
            }
        }
        let hashes = PageHashes::of_zeros(ram.pages());
        Ok(Self { config: config.clone(), identity: identity(config), ram, hashes })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Pages of RAM.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.ram.pages() as u32
    }

    /// One page of RAM as it is so far.
    ///
    /// # Errors
    /// A page outside RAM.
    pub fn page(&self, page: u32) -> Result<&[u8; PAGE], ConfigError> {
        let page = self.inside(page)?;
        Ok(self.ram.page(page).try_into().expect("a page"))
    }

    /// Sets a page of RAM.
    ///
    /// # Errors
    /// A page outside RAM.
    pub fn load_page(&mut self, page: u32, data: &[u8; PAGE]) -> Result<(), ConfigError> {
        let page = self.inside(page)?;
        if self.ram.is_touched(page) || !is_zero(data) {
            self.ram.load_page(page, data);
            self.hashes.update(&self.ram, page);
        }
        Ok(())
    }

    fn inside(&self, page: u32) -> Result<usize, ConfigError> {
        let page = page as usize;
        if page < self.ram.pages() { Ok(page) } else { Err(bad("page outside RAM")) }
    }

    /// The machine whose [`Machine::save_state`] is `state`.
    ///
    /// # Errors
    /// Bytes that are not such a state, or one of another configuration.
    pub fn finish(self, state: &[u8]) -> Result<Machine, ConfigError> {
        self.assemble(unseal(STATE, state)?)
    }

    fn assemble(mut self, mut state: &[u8]) -> Result<Machine, ConfigError> {
        let mut next = || part(&mut state).ok_or_else(|| bad("incomplete state"));
        let (config, processor, board) = (next()?, next()?, next()?);
        if !state.is_empty() {
            return Err(bad("something after the state"));
        }
        if config != self.identity {
            return Err(bad("a machine of another configuration"));
        }
        let processor: Processor = decode(processor)?;
        let board: Board = decode(board)?;
        if !board.has(&self.config.board) {
            return Err(bad("devices that the configuration does not have"));
        }
        self.ram.take_dirty();
        let mut core = Core::new(self.ram, board);
        core.ram.set_shadow_writable(processor.shadow_writable);
        core.cpu = processor.cpu.into_owned();
        core.cpu.regs[ZERO..].fill(0);
        core.icount = processor.icount;
        core.clock = processor.clock.into_owned();
        core.update_mode();
        core.flush_tlb();
        Ok(Machine::assemble(self.config, self.identity, core, self.hashes))
    }
}
