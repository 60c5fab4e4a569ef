//! Port decode of the board.
//!
//! Contract: one match from port to chip. Chips on the ISA bus are 8 bits wide: wider accesses are
//! split into bytes at consecutive ports, low byte first, as the bus converts them. Devices with
//! wider registers are matched before that.

use super::{Board, Signal};
use crate::io::Output;
use crate::pc::uart16550::Uart16550;
use crate::ram::Ram;
use crate::time::VirtualNs;

/// First ports of the UARTs COM1-COM4.
pub(super) const UART_PORTS: [u16; 4] = [0x3F8, 0x2F8, 0x3E8, 0x2E8];

/// Port CF9h: a rising bit 2 resets, bit 1 says how (82371AB 4.3.8).
const CF9_RESET: u8 = 0x04;
const CF9_HARD: u8 = 0x02;
/// Port 92h: a rising bit 0 resets the CPU, bit 1 is the A20 gate.
const PORT_92_INIT: u8 = 0x01;
pub(super) const PORT_92_A20: u8 = 0x02;

impl Board {
    pub(super) fn decode_read(
        &mut self,
        ram: &mut Ram,
        now: VirtualNs,
        port: u16,
        size: u8,
    ) -> u32 {
        if let Some(value) = self.wide_read(ram, now, port, size) {
            return value;
        }
        (0..u16::from(size.min(4))).fold(0, |value, n| {
            value | u32::from(self.byte_read(now, port.wrapping_add(n))) << (8 * n)
        })
    }

    pub(super) fn decode_write(
        &mut self,
        ram: &mut Ram,
        now: VirtualNs,
        port: u16,
        size: u8,
        value: u32,
    ) {
        if self.wide_write(ram, now, port, size, value) {
            return;
        }
        for n in 0..u16::from(size.min(4)) {
            self.byte_write(now, port.wrapping_add(n), (value >> (8 * n)) as u8);
        }
    }

    /// Devices with registers of more than a byte: PCI configuration, IDE data, BARs.
    #[inline]
    fn wide_read(&mut self, ram: &mut Ram, now: VirtualNs, port: u16, size: u8) -> Option<u32> {
        match port {
            0x170..=0x177 | 0x1F0..=0x1F7 => self.ide_read(port, size),
            0x376 | 0x3F6 => self.ide_status(port),
            0xCF8 if size == 4 => Some(self.pci.port_read(port, size)),
            0xCFC..=0xCFF => Some(self.pci.port_read(port, size)),
            _ => self.bar_read(ram, now, port, size),
        }
    }

    #[inline]
    fn wide_write(
        &mut self,
        ram: &mut Ram,
        now: VirtualNs,
        port: u16,
        size: u8,
        value: u32,
    ) -> bool {
        match port {
            0x170..=0x177 | 0x1F0..=0x1F7 => return self.ide_write(ram, port, size, value),
            0x376 | 0x3F6 => return self.ide_control(port, value),
            0xCF8 if size == 4 => self.pci_write(ram, now, port, size, value),
            0xCFC..=0xCFF => self.pci_write(ram, now, port, size, value),
            0xF4 => self.signal = Some(Signal::DebugExit(value)),
            _ => return self.bar_write(ram, now, port, (size, value)),
        }
        true
    }

    fn byte_read(&mut self, now: VirtualNs, port: u16) -> u8 {
        match port {
            0x20 | 0x21 => {
                self.sync_pit(now);
                self.pic.read(port)
            }
            0xA0 | 0xA1 | 0x4D0 | 0x4D1 => self.pic.read(port),
            0x40..=0x43 | 0x61 => self.pit.read(now, port),
            0x70..=0x73 => self.rtc.read(now, port),
            0x60 | 0x64 => {
                let value = self.i8042.read(port);
                self.load_i8042();
                value
            }
            0x00..=0x0F | 0x80..=0x8F | 0xC0..=0xDF => self.dma.read(port),
            0xB2 | 0xB3 => self.pm.read_apm(port),
            0x3B0..=0x3DF => self.vga.read(now, port),
            0x92 => self.port_92,
            // Bochs' debug console is recognised by this.
            0xE9 => 0xE9,
            0x2E8..=0x2EF | 0x2F8..=0x2FF | 0x3E8..=0x3EF | 0x3F8..=0x3FF => {
                self.uart(port).map_or(0xFF, |(_, uart)| uart.read(now, port))
            }
            0xCF9 => self.reset_control,
            _ => 0xFF,
        }
    }

    fn byte_write(&mut self, now: VirtualNs, port: u16, value: u8) {
        match port {
            0x20 | 0x21 | 0x4D0 => {
                self.sync_pit(now);
                self.pic.write(port, value);
            }
            0xA0 | 0xA1 | 0x4D1 => self.pic.write(port, value),
            0x40..=0x43 | 0x61 => {
                self.sync_pit(now);
                self.pit.write(now, port, value);
                self.sync_pit(now);
            }
            0x70..=0x73 => self.rtc.write(now, port, value),
            0x60 | 0x64 => {
                self.i8042.write(port, value);
                self.load_i8042();
            }
            0x00..=0x0F | 0x80..=0x8F | 0xC0..=0xDF => self.dma.write(port, value),
            0xB2 | 0xB3 => self.pm.write_apm(port, value),
            0x3B0..=0x3DF => self.vga.write(port, value),
            0x92 => {
                if value & !self.port_92 & PORT_92_INIT != 0 {
                    self.signal = Some(Signal::Init);
                }
                self.port_92 = value & (PORT_92_INIT | PORT_92_A20);
            }
            0xE9 => self.outputs.push_back(Output::Debug(value)),
            // Clears the latched FERR# and asserts IGNNE#.
            0xF0 => self.ferr = false,
            0x2E8..=0x2EF | 0x2F8..=0x2FF | 0x3E8..=0x3EF | 0x3F8..=0x3FF => {
                self.uart_write(now, port, value);
            }
            0xCF9 => {
                if value & !self.reset_control & CF9_RESET != 0 {
                    let hard = value & CF9_HARD != 0;
                    self.signal = Some(if hard { Signal::Reset } else { Signal::Init });
                }
                self.reset_control = value & (CF9_HARD | CF9_RESET);
            }
            _ => {}
        }
    }

    /// Lets the keyboard controller's next byte into its output buffer. The interrupt of the byte
    /// before falls first.
    fn load_i8042(&mut self) {
        self.wire_isa();
        self.i8042.load();
        if self.i8042.take_reset() {
            self.signal = Some(Signal::Reset);
        }
    }

    fn uart(&mut self, port: u16) -> Option<(u8, &mut Uart16550)> {
        let n = UART_PORTS.iter().position(|&base| base == port & !7)?;
        self.uarts.get_mut(n).map(|uart| (n as u8, uart))
    }

    fn uart_write(&mut self, now: VirtualNs, port: u16, value: u8) {
        let Some((n, uart)) = self.uart(port) else { return };
        uart.write(now, port, value);
        // The interrupt for an empty THR falls before it rises again.
        self.wire_isa();
        if let Some((_, uart)) = self.uart(port)
            && let Some(byte) = uart.finish_transmit(now)
        {
            self.console_output(n, byte);
        }
    }

    fn console_output(&mut self, port: u8, byte: u8) {
        if let Some(Output::ConsoleTx { port: last, bytes }) = self.outputs.back_mut()
            && *last == port
        {
            bytes.push(byte);
            return;
        }
        self.outputs.push_back(Output::ConsoleTx { port, bytes: alloc::vec![byte] });
    }
}
