//! What the user asks of a live machine.
//!
//! Contract: what changes the machine is an input like any other.

use super::Live;
use crate::control::{ControlRequest, Joining, Reply, Request, Status};
use crate::guest::Guest;
use devices::io::{Input, PowerInput};
use ft::Event;
use std::path::Path;

impl<G: Guest> Live<'_, G> {
    /// Answers what has been asked.
    pub(super) fn attend_control(&mut self) {
        while let Ok(ControlRequest { request, respond }) = self.mail.requests.try_recv() {
            respond.answer(self.control(request));
        }
    }

    fn control(&mut self, request: Request) -> Reply {
        match request {
            Request::Status {} => return Reply::Status(Box::new(self.status())),
            Request::Promote {} => {
                let Some(pair) = &mut self.pair else {
                    return Reply::error("this machine has no pair");
                };
                if !pair.promote() {
                    return Reply::error("this side is live already");
                }
            }
            Request::Detach {} if self.pair.is_none() => {
                return Reply::error("this machine has no pair");
            }
            Request::Detach {} => self.tell_pair(Event::Detach),
            Request::Powerdown {} => self.inject(Input::Power(PowerInput::Button)),
            Request::Reset {} => self.inject(Input::Power(PowerInput::Reset)),
            Request::Pause {} => self.paused = true,
            Request::Resume {} => self.paused = false,
            Request::Snapshot { file } => return self.snapshot(&file),
            Request::Sendkey { keys } => self.inject(Input::Key(keys.codes().to_vec())),
        }
        Reply::Done {}
    }

    fn snapshot(&mut self, file: &Path) -> Reply {
        let Some(machine) = self.guest.machine() else {
            return Reply::error("this machine cannot be saved");
        };
        match crate::durable::replace(file, &machine.save()) {
            Ok(()) => Reply::Done {},
            Err(e) => Reply::error(format!("{}: {e}", file.display())),
        }
    }

    fn status(&mut self) -> Status {
        let mut status = self.pair.as_ref().map(|pair| pair.describe()).unwrap_or_default();
        status.icount = self.guest.icount().0;
        status.guest_ns = self.guest.now().0;
        status.paused = self.paused;
        status.slowed_ns = self.slowed;
        if let (Some(joining), Some(machine)) = (&self.joining, self.guest.machine()) {
            let progress = joining.progress(machine);
            let total_bytes = progress.sent + progress.remaining;
            status.joining = Some(Joining { done_bytes: progress.sent, total_bytes });
        }
        status
    }
}
