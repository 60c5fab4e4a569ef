//! The whole system: start, main loop, power-off.

use crate::acpi::Acpi;
use crate::clock::Clock;
use crate::console::{Console, Request};
use crate::counter::Counter;
use crate::ide::Disk;
use crate::net::Net;
use crate::session::Sample;
use crate::status::{self, StatusScreen};
use crate::{cpu, interrupts, log, pic, serial};

/// How long connections may take to end before the machine goes off.
const SHUTDOWN_MICROS: u64 = 500_000;
const SCREEN_MICROS: u64 = 1_000_000;
/// How long the machine may take to go off, in timer interrupts.
const POWER_OFF_TICKS: u64 = 200;
/// The PIIX3's reset control register (datasheet 2.5.4).
const RESET_CONTROL: u16 = 0xCF9;
const HARD_RESET: u8 = 0x06;

/// What connections and the console work on.
pub struct Shared {
    /// The counter.
    pub counter: Counter,
    /// Values read at boot.
    pub boot: Sample,
    /// Time since the start.
    pub clock: Clock,
    /// Memory that the BIOS reported as usable.
    pub memory_mib: u64,
}

/// How the machine ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    PowerOff,
    Reboot,
}

/// Everything.
pub struct System {
    acpi: Acpi,
    net: Net,
    shared: Shared,
    console: Console,
    screen: StatusScreen,
    screen_due: u64,
    ending: Option<(Ending, u64)>,
}

impl System {
    /// Starts every driver and reads the counter.
    pub fn new(memory_mib: u64) -> Self {
        log!("version {} starting, {memory_mib} MiB of memory", env!("CARGO_PKG_VERSION"));
        let boot = Sample::take();
        log!("session {boot}");
        let acpi = Acpi::new();
        let clock = Clock::calibrate(acpi.timer_port());
        let counter = Counter::load(Disk::new());
        let net = Net::new(boot.seed(), clock.now());
        pic::unmask(pic::SERIAL_LINE);
        pic::unmask_level(acpi.sci_line());
        System {
            acpi,
            net,
            shared: Shared { counter, boot, clock, memory_mib },
            console: Console::new(),
            screen: StatusScreen::new(),
            screen_due: 0,
            ending: None,
        }
    }

    /// The main loop: does what there is to do, then halts until an interrupt.
    pub fn run(&mut self) -> ! {
        let mut has_more_work = false;
        loop {
            let serviced = self.service_interrupts();
            let now = self.shared.clock.now();
            if serviced || has_more_work || self.net.is_due(now) {
                has_more_work = self.net.run(&mut self.shared);
                self.shared.counter.store();
                self.console.print_answers(self.shared.counter.durable());
            }
            if now >= self.screen_due {
                self.screen.refresh(&mut self.net, &self.shared);
                self.screen_due = now + SCREEN_MICROS;
            }
            self.end_if_ready(now);
            if has_more_work {
                cpu::take_interrupts();
            } else {
                interrupts::wait();
            }
        }
    }

    /// Services the devices whose interrupts came; tells whether there were any.
    fn service_interrupts(&mut self) -> bool {
        let pending = interrupts::take_pending();
        for line in (0..16).filter(|line| pending & 1 << line != 0) {
            if line == pic::SERIAL_LINE {
                self.service_console();
            }
            if line == pic::IDE_LINE {
                self.shared.counter.on_disk_interrupt();
            }
            if line == self.net.card().line() {
                self.net.card().on_interrupt();
            }
            if line == self.acpi.sci_line() && self.acpi.take_power_button() {
                log!("power button");
                self.begin_ending(Ending::PowerOff);
            }
            pic::unmask(line);
        }
        pending != 0
    }

    fn service_console(&mut self) {
        let mut request = None;
        serial::service(|byte| {
            request = self.console.type_byte(byte, &mut self.shared).or(request);
        });
        match request {
            Some(Request::Status) => status::print(&mut self.net, &self.shared),
            Some(Request::PowerOff) => self.begin_ending(Ending::PowerOff),
            Some(Request::Reboot) => self.begin_ending(Ending::Reboot),
            None => {}
        }
    }

    fn begin_ending(&mut self, ending: Ending) {
        if self.ending.is_none() {
            self.net.shut_down();
            self.ending = Some((ending, self.shared.clock.now() + SHUTDOWN_MICROS));
        }
    }

    /// Ends when every number given out is stored and the connections are closed, or took too long
    /// to.
    fn end_if_ready(&mut self, now: u64) {
        let Some((ending, deadline)) = self.ending else {
            return;
        };
        let is_stored = self.shared.counter.assigned() == self.shared.counter.durable();
        if !is_stored || (self.net.open_connections() > 0 && now < deadline) {
            return;
        }
        match ending {
            Ending::PowerOff => {
                log!("power-off counter={}", self.shared.counter.durable());
                serial::drain();
                self.acpi.power_off();
                interrupts::wait_ticks(POWER_OFF_TICKS);
                panic!("the machine stays on");
            }
            Ending::Reboot => {
                log!("reboot counter={}", self.shared.counter.durable());
                serial::drain();
                cpu::out8(RESET_CONTROL, HARD_RESET);
                cpu::triple_fault();
            }
        }
    }
}
