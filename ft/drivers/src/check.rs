//! What a log keeps of a digest: small, and still enough to name what differs.
//!
//! Contract: 32 bits: 20 of the hash over the whole digest, 4 of the CPU's, 3 of RAM's, and 5 that the devices share.
//! Equal digests give equal checks. A difference of the whole is missed once in a million times at one digest, and is
//! there at the next; a device that differs alone is named every second time or more often.

use emulator::machine::Digest;
use xxhash_rust::xxh3::Xxh3;

/// A digest, shortened.
pub type Check = [u8; 4];

/// Bits that the devices share.
const DEVICE_BITS: usize = 5;

/// The hash over everything.
#[must_use]
pub fn whole(digest: &Digest) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(&digest.cpu.to_le_bytes());
    hash.update(&digest.ram.to_le_bytes());
    for (name, value) in &digest.devices {
        hash.update(&(name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
        hash.update(&value.to_le_bytes());
    }
    hash.digest128()
}

/// For each device bit in use more than once over: the device, the bit of its hash, and its place.
fn device_bits(devices: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let uses = if devices == 0 { 0 } else { devices.max(DEVICE_BITS) };
    (0..uses).map(move |n| (n % devices, n / devices, n % DEVICE_BITS))
}

/// Shortens `digest`.
#[must_use]
pub fn shorten(digest: &Digest) -> Check {
    let mut check = whole(digest) as u32 & 0xF_FFFF;
    check |= (digest.cpu as u32 & 0xF) << 20;
    check |= (digest.ram as u32 & 0x7) << 24;
    for (device, bit, place) in device_bits(digest.devices.len()) {
        check ^= ((digest.devices[device].1 >> bit & 1) as u32) << (27 + place);
    }
    check.to_le_bytes()
}

/// Names the components of `digest` that differ from what `expected` was made of, as far as the bits tell: in the
/// order CPU, devices, RAM. `None`: no difference.
#[must_use]
pub fn difference(digest: &Digest, expected: &[u8]) -> Option<String> {
    let found = shorten(digest);
    if found == expected {
        return None;
    }
    let Ok(expected) = Check::try_from(expected) else {
        return Some(String::from("the form of the check"));
    };
    let differing = u32::from_le_bytes(found) ^ u32::from_le_bytes(expected);
    let mut names = Vec::new();
    if differing >> 20 & 0xF != 0 {
        names.push("cpu");
    }
    for (index, (name, _)) in digest.devices.iter().enumerate() {
        let mut bits = device_bits(digest.devices.len()).filter(|(device, ..)| *device == index);
        if bits.any(|(_, _, place)| differing >> (27 + place) & 1 == 1) {
            names.push(name);
        }
    }
    if differing >> 24 & 0x7 != 0 {
        names.push("ram");
    }
    Some(if names.is_empty() { String::from("the state") } else { names.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> Digest {
        let devices = (0..6u32).map(|i| (format!("chip{i}"), u128::from(i) << 64)).collect();
        Digest { cpu: 0x1234, devices, ram: 0x5678 }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Digest), expected: Option<&str>) {
        let mut other = digest();
        change(&mut other);
        assert_eq!(difference(&other, &shorten(&digest())).as_deref(), expected);
    }

    #[test]
    fn names_what_differs() {
        check(|_| {}, None);
        check(|d| d.cpu ^= 1, Some("cpu"));
        check(|d| d.ram ^= 4, Some("ram"));
        check(|d| d.ram ^= 1 << 100, Some("the state"));
        check(|d| d.devices[3].1 ^= 1, Some("chip3"));
        check(|d| d.devices[5].1 ^= 1, Some("chip0, chip5"));
        check(|d| d.devices[2].1 ^= 1 << 127, Some("the state"));
        check(|d| d.devices[2].0.push('x'), Some("the state"));
        let everything = |d: &mut Digest| {
            d.cpu ^= 1;
            d.devices[2].1 ^= 1;
            d.ram ^= 1;
        };
        check(everything, Some("cpu, chip2, ram"));
    }

    #[test]
    fn a_device_alone_has_all_bits() {
        let of = |board| Digest { cpu: 0, devices: vec![("board".into(), board)], ram: 0 };
        for bit in 0..DEVICE_BITS {
            let what = difference(&of(1 << bit), &shorten(&of(0)));
            assert_eq!(what.as_deref(), Some("board"));
        }
        let none = Digest { cpu: 0, devices: vec![], ram: 0 };
        assert_eq!(difference(&none, &shorten(&none)), None);
    }

    #[test]
    fn a_check_of_another_form_differs() {
        assert!(difference(&digest(), &[]).is_some());
        assert!(difference(&digest(), &[0; 9]).is_some());
    }
}
