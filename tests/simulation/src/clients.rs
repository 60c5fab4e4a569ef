//! Clients: each increments the machine's counter, one request after the other, and asks again
//! until it is answered.
//!
//! Contract: a client does not know where the machine lives; its frames reach every live replica,
//! or are lost.

use crate::machine::Input;
use crate::weather::MS;
use crate::world::{Due, World};

/// A client.
#[derive(Clone, Copy, Debug, Default)]
pub struct Client {
    /// Requests begun.
    pub request: u64,
    /// The last one waits for its answer.
    pub waits: bool,
    /// The last one that was begun before the weather cleared.
    pub before_clear: u64,
}

impl World {
    fn send_frame(&mut self, input: &Input) {
        if !self.rng.millionths(self.weather.client_loss) {
            let wait = MS / 5 + self.rng.below(3 * MS);
            self.after(wait, Due::Frame(input.encode()));
        }
    }

    /// A client asks, or asks again.
    pub(crate) fn client(&mut self, number: usize) {
        let client = &mut self.clients[number];
        if !client.waits {
            client.waits = true;
            client.request += 1;
            self.checker.asks(number as u8, self.clients[number].request);
        }
        let request = self.clients[number].request;
        self.send_frame(&Input::Request { client: number as u8, request });
        let wait = self.rng.range(60, 300) * MS;
        self.after(wait, Due::Client(number));
    }

    /// Somebody presses the power button.
    pub fn press_power_button(&mut self) {
        self.after(0, Due::Frame(Input::PowerButton.encode()));
    }

    /// A frame arrives at whoever is live.
    pub(crate) fn frame(&mut self, bytes: &[u8]) {
        for node in 0..self.nodes.len() {
            let Some(process) = self.nodes[node].process.as_mut() else { continue };
            if process.live.is_some() && process.inputs.len() < 32 {
                process.inputs.push_back(bytes.to_vec());
            }
        }
    }

    /// An output that is an answer leaves a replica.
    pub(crate) fn answer(&mut self, (client, request, value): (u8, u64, u64)) {
        for _ in 0..2 {
            if !self.rng.millionths(self.weather.client_loss) {
                let wait = MS / 5 + self.rng.below(3 * MS);
                self.after(wait, Due::Reply(client, request, value));
            }
            if !self.rng.one_in(20) {
                break;
            }
        }
    }

    /// An answer arrives at a client.
    pub(crate) fn reply(&mut self, client: u8, request: u64, value: u64) {
        let number = usize::from(client);
        if self.checker.answered(client, request, value) {
            self.clients[number].waits = false;
        }
    }
}
