//! COM1 (16550A) at 115200 8N1: a queue out, interrupts both ways, and the `log!` macro.
//!
//! Output waits in a ring of 16 KiB that the transmitter's interrupt drains; what does not fit is
//! dropped, so that a slow or stopped console never stops the guest.

use crate::cpu::{in8, out8};
use core::cell::RefCell;
use core::fmt;

const COM1: u16 = 0x3F8;
/// Receiver and transmitter buffer; the divisor's low byte while DLAB is set.
const DATA: u16 = COM1;
const INTERRUPT_ENABLE: u16 = COM1 + 1;
const INTERRUPT_ID: u16 = COM1 + 2;
const FIFO_CONTROL: u16 = COM1 + 2;
const LINE_CONTROL: u16 = COM1 + 3;
const MODEM_CONTROL: u16 = COM1 + 4;
const LINE_STATUS: u16 = COM1 + 5;
const MODEM_STATUS: u16 = COM1 + 6;
const SCRATCH: u16 = COM1 + 7;

const ENABLE_RECEIVED: u8 = 0x01;
const ENABLE_TRANSMITTER_EMPTY: u8 = 0x02;
const LINE_DATA_READY: u8 = 0x01;
const LINE_TRANSMITTER_EMPTY: u8 = 0x20;
const NO_INTERRUPT: u8 = 0x01;
const FIFO_BYTES: usize = 16;
const QUEUE_BYTES: usize = 16384;

/// Bytes on their way out.
struct Transmitter {
    present: bool,
    queue: [u8; QUEUE_BYTES],
    head: usize,
    len: usize,
}

/// One core, and interrupt handlers do not print: a plain cell is enough.
struct SingleCore(RefCell<Transmitter>);

// SAFETY: there is one core, and interrupt handlers do not touch this.
unsafe impl Sync for SingleCore {}

static TRANSMITTER: SingleCore = SingleCore(RefCell::new(Transmitter {
    present: false,
    queue: [0; QUEUE_BYTES],
    head: 0,
    len: 0,
}));

impl Transmitter {
    fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.len == QUEUE_BYTES {
                return;
            }
            self.queue[(self.head + self.len) % QUEUE_BYTES] = *byte;
            self.len += 1;
        }
    }

    /// Hands a FIFO's worth to the chip if it is empty, and asks for an interrupt if more waits.
    fn refill(&mut self) {
        if self.len > 0 && in8(LINE_STATUS) & LINE_TRANSMITTER_EMPTY != 0 {
            for _ in 0..self.len.min(FIFO_BYTES) {
                out8(DATA, self.queue[self.head]);
                self.head = (self.head + 1) % QUEUE_BYTES;
                self.len -= 1;
            }
        }
        let waits = if self.len > 0 { ENABLE_TRANSMITTER_EMPTY } else { 0 };
        out8(INTERRUPT_ENABLE, ENABLE_RECEIVED | waits);
    }
}

/// Sets the port up, if there is one.
pub fn init() {
    out8(SCRATCH, 0xA5);
    let present = in8(SCRATCH) == 0xA5;
    TRANSMITTER.0.borrow_mut().present = present;
    if !present {
        return;
    }
    out8(INTERRUPT_ENABLE, 0);
    out8(LINE_CONTROL, 0x80); // DLAB
    out8(DATA, 1); // divisor 1: 115200 baud
    out8(INTERRUPT_ENABLE, 0);
    out8(LINE_CONTROL, 0x03); // 8 bits, no parity, one stop bit
    out8(FIFO_CONTROL, 0x07); // FIFOs on and empty, trigger at one byte
    out8(MODEM_CONTROL, 0x0B); // DTR, RTS, OUT2 (opens the interrupt pin)
    out8(INTERRUPT_ENABLE, ENABLE_RECEIVED);
}

/// Queues `bytes` for output.
pub fn write(bytes: &[u8]) {
    let mut transmitter = TRANSMITTER.0.borrow_mut();
    if transmitter.present {
        transmitter.push(bytes);
        transmitter.refill();
    }
}

/// Answers the port's interrupt: passes received bytes to `received` and sends what waits.
pub fn service(mut received: impl FnMut(u8)) {
    if !TRANSMITTER.0.borrow().present {
        return;
    }
    // Bounded: a chip that never stops reporting does not stop the guest.
    for _ in 0..64 {
        while in8(LINE_STATUS) & LINE_DATA_READY != 0 {
            received(in8(DATA));
        }
        in8(MODEM_STATUS);
        TRANSMITTER.0.borrow_mut().refill();
        if in8(INTERRUPT_ID) & NO_INTERRUPT != 0 {
            break;
        }
    }
}

/// Sends everything that waits, before the machine goes off.
pub fn drain() {
    let mut transmitter = TRANSMITTER.0.borrow_mut();
    for _ in 0..10_000_000 {
        if !transmitter.present || transmitter.len == 0 {
            break;
        }
        transmitter.refill();
    }
}

/// Output that waits for nothing and no one, for a panic.
pub struct Unqueued;

impl fmt::Write for Unqueued {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            for _ in 0..100_000 {
                if in8(LINE_STATUS) & LINE_TRANSMITTER_EMPTY != 0 {
                    break;
                }
            }
            out8(DATA, byte);
        }
        Ok(())
    }
}

/// Queued output by the formatting macros.
pub struct Queued;

impl fmt::Write for Queued {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write(text.as_bytes());
        Ok(())
    }
}

/// Writes one line of status to the serial port: `counter: …`.
#[macro_export]
macro_rules! log {
    ($($argument:tt)*) => {{
        use core::fmt::Write;
        let _ = write!($crate::serial::Queued, "counter: {}\r\n", format_args!($($argument)*));
    }};
}
