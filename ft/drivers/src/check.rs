//! What a log keeps of a digest: small, and still enough to name what differs.
//!
//! Contract: eight bytes: 32 bits over the whole digest, 8 bits of the CPU's hash, 8 bits of RAM's, and one bit for each
//! of up to 16 devices (more share bits). Equal digests give equal checks; a difference of the whole is missed once in
//! 2^32 times, and that of a single device is named every second time.

use emulator::machine::Digest;
use xxhash_rust::xxh3::Xxh3;

/// A digest, shortened.
pub type Check = [u8; 8];

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

/// Shortens `digest`.
#[must_use]
pub fn shorten(digest: &Digest) -> Check {
    let [a, b, c, d, ..] = whole(digest).to_le_bytes();
    let mut bits = 0u16;
    for (i, (_, value)) in digest.devices.iter().enumerate() {
        bits ^= ((value & 1) as u16) << (i % 16);
    }
    let [low, high] = bits.to_le_bytes();
    [a, b, c, d, digest.cpu as u8, digest.ram as u8, low, high]
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
    let mut names = Vec::new();
    if found[4] != expected[4] {
        names.push("cpu");
    }
    let bits = |check: Check| u16::from_le_bytes([check[6], check[7]]);
    let differing = bits(found) ^ bits(expected);
    for (i, (name, _)) in digest.devices.iter().enumerate() {
        if differing >> (i % 16) & 1 == 1 {
            names.push(name);
        }
    }
    if found[5] != expected[5] {
        names.push("ram");
    }
    Some(if names.is_empty() { String::from("the state") } else { names.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> Digest {
        let devices = (0..18u32).map(|i| (format!("chip{i}"), u128::from(i) << 64)).collect();
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
        check(|d| d.ram ^= 0x80, Some("ram"));
        check(|d| d.ram ^= 1 << 100, Some("the state"));
        check(|d| d.devices[3].1 ^= 1, Some("chip3"));
        check(|d| d.devices[17].1 ^= 1, Some("chip1, chip17"));
        check(|d| d.devices[5].1 ^= 1 << 127, Some("the state"));
        check(|d| d.devices[5].0.push('x'), Some("the state"));
        let everything = |d: &mut Digest| {
            d.cpu ^= 1;
            d.devices[2].1 ^= 1;
            d.ram ^= 1;
        };
        check(everything, Some("cpu, chip2, ram"));
    }

    #[test]
    fn a_check_of_another_form_differs() {
        assert!(difference(&digest(), &[]).is_some());
        assert!(difference(&digest(), &[0; 9]).is_some());
    }
}
