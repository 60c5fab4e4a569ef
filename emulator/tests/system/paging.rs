//! Paging: walks, permissions, accessed and dirty flags, error codes, flushes (SDM 3A chapter 4).

use crate::lab::*;
use emulator::cpu::flags::AC;
use emulator::cpu::{RAX, RDX, cr0, cr4, efer};

const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const NX: u64 = 1 << 63;
/// The page under test.
const PAGE: u64 = 0x5_0000;

/// Reads (`8A 07`), writes (`88 07`) or jumps to (`FF E7`) the byte at EDI = PAGE.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Do {
    Read,
    Write,
    Fetch,
}
use Do::*;

fn access(mode: Mode, cpl: u8, how: Do, entry: u64) -> Lab {
    let mut lab = Lab::new(mode, cpl);
    // At level 3 the end is INT 80h.
    let end = if cpl == 3 { "CD 80" } else { "F4" };
    let op = match how {
        Read => "8A 07",
        Write => "88 07",
        Fetch => "FF E7",
    };
    lab.code(&format!("{op} {end}")).code_at(PAGE, end);
    lab.set_pte(PAGE, entry);
    lab.cpu().regs[7] = PAGE;
    lab
}

#[track_caller]
fn expect(mut lab: Lab, how: Do, code: Option<u64>) -> Lab {
    let user = lab.cpu().cpl == 3;
    match code {
        Some(code) => {
            let rip = if how == Fetch { PAGE } else { CODE };
            lab.faults(14, code, rip);
            assert_eq!(lab.cpu().cr2, PAGE);
        }
        None if user => {
            let end = if how == Fetch { PAGE + 2 } else { CODE + 4 };
            lab.faults(0x80, 0, end);
        }
        None => lab.done(),
    }
    lab
}

#[test]
fn permissions_and_error_codes() {
    let page = PAGE;
    for mode in [Paged32, Pae, Long, Compat] {
        for (cpl, how, entry, code) in [
            (0, Read, page | P, None),
            (0, Read, page | P | U, None),
            (0, Read, page, Some(0)),
            (0, Write, page, Some(2)),
            (3, Read, page, Some(4)),
            (3, Write, page, Some(6)),
            (3, Read, page | P, Some(5)),
            (3, Write, page | P, Some(7)),
            (3, Write, page | P | U, Some(7)),
            (3, Write, page | P | U | W, None),
            (3, Read, page | P | U, None),
            (0, Write, page | P, None), // WP clear
            (0, Write, page | P | U, None),
            (3, Fetch, page | P | U, None),
            (0, Fetch, page | P | U, None),
        ] {
            expect(access(mode, cpl, how, entry), how, code);
        }
        // CR0.WP
        for (entry, code) in [(page | P, Some(3)), (page | P | U, Some(3)), (page | P | W, None)] {
            let mut lab = access(mode, 0, Write, entry);
            lab.cpu().cr0 |= cr0::WP;
            expect(lab, Write, code);
        }
    }
    // Instruction fetches say so in the error code with NXE and PAE, or with SMEP.
    let mut lab = access(Pae, 3, Fetch, page | P);
    expect(lab, Fetch, Some(5));
    lab = access(Pae, 3, Fetch, page | P);
    lab.cpu().efer |= efer::NXE;
    expect(lab, Fetch, Some(0x15));
    lab = access(Paged32, 3, Fetch, 0);
    keep_to_supervisor(&mut lab, 3);
    lab.cpu().cr4 |= cr4::SMEP;
    expect(lab, Fetch, Some(0x14));
}

#[test]
fn execute_disable() {
    for (mode, cpl) in [(Pae, 0), (Pae, 3), (Long, 0), (Long, 3), (Compat, 3)] {
        let user = u64::from(cpl == 3) << 2;
        let mut lab = access(mode, cpl, Fetch, PAGE | P | U | NX);
        lab.cpu().efer |= efer::NXE;
        expect(lab, Fetch, Some(0x11 | user));
        let mut lab = access(mode, cpl, Read, PAGE | P | U | NX);
        lab.cpu().efer |= efer::NXE;
        expect(lab, Read, None);
        // without NXE the bit is reserved
        let mut lab = access(mode, cpl, Read, PAGE | P | U | NX);
        lab.cpu().efer &= !efer::NXE;
        expect(lab, Read, Some(9 | user));
    }
}

/// Takes all pages but the one under test (at level 0), or but the program's (at level 3), from
/// level 3.
fn keep_to_supervisor(lab: &mut Lab, cpl: u8) {
    for page in 0..512u64 {
        let la = page << 12;
        let program = cpl == 3 && la >= CODE && la != STACK - 0x1000;
        if la != PAGE && !program {
            let entry = lab.pte(la);
            lab.set_pte(la, entry & !U);
        }
    }
}

#[test]
fn smep_and_smap() {
    for mode in [Paged32, Pae, Long] {
        let with = |bit: u64, cpl, how, entry, ac: bool| {
            let mut lab = access(mode, cpl, how, entry);
            keep_to_supervisor(&mut lab, cpl);
            lab.cpu().cr4 |= bit;
            lab.cpu().flags.set(if ac { AC } else { 0 });
            lab
        };
        let user_page = PAGE | P | W | U;
        expect(with(cr4::SMEP, 0, Fetch, user_page, false), Fetch, Some(0x11));
        expect(with(cr4::SMEP, 0, Read, user_page, false), Read, None);
        expect(with(cr4::SMEP, 3, Fetch, user_page, false), Fetch, None);
        expect(with(cr4::SMAP, 0, Read, user_page, false), Read, Some(1));
        expect(with(cr4::SMAP, 0, Write, user_page, false), Write, Some(3));
        expect(with(cr4::SMAP, 0, Read, user_page, true), Read, None);
        expect(with(cr4::SMAP, 0, Write, user_page, true), Write, None);
        expect(with(cr4::SMAP, 0, Fetch, user_page, false), Fetch, None);
        expect(with(cr4::SMAP, 3, Read, user_page, false), Read, None);
    }
    // STAC and CLAC switch at once: stac; mov al,[edi]; clac; mov al,[edi]
    let mut lab = access(Long, 0, Read, PAGE | 7);
    for page in 0..512 {
        if page << 12 != PAGE {
            lab.set_pte(page << 12, page << 12 | 3);
        }
    }
    lab.cpu().cr4 |= cr4::SMAP;
    lab.code("0F 01 CB 8A 07 0F 01 CA 8A 07 F4");
    lab.faults(14, 1, CODE + 8);
    // Implicit accesses obey SMAP whatever AC says: a load of a segment with the GDT in a user page
    let mut lab = Lab::new(Protected, 0);
    lab.cpu().cr4 |= cr4::SMAP;
    lab.mode = Paged32;
    lab.write(TABLES, &(PT as u32 | 7).to_le_bytes());
    for page in 0..64 {
        lab.set_pte(page << 12, page << 12 | 3);
    }
    lab.cpu().cr3 = TABLES;
    lab.cpu().cr0 |= cr0::PG;
    lab.write(PAGE, &descriptor(0, 0xF_FFFF, 0x93, 0xC).to_le_bytes());
    lab.set_pte(PAGE, PAGE | 7);
    // LDT in the user page; only the load of DS touches it
    lab.cpu().ldtr =
        emulator::cpu::Segment { selector: 8, base: PAGE, limit: 7, access: 0x82, usable: true };
    lab.cpu().flags.set(AC);
    lab.code("B8 04 00 00 00 8E D8 F4");
    lab.faults(14, 1, CODE + 5);
    assert_eq!(lab.cpu().cr2, PAGE);
    // … and at level 3 they are supervisor accesses, too
    let mut lab = Lab::new(Paged32, 3);
    lab.set_pte(PAGE, PAGE | 3);
    lab.write(PAGE, &descriptor(0, 0xF_FFFF, 0xF3, 0xC).to_le_bytes());
    lab.cpu().ldtr =
        emulator::cpu::Segment { selector: 8, base: PAGE, limit: 7, access: 0x82, usable: true };
    lab.code("B8 07 00 00 00 8E D8 CD 80");
    lab.faults(0x80, 0, CODE + 9);
}

#[test]
fn accessed_and_dirty() {
    for mode in [Paged32, Pae, Long] {
        let mut lab = expect(access(mode, 0, Read, PAGE | P | W), Read, None);
        assert_eq!(lab.pte(PAGE) & (A | D), A);
        let mut lab = expect(access(mode, 0, Write, PAGE | P | W), Write, None);
        assert_eq!(lab.pte(PAGE) & (A | D), A | D);
        let mut lab = expect(access(mode, 3, Read, PAGE | P | W), Read, Some(5));
        assert_eq!(lab.pte(PAGE) & (A | D), 0, "a fault marks nothing");
        let mut lab = expect(access(mode, 0, Fetch, PAGE | P | W), Fetch, None);
        assert_eq!(lab.pte(PAGE) & (A | D), A);
        // a read, then a write: the cached translation must not hide D
        let mut lab = access(mode, 0, Read, PAGE | P | W);
        lab.code("8A 07 88 07 F4");
        lab.done();
        assert_eq!(lab.pte(PAGE) & (A | D), A | D);
        // a write that faults on its second page leaves the first undirtied and unwritten
        let mut lab = access(mode, 0, Write, PAGE | P | W);
        lab.set_pte(PAGE + 0x1000, 0);
        lab.code("89 07 F4").cpu().regs[7] = PAGE + 0xFFE;
        lab.cpu().regs[RAX] = 0x5555_5555;
        lab.faults(14, 2, CODE);
        assert_eq!(lab.cpu().cr2, PAGE + 0x1000);
        assert_eq!(lab.get::<2>(PAGE + 0xFFE), 0);
        if mode != Pae {
            assert_eq!(lab.get::<8>(TABLES) & A, A);
        }
    }
}

#[test]
fn reserved_bits() {
    for (mode, entry, reserved) in [
        (Long, PAGE | P | 1 << 51, true),
        (Long, PAGE | P | 1 << 40, true),
        (Long, PAGE | P | 1 << 52, false), // ignored
        (Long, PAGE | P | 1 << 62, false),
        (Pae, PAGE | P | 1 << 52, true),
        (Pae, PAGE | P | 1 << 62, true),
        (Pae, PAGE | P | 1 << 40, true),
        (Pae, PAGE | P | 1 << 9, false),
    ] {
        expect(access(mode, 0, Read, entry), Read, reserved.then_some(9));
        // not present: nothing is reserved
        expect(access(mode, 0, Read, entry & !P), Read, Some(0));
    }
    // PS in a PML4E; misaligned large pages
    for (at, entry) in [
        (TABLES, 0x5087u64),
        (0x5000, 0x6087 | 1 << 13),
        (0x6000 + 8, 0x20_0087 | 1 << 13),
        (0x6000 + 8, 0x20_0087 | 1 << 20),
    ] {
        let mut lab = Lab::new(Long, 0);
        lab.code("8A 07 F4").cpu().regs[7] = 0x20_0000;
        lab.put(at, entry);
        if at == 0x6008 {
            lab.faults(14, 9, CODE);
        } else {
            assert_eq!(lab.run(), Reset, "nothing is mapped any more");
        }
    }
    // 4-MiB pages: bit 21 is reserved, bits 20:13 are the address above 4 GiB
    for (entry, code) in [(0x40_0087u32 | 1 << 21, Some(9)), (0x87, None), (0x1087, None)] {
        let mut lab = Lab::new(Paged32, 0);
        lab.code("8A 07 F4").cpu().regs[7] = 0x40_0000 + DATA;
        lab.write(TABLES + 4, &entry.to_le_bytes());
        lab.write(DATA, &[0x5A]);
        match code {
            Some(code) => drop(lab.faults(14, code, CODE)),
            None => {
                lab.done();
                assert_eq!(lab.reg(RAX) & 0xFF, 0x5A);
                assert_eq!(lab.get::<4>(TABLES + 4), u64::from(entry) | A);
            }
        }
    }
}

#[test]
fn large_pages() {
    // 2 MiB and 1 GiB in long mode, 2 MiB in PAE
    for (mode, at, entry) in [(Long, 0x6008, 0x87), (Long, 0x5008, 0x87), (Pae, 0x5008, 0x87u64)] {
        let la = if at == 0x5008 && mode == Long { 0x4000_0000 } else { 0x20_0000 };
        let mut lab = Lab::new(mode, 0);
        lab.put(at, entry);
        lab.write(DATA, &[0xA5]);
        lab.code("8A 07 88 47 01 F4").cpu().regs[7] = la + DATA;
        lab.done();
        assert_eq!(lab.reg(RAX) & 0xFF, 0xA5);
        assert_eq!(lab.get::<1>(DATA + 1), 0xA5);
        assert_eq!(lab.get::<8>(at), entry | A | D);
    }
}

#[test]
fn page_directory_pointers_of_pae() {
    // mov cr3,eax with a reserved bit in a present PDPTE: #GP, CR3 stays
    for (pdpte, vector) in [(0x5001, 0), (0x5003, 13), (0x5021, 13), (0x5001 | 1 << 40, 13), (2, 0)]
    {
        let mut lab = Lab::new(Pae, 0);
        lab.put(0x4800, 0x5001);
        lab.put(0x4808, pdpte);
        lab.code("B8 00 48 00 00 0F 22 D8 F4");
        if vector == 0 { lab.done() } else { drop(lab.faults(13, 0, CODE + 5)) }
    }
    // they are cached: a changed PDPTE counts only after CR3 is written
    let mut lab = Lab::new(Pae, 0);
    lab.code("C7 05 00 40 00 00 00 00 00 00 90 90 0F 20 D8 0F 22 D8 90");
    let outcome = lab.run();
    assert_eq!(outcome, Reset, "gone after MOV CR3");
    let mut lab = Lab::new(Pae, 0);
    lab.code("C7 05 00 40 00 00 00 00 00 00 90 90 F4");
    lab.done();
}

#[test]
fn invalidation() {
    // The page is read, remapped to DATA, flushed in some way, and read again.
    let flushes = [
        (Long, "0F 01 3F"),                         // invlpg [rdi]
        (Long, "0F 20 D8 0F 22 D8"),                // mov rax,cr3; mov cr3,rax
        (Long, "0F 20 E0 48 0F BA F8 07 0F 22 E0"), // toggle CR4.PGE
        (Long, "0F 20 E0 48 0F BA F8 04 0F 22 E0"), // toggle CR4.PSE
        (Paged32, "0F 01 3F"),
        (Pae, "0F 01 3F"),
        (Paged32, "0F 20 D8 0F 22 D8"),
        (Long, "6A 00 6A 00 B8 02 00 00 00 66 0F 38 82 04 24"), // invpcid all
        (Long, "57 6A 00 31 C0 66 0F 38 82 04 24"),             // invpcid address
        (Long, "6A 00 6A 00 B8 01 00 00 00 66 0F 38 82 04 24"), // invpcid context
    ];
    for (mode, flush) in flushes {
        for large in [false, true] {
            if large && mode != Long {
                continue;
            }
            let mut lab = Lab::new(mode, 0);
            let mut la = PAGE;
            let (at, new) = if large {
                la = 0x20_0000;
                lab.put(0x6008, 0x20_0087);
                (0x6008, 0x87)
            } else if mode == Paged32 {
                (PT + 4 * (PAGE >> 12), DATA | 7)
            } else {
                (PT + 8 * (PAGE >> 12), DATA | 7)
            };
            lab.write(la, &[0x11]);
            lab.write(if large { 0 } else { DATA }, &[0x22]);
            // mov bl,[rdi]; mov [rdi+4],bl; mov [rsi],ecx; flush; mov dl,[rdi]; mov [rdi+5],dl; hlt
            lab.code(&format!("8A 1F 88 5F 04 89 0E {flush} 8A 17 88 57 05 F4"));
            let cpu = lab.cpu();
            (cpu.regs[7], cpu.regs[6], cpu.regs[1]) = (la, at, new);
            lab.done();
            assert_eq!((lab.reg(3) & 0xFF, lab.reg(2) & 0xFF), (0x11, 0x22), "{mode:?} {flush}");
            let (old, new) = (la, if large { 0 } else { DATA });
            assert_eq!((lab.get::<1>(old + 4), lab.get::<1>(new + 5)), (0x11, 0x22));
        }
    }
}

#[test]
fn code_translations_are_flushed_too() {
    // call the page, remap it, invlpg, call it again
    for flush in ["0F 01 3F", "0F 20 D8 0F 22 D8"] {
        let mut lab = Lab::new(Long, 0);
        lab.code_at(PAGE, "B3 11 C3").code_at(DATA, "B2 22 C3");
        lab.code(&format!("FF D7 89 0E {flush} FF D7 F4"));
        let cpu = lab.cpu();
        (cpu.regs[7], cpu.regs[6], cpu.regs[1]) = (PAGE, PT + 8 * (PAGE >> 12), DATA | 7);
        lab.done();
        assert_eq!((lab.reg(3) & 0xFF, lab.reg(2) & 0xFF), (0x11, 0x22));
    }
}

#[test]
fn process_context_identifiers() {
    let pcid_on = |lab: &mut Lab| lab.cpu().cr4 |= cr4::PCIDE;
    // Two contexts map PAGE to different places; switching with bit 63 set keeps both apart.
    let mut lab = Lab::new(Long, 0);
    pcid_on(&mut lab);
    // a second hierarchy at A000h: PML4, B000h PDPT, C000h PD, D000h PT
    for (at, v) in [(0xA000, 0xB007), (0xB000, 0xC007), (0xC000, 0xD007u64)] {
        lab.put(at, v);
    }
    for page in 0..256u64 {
        let to = if page << 12 == PAGE { DATA } else { page << 12 };
        lab.put(0xD000 + 8 * page, to | 7);
    }
    lab.write(PAGE, &[0x11]);
    lab.write(DATA, &[0x22]);
    // mov bl,[rdi]; mov cr3,r8; mov dl,[rdi]; mov cr3,r9; mov bh,[rdi]; mov cr3,r8; mov dh,[rdi]
    lab.code("8A 1F 41 0F 22 D8 8A 17 41 0F 22 D9 8A 3F 41 0F 22 D8 8A 37 F4");
    let cpu = lab.cpu();
    cpu.regs[7] = PAGE;
    cpu.regs[8] = 0xA001 | 1 << 63;
    cpu.regs[9] = TABLES | 1 << 63;
    lab.done();
    assert_eq!((lab.reg(3) & 0xFFFF, lab.reg(2) & 0xFFFF), (0x1111, 0x2222));
    assert_eq!(lab.cpu().cr3, 0xA001, "bit 63 is not kept");
    // CR4.PCIDE needs long mode and CR3[11:0] = 0; CR0.PG may not be cleared with it
    let mut lab = Lab::new(Pae, 0);
    lab.code("0F 20 E0 0F BA E8 11 0F 22 E0 F4");
    lab.faults(13, 0, CODE + 7);
    let mut lab = Lab::new(Long, 0);
    lab.code("0F 20 E0 0F BA E8 11 0F 22 E0 F4").cpu().cr3 |= 8;
    lab.faults(13, 0, CODE + 7);
    let mut lab = Lab::new(Compat, 0);
    pcid_on(&mut lab);
    lab.code("0F 20 C0 0F BA F0 1F 0F 22 C0 F4");
    lab.faults(13, 0, CODE + 7);
    // INVPCID's descriptor
    for (kind, low, high, vector) in [
        (4u64, 0u64, 0u64, 13),
        (0, 0x1000, 0, 13),
        (2, 0x1000, 0, 13),
        (0, 1, 0, 13), // PCID without PCIDE
        (0, 0, 1 << 47, 13),
        (2, 1, 1 << 47, 0),
        (3, 0, 0, 0),
    ] {
        let mut lab = Lab::new(Long, 0);
        lab.put(DATA, low);
        lab.put(DATA + 8, high);
        lab.code("66 0F 38 82 07 F4").cpu().regs[RAX] = kind;
        lab.cpu().regs[7] = DATA;
        if vector == 0 { lab.done() } else { drop(lab.faults(13, 0, CODE)) }
    }
}

#[test]
fn changes_of_mode_flush() {
    // WP: a write is cached with WP clear, then WP is set
    let mut lab = access(Long, 0, Write, PAGE | P | U);
    lab.code("88 07 0F 20 C0 0F BA E8 10 0F 22 C0 88 07 F4");
    lab.faults(14, 3, CODE + 12);
    // SMEP: the page ran before
    let mut lab = access(Long, 0, Fetch, PAGE | 7);
    for page in 0..512 {
        if page << 12 != PAGE {
            lab.set_pte(page << 12, page << 12 | 3);
        }
    }
    lab.code_at(PAGE, "C3").code("FF D7 0F 20 E0 0F BA E8 14 0F 22 E0 FF D7 F4");
    lab.faults(14, 0x11, PAGE);
    // SMAP
    let mut lab = access(Long, 0, Read, PAGE | 7);
    for page in 0..512 {
        if page << 12 != PAGE {
            lab.set_pte(page << 12, page << 12 | 3);
        }
    }
    lab.code("8A 07 0F 20 E0 0F BA E8 15 0F 22 E0 8A 07 F4");
    lab.faults(14, 1, CODE + 12);
    // level 0 caches a supervisor page; level 3 may not use it
    let mut lab = access(Protected, 0, Read, 0);
    lab.mode = Protected;
    drop(lab);
    let mut lab = access(Long, 0, Read, PAGE | 3);
    // mov al,[rdi]; iretq to level 3, which reads it again
    lab.code("8A 07 48 CF").code_at(CODE + 0x100, "8A 07");
    for (n, v) in [CODE + 0x100, USER64.into(), 2, STACK3, USER_DATA.into()].iter().enumerate() {
        lab.put(STACK - 40 + 8 * n as u64, *v);
    }
    lab.cpu().regs[4] = STACK - 40;
    lab.faults(14, 5, CODE + 0x100);
}

#[test]
fn control_register_checks() {
    // mov cr0,eax / mov cr4,eax / mov cr3,eax: value, faults?
    for (mode, cr, value, bad) in [
        (Protected, 0, 0x8000_0000u64, true), // PG without PE
        (Protected, 0, 0x2000_0011, true),    // NW without CD
        (Protected, 0, 0x6000_0011, false),
        (Protected, 0, 0x0001_0011, false),
        (Long, 0, 0x1_8000_0011, true), // upper half
        (Long, 0, 0x0000_0011, true),   // no paging in 64-bit mode
        (Long, 4, 0, true),             // PAE clear in long mode
        (Long, 4, 1 << 12 | 0x20, true),
        (Long, 4, 1 << 13 | 0x20, true),
        (Long, 4, 1 << 32 | 0x20, true),
        (Long, 4, 0x620, false),
        (Long, 3, 1 << 40 | TABLES, true),
        (Long, 3, 1 << 63 | TABLES, true), // without PCIDE
        (Long, 3, TABLES | 0x18, false),
        (Long, 8, 16, true),
        (Long, 8, 15, false),
    ] {
        let mut lab = Lab::new(mode, 0);
        lab.code(match cr {
            0 => "0F 22 C0 F4",
            3 => "0F 22 D8 F4",
            4 => "0F 22 E0 F4",
            _ => "44 0F 22 C0 F4",
        });
        lab.cpu().regs[RAX] = value;
        if bad { drop(lab.faults(13, 0, CODE)) } else { lab.done() }
    }
    // CR1, CR5… do not exist, at any level
    for cpl in [0, 3] {
        let mut lab = Lab::new(Protected, cpl);
        lab.code("0F 22 C8");
        lab.faults(6, 0, CODE);
    }
    // EFER: LME may not change while paging, reserved bits
    for (value, bad) in
        [(0x500, false), (0x400, true), (0x502, true), (0x1500, true), (0xD01, false)]
    {
        let mut lab = Lab::new(Long, 0);
        lab.code("0F 30 F4").cpu().regs[1] = 0xC000_0080;
        lab.cpu().regs[RAX] = value;
        lab.cpu().regs[RDX] = 0;
        if bad {
            drop(lab.faults(13, 0, CODE))
        } else {
            lab.done()
        }
        let want = if bad { 0xD01 } else { value };
        assert_eq!(lab.cpu().efer, want);
    }
    // enabling long mode without PAE, or with CS.L set
    let mut lab = Lab::new(Protected, 0);
    lab.cpu().efer = efer::LME;
    lab.code("0F 20 C0 0F BA E8 1F 0F 22 C0");
    lab.faults(13, 0, CODE + 7);
}

#[test]
fn canonical_addresses() {
    // data: #GP; stack: #SS; across the edge
    for (code, la, vector) in [
        ("8A 07", 1u64 << 47, 13u8),
        ("48 8B 07", 0x7FFF_FFFF_FFFC, 13),
        ("8A 07", 0xFFFF_7FFF_FFFF_FFFF, 13),
        ("8A 45 00", 1 << 47, 12),
        ("8A 04 24", 1 << 47, 12),
        ("50", (1 << 47) + 8, 12),
        ("58", 1 << 47, 12),
        ("3E 8A 45 00", 1 << 47, 12), // the prefix is ignored
        ("E8 00 00 00 00", (1 << 47) + 8, 12),
    ] {
        let mut lab = Lab::new(Long, 0);
        lab.put(TSS + 0x24, STACK1);
        lab.raw_gate(12, gate(CODE64, HANDLERS + 0xC0, 0x8E, 1));
        lab.raw_gate(13, gate(CODE64, HANDLERS + 0xD0, 0x8E, 1));
        lab.code(code);
        let cpu = lab.cpu();
        (cpu.regs[7], cpu.regs[5], cpu.regs[4]) = (la, la, la);
        lab.faults(vector, 0, CODE);
    }
    // branches to a non-canonical address fault at the branch
    for code in ["FF E7", "FF D7", "57 C3"] {
        let mut lab = Lab::new(Long, 0);
        lab.code(code).cpu().regs[7] = 1 << 47;
        lab.faults(13, 0, if code == "57 C3" { CODE + 1 } else { CODE });
    }
}

#[test]
fn a20_gate() {
    // With the gate closed, address bit 20 is 0: 10_0000h aliases 0.
    let mut lab = Lab::new(Protected, 0);
    lab.write(0x30_0000, &[0x33]);
    lab.write(0x20_0000, &[0x22]);
    // mov bl,[300000]; in al,92; and al,~2; out 92,al; mov bh,[300000]; or al,2; out 92,al; mov
    // cl,[300000]
    lab.code("8A 1F E4 92 24 FD E6 92 8A 3F 0C 02 E6 92 8A 0F F4").cpu().regs[7] = 0x30_0000;
    lab.done();
    let a20 = lab.machine.core().board.a20();
    assert!(a20);
    let (b, c) = (lab.reg(3), lab.reg(1));
    assert_eq!((b & 0xFF, c & 0xFF), (0x33, 0x33));
    // The keyboard controller's gate is ORed in: close that too, then port 92h decides.
    let mut lab = Lab::new(Protected, 0);
    lab.write(0x30_0000, &[0x33]);
    lab.write(0x20_0000, &[0x22]);
    // mov al,D1; out 64; mov al,DD; out 60 first
    lab.code("B0 D1 E6 64 B0 DD E6 60 8A 1F E4 92 24 FD E6 92 8A 3F 0C 02 E6 92 8A 0F F4");
    lab.cpu().regs[7] = 0x30_0000;
    lab.done();
    let (b, c) = (lab.reg(3), lab.reg(1));
    assert_eq!((b >> 8 & 0xFF, c & 0xFF), (0x22, 0x33));
}
