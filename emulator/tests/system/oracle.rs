//! A guest of many faulting sequences prints what the SDM says, and Bochs prints:
//! `tests/guests/system.S`, `tests/oracle/system.txt` (see `tests/oracle/system.sh` for how that
//! was made).

use crate::lab::*;
use devices::io::Output;
use devices::time::Icount;
use emulator::machine::Stop;

const IMAGE: &[u8] = include_bytes!("../../../tests/guests/system.bin");
const EXPECTED: &str = include_str!("../../../tests/oracle/system.txt");

#[test]
fn a_guest_of_faults() {
    let mut lab = Lab::new(Real, 0);
    // As a BIOS leaves it, with the whole image read: INT 13h has nothing left to do.
    lab.write(0x7C00, IMAGE);
    lab.write(4 * 0x13, &[0xF0, 0x7B, 0, 0]);
    lab.write(0x7BF0, &[0xCF]);
    let cpu = lab.cpu();
    cpu.segs[emulator::cpu::CS].load_real(0);
    cpu.rip = 0x7C00;
    lab.sync();
    let mut printed = String::new();
    loop {
        match lab.machine.run(Icount(20_000_000)) {
            Stop::Output => {
                while let Some(output) = lab.machine.poll_output() {
                    if let Output::Debug(byte) = output {
                        printed.push(char::from(byte));
                    }
                }
            }
            Stop::DebugExit(0) => break,
            other => panic!("{other:?} after:\n{printed}"),
        }
    }
    let printed: Vec<&str> = printed.lines().map(str::trim_end).collect();
    let expected: Vec<&str> = EXPECTED.lines().collect();
    let wrong: Vec<_> = expected.iter().zip(&printed).filter(|(want, got)| want != got).collect();
    assert!(wrong.is_empty(), "(expected, printed): {wrong:#?}");
    assert_eq!(printed.len(), expected.len());
}
