//! Fixed-size byte memories of chips, serialized as one byte string.
//!
//! Contract: reading back checks the length, so a chip may index its memory without a test.

use alloc::boxed::Box;
use alloc::vec;
use core::fmt;
use core::ops::{Deref, DerefMut};
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `N` bytes on the heap.
#[derive(Clone, PartialEq, Eq)]
pub struct Octets<const N: usize>(Box<[u8; N]>);

impl<const N: usize> Default for Octets<N> {
    fn default() -> Self {
        let zeroed = vec![0; N].into_boxed_slice();
        Self(zeroed.try_into().expect("the vector has N bytes"))
    }
}

impl<const N: usize> Deref for Octets<N> {
    type Target = [u8; N];

    #[inline(always)]
    fn deref(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> DerefMut for Octets<N> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [u8; N] {
        &mut self.0
    }
}

impl<const N: usize> fmt::Debug for Octets<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{N} bytes")
    }
}

impl<const N: usize> Serialize for Octets<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0[..])
    }
}

struct OctetsVisitor<const N: usize>;

impl<'de, const N: usize> Visitor<'de> for OctetsVisitor<N> {
    type Value = Octets<N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{N} bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        if bytes.len() != N {
            return Err(E::invalid_length(bytes.len(), &self));
        }
        let mut octets = Octets::default();
        octets.copy_from_slice(bytes);
        Ok(octets)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut octets = Octets::default();
        for at in 0..N {
            let byte = seq.next_element()?;
            octets[at] = byte.ok_or_else(|| A::Error::invalid_length(at, &self))?;
        }
        Ok(octets)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Octets<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(OctetsVisitor)
    }
}
