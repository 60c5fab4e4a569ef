//! Breakpoints of the debug registers (SDM 3B 17.2).

use crate::core::Core;
use crate::cpu::cr4;
use crate::cpu::flags::RF;

/// R/W fields of DR7.
const WRITE: u64 = 1;
const PORT: u64 = 2;
const READ_OR_WRITE: u64 = 3;

impl Core {
    /// DR6 bits of the instruction breakpoints that RIP hits; none while RF is set.
    pub fn instruction_breakpoint(&self) -> Option<u64> {
        let dr7 = self.cpu.dr[7];
        if dr7 & 0xFF == 0 || self.cpu.flags.system & RF != 0 {
            return None;
        }
        let la = self.code_address(self.cpu.rip);
        let mut hit = 0;
        let mut enabled = false;
        for n in 0..4 {
            let control = dr7 >> (16 + 4 * n);
            if control & 3 == 0 && self.cpu.dr[n] == la {
                hit |= 1 << n;
                enabled |= dr7 >> (2 * n) & 3 != 0;
            }
        }
        enabled.then_some(hit)
    }

    /// Whether a data or I/O breakpoint is enabled: then accesses are looked at one by one.
    pub fn watches_data(&self) -> bool {
        let dr7 = self.cpu.dr[7];
        (0..4).any(|n| dr7 >> (2 * n) & 3 != 0 && dr7 >> (16 + 4 * n) & 3 != 0)
    }

    /// Notes the data breakpoints that an access of `size` bytes at `la` hits.
    #[cold]
    pub fn watch_access(&mut self, la: u64, size: u64, write: bool) {
        let kinds = if write { [WRITE, READ_OR_WRITE] } else { [READ_OR_WRITE; 2] };
        self.watch(la, size, &kinds);
    }

    /// The same for a port, with CR4.DE.
    pub fn watch_port(&mut self, port: u16, size: u8) {
        if self.watching && self.cpu.cr4 & cr4::DE != 0 {
            self.watch(port.into(), size.into(), &[PORT]);
        }
    }

    fn watch(&mut self, at: u64, size: u64, kinds: &[u64]) {
        let dr7 = self.cpu.dr[7];
        for n in 0..4 {
            let control = dr7 >> (16 + 4 * n);
            let length = [1, 2, 8, 4][(control >> 2 & 3) as usize];
            let first = self.cpu.dr[n] & !(length - 1);
            let overlaps = at.wrapping_sub(first) < length || first.wrapping_sub(at) < size;
            if dr7 >> (2 * n) & 3 != 0 && kinds.contains(&(control & 3)) && overlaps {
                self.watch_hits |= 1 << n;
            }
        }
    }
}
