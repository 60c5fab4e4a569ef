//! The x87's packed decimal integers: 18 digits and a sign in ten bytes (SDM 1 4.7).

use super::convert::{int_to_f80, to_int};
use super::format::Format;
use super::{Env, F80};

const MAX: i64 = 999_999_999_999_999_999;

/// Loads a packed decimal (FBLD). Digits above nine, which the SDM leaves undefined, count as
/// their binary value.
pub fn from_bcd(bytes: [u8; 10]) -> F80 {
    let magnitude = bytes[..9]
        .iter()
        .rev()
        .fold(0u64, |value, byte| value * 100 + u64::from(byte >> 4) * 10 + u64::from(byte & 15));
    let mut value = if magnitude >> 63 == 0 {
        int_to_f80(magnitude as i64)
    } else {
        F80::pack(false, 63, magnitude)
    };
    value.sign_exp |= u16::from(bytes[9] >> 7) << 15;
    value
}

/// Stores a packed decimal (FBSTP); what does not fit in 18 digits raises invalid and gives the
/// packed decimal indefinite.
pub fn to_bcd(env: &mut Env, value: F80) -> [u8; 10] {
    let a = value.unpack(env);
    let mut bytes = [0; 10];
    let Some(integer) = to_int(env, a, -MAX, MAX) else {
        bytes[7..].copy_from_slice(&[0xc0, 0xff, 0xff]);
        return bytes;
    };
    let mut rest = integer.unsigned_abs();
    for byte in &mut bytes[..9] {
        let pair = (rest % 100) as u8;
        *byte = ((pair / 10) << 4) | (pair % 10);
        rest /= 100;
    }
    bytes[9] = u8::from(a.sign) << 7;
    bytes
}
