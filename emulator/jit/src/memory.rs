//! Memory for code: one stretch, mapped twice, writable and executable, never both at one address.
//!
//! Contract: what is written through [`CodeMemory::write`] can be executed at
//! [`CodeMemory::address`] plus its offset. What the host is asked for the guest's memory is here
//! as well.

use devices::ram::PAGE;
use std::ffi::c_void;
use std::ptr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

/// A stretch of memory that can be written at one address and executed at another.
pub struct CodeMemory {
    writable: *mut u8,
    executable: *mut u8,
    len: usize,
    /// Bytes from the start that the host has been asked to have ready.
    ready: usize,
    /// Who asks it, once that is worth a thread.
    helper: Option<Helper>,
}

/// So many bytes are made ready at once: a page fault for each page takes longer.
const CHUNK: usize = 256 << 10;
/// With a helper, so many bytes are ready beyond what is written.
const AHEAD: usize = 2 * CHUNK;

/// A thread that has memory made ready before it is needed: the host takes a microsecond to clear a
/// page and to enter it in both mappings.
struct Helper {
    chunks: Sender<usize>,
    thread: JoinHandle<()>,
}

// SAFETY: the mappings belong to this value, and are changed through `&mut self` only: its helper
// changes nothing in them, and ends before they do.
unsafe impl Send for CodeMemory {}

impl CodeMemory {
    /// `len` bytes (whole pages); `None` if the host refuses.
    pub fn new(len: usize) -> Option<Self> {
        // SAFETY: the name is a C string; the descriptor is checked and closed below.
        let fd = unsafe { libc::memfd_create(c"code".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return None;
        }
        // SAFETY: `fd` is ours.
        let sized = unsafe { libc::ftruncate(fd, len as libc::off_t) } == 0;
        let writable = if sized { map(fd, len, libc::PROT_READ | libc::PROT_WRITE) } else { None };
        let executable = writable.and_then(|_| map(fd, len, libc::PROT_READ | libc::PROT_EXEC));
        // SAFETY: `fd` is ours; the mappings keep the memory.
        unsafe { libc::close(fd) };
        match (writable, executable) {
            (Some(writable), Some(executable)) => {
                Some(Self { writable, executable, len, ready: 0, helper: None })
            }
            (Some(writable), None) => {
                unmap(writable, len);
                None
            }
            _ => None,
        }
    }

    /// Where the first byte is executed.
    pub fn address(&self) -> usize {
        self.executable.expose_provenance()
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Writes code at `offset`.
    ///
    /// # Panics
    /// If it does not fit.
    pub fn write(&mut self, offset: usize, code: &[u8]) {
        assert!(offset.checked_add(code.len()).is_some_and(|end| end <= self.len), "code fits");
        let end = offset + code.len();
        let ahead = if self.helper.is_some() { AHEAD } else { 0 };
        while self.ready < (end + ahead).min(self.len) {
            self.make_ready();
        }
        // SAFETY: the range was checked; the mapping is writable, and nobody has a reference to it.
        unsafe { ptr::copy_nonoverlapping(code.as_ptr(), self.writable.add(offset), code.len()) }
    }

    #[cold]
    fn make_ready(&mut self) {
        // What needs one chunk alone needs no thread.
        if self.ready == CHUNK && self.helper.is_none() {
            self.helper = self.begin_helper();
        }
        let begin = self.ready;
        self.ready = self.len.min(begin + CHUNK);
        let asked = self.helper.as_ref().map(|helper| helper.chunks.send(begin));
        if !matches!(asked, Some(Ok(()))) {
            self.populating()(begin);
        }
    }

    /// `None`: the host has no thread to spare.
    fn begin_helper(&self) -> Option<Helper> {
        let (chunks, asked): (Sender<usize>, Receiver<usize>) = channel();
        let populate = self.populating();
        let body = move || asked.into_iter().for_each(populate);
        let thread = Builder::new().name("code memory".into()).stack_size(64 << 10);
        Some(Helper { chunks, thread: thread.spawn(body).ok()? })
    }

    /// What has the host make a chunk of both mappings ready. One that does not know this advice
    /// has its page faults instead. Not to be called when this value is gone.
    fn populating(&self) -> impl Fn(usize) + Send + use<> {
        let mappings = [
            (self.writable.expose_provenance(), libc::MADV_POPULATE_WRITE),
            (self.executable.expose_provenance(), libc::MADV_POPULATE_READ),
        ];
        let len = self.len;
        move |begin| {
            for (mapping, advice) in mappings {
                let at = ptr::with_exposed_provenance_mut(mapping + begin);
                // SAFETY: the range lies in a mapping of a `CodeMemory`, which waits for its helper
                // before it goes; nothing in it changes.
                unsafe { libc::madvise(at, CHUNK.min(len - begin), advice) };
            }
        }
    }

    /// Overwrites the 32-bit displacement or immediate at `offset`.
    pub fn patch(&mut self, offset: usize, value: i32) {
        self.write(offset, &value.to_le_bytes());
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        if let Some(Helper { chunks, thread }) = self.helper.take() {
            drop(chunks);
            // A helper that panicked is gone as well.
            let _ = thread.join();
        }
        unmap(self.writable, self.len);
        unmap(self.executable, self.len);
    }
}

/// Asks the host for large pages for what `bytes` take, as far as that is not there yet: fewer page
/// faults, and fewer misses of the host's TLB. A host that has none goes on as before.
pub fn advise_large_pages(bytes: &[u8]) {
    let begin = bytes.as_ptr().addr().next_multiple_of(PAGE);
    let end = (bytes.as_ptr().addr() + bytes.len()) & !(PAGE - 1);
    if begin < end {
        let at = bytes.as_ptr().with_addr(begin).cast_mut();
        // SAFETY: the range lies within `bytes`, whose content this advice does not change.
        unsafe { libc::madvise(at.cast(), end - begin, libc::MADV_HUGEPAGE) };
    }
}

fn map(fd: i32, len: usize, protection: i32) -> Option<*mut u8> {
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let at = unsafe { libc::mmap(ptr::null_mut(), len, protection, libc::MAP_SHARED, fd, 0) };
    (at != libc::MAP_FAILED).then_some(at.cast())
}

fn unmap(at: *mut u8, len: usize) {
    // SAFETY: `at` and `len` are those of a mapping made above, which is not used any more.
    unsafe { libc::munmap(at.cast::<c_void>(), len) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_where_it_is_executed_with_a_helper_and_without() {
        let pages: [usize; 3] = [1, 2 * CHUNK / PAGE + 1, 8 * CHUNK / PAGE];
        for len in pages.map(|count| count * PAGE) {
            let mut memory = CodeMemory::new(len).expect("a computer that can run the JIT");
            for page in 0..len / PAGE {
                memory.write(page * PAGE, &(page as u64).to_le_bytes());
            }
            assert_eq!((memory.helper.is_some(), memory.ready), (len > CHUNK, len));
            for page in 0..len / PAGE {
                let at = ptr::with_exposed_provenance::<u64>(memory.address() + page * PAGE);
                // SAFETY: the page lies in the mapping, which can be read.
                assert_eq!(unsafe { at.read() }, page as u64);
            }
        }
    }
}
