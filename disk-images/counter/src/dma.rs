//! Memory shared with devices: zeroed, aligned, never freed, and at a linear address equal to its
//! physical one.

use alloc::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use core::sync::atomic::{Ordering, compiler_fence};

/// An array of `len` values of `T` that a device reads or writes by itself.
///
/// The processor keeps the order of its loads and of its stores (SDM 3A 8.2.2); volatile accesses
/// and the compiler fences around each make the compiler do so too.
pub struct DmaArray<T: Copy> {
    start: *mut T,
    len: usize,
}

impl<T: Copy> DmaArray<T> {
    /// Allocates `len` zeroed values (`T` must be valid as zeroes: integers, and structures of
    /// them).
    pub fn new(len: usize, align: usize) -> Self {
        let layout = Layout::from_size_align(len * size_of::<T>(), align).expect("a small array");
        // SAFETY: the layout is not of size zero.
        let start = unsafe { alloc_zeroed(layout) }.cast::<T>();
        if start.is_null() {
            handle_alloc_error(layout);
        }
        DmaArray { start, len }
    }

    /// The physical address, which fits 32 bits because the program is linked low.
    pub fn physical(&self) -> u32 {
        self.start as u32
    }

    /// Reads value `index`.
    pub fn read(&self, index: usize) -> T {
        assert!(index < self.len, "DMA read out of bounds");
        // SAFETY: in bounds of memory that is never freed.
        let value = unsafe { self.start.add(index).read_volatile() };
        compiler_fence(Ordering::SeqCst);
        value
    }

    /// Writes value `index`.
    pub fn write(&mut self, index: usize, value: T) {
        assert!(index < self.len, "DMA write out of bounds");
        compiler_fence(Ordering::SeqCst);
        // SAFETY: in bounds of memory that is never freed.
        unsafe { self.start.add(index).write_volatile(value) };
        compiler_fence(Ordering::SeqCst);
    }

    /// `len` values from `from` on, which the device must not be writing.
    pub fn slice(&self, from: usize, len: usize) -> &[T] {
        assert!(from <= self.len && len <= self.len - from, "DMA slice out of bounds");
        compiler_fence(Ordering::SeqCst);
        // SAFETY: in bounds, initialised by the allocation; the driver owns this part until it
        // hands it back.
        unsafe { core::slice::from_raw_parts(self.start.add(from), len) }
    }

    /// `len` values from `from` on, which the device must not be using.
    pub fn slice_mut(&mut self, from: usize, len: usize) -> &mut [T] {
        assert!(from <= self.len && len <= self.len - from, "DMA slice out of bounds");
        compiler_fence(Ordering::SeqCst);
        // SAFETY: as in `slice`, and borrowed uniquely.
        unsafe { core::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}
