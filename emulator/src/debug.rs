//! Breakpoints of the debug registers (SDM 3B 17.2).
//!
//! Contract: while a breakpoint is enabled the machine executes instruction by instruction and no
//! translation is cached, so that every access passes [`Core::watch_access`].

use crate::core::Core;
use crate::cpu::cr4;

/// R/W field of DR7: instruction fetch, data writes, I/O, data reads and writes.
const EXECUTE: u64 = 0;
const WRITE: u64 = 1;
const PORT: u64 = 2;

impl Core {
    /// DR6 bits of the instruction breakpoints that RIP hits; none while RF is in force or after
    /// MOV SS and POP SS.
    pub fn instruction_breakpoint(&self) -> Option<u64> {
        if self.cpu.dr[7] & 0xFF == 0 || self.cpu.shadow_debug || self.resuming() {
            return None;
        }
        let la = self.code_address(self.cpu.rip);
        self.matching(|kind, address, _| kind == EXECUTE && address == la)
    }

    /// Whether accesses to memory or ports must be compared.
    pub fn watches_data(&self) -> bool {
        let dr7 = self.cpu.dr[7];
        dr7 & 0xFF != 0 && (0..4).any(|n| dr7 >> (2 * n) & 3 != 0 && dr7 >> (16 + 4 * n) & 3 != 0)
    }

    /// Notes which breakpoints an access of the program to `size` bytes at `la` hits.
    pub fn watch_access(&mut self, la: u64, size: u64, write: bool) {
        let last = la.wrapping_add(size - 1);
        let hit = self.matching(|kind, address, size| {
            let kind_fits = kind == 3 || (kind == WRITE && write);
            let first = address & !(size - 1);
            kind_fits && first <= last && first.saturating_add(size - 1) >= la
        });
        self.watch_hits |= hit.unwrap_or(0);
    }

    /// The same for an access to `size` ports.
    pub fn watch_port(&mut self, port: u16, size: u8) {
        if !self.watching || self.cpu.cr4 & cr4::DE == 0 {
            return;
        }
        let (from, to) = (u64::from(port), u64::from(port) + u64::from(size) - 1);
        let hit = self.matching(|kind, address, size| {
            let first = address & !(size - 1);
            kind == PORT && first <= to && first.saturating_add(size - 1) >= from
        });
        self.watch_hits |= hit.unwrap_or(0);
    }

    /// DR6 bits of all breakpoints that `hit(kind, address, length)` holds for, if one of them is
    /// enabled (SDM 3B 17.2.3: the others are reported too).
    fn matching(&self, hit: impl Fn(u64, u64, u64) -> bool) -> Option<u64> {
        let dr7 = self.cpu.dr[7];
        let mut bits = 0;
        let mut enabled = false;
        for n in 0..4 {
            let control = dr7 >> (16 + 4 * n);
            let length = [1, 2, 8, 4][(control >> 2 & 3) as usize];
            if hit(control & 3, self.cpu.dr[n], length) {
                bits |= 1 << n;
                enabled |= dr7 >> (2 * n) & 3 != 0;
            }
        }
        enabled.then_some(bits)
    }
}
