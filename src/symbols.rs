//! Names of the guest's code: from a System.map, or from an ELF file's symbol table.
//!
//! Contract: bytes that are neither give an error; offsets and lengths in an ELF file are checked.

use crate::failure::Failure;
use std::path::Path;

/// Most bytes of a file with symbols.
const SIZE_MAX: u64 = 1 << 30;
/// An ELF section of symbols.
const SHT_SYMTAB: u32 = 2;
/// The same for dynamic linking.
const SHT_DYNSYM: u32 = 11;
/// An ELF symbol that is a function.
const STT_FUNC: u8 = 2;

/// Addresses with names, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Symbols(Vec<(u64, String)>);

impl Symbols {
    /// Those of a file.
    ///
    /// # Errors
    /// A file that cannot be read, or has none.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let bytes = crate::commands::files::read(path, SIZE_MAX)?;
        let found = if bytes.starts_with(b"\x7FELF") { elf(&bytes) } else { map(&bytes) };
        match found {
            Some(symbols) if !symbols.0.is_empty() => Ok(symbols),
            _ => Err(Failure::file(path, "has no symbols: neither a System.map nor an ELF file's")),
        }
    }

    fn sorted(mut list: Vec<(u64, String)>) -> Self {
        list.sort();
        list.dedup_by_key(|entry| entry.0);
        Self(list)
    }

    /// The symbol that `address` belongs to, and how far into it.
    pub fn find(&self, address: u64) -> Option<(&str, u64)> {
        let after = self.0.partition_point(|entry| entry.0 <= address);
        let (start, name) = self.0.get(after.checked_sub(1)?)?;
        // Nothing that belongs together is so far away.
        (address - start < 1 << 24).then_some((name.as_str(), address - start))
    }
}

/// Lines of `ffffffff81000000 T name`.
fn map(bytes: &[u8]) -> Option<Symbols> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut list = Vec::new();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let (address, kind, name) = (fields.next()?, fields.next()?, fields.next()?);
        let address = u64::from_str_radix(address, 16).ok()?;
        if matches!(kind, "t" | "T" | "w" | "W") {
            list.push((address, name.to_owned()));
        }
    }
    Some(Symbols::sorted(list))
}

/// Little-endian numbers of an ELF file, of either class.
struct Elf<'a> {
    bytes: &'a [u8],
    wide: bool,
}

impl Elf<'_> {
    fn number(&self, at: u64, size: usize) -> Option<u64> {
        let at = usize::try_from(at).ok()?;
        let bytes = self.bytes.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    /// A field whose place and size depend on the class: (32-bit place, 64-bit place).
    fn word(&self, base: u64, places: (u64, u64)) -> Option<u64> {
        match self.wide {
            true => self.number(base.checked_add(places.1)?, 8),
            false => self.number(base.checked_add(places.0)?, 4),
        }
    }

    fn name(&self, at: u64) -> Option<String> {
        let rest = self.bytes.get(usize::try_from(at).ok()?..)?;
        let end = rest.iter().position(|&byte| byte == 0)?;
        String::from_utf8(rest[..end].to_vec()).ok()
    }
}

fn elf(bytes: &[u8]) -> Option<Symbols> {
    let elf = Elf { bytes, wide: *bytes.get(4)? == 2 };
    let sections = elf.word(0, (0x20, 0x28))?;
    let (size_at, count_at) = if elf.wide { (0x3A, 0x3C) } else { (0x2E, 0x30) };
    let (size, count) = (elf.number(size_at, 2)?, elf.number(count_at, 2)?);
    let section = |n: u64| sections.checked_add(n.checked_mul(size)?);
    let mut list = Vec::new();
    for n in 0..count {
        let header = section(n)?;
        let kind = elf.number(header.checked_add(4)?, 4)? as u32;
        if kind != SHT_SYMTAB && kind != SHT_DYNSYM {
            continue;
        }
        let (at, length) = (elf.word(header, (0x10, 0x18))?, elf.word(header, (0x14, 0x20))?);
        let link = elf.number(header + if elf.wide { 0x28 } else { 0x18 }, 4)?;
        let names = elf.word(section(link)?, (0x10, 0x18))?;
        let step = if elf.wide { 24 } else { 16 };
        for n in 0..length.min(bytes.len() as u64) / step {
            let symbol = at.checked_add(n * step)?;
            let info = elf.number(symbol + if elf.wide { 4 } else { 12 }, 1)? as u8;
            let value = elf.word(symbol, (4, 8))?;
            if info & 15 == STT_FUNC && value != 0 {
                let name = elf.name(names.checked_add(elf.number(symbol, 4)?)?)?;
                list.push((value, name));
            }
        }
    }
    Some(Symbols::sorted(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_map_names_code() {
        let text = b"0000000000000000 A zero\nffffffff81000000 T _text\nffffffff81000100 t start\n\
                     ffffffff82000000 D data\n";
        let symbols = map(text).expect("a map");
        assert_eq!(symbols.find(0xFFFF_FFFF_8100_0105), Some(("start", 5)));
        assert_eq!(symbols.find(0xFFFF_FFFF_8100_00FF), Some(("_text", 0xFF)));
        assert_eq!(symbols.find(0xFFFF_FFFF_8000_0000), None);
        assert_eq!(symbols.find(u64::MAX), None, "too far away");
        assert_eq!(map(b"what is this"), None);
        assert_eq!(map(&[0xFF, 0xFE]), None);
    }

    #[test]
    fn an_elf_file_names_functions() {
        let own = std::fs::read(std::env::current_exe().expect("a path")).expect("its bytes");
        let symbols = elf(&own).expect("this program is one");
        let named = symbols.0.iter().find(|(_, name)| name.contains("an_elf_file_names_functions"));
        let (address, name) = named.expect("a function of it");
        assert_eq!(symbols.find(address + 1), Some((name.as_str(), 1)));
    }

    #[test]
    fn hostile_elf_files_are_refused() {
        let own = std::fs::read(std::env::current_exe().expect("a path")).expect("its bytes");
        let head = &own[..own.len().min(0x1000)];
        for length in (0..head.len()).step_by(7) {
            assert!(elf(&head[..length]).is_none_or(|symbols| symbols.0.is_empty()));
        }
        let mut header = own[..64].to_vec();
        for at in 0x20..64 {
            header[at] = 0xFF;
            let _ = elf(&header);
        }
    }
}
