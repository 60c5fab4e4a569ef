//! The 16550A UART.
//!
//! Contract: the transmitter is as fast as the guest; received bytes come off the line at the
//! programmed rate. The line waits while the receiver is full, as if the terminal heeded flow
//! control at once, so that typed or pasted bytes are not lost; only loopback overruns.

use crate::time::VirtualNs;
use alloc::collections::VecDeque;
use serde::{Deserialize, Serialize};

const IER_RX: u8 = 0x01;
const IER_THRE: u8 = 0x02;
const IER_LINE: u8 = 0x04;
const IER_MODEM: u8 = 0x08;
const FCR_ENABLE: u8 = 0x01;
const FCR_CLEAR_RX: u8 = 0x02;
const LCR_BREAK: u8 = 0x40;
const LCR_DLAB: u8 = 0x80;
const MCR_OUT2: u8 = 0x08;
const MCR_LOOP: u8 = 0x10;
const LSR_DR: u8 = 0x01;
const LSR_OE: u8 = 0x02;
const LSR_BI: u8 = 0x10;
/// THRE and TEMT: the transmitter is always empty.
const LSR_TX_EMPTY: u8 = 0x60;
const LSR_FIFO_ERROR: u8 = 0x80;
/// DCD, DSR and CTS from the terminal.
const MSR_CONNECTED: u8 = 0xB0;
const MSR_RI: u8 = 0x40;
const FIFO_DEPTH: usize = 16;
/// Bytes that may wait on the line.
const LINE_DEPTH: usize = 1 << 20;

/// A received character.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Received {
    byte: u8,
    /// Its errors, as in LSR.
    errors: u8,
}

/// One UART.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uart16550 {
    ier: u8,
    lcr: u8,
    mcr: u8,
    fcr: u8,
    scratch: u8,
    divisor: u16,
    /// OE, PE, FE, BI.
    line_errors: u8,
    /// MSR bits 3:0.
    modem_deltas: u8,
    rx: VecDeque<Received>,
    last_received: u8,
    rx_timed_out: bool,
    /// A byte was written to THR and has not left.
    transmitting: Option<u8>,
    thre_interrupt: bool,
    /// Bytes on their way from the terminal.
    line: VecDeque<u8>,
    /// When the first of `line` has arrived.
    arrival: Option<VirtualNs>,
    /// When a character-timeout is due.
    timeout: Option<VirtualNs>,
}

impl Default for Uart16550 {
    fn default() -> Self {
        Self {
            ier: 0,
            lcr: 0,
            mcr: 0,
            fcr: 0,
            scratch: 0,
            divisor: 1,
            line_errors: 0,
            modem_deltas: 0,
            rx: VecDeque::new(),
            last_received: 0,
            rx_timed_out: false,
            transmitting: None,
            thre_interrupt: false,
            line: VecDeque::new(),
            arrival: None,
            timeout: None,
        }
    }
}

impl Uart16550 {
    fn fifo(&self) -> bool {
        self.fcr & FCR_ENABLE != 0
    }

    fn depth(&self) -> usize {
        if self.fifo() { FIFO_DEPTH } else { 1 }
    }

    fn trigger(&self) -> usize {
        if self.fifo() { [1, 4, 8, 14][usize::from(self.fcr >> 6)] } else { 1 }
    }

    /// Time of one character on the line: start, data, parity and stop bits.
    fn character_ns(&self) -> u64 {
        let bits = 7
            + u64::from(self.lcr & 3)
            + u64::from(self.lcr >> 3 & 1)
            + u64::from(self.lcr >> 2 & 1);
        // A baud clock of 16 x 115,200 Hz.
        u64::from(self.divisor.max(1)) * bits * VirtualNs::SECOND / 115_200
    }

    /// Bytes that the terminal sends; those that exceed the line's capacity are lost.
    pub fn input(&mut self, now: VirtualNs, bytes: &[u8]) {
        self.catch_up(now);
        let room = LINE_DEPTH - self.line.len().min(LINE_DEPTH);
        self.line.extend(&bytes[..bytes.len().min(room)]);
        self.start_reception(now);
    }

    fn start_reception(&mut self, now: VirtualNs) {
        let room = self.rx.len() < self.depth() && self.mcr & MCR_LOOP == 0;
        if !room || self.line.is_empty() {
            self.arrival = None;
        } else if self.arrival.is_none() {
            self.arrival = Some(now.after(self.character_ns()));
        }
    }

    fn receive(&mut self, now: VirtualNs, byte: u8, errors: u8) {
        if self.rx.len() >= self.depth() {
            self.line_errors |= LSR_OE;
            if self.fifo() {
                return;
            }
            // The holding register is overwritten (16550D 8.4).
            self.rx.clear();
        }
        self.rx.push_back(Received { byte, errors });
        if self.rx.len() == 1 {
            self.line_errors |= errors;
        }
        self.restart_timeout(now);
    }

    fn restart_timeout(&mut self, now: VirtualNs) {
        self.rx_timed_out = false;
        let waits = self.fifo() && !self.rx.is_empty();
        self.timeout = waits.then(|| now.after(4 * self.character_ns()));
    }

    fn clear_rx(&mut self) {
        self.rx.clear();
        self.rx_timed_out = false;
        self.timeout = None;
    }

    /// Lets everything happen that is due.
    fn catch_up(&mut self, now: VirtualNs) {
        while let Some(at) = self.arrival
            && at <= now
        {
            self.arrival = None;
            if self.timeout.is_some_and(|timeout| timeout <= at) {
                self.rx_timed_out = true;
            }
            if let Some(byte) = self.line.pop_front() {
                self.receive(at, byte, 0);
            }
            self.start_reception(at);
        }
        if self.timeout.is_some_and(|at| at <= now) {
            self.timeout = None;
            self.rx_timed_out = true;
        }
    }

    /// When a character arrives or times out.
    #[inline]
    pub fn deadline(&self) -> Option<VirtualNs> {
        let timeout = self.timeout.filter(|_| self.ier & IER_RX != 0);
        VirtualNs::earlier(self.arrival, timeout)
    }

    /// Lets what is due happen; otherwise does nothing.
    pub fn advance(&mut self, now: VirtualNs) {
        if self.deadline().is_some_and(|at| at <= now) {
            self.catch_up(now);
        }
    }

    /// The interrupt identification (IIR bits 3:0).
    fn pending(&self) -> u8 {
        if self.ier & IER_LINE != 0 && self.line_errors != 0 {
            0x06
        } else if self.ier & IER_RX != 0 && self.rx.len() >= self.trigger() {
            0x04
        } else if self.ier & IER_RX != 0 && self.rx_timed_out {
            0x0C
        } else if self.ier & IER_THRE != 0 && self.thre_interrupt {
            0x02
        } else if self.ier & IER_MODEM != 0 && self.modem_deltas != 0 {
            0x00
        } else {
            0x01
        }
    }

    /// The interrupt line: OUT2 enables its driver, as on the PC's serial adapter.
    #[inline]
    pub fn irq(&self) -> bool {
        self.mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2 && self.pending() != 0x01
    }

    /// MSR bits 7:4.
    fn modem_status(&self) -> u8 {
        if self.mcr & MCR_LOOP == 0 {
            return MSR_CONNECTED;
        }
        // DTR -> DSR, RTS -> CTS, OUT1 -> RI, OUT2 -> DCD.
        let mcr = self.mcr;
        (mcr & 1) << 5 | (mcr & 2) << 3 | (mcr & 4) << 4 | (mcr & 8) << 4
    }

    /// Reads the register at `offset` (0-7).
    pub fn read(&mut self, now: VirtualNs, offset: u16) -> u8 {
        self.catch_up(now);
        let dlab = self.lcr & LCR_DLAB != 0;
        match offset & 7 {
            0 if dlab => self.divisor as u8,
            0 => {
                if let Some(received) = self.rx.pop_front() {
                    self.last_received = received.byte;
                    self.line_errors |= self.rx.front().map_or(0, |next| next.errors);
                    self.restart_timeout(now);
                    self.start_reception(now);
                }
                self.last_received
            }
            1 if dlab => (self.divisor >> 8) as u8,
            1 => self.ier,
            2 => {
                let pending = self.pending();
                if pending == 0x02 {
                    self.thre_interrupt = false;
                }
                pending | if self.fifo() { 0xC0 } else { 0 }
            }
            3 => self.lcr,
            4 => self.mcr,
            5 => {
                let ready = if self.rx.is_empty() { 0 } else { LSR_DR };
                let bad = self.fifo() && self.rx.iter().any(|received| received.errors != 0);
                let errors = core::mem::take(&mut self.line_errors);
                ready | errors | LSR_TX_EMPTY | if bad { LSR_FIFO_ERROR } else { 0 }
            }
            6 => self.modem_status() | core::mem::take(&mut self.modem_deltas),
            _ => self.scratch,
        }
    }

    /// Writes the register at `offset` (0-7). After a write to THR, [`Self::finish_transmit`] must
    /// follow; between the two the interrupt line may be low.
    pub fn write(&mut self, now: VirtualNs, offset: u16, value: u8) {
        self.catch_up(now);
        let dlab = self.lcr & LCR_DLAB != 0;
        match offset & 7 {
            0 if dlab => self.divisor = self.divisor & 0xFF00 | u16::from(value),
            0 => {
                self.transmitting = Some(value);
                self.thre_interrupt = false;
            }
            1 if dlab => self.divisor = self.divisor & 0x00FF | u16::from(value) << 8,
            1 => {
                if value & !self.ier & IER_THRE != 0 {
                    self.thre_interrupt = true;
                }
                self.ier = value & 0x0F;
            }
            2 => self.write_fcr(now, value),
            3 => {
                let breaks = value & !self.lcr & LCR_BREAK != 0;
                self.lcr = value;
                if breaks && self.mcr & MCR_LOOP != 0 {
                    self.receive(now, 0, LSR_BI);
                }
            }
            4 => self.write_mcr(now, value),
            7 => self.scratch = value,
            // LSR and MSR are read-only.
            _ => {}
        }
    }

    fn write_fcr(&mut self, now: VirtualNs, value: u8) {
        let switched = (value ^ self.fcr) & FCR_ENABLE != 0;
        if switched || value & (FCR_ENABLE | FCR_CLEAR_RX) == FCR_ENABLE | FCR_CLEAR_RX {
            self.clear_rx();
        }
        self.fcr = if value & FCR_ENABLE != 0 { value & 0xC9 } else { 0 };
        self.start_reception(now);
    }

    fn write_mcr(&mut self, now: VirtualNs, value: u8) {
        let before = self.modem_status();
        self.mcr = value & 0x1F;
        let after = self.modem_status();
        // DDCD, DDSR, DCTS; TERI only when RI goes away.
        let changed = before ^ after;
        self.modem_deltas |= changed >> 4 & 0x0B;
        if before & !after & MSR_RI != 0 {
            self.modem_deltas |= 0x04;
        }
        self.start_reception(now);
    }

    /// Completes the transmission that a write to THR began: returns the byte that leaves, if it
    /// does not go round the loop.
    pub fn finish_transmit(&mut self, now: VirtualNs) -> Option<u8> {
        let byte = self.transmitting.take()?;
        self.thre_interrupt = true;
        if self.mcr & MCR_LOOP == 0 {
            return Some(byte);
        }
        let mask = 0xFF >> (3 - (self.lcr & 3));
        self.receive(now, byte & mask, 0);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    const NOW: VirtualNs = VirtualNs(1_000_000);
    const CHARACTER: u64 = 10 * 1_000_000_000 / 115_200;

    /// 8N1 at 115,200 baud, OUT2 on.
    fn uart(fcr: u8, ier: u8) -> Uart16550 {
        let mut uart = Uart16550::default();
        for (offset, value) in [(3, 0x83), (0, 1), (1, 0), (3, 3), (2, fcr), (1, ier), (4, 0x0B)] {
            uart.write(NOW, offset, value);
        }
        uart
    }

    fn send(uart: &mut Uart16550, byte: u8) -> Option<u8> {
        uart.write(NOW, 0, byte);
        uart.finish_transmit(NOW)
    }

    /// Lets time pass to `until`, deadline by deadline.
    fn pass(uart: &mut Uart16550, until: VirtualNs) {
        while let Some(at) = uart.deadline()
            && at <= until
        {
            uart.advance(at);
            assert!(uart.deadline().is_none_or(|next| next > at), "time stands still");
        }
    }

    #[test]
    fn transmit_and_thre() {
        let mut uart = uart(0, 0);
        assert_eq!(send(&mut uart, b'A'), Some(b'A'));
        assert_eq!(uart.read(NOW, 5), 0x60);
        assert!(!uart.irq());
        uart.write(NOW, 1, 2);
        assert!(uart.irq());
        assert_eq!(uart.read(NOW, 2), 0x02);
        assert!(!uart.irq(), "reading IIR clears it");
        uart.write(NOW, 0, b'B');
        assert!(!uart.irq());
        assert_eq!(uart.finish_transmit(NOW), Some(b'B'));
        assert!(uart.irq());
        uart.write(NOW, 4, 0x03);
        assert!(!uart.irq(), "OUT2 gates the line");
    }

    #[test]
    fn receive_at_the_line_rate_with_trigger_and_timeout() {
        let mut uart = uart(0x41, 1);
        uart.input(NOW, b"hello");
        assert_eq!(uart.deadline(), Some(NOW.after(CHARACTER)));
        pass(&mut uart, NOW.after(3 * CHARACTER));
        assert!(!uart.irq());
        pass(&mut uart, NOW.after(4 * CHARACTER));
        assert!(uart.irq());
        assert_eq!(uart.read(NOW.after(4 * CHARACTER), 2), 0xC4);
        let at = NOW.after(5 * CHARACTER);
        pass(&mut uart, at);
        for byte in b"hell" {
            assert_eq!(uart.read(at, 0), *byte);
        }
        assert!(!uart.irq());
        let late = at.after(4 * CHARACTER);
        pass(&mut uart, VirtualNs(late.0 - 1));
        assert!(!uart.irq());
        pass(&mut uart, VirtualNs(late.0 + 4));
        assert_eq!(uart.read(late.after(4), 2), 0xCC);
        assert_eq!(uart.read(late.after(4), 5), 0x61);
        assert_eq!(uart.read(late.after(4), 0), b'o');
        assert_eq!(uart.read(late.after(4), 2), 0xC1);
        assert_eq!(uart.read(late.after(4), 5), 0x60);
    }

    #[test]
    fn a_full_receiver_holds_the_line() {
        for (fcr, depth) in [(0x01, 16), (0x00, 1)] {
            let mut uart = uart(fcr, 1);
            let text: Vec<u8> = (0..40).collect();
            uart.input(NOW, &text);
            let mut now = NOW.after(100 * CHARACTER);
            pass(&mut uart, now);
            assert_eq!((uart.rx.len(), uart.deadline().is_some()), (depth, false));
            let mut got = Vec::new();
            while uart.read(now, 5) & 1 != 0 {
                got.push(uart.read(now, 0));
                now = now.after(CHARACTER);
                pass(&mut uart, now);
            }
            assert_eq!(got, text);
        }
    }

    #[test]
    fn loopback_carries_data_modem_lines_and_overruns() {
        let mut uart = uart(0xC7, 0);
        uart.write(NOW, 4, 0x1A);
        assert_eq!(uart.read(NOW, 6) & 0xF0, 0x90);
        uart.write(NOW, 4, 0x15);
        assert_eq!(uart.read(NOW, 6), 0x60 | 0x0B);
        uart.write(NOW, 4, 0x11);
        assert_eq!(uart.read(NOW, 6), 0x20 | 0x04, "trailing edge of RI");
        for byte in 0..17 {
            assert_eq!(send(&mut uart, byte), None);
        }
        assert_eq!(uart.read(NOW, 5), 0x63);
        assert_eq!(uart.read(NOW, 5), 0x61);
        let got: Vec<u8> = (0..16).map(|_| uart.read(NOW, 0)).collect();
        assert_eq!(got, (0..16).collect::<Vec<u8>>());
        uart.write(NOW, 2, 0);
        send(&mut uart, 7);
        send(&mut uart, 8);
        assert_eq!((uart.read(NOW, 5), uart.read(NOW, 0)), (0x63, 8));
        uart.write(NOW, 3, 0x43);
        assert_eq!((uart.read(NOW, 5), uart.read(NOW, 0)), (0x71, 0));
    }

    #[test]
    fn interrupt_priorities() {
        let mut uart = uart(0x01, 0x0F);
        uart.write(NOW, 4, 0x19);
        for byte in 0..17 {
            send(&mut uart, byte);
        }
        uart.write(NOW, 4, 0x0B);
        let mut causes = vec![uart.read(NOW, 2) & 0x0F];
        uart.read(NOW, 5);
        causes.push(uart.read(NOW, 2) & 0x0F);
        for byte in 0..16 {
            assert_eq!(uart.read(NOW, 0), byte);
        }
        causes.push(uart.read(NOW, 2) & 0x0F);
        causes.push(uart.read(NOW, 2) & 0x0F);
        uart.read(NOW, 6);
        causes.push(uart.read(NOW, 2) & 0x0F);
        assert_eq!(causes, [0x06, 0x04, 0x02, 0x00, 0x01]);
    }

    #[test]
    fn divisor_scratch_and_fcr() {
        let mut uart = uart(0, 0);
        uart.write(NOW, 3, 0x9B);
        uart.write(NOW, 0, 0x34);
        uart.write(NOW, 1, 0x12);
        assert_eq!((uart.read(NOW, 0), uart.read(NOW, 1)), (0x34, 0x12));
        uart.write(NOW, 3, 0x1B);
        assert_eq!((uart.read(NOW, 1), uart.read(NOW, 3)), (0, 0x1B));
        uart.write(NOW, 7, 0xA5);
        assert_eq!(uart.read(NOW, 7), 0xA5);
        uart.write(NOW, 2, 0xC6);
        assert_eq!(uart.read(NOW, 2), 0x01, "without bit 0 nothing is programmed");
    }
}
