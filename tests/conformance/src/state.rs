//! The state that a case begins with and what becomes of it.

use crate::layout;

/// The mode that the code of a case runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// 64-bit mode.
    Long64,
    /// Compatibility mode, 32-bit code segment.
    Compat32,
    /// Compatibility mode, 16-bit code segment with base [`layout::CODE`]; DS and ES begin at
    /// [`layout::READ_ONLY`].
    Compat16,
}

impl Mode {
    /// Default operand width of the decoder.
    pub fn bitness(self) -> u32 {
        match self {
            Self::Long64 => 64,
            Self::Compat32 => 32,
            Self::Compat16 => 16,
        }
    }

    /// Selector of the code segment.
    pub fn code_selector(self) -> u16 {
        match self {
            Self::Long64 => layout::USER_CS64,
            Self::Compat32 => layout::USER_CS32,
            Self::Compat16 => layout::LDT_CS16,
        }
    }

    /// Linear address of offset 0 of the code segment.
    pub fn code_base(self) -> u64 {
        if self == Self::Compat16 { layout::CODE } else { 0 }
    }

    /// Linear address of offset 0 of DS and ES.
    pub fn data_base(self) -> u64 {
        if self == Self::Compat16 { layout::READ_ONLY } else { 0 }
    }
}

/// Index of RAX in [`State::gpr`]; the others follow in the order of their encoding.
pub const RAX: usize = 0;
/// RCX.
pub const RCX: usize = 1;
/// RDX.
pub const RDX: usize = 2;
/// RBX.
pub const RBX: usize = 3;
/// RSP.
pub const RSP: usize = 4;
/// RBP.
pub const RBP: usize = 5;
/// RSI.
pub const RSI: usize = 6;
/// RDI.
pub const RDI: usize = 7;

/// Index of ES in [`State::segments`]; the others follow in the order of their encoding.
pub const ES: usize = 0;
/// CS.
pub const CS: usize = 1;
/// SS.
pub const SS: usize = 2;
/// DS.
pub const DS: usize = 3;
/// FS.
pub const FS: usize = 4;
/// GS.
pub const GS: usize = 5;

/// The x87 unit, in the terms of the FXSAVE image (SDM 1 10.5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X87 {
    /// Control word.
    pub control: u16,
    /// Status word, with TOP.
    pub status: u16,
    /// One bit per physical register: set if it is not empty.
    pub tag: u8,
    /// Opcode of the last instruction.
    pub opcode: u16,
    /// Its address.
    pub instruction: u64,
    /// The address of its operand.
    pub operand: u64,
    /// ST(0) to ST(7).
    pub st: [[u8; 10]; 8],
}

/// The user-visible registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
    /// Offset of the next instruction in the code segment.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// Selectors ES, CS, SS, DS, FS, GS.
    pub segments: [u16; 6],
    /// Base of FS in 64-bit mode.
    pub fs_base: u64,
    /// Base of GS in 64-bit mode.
    pub gs_base: u64,
    /// x87 and MMX.
    pub x87: X87,
    /// XMM0 to XMM15.
    pub xmm: [u128; 16],
    /// MXCSR.
    pub mxcsr: u32,
}

/// How the instruction ended: always by an exception, since a breakpoint follows it everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Vector.
    pub vector: u8,
    /// Error code, 0 where there is none.
    pub error: u32,
    /// CR2, after a page fault, else 0.
    pub cr2: u64,
}

impl Event {
    /// Stands for a vector when the host did not get past the instruction: there is nothing to
    /// compare with.
    pub const STUCK: u8 = 0xFF;
}

/// What a case leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The exception that ended it.
    pub event: Event,
    /// Registers as the exception's handler finds them.
    pub state: State,
    /// The data window.
    pub memory: Vec<u8>,
}

/// Bytes written over the data window before the case runs.
#[derive(Clone, Debug)]
pub struct Patch {
    /// Offset into the data window.
    pub offset: usize,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// One instruction in one state.
#[derive(Clone, Debug)]
pub struct Case {
    /// The mode it runs in.
    pub mode: Mode,
    /// Encoding.
    pub code: Vec<u8>,
    /// Linear address of the first byte.
    pub address: u64,
    /// Registers.
    pub state: State,
    /// Where in [`layout::pool`] the contents of the data window begin.
    pub pool_offset: usize,
    /// What is written over them.
    pub patches: Vec<Patch>,
}

impl Case {
    /// Writes the data window of this case to `window`.
    pub fn fill(&self, window: &mut [u8]) {
        let size = layout::DATA_SIZE as usize;
        window.copy_from_slice(&layout::pool()[self.pool_offset..self.pool_offset + size]);
        for patch in &self.patches {
            window[patch.offset..patch.offset + patch.bytes.len()].copy_from_slice(&patch.bytes);
        }
    }

    /// Writes `bytes` at linear address `address`, if they lie in the data window.
    pub fn patch(&mut self, address: u64, bytes: &[u8]) {
        let end = address.wrapping_add(bytes.len() as u64);
        if address >= layout::DATA && end <= layout::DATA_END && end > address {
            let offset = (address - layout::DATA) as usize;
            self.patches.push(Patch { offset, bytes: bytes.to_vec() });
        }
    }
}

impl State {
    /// The FXSAVE64 image of the x87 and SSE state; bytes 464 to 511 are left alone.
    pub fn write_fxsave(&self, image: &mut [u8]) {
        image[0..2].copy_from_slice(&self.x87.control.to_le_bytes());
        image[2..4].copy_from_slice(&self.x87.status.to_le_bytes());
        image[4] = self.x87.tag;
        image[5] = 0;
        image[6..8].copy_from_slice(&self.x87.opcode.to_le_bytes());
        image[8..16].copy_from_slice(&self.x87.instruction.to_le_bytes());
        image[16..24].copy_from_slice(&self.x87.operand.to_le_bytes());
        image[24..28].copy_from_slice(&self.mxcsr.to_le_bytes());
        for (n, st) in self.x87.st.iter().enumerate() {
            image[32 + 16 * n..42 + 16 * n].copy_from_slice(st);
        }
        for (n, xmm) in self.xmm.iter().enumerate() {
            image[160 + 16 * n..176 + 16 * n].copy_from_slice(&xmm.to_le_bytes());
        }
    }

    /// Takes the x87 and SSE state from an FXSAVE64 image.
    pub fn read_fxsave(&mut self, image: &[u8]) {
        let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
        let quad = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().expect("8 bytes"));
        self.x87.control = word(0);
        self.x87.status = word(2);
        self.x87.tag = image[4];
        self.x87.opcode = word(6);
        self.x87.instruction = quad(8);
        self.x87.operand = quad(16);
        self.mxcsr = quad(24) as u32;
        for (n, st) in self.x87.st.iter_mut().enumerate() {
            st.copy_from_slice(&image[32 + 16 * n..42 + 16 * n]);
        }
        for (n, xmm) in self.xmm.iter_mut().enumerate() {
            let at = 160 + 16 * n;
            *xmm = u128::from_le_bytes(image[at..at + 16].try_into().expect("16 bytes"));
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            gpr: [0; 16],
            rip: 0,
            rflags: 0x202,
            segments: [layout::USER_DS, 0, layout::USER_DS, layout::USER_DS, 0, 0],
            fs_base: 0,
            gs_base: 0,
            x87: X87 {
                control: 0x37F,
                status: 0,
                tag: 0,
                opcode: 0,
                instruction: 0,
                operand: 0,
                st: [[0; 10]; 8],
            },
            xmm: [0; 16],
            mxcsr: 0x1F80,
        }
    }
}
