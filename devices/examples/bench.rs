use devices::board::*;
use devices::ram::Ram;
use devices::time::VirtualNs;
fn main() {
    let mut ram = Ram::new(64 << 20, &[0; 1 << 16]);
    let mut b = Board::new(
        &BoardConfig {
            disks: [Some(1 << 20), None, None, None],
            nics: vec![[2, 0, 0, 0, 0, 1]],
            uarts: 1,
        },
        &mut ram,
    );
    let mut now = 0u64;
    b.mmio_write(&mut ram, VirtualNs(0), 0xFEE000F0, 4, 0x1ff);
    b.mmio_write(&mut ram, VirtualNs(0), 0xFEE00320, 4, 0x40040);
    let mut t = |name: &str, f: &mut dyn FnMut(&mut Board, &mut Ram, VirtualNs)| {
        let s = std::time::Instant::now();
        for _ in 0..2_000_000 {
            now += 50;
            f(&mut b, &mut ram, VirtualNs(now));
        }
        println!("{name}: {:.1} ns", s.elapsed().as_nanos() as f64 / 2e6);
        while b.poll_output().is_some() {}
    };
    t("lsr", &mut |b, r, n| {
        std::hint::black_box(b.port_read(r, n, 0x3fd, 1));
    });
    t("thr", &mut |b, r, n| {
        b.port_write(r, n, 0x3f8, 1, 65);
    });
    t("eoi", &mut |b, r, n| {
        b.mmio_write(r, n, 0xFEE000B0, 4, 0);
    });
    t("tscdl", &mut |b, r, n| {
        b.write_msr(n, 0x6e0, n.0 + 1000000, 0);
    });
    t("tscdl+fire+ack+eoi", &mut |b, r, n| {
        b.write_msr(n, 0x6e0, n.0 + 10, 0);
        b.advance(r, VirtualNs(n.0 + 20));
        std::hint::black_box(b.acknowledge_interrupt(n));
        b.mmio_write(r, n, 0xFEE000B0, 4, 0);
    });
    t("vga w", &mut |b, r, n| {
        b.mmio_write(r, n, 0xB8000, 2, 0x741);
    });
    t("pmtmr", &mut |b, r, n| {
        std::hint::black_box(b.port_read(r, n, 0xb008, 4));
    });
    t("rtc", &mut |b, r, n| {
        std::hint::black_box(b.port_read(r, n, 0x71, 1));
    });
    t("absent", &mut |b, r, n| {
        std::hint::black_box(b.port_read(r, n, 0x1234, 1));
    });
    t("ide status", &mut |b, r, n| {
        std::hint::black_box(b.port_read(r, n, 0x1f7, 1));
    });
    t("nic read", &mut |b, r, n| {
        std::hint::black_box(b.mmio_read(r, n, 0xfeb00008, 4));
    });
    let s = std::time::Instant::now();
    let mut x = 0;
    for _ in 0..100 {
        b.sections(&mut |_, d| x += d.len());
    }
    println!("sections {} bytes {:.1} us", x / 100, s.elapsed().as_nanos() as f64 / 1e5);
}
