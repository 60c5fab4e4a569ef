//! The network card: Intel 82540EM with legacy descriptors and its legacy interrupt (8254x manual,
//! 317453-006).

use crate::dma::DmaArray;
use crate::{log, pci, pic};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

const VENDOR_DEVICE: u32 = 0x100E_8086;
const RX_DESCRIPTORS: usize = 128;
const TX_DESCRIPTORS: usize = 64;
/// As RCTL.BSIZE says, and enough for a frame of 1,518 bytes.
const BUFFER_BYTES: usize = 2048;
/// An Ethernet frame without its check sequence.
const MAX_FRAME_BYTES: usize = 1514;
/// Frames taken before the card gets their buffers back.
const RETURN_BATCH: usize = 16;

const CTRL: usize = 0x0000;
const STATUS: usize = 0x0008;
const EERD: usize = 0x0014;
const ICR: usize = 0x00C0;
const IMS: usize = 0x00D0;
const IMC: usize = 0x00D8;
const RCTL: usize = 0x0100;
const TCTL: usize = 0x0400;
const TIPG: usize = 0x0410;
const RDBAL: usize = 0x2800;
const RDBAH: usize = 0x2804;
const RDLEN: usize = 0x2808;
const RDH: usize = 0x2810;
const RDT: usize = 0x2818;
const TDBAL: usize = 0x3800;
const TDBAH: usize = 0x3804;
const TDLEN: usize = 0x3808;
const TDH: usize = 0x3810;
const TDT: usize = 0x3818;
const MTA: usize = 0x5200;
const MTA_REGISTERS: usize = 128;
const RAL0: usize = 0x5400;
const RAH0: usize = 0x5404;

const CTRL_ASDE: u32 = 1 << 5;
const CTRL_SLU: u32 = 1 << 6;
const CTRL_RST: u32 = 1 << 26;
const STATUS_LINK_UP: u32 = 1 << 1;
const EERD_START: u32 = 1;
const EERD_DONE: u32 = 1 << 4;
const RAH_ADDRESS_VALID: u32 = 1 << 31;
const RCTL_ENABLE: u32 = 1 << 1;
const RCTL_ACCEPT_BROADCAST: u32 = 1 << 15;
const RCTL_STRIP_CRC: u32 = 1 << 26;
const TCTL_ENABLE: u32 = 1 << 1;
const TCTL_PAD_SHORT: u32 = 1 << 3;
const TCTL_COLLISION_THRESHOLD: u32 = 0x0F << 4;
const TCTL_COLLISION_DISTANCE: u32 = 0x40 << 12;
/// The manual's value for copper (13.4.34).
const TIPG_COPPER: u32 = 10 | 8 << 10 | 6 << 20;

const INT_TX_DONE: u32 = 1;
const INT_LINK: u32 = 1 << 2;
const INT_RX_LOW: u32 = 1 << 4;
const INT_RX_OVERRUN: u32 = 1 << 6;
const INT_RX: u32 = 1 << 7;

const DESCRIPTOR_DONE: u64 = 1 << 32;
const RX_END_OF_PACKET: u64 = 1 << 33;
const RX_ERRORS: u64 = 0xFF << 40;
const TX_END_OF_PACKET: u64 = 1 << 24;
const TX_INSERT_FCS: u64 = 1 << 25;
const TX_REPORT_STATUS: u64 = 1 << 27;

/// The card's memory-mapped registers.
#[derive(Clone, Copy)]
struct Registers(*mut u8);

impl Registers {
    fn read(self, offset: usize) -> u32 {
        // SAFETY: `offset` is one of the constants above, all inside the 128 KiB of BAR 0.
        unsafe { self.0.add(offset).cast::<u32>().read_volatile() }
    }

    fn write(self, offset: usize, value: u32) {
        // SAFETY: as in `read`; the rings handed to the card are never freed.
        unsafe { self.0.add(offset).cast::<u32>().write_volatile(value) };
    }
}

/// A legacy descriptor: the buffer's address, then length, command or status, and errors.
#[derive(Clone, Copy)]
#[repr(C)]
struct Descriptor {
    address: u64,
    control: u64,
}

/// A ring of descriptors, each with a buffer of its own.
struct Ring {
    descriptors: DmaArray<Descriptor>,
    buffers: DmaArray<u8>,
    len: usize,
    next: usize,
}

impl Ring {
    fn new(len: usize) -> Self {
        let mut ring = Ring {
            descriptors: DmaArray::new(len, 4096),
            buffers: DmaArray::new(len * BUFFER_BYTES, 4096),
            len,
            next: 0,
        };
        for index in 0..len {
            ring.descriptors.write(index, Descriptor { address: ring.address(index), control: 0 });
        }
        ring
    }

    fn address(&self, index: usize) -> u64 {
        u64::from(self.buffers.physical()) + (index * BUFFER_BYTES) as u64
    }

    fn control(&self, index: usize) -> u64 {
        self.descriptors.read(index).control
    }

    fn set_control(&mut self, index: usize, control: u64) {
        let address = self.address(index);
        self.descriptors.write(index, Descriptor { address, control });
    }

    fn advance(&mut self) {
        self.next = (self.next + 1) % self.len;
    }
}

/// Frames from the card.
struct Receiver {
    registers: Registers,
    ring: Ring,
    unreturned: usize,
    inside_long_frame: bool,
    frames: u64,
}

/// Frames to the card.
struct Transmitter {
    registers: Registers,
    ring: Ring,
    /// The oldest descriptor that the card may still have.
    oldest: usize,
    waits_for_room: bool,
    frames: u64,
}

/// The card.
pub struct E1000 {
    registers: Registers,
    line: u8,
    mac: [u8; 6],
    receiver: Receiver,
    transmitter: Transmitter,
}

impl E1000 {
    /// Finds, resets and starts the card and opens its interrupt.
    pub fn new() -> Self {
        let function = pci::find(|function| function.id() == VENDOR_DEVICE)
            .expect("there must be an Intel 82540EM network card");
        function.enable(pci::COMMAND_MEMORY | pci::COMMAND_MASTER);
        let bar = function.bar(0);
        assert!(bar & 1 == 0 && bar >> 4 != 0, "the card's BAR 0 must be memory (it is {bar:#x})");
        let registers = Registers((bar & !0xF) as usize as *mut u8);
        reset(registers);
        let mac = read_mac(registers);
        let mut card = E1000 {
            registers,
            line: function.interrupt_line() & 15,
            mac,
            receiver: Receiver {
                registers,
                ring: Ring::new(RX_DESCRIPTORS),
                unreturned: 0,
                inside_long_frame: false,
                frames: 0,
            },
            transmitter: Transmitter {
                registers,
                ring: Ring::new(TX_DESCRIPTORS),
                oldest: 0,
                waits_for_room: false,
                frames: 0,
            },
        };
        card.start();
        card
    }

    fn start(&mut self) {
        let registers = self.registers;
        let [a, b, c, d, e, f] = self.mac;
        registers.write(RAL0, u32::from_le_bytes([a, b, c, d]));
        registers.write(RAH0, u32::from_le_bytes([e, f, 0, 0]) | RAH_ADDRESS_VALID);
        for index in 0..MTA_REGISTERS {
            registers.write(MTA + 4 * index, 0);
        }

        let descriptor_bytes = size_of::<Descriptor>();
        registers.write(RDBAL, self.receiver.ring.descriptors.physical());
        registers.write(RDBAH, 0);
        registers.write(RDLEN, (RX_DESCRIPTORS * descriptor_bytes) as u32);
        registers.write(RDH, 0);
        registers.write(RDT, RX_DESCRIPTORS as u32 - 1);
        registers.write(RCTL, RCTL_ENABLE | RCTL_ACCEPT_BROADCAST | RCTL_STRIP_CRC);

        registers.write(TDBAL, self.transmitter.ring.descriptors.physical());
        registers.write(TDBAH, 0);
        registers.write(TDLEN, (TX_DESCRIPTORS * descriptor_bytes) as u32);
        registers.write(TDH, 0);
        registers.write(TDT, 0);
        registers.write(TIPG, TIPG_COPPER);
        let collisions = TCTL_COLLISION_THRESHOLD | TCTL_COLLISION_DISTANCE;
        registers.write(TCTL, TCTL_ENABLE | TCTL_PAD_SHORT | collisions);

        registers.write(IMS, INT_LINK | INT_RX | INT_RX_LOW | INT_RX_OVERRUN);
        pic::unmask_level(self.line);
    }

    /// The card's address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// The card's interrupt line.
    pub fn line(&self) -> u8 {
        self.line
    }

    /// Whether the cable is in.
    pub fn is_link_up(&self) -> bool {
        self.registers.read(STATUS) & STATUS_LINK_UP != 0
    }

    /// Frames received and sent.
    pub fn frames(&self) -> (u64, u64) {
        (self.receiver.frames, self.transmitter.frames)
    }

    /// Answers the card's interrupt (reading ICR clears it) before the line is opened again.
    pub fn on_interrupt(&mut self) {
        let causes = self.registers.read(ICR);
        if causes & INT_LINK != 0 {
            log!("link {}", if self.is_link_up() { "up" } else { "down" });
        }
        if self.transmitter.waits_for_room && causes & INT_TX_DONE != 0 {
            self.transmitter.waits_for_room = false;
            self.registers.write(IMC, INT_TX_DONE);
        }
    }

    /// Gives all buffers whose frames were taken back to the card.
    pub fn return_buffers(&mut self) {
        self.receiver.return_buffers();
    }
}

fn reset(registers: Registers) {
    registers.write(IMC, u32::MAX);
    registers.write(CTRL, registers.read(CTRL) | CTRL_RST);
    for _ in 0..1_000_000 {
        if registers.read(CTRL) & CTRL_RST == 0 {
            break;
        }
    }
    registers.write(IMC, u32::MAX);
    registers.read(ICR);
    registers.write(CTRL, registers.read(CTRL) | CTRL_SLU | CTRL_ASDE);
}

/// The address in words 0 to 2 of the EEPROM.
fn read_mac(registers: Registers) -> [u8; 6] {
    let word = |address: u32| {
        registers.write(EERD, address << 8 | EERD_START);
        let value =
            (0..1_000_000).map(|_| registers.read(EERD)).find(|value| value & EERD_DONE != 0);
        ((value.expect("the card's EEPROM must answer") >> 16) as u16).to_le_bytes()
    };
    let [[a, b], [c, d], [e, f]] = [word(0), word(1), word(2)];
    [a, b, c, d, e, f]
}

impl Receiver {
    /// Whether a good frame is at `ring.next`; bad ones and parts of over-long ones are thrown away
    /// here.
    fn has_frame(&mut self) -> bool {
        loop {
            let control = self.ring.control(self.ring.next);
            if control & DESCRIPTOR_DONE == 0 {
                return false;
            }
            let is_last = control & RX_END_OF_PACKET != 0;
            if is_last && !self.inside_long_frame && control & RX_ERRORS == 0 {
                return true;
            }
            self.inside_long_frame = !is_last;
            self.release();
        }
    }

    /// Ends the use of the frame at `ring.next`.
    fn release(&mut self) {
        self.ring.set_control(self.ring.next, 0);
        self.ring.advance();
        self.unreturned += 1;
        if self.unreturned == RETURN_BATCH {
            self.return_buffers();
        }
    }

    fn return_buffers(&mut self) {
        if self.unreturned > 0 {
            let last = (self.ring.next + RX_DESCRIPTORS - 1) % RX_DESCRIPTORS;
            self.registers.write(RDT, last as u32);
            self.unreturned = 0;
        }
    }
}

impl Transmitter {
    /// Takes back sent descriptors and tells whether one is free; if none is, asks for an
    /// interrupt.
    fn has_room(&mut self) -> bool {
        while self.oldest != self.ring.next && self.ring.control(self.oldest) & DESCRIPTOR_DONE != 0
        {
            self.oldest = (self.oldest + 1) % TX_DESCRIPTORS;
        }
        // One descriptor stays free: TDT = TDH means an empty ring.
        let has_room = (self.ring.next + 1) % TX_DESCRIPTORS != self.oldest;
        if !has_room && !self.waits_for_room {
            self.waits_for_room = true;
            self.registers.write(IMS, INT_TX_DONE);
        }
        has_room
    }

    fn send(&mut self, len: usize) {
        let command = TX_END_OF_PACKET | TX_INSERT_FCS | TX_REPORT_STATUS;
        self.ring.set_control(self.ring.next, command | len as u64);
        self.ring.advance();
        self.frames += 1;
        self.registers.write(TDT, self.ring.next as u32);
    }
}

/// A received frame, for smoltcp.
pub struct RxToken<'a>(&'a mut Receiver);

/// Room for a frame to send, for smoltcp.
pub struct TxToken<'a>(&'a mut Transmitter);

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        let RxToken(receiver) = self;
        let index = receiver.ring.next;
        let len = (receiver.ring.control(index) as u16 as usize).min(BUFFER_BYTES);
        let result = f(receiver.ring.buffers.slice(index * BUFFER_BYTES, len));
        receiver.frames += 1;
        receiver.release();
        result
    }
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let TxToken(transmitter) = self;
        assert!(len <= MAX_FRAME_BYTES, "the stack keeps to the MTU");
        let start = transmitter.ring.next * BUFFER_BYTES;
        let result = f(transmitter.ring.buffers.slice_mut(start, len));
        transmitter.send(len);
        result
    }
}

impl phy::Device for E1000 {
    type RxToken<'a> = RxToken<'a>;
    type TxToken<'a> = TxToken<'a>;

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MAX_FRAME_BYTES;
        capabilities
    }

    fn receive(&mut self, _now: Instant) -> Option<(RxToken<'_>, TxToken<'_>)> {
        let ready = self.receiver.has_frame() && self.transmitter.has_room();
        ready.then_some((RxToken(&mut self.receiver), TxToken(&mut self.transmitter)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<TxToken<'_>> {
        self.transmitter.has_room().then_some(TxToken(&mut self.transmitter))
    }
}
