//! PCI BIOS: INT 1Ah AH=B1h, and the 32-bit entries behind the BIOS32 service directory.
//!
//! PCI BIOS specification 2.1; Standard BIOS 32-bit Service Directory 0.4. The 32-bit stubs carry
//! EAX in EBP, so the service needs no memory of a paged caller.

use crate::Registers;
use crate::layout::{BIOS, Service};
use crate::pc::{Call, Pc, set_carry};
use crate::post::pci::{self, Function};
use crate::rom;

const OK: u8 = 0x00;
const UNSUPPORTED: u8 = 0x81;
const BAD_VENDOR: u8 = 0x83;
const NOT_FOUND: u8 = 0x86;
const BAD_REGISTER: u8 = 0x87;
/// "PCI " in EDX.
const SIGNATURE: u32 = 0x2049_4350;
/// "$PCI" as a BIOS32 service.
const SERVICE: u32 = 0x4943_5024;
/// BIOS32: no such service.
const NO_SERVICE: u32 = 0x80;

/// The registers that the functions use.
struct Arguments {
    eax: u32,
    ebx: u32,
    ecx: u32,
    edx: u32,
    esi: u32,
    edi: u32,
}

/// INT 1Ah AH=B1h.
pub fn call(call: &mut Call<'_>) {
    let mut arguments = Arguments {
        eax: call.eax(),
        ebx: call.ebx(),
        ecx: call.ecx(),
        edx: call.edx(),
        esi: call.si().into(),
        edi: call.di().into(),
    };
    let failed = dispatch(&mut call.pc, &mut arguments);
    let Arguments { eax, ebx, ecx, edx, .. } = arguments;
    call.set_eax(eax);
    call.set_ebx(ebx);
    call.set_ecx(ecx);
    call.set_edx(edx);
    call.set_cf(failed);
}

/// The 32-bit entries.
pub fn flat(service: Service, pc: &mut Pc<'_>, registers: &mut Registers) {
    const CX: usize = 1;
    const DX: usize = 2;
    const BX: usize = 3;
    const BP: usize = 5;
    const SI: usize = 6;
    const DI: usize = 7;
    match service {
        Service::Bios32 => {
            let wanted = registers.gpr[BP] as u32;
            let (_, bodies) = rom::build();
            if registers.gpr[BX] as u8 != 0 {
                registers.gpr[BP] = u64::from(wanted & !0xFF | 0x81);
            } else if wanted == SERVICE {
                registers.gpr[BP] = 0;
                registers.gpr[BX] = BIOS;
                registers.gpr[CX] = rom::SIZE as u64;
                registers.gpr[DX] = bodies.pci32.into();
            } else {
                registers.gpr[BP] = u64::from(wanted & !0xFF | NO_SERVICE);
            }
        }
        Service::Pci32 => {
            let gpr = registers.gpr.map(|register| register as u32);
            let mut arguments = Arguments {
                eax: gpr[BP],
                ebx: gpr[BX],
                ecx: gpr[CX],
                edx: gpr[DX],
                esi: gpr[SI],
                edi: gpr[DI],
            };
            let failed = dispatch(pc, &mut arguments);
            registers.gpr[BP] = arguments.eax.into();
            registers.gpr[BX] = arguments.ebx.into();
            registers.gpr[CX] = arguments.ecx.into();
            registers.gpr[DX] = arguments.edx.into();
            set_carry(registers, failed);
        }
        _ => {}
    }
}

/// Carries out function AL; true: failed.
fn dispatch(pc: &mut Pc<'_>, r: &mut Arguments) -> bool {
    let function = r.eax as u8;
    let status = match function & 0x7F {
        0x01 => {
            r.edx = SIGNATURE;
            r.eax = r.eax & 0xFFFF_FF00 | 0x01; // configuration mechanism 1
            r.ebx = r.ebx & 0xFFFF_0000 | 0x0210;
            r.ecx &= 0xFFFF_FF00; // last bus
            OK
        }
        0x02 if r.edx as u16 == 0xFFFF => BAD_VENDOR,
        0x02 => {
            let (vendor, device) = (r.edx as u16, r.ecx as u16);
            let wanted = u32::from(device) << 16 | u32::from(vendor);
            locate(pc, r, |pc, f| pci::read32(pc, f, 0x00) == wanted)
        }
        0x03 => {
            let class = r.ecx & 0x00FF_FFFF;
            locate(pc, r, |pc, f| pci::read32(pc, f, 0x08) >> 8 == class)
        }
        0x08..=0x0D => access(pc, r, function & 0x0F),
        _ => UNSUPPORTED,
    };
    r.eax = r.eax & 0xFFFF_00FF | u32::from(status) << 8;
    status != OK
}

/// Finds function number SI that `matches`; BX says where.
fn locate(
    pc: &mut Pc<'_>,
    r: &mut Arguments,
    matches: impl Fn(&mut Pc<'_>, Function) -> bool,
) -> u8 {
    let mut skip = r.esi as u16;
    let mut at = pci::next(pc, None);
    while let Some(function) = at {
        if matches(pc, function) {
            if skip == 0 {
                r.ebx = r.ebx & 0xFFFF_0000 | u32::from(function.0);
                return OK;
            }
            skip -= 1;
        }
        at = pci::next(pc, at);
    }
    NOT_FOUND
}

/// Functions 08h-0Dh: register DI of the function in BL, value in ECX.
fn access(pc: &mut Pc<'_>, r: &mut Arguments, function: u8) -> u8 {
    let (at, register) = (Function(r.ebx as u8), r.edi as u16);
    let width = [1, 2, 4][usize::from(function.wrapping_sub(8) % 3)];
    if register > 0xFF || register % width != 0 {
        return BAD_REGISTER;
    }
    let register = register as u8;
    let bus_exists = r.ebx & 0xFF00 == 0;
    match function {
        0x08 if !bus_exists => r.ecx |= 0xFF,
        0x09 if !bus_exists => r.ecx |= 0xFFFF,
        0x0A if !bus_exists => r.ecx = u32::MAX,
        0x08 => r.ecx = r.ecx & !0xFF | u32::from(pci::read8(pc, at, register)),
        0x09 => r.ecx = r.ecx & !0xFFFF | u32::from(pci::read16(pc, at, register)),
        0x0A => r.ecx = pci::read32(pc, at, register),
        _ if !bus_exists => {}
        0x0B => pci::write8(pc, at, register, r.ecx as u8),
        0x0C => pci::write16(pc, at, register, r.ecx as u16),
        _ => pci::write32(pc, at, register, r.ecx),
    }
    OK
}
