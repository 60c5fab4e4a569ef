//! The board's state by chip, for digests that name what differs.

use super::Board;
use alloc::vec::Vec;
use serde::Serialize;

impl Board {
    /// Calls `each` with the name and the serialized state of every chip, in a fixed order. What
    /// waits to leave the machine ([`Board::poll_output`]) is not state: it depends on when the
    /// driver drains it.
    pub fn sections(&self, each: &mut dyn FnMut(&'static str, &[u8])) {
        let mut section = Sections { each, buffer: Vec::new() };
        section.add("pic", &self.pic);
        section.add("pit", &self.pit);
        section.add("rtc", &self.rtc);
        section.add("uart", &self.uarts);
        section.add("lapic", &self.lapic);
        section.add("ioapic", &self.ioapic);
        section.add("i8042", &self.i8042);
        section.add("dma", &self.dma);
        section.add("pm", &self.pm);
        section.add("vga", &self.vga);
        section.add("pci", &self.pci);
        section.add("ide", &self.ide);
        section.add("nic", &self.nics);
        let wires = (&self.isa, self.ferr, self.port_92, self.reset_control);
        section.add("wires", &(wires, self.signal, self.intr, self.deadline));
    }
}

struct Sections<'a> {
    each: &'a mut dyn FnMut(&'static str, &[u8]),
    buffer: Vec<u8>,
}

impl Sections<'_> {
    fn add<T: Serialize>(&mut self, name: &'static str, chip: &T) {
        self.buffer.clear();
        rmp_serde::encode::write(&mut self.buffer, chip)
            .expect("chips have no maps or strings and a vector takes any number of bytes");
        (self.each)(name, &self.buffer);
    }
}
