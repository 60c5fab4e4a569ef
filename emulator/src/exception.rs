//! Exceptions (SDM 3A 6.15) and other reasons to leave an instruction before it is done.

/// An exception with its error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Vector 0-31.
    pub vector: u8,
    /// Error code, for the vectors that push one.
    pub code: Option<u32>,
    /// CR2 for a page fault.
    pub address: u64,
    /// RIP to push: the instruction itself (fault) or the next one (trap).
    pub trap: bool,
    /// Bits to set in DR6, for #DB.
    pub dr6: u64,
}

/// DR6.BD: an access to a debug register while DR7.GD is set.
pub const DR6_BD: u64 = 1 << 13;

macro_rules! vectors {
    ($($(#[$doc:meta])* $name:ident $number:literal $code:ident;)*) => {
        $($(#[$doc])* pub const $name: u8 = $number;)*
        /// Whether the exception pushes an error code (SDM 3A table 6-1).
        pub const fn has_code(vector: u8) -> bool { match vector { $($number => $code!(),)* _ => false } }
    };
}
macro_rules! no {
    () => {
        false
    };
}
macro_rules! yes {
    () => {
        true
    };
}
vectors! {
    /// Divide error.
    DE 0 no;
    /// Debug.
    DB 1 no;
    /// Non-maskable interrupt.
    NMI 2 no;
    /// Breakpoint.
    BP 3 no;
    /// Overflow.
    OF 4 no;
    /// BOUND range.
    BR 5 no;
    /// Invalid opcode.
    UD 6 no;
    /// Device not available.
    NM 7 no;
    /// Double fault.
    DF 8 yes;
    /// Invalid TSS.
    TS 10 yes;
    /// Segment not present.
    NP 11 yes;
    /// Stack fault.
    SS 12 yes;
    /// General protection.
    GP 13 yes;
    /// Page fault.
    PF 14 yes;
    /// x87 floating-point error.
    MF 16 no;
    /// Alignment check.
    AC 17 yes;
    /// SIMD floating-point error.
    XM 19 no;
}

impl Exception {
    /// A fault with the error code that its vector has (0).
    pub const fn new(vector: u8) -> Self {
        Self::coded(vector, 0)
    }

    /// A fault with an error code; ignored where the vector has none.
    pub const fn coded(vector: u8, code: u32) -> Self {
        let code = if has_code(vector) { Some(code) } else { None };
        Self { vector, code, address: 0, trap: false, dr6: 0 }
    }

    /// A page fault at `address`.
    pub const fn page_fault(address: u64, code: u32) -> Self {
        Self { address, ..Self::coded(PF, code) }
    }
}

/// The instruction was left before it was done; [`Core::trap`](crate::core::Core) says why.
#[derive(Clone, Copy, Debug)]
pub struct Trap;

/// Why an instruction was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An exception is to be delivered.
    Exception(Exception),
    /// It must be executed alone (it touches a device, or memory that holds translated code).
    Alone,
}
