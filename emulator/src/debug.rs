//! Breakpoints of the debug registers (SDM 3B 17.2).

use crate::core::Core;
use crate::cpu::flags::RF;

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
}
