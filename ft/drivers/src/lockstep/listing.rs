//! What a machine executes, as text.

use devices::time::Icount;
use emulator::core::Core;
use emulator::machine::{Machine, Stop};
use iced_x86::{Decoder, DecoderOptions, FastFormatter};
use std::collections::VecDeque;

/// Instructions that are listed at most: the last ones.
const LISTED: usize = 40;

/// Executes one instruction after the other up to `end`, and lists them.
pub fn list(machine: &mut Machine, end: u64, lines: &mut VecDeque<String>) {
    while machine.icount().0 < end {
        let at = machine.icount();
        let line = instruction(machine.core_mut());
        let stop = machine.run(Icount(at.0 + 1));
        if machine.icount() > at {
            if lines.len() == LISTED {
                lines.pop_front();
            }
            lines.push_back(format!("{:>12}  {line}", at.0 + 1));
        }
        if stop != Stop::Reached {
            return;
        }
    }
}

/// Address, bytes and text of the instruction that is next. May set accessed flags in page tables.
fn instruction(core: &mut Core) -> String {
    let rip = core.cpu.rip;
    let mut bytes = Vec::new();
    while bytes.len() < 15 {
        let la = core.code_address(rip.wrapping_add(bytes.len() as u64));
        let Ok(at) = core.fetch_place(la) else { break };
        let end = (at | 0xFFF) + 1;
        bytes.extend_from_slice(&core.ram.bytes()[at..end.min(at + 15 - bytes.len())]);
        let mut decoder =
            Decoder::with_ip(core.mode.bits.into(), &bytes, rip, DecoderOptions::NONE);
        let decoded = decoder.decode();
        if !decoded.is_invalid() {
            bytes.truncate(decoded.len());
            let mut text = String::new();
            FastFormatter::new().format(&decoded, &mut text);
            return format!("{rip:#x}: {}  {text}", hex(&bytes));
        }
    }
    format!("{rip:#x}: {}", hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
