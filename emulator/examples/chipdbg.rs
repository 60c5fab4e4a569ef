use devices::io::*;
use devices::time::*;
use emulator::machine::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let kernel = std::fs::read(&a[1]).unwrap();
    let initrd = std::fs::read(&a[2]).unwrap();
    let append = a[3].clone().into_bytes();
    let every: u64 = a[4].parse().unwrap();
    let max: u64 = a[5].parse().unwrap();
    let config = Config {
        ram_bytes: 512 << 20,
        board: devices::board::BoardConfig { disks: [None; 4], nics: vec![], uarts: 1 },
        direct_boot: Some(firmware::DirectBoot { kernel, initrd, append }),
    };
    let mut m = Machine::new(&config).unwrap();
    m.inject(Input::WallClock(1_700_000_000_000_000_000));
    m.inject(Input::Entropy([7; 32]));
    let mut next = a.get(7).map_or(every, |x| x.parse().unwrap());
    let t = std::time::Instant::now();
    loop {
        match m.run(Icount(next)) {
            Stop::Reached => {
                let c = &m.core().cpu;
                if every < 1000_000_000 {
                    eprintln!(
                        "[{}] cs {:x} rip {:x} mode {:?} ax {:x} bx {:x} cx {:x} dx {:x} si {:x} di {:x} r13 {:x} r14 {:x} sp {:x} fl {:x} cr0 {:x} {}",
                        m.icount().0,
                        c.segs[1].selector,
                        c.rip,
                        m.core().mode,
                        c.regs[0],
                        c.regs[3],
                        c.regs[1],
                        c.regs[2],
                        c.regs[6],
                        c.regs[7],
                        c.regs[13],
                        c.regs[14],
                        c.regs[4],
                        c.flags.get(),
                        c.cr0,
                        m.now().0
                    );
                }
                next += every;
                if m.icount().0 >= max {
                    break;
                }
            }
            Stop::Output => {
                while let Some(o) = m.poll_output() {
                    match o {
                        Output::ConsoleTx { bytes, .. } => {
                            use std::io::Write;
                            std::io::stdout().write_all(&bytes).unwrap();
                            std::io::stdout().flush().unwrap();
                        }
                        Output::Debug(b) => eprint!("{}", b as char),
                        other => eprintln!("{other:?}"),
                    }
                }
            }
            Stop::Halted(Some(d)) => m.idle_to(d),
            s => {
                eprintln!("stop {s:?}");
                break;
            }
        }
    }
    if let Some(d) = a.get(6) {
        let at = u64::from_str_radix(d, 16).unwrap();
        let mut b = vec![0; 4096];
        m.core().ram.dma_read(at, &mut b);
        std::fs::write("/tmp/dump.bin", b).unwrap();
    }
    let n = m.icount().0;
    eprintln!(
        "{} instr {:?} {:.1} mips",
        n,
        t.elapsed(),
        n as f64 / t.elapsed().as_secs_f64() / 1e6
    );
}
