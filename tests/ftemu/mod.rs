//! Runs the command, and guests of one boot sector.

#![allow(dead_code)]

pub mod sides;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// Leaves by isa-debug-exit with 21h: `mov al,21h; out 0F4h,al; hlt`.
pub const EXIT: &[u8] = &[0xB0, 0x21, 0xE6, 0xF4, 0xF4];

/// Echoes what comes on COM1, and leaves with 10h after a `q`.
pub const ECHO: &[u8] = &[
    0xBA, 0xFD, 0x03, // mov dx, 3FDh (LSR)
    0xEC, // in al, dx
    0xA8, 0x01, // test al, 1
    0x74, 0xFB, // jz to the in
    0xBA, 0xF8, 0x03, // mov dx, 3F8h
    0xEC, 0xEE, // in al, dx; out dx, al
    0x3C, b'q', // cmp al, 'q'
    0x75, 0xEF, // jne to the start
    0xBA, 0xFD, 0x03, // mov dx, 3FDh: let it go out
    0xEC, 0xA8, 0x40, // in al, dx; test al, 40h (TEMT)
    0x74, 0xFB, // jz to the in
    0xB0, 0x10, 0xE6, 0xF4, // mov al, 10h; out 0F4h, al
    0xF4,
];

/// Halts, woken by the timer's ticks alone: `sti; hlt; jmp`.
pub const IDLE: &[u8] = &[0xFB, 0xF4, 0xEB, 0xFD];

/// Computes for ever: `inc eax; rdtsc; add ebx, eax; jmp`.
pub const BUSY: &[u8] = &[0x66, 0x40, 0x0F, 0x31, 0x66, 0x01, 0xC3, 0xEB, 0xF7];

/// Writes its own sector to LBA 1 with INT 13h, and leaves with 1, or with 2 if that failed.
pub const WRITE: &[u8] = &[
    0x31, 0xC0, 0x8E, 0xC0, // xor ax, ax; mov es, ax
    0xB8, 0x01, 0x03, // mov ax, 0301h: write one sector
    0xB9, 0x02, 0x00, // mov cx, 2: cylinder 0, sector 2
    0xBA, 0x80, 0x00, // mov dx, 80h: head 0, first disk
    0xBB, 0x00, 0x7C, // mov bx, 7C00h
    0xCD, 0x13, // int 13h
    0x72, 0x04, // jc
    0xB0, 0x01, 0xE6, 0xF4, // mov al, 1; out 0F4h, al
    0xB0, 0x02, 0xE6, 0xF4, // mov al, 2; out 0F4h, al
    0xF4,
];

/// Reads LBA 1 with INT 13h and then waits as [`IDLE`] does.
pub const READ_AND_IDLE: &[u8] = &[
    0x31, 0xC0, 0x8E, 0xC0, // xor ax, ax; mov es, ax
    0xB8, 0x01, 0x02, // mov ax, 0201h: read one sector
    0xB9, 0x02, 0x00, // mov cx, 2
    0xBA, 0x80, 0x00, // mov dx, 80h
    0xBB, 0x00, 0x7E, // mov bx, 7E00h
    0xCD, 0x13, // int 13h
    0xFB, 0xF4, 0xEB, 0xFD, // sti; hlt; jmp
];

/// A place for a test's files.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("temporary directory"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        std::fs::write(self.path(name), bytes).expect("write");
        self.path(name)
    }

    /// A disk image of 64 sectors that boots `code`.
    pub fn guest(&self, name: &str, code: &[u8]) -> PathBuf {
        let mut image = vec![0; 64 * 512];
        image[..code.len()].copy_from_slice(code);
        image[510..512].copy_from_slice(&[0x55, 0xAA]);
        self.file(name, &image)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).expect("read")
    }

    /// A number in a JSON file of `--stats`.
    pub fn stat(&self, name: &str, key: &str) -> u64 {
        let text = self.text(name, key);
        text.parse().unwrap_or_else(|_| panic!("{key}: {text}"))
    }

    /// A value in a JSON file of `--stats`.
    pub fn text(&self, name: &str, key: &str) -> String {
        let text = String::from_utf8(self.read(name)).expect("text");
        let start = text.find(&format!("\"{key}\": ")).expect("the key") + key.len() + 4;
        let end = text[start..].find([',', '\n']).expect("an end") + start;
        text[start..end].trim_matches('"').to_owned()
    }
}

pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftemu"));
    command.args(args).stdin(Stdio::null()).env_remove("FTEMU_LOG");
    // Records of exports are nobody's but the tests'.
    command.env("XDG_STATE_HOME", std::env::temp_dir().join("ftemu-tests"));
    command
}

/// Runs the command to its end.
pub fn run(args: &[&str]) -> Output {
    command(args).output().expect("the command runs")
}

/// Starts the command with pipes.
pub fn start(args: &[&str]) -> Child {
    let pipe = Stdio::piped;
    command(args).stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn().expect("the command runs")
}

/// Runs the command with `input` on standard input, which stays open to the end.
pub fn run_with(args: &[&str], input: &[u8]) -> Output {
    let mut child = start(args);
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input).expect("the command reads");
    let output = child.wait_with_output().expect("the command runs");
    drop(stdin);
    output
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is text")
}

/// Checks the exit status, and shows what the command said if it is another one.
#[track_caller]
pub fn expect_status(output: &Output, status: i32) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{:?}: {said}", output.status);
}
