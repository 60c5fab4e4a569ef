//! The memory map of the BIOS and the heap.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{NonNull, null_mut};
use linked_list_allocator::Heap;

const HEAP_BYTES: usize = 4 << 20;

/// An entry of the BIOS's memory map (ACPI 6.5, 15.1).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct E820Entry {
    base_low: u32,
    base_high: u32,
    length_low: u32,
    length_high: u32,
    kind: u32,
    attributes: u32,
}

impl E820Entry {
    fn base(&self) -> u64 {
        u64::from(self.base_high) << 32 | u64::from(self.base_low)
    }

    fn length(&self) -> u64 {
        u64::from(self.length_high) << 32 | u64::from(self.length_low)
    }

    fn is_usable(&self) -> bool {
        self.kind == 1
    }
}

/// The heap of the one core.
struct SingleCoreHeap(UnsafeCell<Heap>);

// SAFETY: there is one core, and interrupt handlers do not allocate.
unsafe impl Sync for SingleCoreHeap {}

// SAFETY: `Heap` keeps the contract of an allocator, and no two calls overlap (see `Sync` above).
unsafe impl GlobalAlloc for SingleCoreHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the one reference to the heap while this call lasts.
        let heap = unsafe { &mut *self.0.get() };
        heap.allocate_first_fit(layout).map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the one reference to the heap while this call lasts; `block` came from `alloc`
        // with this layout.
        unsafe {
            let block = NonNull::new(block).expect("a block that was allocated is not null");
            (*self.0.get()).deallocate(block, layout);
        }
    }
}

#[global_allocator]
static HEAP: SingleCoreHeap = SingleCoreHeap(UnsafeCell::new(Heap::empty()));
#[repr(align(4096))]
struct HeapSpace(UnsafeCell<[u8; HEAP_BYTES]>);

// SAFETY: only the heap touches it.
unsafe impl Sync for HeapSpace {}

static HEAP_SPACE: HeapSpace = HeapSpace(UnsafeCell::new([0; HEAP_BYTES]));

unsafe extern "C" {
    static bss_start: u8;
    static bss_end: u8;
}

/// Checks that the memory this program was linked to is there, sets up the heap and returns the
/// usable MiB.
pub fn init(map: &[E820Entry]) -> u64 {
    let start = (&raw const bss_start) as u64;
    let end = (&raw const bss_end) as u64;
    let has_memory = |entry: &E820Entry| {
        entry.is_usable()
            && entry.base() <= start
            && entry.base().saturating_add(entry.length()) >= end
    };
    assert!(
        map.iter().any(has_memory),
        "the BIOS reports no usable memory from {start:#x} to {end:#x}"
    );
    // SAFETY: runs once, before the first allocation; the space is zeroed and used by the heap
    // alone.
    unsafe { (*HEAP.0.get()).init(HEAP_SPACE.0.get().cast(), HEAP_BYTES) };
    map.iter().filter(|entry| entry.is_usable()).map(E820Entry::length).sum::<u64>() >> 20
}

/// Bytes of the heap in use.
pub fn heap_used() -> usize {
    // SAFETY: no allocation is under way on this one core.
    unsafe { (*HEAP.0.get()).used() }
}
