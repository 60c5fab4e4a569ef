//! Runs cases on the host's CPU, in this process.
//!
//! Contract: a case runs in user mode with exactly the registers and the memory that it names, and
//! whatever it does ends in an exception, since breakpoints surround its code. The signal handler
//! takes the state from the signal frame and puts the next case's state there, so that a case costs
//! one signal. This is the one module with unsafe code.
#![allow(unsafe_code)]

use crate::layout::{self, CODE, CODE_SIZE, DATA, DATA_SIZE, LDT, PAGE, READ_ONLY};
use crate::run::Executor;
use crate::state::{Case, Event, Mode, Outcome, State};
use iced_x86::{Code, CpuidFeature};
use std::arch::asm;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, OnceLock};

/// Register numbers of the signal frame, in the order of [`State::gpr`].
const GREGS: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Ends a case that does not end by itself (some hypervisors retry an instruction for ever).
const STUCK: libc::c_int = libc::SIGALRM;
const SIGNALS: [libc::c_int; 6] =
    [libc::SIGTRAP, libc::SIGSEGV, libc::SIGILL, libc::SIGFPE, libc::SIGBUS, STUCK];
/// A case that runs through two of these is stuck.
const TICK_NS: i64 = 20_000_000;

/// Legacy area of the XSAVE image.
const FXSAVE_SIZE: usize = 512;
const ALTERNATE_STACK: usize = 256 * 1024;

/// A batch under way. The handler finds it through [`RUN`].
struct Run<'a> {
    cases: &'a [Case],
    outcomes: &'a mut Vec<Outcome>,
    /// Writable alias of the code pages.
    code: *mut u8,
    /// Bytes of the code pages that are not breakpoints.
    dirty: std::ops::Range<usize>,
    /// Where the handler runs: a signal elsewhere is not ours.
    stack: std::ops::Range<usize>,
    entered: bool,
    next: usize,
    /// `next` at the last tick of the timer.
    seen: usize,
    host_gregs: [i64; 23],
    host_fx: [u8; FXSAVE_SIZE],
    host_fs: u64,
    host_gs: u64,
}

static RUN: AtomicPtr<Run<'static>> = AtomicPtr::new(ptr::null_mut());

/// The host's CPU, with the address space of the cases mapped.
pub struct Host {
    code: *mut u8,
    stack: Vec<u8>,
}

// SAFETY: `code` points to a mapping that lives as long as the process; `Host` is used by one
// thread at a time.
unsafe impl Send for Host {}

/// The one executor of this process.
///
/// # Errors
/// Why this host cannot run cases (addresses taken, no FSGSBASE, no LDT).
///
/// # Panics
/// The same in the gate (`FTEMU_GUESTS_REQUIRED`), where nothing may be left out.
pub fn host() -> Result<&'static Mutex<Host>, String> {
    static HOST: OnceLock<Result<Mutex<Host>, String>> = OnceLock::new();
    let host = HOST.get_or_init(|| Host::new().map(Mutex::new)).as_ref().map_err(Clone::clone);
    let required = std::env::var_os("FTEMU_GUESTS_REQUIRED").is_some();
    assert!(host.is_ok() || !required, "no native cases here: {}", host.err().unwrap_or_default());
    host
}

/// Of `compared` forms or programs so many may differ, as thousandths: none where the host's CPU is
/// Intel's, as the guest's is. Of other vendors some do, in what is undefined and in what is not:
/// AMD's heed the prefix 66 of branches, for instance (docs/decisions.md, 53).
pub fn most_different(compared: usize, thousandths: usize) -> usize {
    if is_intel() {
        return 0;
    }
    eprintln!("the host's CPU is not Intel's: {thousandths} in 1,000 may differ");
    compared * thousandths / 1000
}

/// Whether CPUID names Intel.
fn is_intel() -> bool {
    let leaf = core::arch::x86_64::__cpuid(0);
    [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
}

/// Whether the host's CPU has what `code` needs.
pub fn supports(code: Code) -> bool {
    code.cpuid_features().iter().all(|feature| match feature {
        CpuidFeature::SSE3 => is_x86_feature_detected!("sse3"),
        CpuidFeature::SSSE3 => is_x86_feature_detected!("ssse3"),
        CpuidFeature::SSE4_1 => is_x86_feature_detected!("sse4.1"),
        CpuidFeature::SSE4_2 => is_x86_feature_detected!("sse4.2"),
        CpuidFeature::POPCNT => is_x86_feature_detected!("popcnt"),
        CpuidFeature::AES => is_x86_feature_detected!("aes"),
        CpuidFeature::PCLMULQDQ => is_x86_feature_detected!("pclmulqdq"),
        CpuidFeature::MOVBE => is_x86_feature_detected!("movbe"),
        CpuidFeature::BMI1 => is_x86_feature_detected!("bmi1"),
        CpuidFeature::BMI2 => is_x86_feature_detected!("bmi2"),
        CpuidFeature::ADX => is_x86_feature_detected!("adx"),
        CpuidFeature::LZCNT => is_x86_feature_detected!("lzcnt"),
        CpuidFeature::XSAVE => is_x86_feature_detected!("xsave"),
        CpuidFeature::RDRAND => is_x86_feature_detected!("rdrand"),
        CpuidFeature::RDSEED => is_x86_feature_detected!("rdseed"),
        CpuidFeature::CMPXCHG16B => is_x86_feature_detected!("cmpxchg16b"),
        _ => true,
    })
}

fn system(what: &str) -> String {
    format!("{what}: {}", io::Error::last_os_error())
}

/// Maps `size` bytes of `file` (or of nothing) at `address`.
fn map(address: u64, size: u64, protection: i32, flags: i32, file: i32) -> Result<*mut u8, String> {
    let flags = if address == 0 { flags } else { flags | libc::MAP_FIXED_NOREPLACE };
    // SAFETY: MAP_FIXED_NOREPLACE never replaces a mapping that is in use.
    let at = unsafe {
        libc::mmap(address as *mut libc::c_void, size as usize, protection, flags, file, 0)
    };
    if at == libc::MAP_FAILED || (address != 0 && at as u64 != address) {
        return Err(system(&format!("cannot map {size:#x} bytes at {address:#x}")));
    }
    Ok(at.cast())
}

impl Host {
    fn new() -> Result<Self, String> {
        const HWCAP2_FSGSBASE: u64 = 2;
        // SAFETY: no preconditions.
        if unsafe { libc::getauxval(libc::AT_HWCAP2) } & HWCAP2_FSGSBASE == 0 {
            return Err("the host's kernel does not offer FSGSBASE".into());
        }
        // SAFETY: the name is a C string.
        let file = unsafe { libc::memfd_create(c"conformance-code".as_ptr(), 0) };
        // SAFETY: no preconditions.
        if file < 0 || unsafe { libc::ftruncate(file, CODE_SIZE as libc::off_t) } != 0 {
            return Err(system("cannot make the code pages"));
        }
        map(CODE, CODE_SIZE, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_SHARED, file)?;
        let writable = libc::PROT_READ | libc::PROT_WRITE;
        let code = map(0, CODE_SIZE, writable, libc::MAP_SHARED, file)?;
        // SAFETY: `code` is a fresh mapping of this size.
        unsafe { code.write_bytes(0xCC, CODE_SIZE as usize) };
        let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let data = map(READ_ONLY, PAGE + DATA_SIZE, writable, private, -1)?;
        // SAFETY: `data` is a fresh mapping of more than a page.
        unsafe { data.copy_from(layout::pool().as_ptr(), PAGE as usize) };
        // SAFETY: the page was mapped above and nothing refers to it.
        if unsafe { libc::mprotect(data.cast(), PAGE as usize, libc::PROT_READ) } != 0 {
            return Err(system("cannot protect the read-only page"));
        }
        for (number, segment) in LDT.iter().enumerate() {
            set_ldt(number, segment)?;
        }
        Ok(Self { code, stack: vec![0; ALTERNATE_STACK] })
    }
}

impl Executor for Host {
    fn run(&mut self, cases: &[Case], outcomes: &mut Vec<Outcome>) {
        let start = self.stack.as_ptr() as usize;
        let mut run = Run {
            cases,
            outcomes,
            code: self.code,
            dirty: 0..0,
            stack: start..start + self.stack.len(),
            entered: false,
            next: 0,
            seen: usize::MAX,
            host_gregs: [0; 23],
            host_fx: [0; FXSAVE_SIZE],
            host_fs: 0,
            host_gs: 0,
        };
        let wanted = run.outcomes.len() + cases.len();
        let restore = Handlers::install(&mut self.stack);
        RUN.store(ptr::from_mut(&mut run).cast(), Ordering::SeqCst);
        // SAFETY: the handler finds `run` through RUN, runs all cases, and comes back here with the
        // registers of this instruction; what the compiler may hold elsewhere (memory) is declared
        // as clobbered by default.
        unsafe { asm!("int3") };
        RUN.store(ptr::null_mut(), Ordering::SeqCst);
        drop(restore);
        // SAFETY: `dirty` lies in the code pages.
        unsafe { run.code.add(run.dirty.start).write_bytes(0xCC, run.dirty.len()) };
        assert_eq!(run.outcomes.len(), wanted, "every case has an outcome");
    }
}

fn set_ldt(number: usize, segment: &layout::LdtSegment) -> Result<(), String> {
    let flags = u32::from(segment.big)
        | u32::from(segment.contents) << 1
        | u32::from(segment.restricted) << 3
        | u32::from(segment.pages) << 4
        | u32::from(!segment.present) << 5;
    // struct user_desc of <asm/ldt.h>.
    let description = [number as u32, segment.base, segment.limit, flags];
    const WRITE_LDT: libc::c_int = 0x11;
    // SAFETY: the kernel reads 16 bytes.
    let result = unsafe { libc::syscall(libc::SYS_modify_ldt, WRITE_LDT, &description, 16usize) };
    if result == 0 { Ok(()) } else { Err(system("cannot set the local descriptor table")) }
}

/// Our signal handlers, for as long as this lives.
struct Handlers {
    actions: Vec<libc::sigaction>,
    stack: libc::stack_t,
    timer: libc::timer_t,
}

impl Handlers {
    fn install(stack: &mut [u8]) -> Self {
        let ours =
            libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
        // SAFETY: plain data; both calls get valid pointers, and the stack outlives the handlers.
        unsafe {
            let mut before: libc::stack_t = std::mem::zeroed();
            assert_eq!(libc::sigaltstack(&ours, &mut before), 0, "sigaltstack");
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            libc::sigaddset(&mut action.sa_mask, STUCK);
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            let actions = SIGNALS
                .iter()
                .map(|&signal| {
                    let mut before: libc::sigaction = std::mem::zeroed();
                    assert_eq!(libc::sigaction(signal, &action, &mut before), 0, "sigaction");
                    before
                })
                .collect();
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = STUCK;
            event.sigev_notify_thread_id = libc::gettid();
            let mut timer: libc::timer_t = std::mem::zeroed();
            let clock = libc::CLOCK_THREAD_CPUTIME_ID;
            assert_eq!(libc::timer_create(clock, &mut event, &mut timer), 0, "timer_create");
            let tick = libc::timespec { tv_sec: 0, tv_nsec: TICK_NS };
            let spec = libc::itimerspec { it_interval: tick, it_value: tick };
            assert_eq!(libc::timer_settime(timer, 0, &spec, ptr::null_mut()), 0, "timer_settime");
            Self { actions, stack: before, timer }
        }
    }
}

impl Drop for Handlers {
    fn drop(&mut self) {
        // SAFETY: made by `install`.
        unsafe { libc::timer_delete(self.timer) };
        for (&signal, action) in SIGNALS.iter().zip(&self.actions) {
            // SAFETY: `action` is what stood there before.
            unsafe { libc::sigaction(signal, action, ptr::null_mut()) };
        }
        // SAFETY: `stack` is what stood there before.
        unsafe { libc::sigaltstack(&self.stack, ptr::null_mut()) };
    }
}

/// Takes the outcome of the case that ended and starts the next one, or goes back to [`Host::run`].
extern "C" fn on_signal(signal: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the red zone is not in use at the entry of a handler that was called on a fresh stack
    // frame of its own; alignment checks and what else a case left in the flags end here.
    unsafe { asm!("push 0x202", "popfq") };
    let run: *mut Run = RUN.load(Ordering::SeqCst).cast();
    let here = context as usize;
    // SAFETY: while RUN is set, it points to the `Run` of `Host::run`, which waits in its INT3.
    let run = match unsafe { run.as_mut() } {
        Some(run) if run.stack.contains(&here) => run,
        _ if signal == STUCK => return,
        _ => {
            // Not one of our cases: let it be fatal.
            // SAFETY: no preconditions.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
            return;
        }
    };
    let segments = Segments::read();
    let under_way = run.entered && run.next <= run.cases.len();
    if signal == STUCK && (!under_way || run.seen != run.next) {
        run.seen = run.next;
        return;
    }
    if run.entered {
        Segments {
            selectors: [layout::USER_DS, layout::USER_DS, 0, 0],
            fs_base: run.host_fs,
            gs_base: run.host_gs,
        }
        .load();
    }
    // SAFETY: the kernel hands a valid signal frame to a SA_SIGINFO handler.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let gregs = &mut context.uc_mcontext.gregs;
    // SAFETY: the frame's XSAVE image has a legacy area of 512 bytes and a header of 64 bytes.
    let image = unsafe {
        std::slice::from_raw_parts_mut(context.uc_mcontext.fpregs.cast::<u8>(), FXSAVE_SIZE + 64)
    };
    if run.entered {
        let mut outcome = outcome(gregs, image, &segments);
        if signal == STUCK {
            outcome.event = Event { vector: Event::STUCK, error: 0, cr2: 0 };
        }
        run.outcomes.push(outcome);
    } else {
        run.entered = true;
        run.host_gregs = *gregs;
        run.host_fx.copy_from_slice(&image[..FXSAVE_SIZE]);
        (run.host_fs, run.host_gs) = (segments.fs_base, segments.gs_base);
    }
    // The legacy area is valid even for components that are in their initial state; have it loaded.
    image[FXSAVE_SIZE] |= 3;
    let next = run.next;
    run.next += 1;
    match run.cases.get(next) {
        Some(case) => {
            run.write_code(case);
            load(case, gregs, image);
        }
        None => {
            *gregs = run.host_gregs;
            image[..FXSAVE_SIZE].copy_from_slice(&run.host_fx);
        }
    }
}

impl Run<'_> {
    /// Puts the code of `case` among the breakpoints.
    fn write_code(&mut self, case: &Case) {
        let start = (case.address - CODE) as usize;
        let end = (start + case.code.len()).min(CODE_SIZE as usize);
        // SAFETY: both ranges lie in the code pages; nothing else refers to them.
        unsafe {
            self.code.add(self.dirty.start).write_bytes(0xCC, self.dirty.len());
            self.code.add(start).copy_from(case.code.as_ptr(), end - start);
        }
        self.dirty = start..end;
    }
}

/// The data window, for the handler alone.
fn window<'a>() -> &'a mut [u8] {
    // SAFETY: mapped by `Host::new`; only the handler and the cases touch it, one after the other.
    unsafe { std::slice::from_raw_parts_mut(DATA as *mut u8, DATA_SIZE as usize) }
}

/// DS, ES, FS, GS, which no signal frame holds.
struct Segments {
    selectors: [u16; 4],
    fs_base: u64,
    gs_base: u64,
}

impl Segments {
    fn read() -> Self {
        let (ds, es, fs, gs): (u16, u16, u16, u16);
        let (fs_base, gs_base): (u64, u64);
        // SAFETY: reads registers; `Host::new` made sure of FSGSBASE.
        unsafe {
            asm!("mov {:x}, ds", "mov {:x}, es", "mov {:x}, fs", "mov {:x}, gs", out(reg) ds, out(reg) es,
                out(reg) fs, out(reg) gs, options(nomem, nostack, preserves_flags));
            asm!("rdfsbase {}", "rdgsbase {}", out(reg) fs_base, out(reg) gs_base,
                options(nomem, nostack, preserves_flags));
        }
        Self { selectors: [ds, es, fs, gs], fs_base, gs_base }
    }

    /// Loads the registers; a null FS or GS takes the base that is given.
    ///
    /// With another FS base than the host's no thread-local variable may be touched: the caller
    /// returns at once.
    fn load(&self) {
        let [ds, es, fs, gs] = self.selectors;
        // SAFETY: the selectors name the descriptors that the cases' layout describes, or are null;
        // 64-bit code does not use DS and ES; FS is dealt with as described above, and nothing uses
        // GS.
        unsafe {
            asm!("mov ds, {:x}", "mov es, {:x}", "mov fs, {:x}", "mov gs, {:x}", in(reg) ds, in(reg) es,
                in(reg) fs, in(reg) gs, options(nostack, preserves_flags));
            if fs == 0 {
                asm!("wrfsbase {}", in(reg) self.fs_base, options(nostack, preserves_flags));
            }
            if gs == 0 {
                asm!("wrgsbase {}", in(reg) self.gs_base, options(nostack, preserves_flags));
            }
        }
    }
}

/// Puts the state of `case` into the signal frame, into memory and into the segment registers.
fn load(case: &Case, gregs: &mut [i64; 23], image: &mut [u8]) {
    let state = &case.state;
    case.fill(window());
    for (&greg, &value) in GREGS.iter().zip(&state.gpr) {
        gregs[greg as usize] = value as i64;
    }
    gregs[libc::REG_RIP as usize] = state.rip as i64;
    gregs[libc::REG_EFL as usize] = state.rflags as i64;
    let [es, cs, ss, ds, fs, gs] = state.segments;
    gregs[libc::REG_CSGSFS as usize] = (u64::from(cs) | u64::from(ss) << 48) as i64;
    state.write_fxsave(image);
    let bases = if case.mode == Mode::Long64 { (state.fs_base, state.gs_base) } else { (0, 0) };
    Segments { selectors: [ds, es, fs, gs], fs_base: bases.0, gs_base: bases.1 }.load();
}

/// The outcome that a signal frame tells.
fn outcome(gregs: &[i64; 23], image: &[u8], segments: &Segments) -> Outcome {
    let mut state = State::default();
    for (&greg, value) in GREGS.iter().zip(&mut state.gpr) {
        *value = gregs[greg as usize] as u64;
    }
    state.rip = gregs[libc::REG_RIP as usize] as u64;
    state.rflags = gregs[libc::REG_EFL as usize] as u64;
    let selectors = gregs[libc::REG_CSGSFS as usize] as u64;
    let [ds, es, fs, gs] = segments.selectors;
    state.segments = [es, selectors as u16, (selectors >> 48) as u16, ds, fs, gs];
    (state.fs_base, state.gs_base) = (segments.fs_base, segments.gs_base);
    state.read_fxsave(image);
    let vector = gregs[libc::REG_TRAPNO as usize] as u8;
    let error = match vector {
        8 | 10..=14 | 17 => gregs[libc::REG_ERR as usize] as u32,
        _ => 0,
    };
    let cr2 = if vector == 14 { gregs[libc::REG_CR2 as usize] as u64 } else { 0 };
    Outcome { event: Event { vector, error, cr2 }, state, memory: window().to_vec() }
}
