//! The status: a screenful of facts, written to the VGA where it changed and to the serial port
//! when asked for.

use crate::net::Net;
use crate::system::Shared;
use crate::{memory, rtc, serial, vga};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use smoltcp::wire::EthernetAddress;

/// The text on the screen.
pub struct StatusScreen {
    shown: Vec<String>,
}

/// The rows of the status.
fn rows(net: &mut Net, shared: &Shared) -> Vec<String> {
    let uptime = shared.clock.now() / 1_000_000;
    let (received, sent) = net.card().frames();
    let link = if net.card().is_link_up() { "up" } else { "down" };
    let mac = EthernetAddress(net.card().mac());
    let address =
        net.address().map_or_else(|| String::from("none"), |address| format!("{address}"));
    let counter = &shared.counter;
    Vec::from([
        format!(" counter {}    TCP port 7777, HTTP port 80", env!("CARGO_PKG_VERSION")),
        String::new(),
        format!(" counter      {}", counter.durable()),
        format!(" disk writes  {}   disk of {} sectors", counter.writes(), counter.disk_sectors()),
        String::new(),
        format!(" address      {address}, {}", net.addressing()),
        format!(" card         {mac}, link {link}, {received} frames received, {sent} sent"),
        format!(" clients      {}", net.open_connections()),
        String::new(),
        format!(
            " uptime       {} d {:02}:{:02}:{:02}",
            uptime / 86400,
            uptime / 3600 % 24,
            uptime / 60 % 60,
            uptime % 60
        ),
        format!(" clock        {}", rtc::now()),
        format!(" at boot      {}", shared.boot),
        format!(" processor    {} MHz time-stamp counter", shared.clock.hz() / 1_000_000),
        format!(
            " memory       {} MiB, {} KiB of heap in use",
            shared.memory_mib,
            memory::heap_used() >> 10
        ),
    ])
}

impl StatusScreen {
    /// An empty screen.
    pub fn new() -> Self {
        StatusScreen { shown: Vec::new() }
    }

    /// Brings the screen up to date.
    pub fn refresh(&mut self, net: &mut Net, shared: &Shared) {
        let rows = rows(net, shared);
        for (index, row) in rows.iter().enumerate() {
            if self.shown.get(index) != Some(row) {
                let attribute = if index == 0 { vga::TITLE } else { vga::NORMAL };
                vga::write_row(index, attribute, row);
            }
        }
        self.shown = rows;
    }
}

/// Prints the status on the serial port.
pub fn print(net: &mut Net, shared: &Shared) {
    for row in rows(net, shared) {
        serial::write(row.as_bytes());
        serial::write(b"\r\n");
    }
}
