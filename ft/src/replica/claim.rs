//! Asking the arbiter for an epoch, until it answers.
//!
//! Contract: one question at a time; an unreachable arbiter is asked again, for ever.

use super::Context;
use crate::event::{Action, Notice};
use crate::types::{Epoch, HostNs};

/// A question to the arbiter.
#[derive(Debug)]
pub(super) struct Claim {
    epoch: Epoch,
    /// When to ask again; `None`: an answer is awaited.
    again: Option<HostNs>,
    since: HostNs,
    told: bool,
}

impl Claim {
    /// Asks for the replica's present epoch.
    pub(super) fn ask(context: &mut Context) -> Self {
        context.act(Action::AskArbiter(context.epoch));
        Self { epoch: context.epoch, again: None, since: context.now, told: false }
    }

    /// Asks for the replica's present epoch in `wait` nanoseconds.
    pub(super) fn ask_after(context: &Context, wait: u64) -> Self {
        let again = Some(context.now.after(wait));
        Self { epoch: context.epoch, again, since: context.now, told: false }
    }

    /// Whether a verdict on `epoch` is an answer to this question.
    pub(super) fn answers(&self, epoch: Epoch) -> bool {
        self.again.is_none() && self.epoch == epoch
    }

    /// The arbiter did not answer.
    pub(super) fn unanswered(&mut self, context: &mut Context) {
        self.again = Some(context.now.after(context.config.arbiter_retry));
        if !core::mem::replace(&mut self.told, true) {
            context.tell(Notice::ArbiterSilent);
        }
    }

    /// Asks again if it is time.
    pub(super) fn tick(&mut self, context: &mut Context) {
        if self.again.is_some_and(|at| at <= context.now) {
            self.again = None;
            context.act(Action::AskArbiter(self.epoch));
        }
    }

    pub(super) fn deadline(&self) -> Option<HostNs> {
        self.again
    }

    /// When the question was put first.
    pub(super) fn since(&self) -> HostNs {
        self.since
    }
}
