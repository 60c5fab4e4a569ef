//! A machine on its way here.

use super::following::Arrived;
use crate::check;
use crate::handover::Handover;
use crate::transfer::DiskSize;
use crate::transfer::sink::Sink;
use backends::disk::sync::{SyncRequest, Synced};
use emulator::machine::Config;
use ft::message::Commit;

/// The receiving end of a transfer.
pub(super) struct Filling {
    sink: Option<Sink>,
    commit: Option<Commit>,
    failed: Option<String>,
}

impl Filling {
    pub(super) fn new(config: &Config, sizes: &[DiskSize]) -> Result<Self, String> {
        let sink = Sink::new(config, sizes).map_err(|e| e.to_string())?;
        Ok(Self { sink: Some(sink), commit: None, failed: None })
    }

    /// A piece has come.
    pub(super) fn install(&mut self, bytes: &[u8]) {
        if let Some(sink) = &mut self.sink
            && let Err(e) = sink.install(bytes)
        {
            self.fail(e.to_string());
        }
    }

    fn fail(&mut self, why: String) {
        self.sink = None;
        self.failed = Some(why);
    }

    /// Everything has been sent.
    pub(super) fn commit(&mut self, commit: Commit) {
        self.commit = Some(commit);
    }

    pub(super) fn disk_answer(&mut self, synced: Synced) {
        if let Some(sink) = &mut self.sink
            && let Err(e) = sink.disk_answer(synced)
        {
            self.fail(e.to_string());
        }
    }

    /// What the disks are to do.
    pub(super) fn disk_requests(&mut self) -> Vec<(u8, SyncRequest)> {
        let Some(sink) = &mut self.sink else { return Vec::new() };
        std::iter::from_fn(|| sink.disk_request()).collect()
    }

    /// What the other side is to be told.
    pub(super) fn payloads(&mut self) -> Vec<Vec<u8>> {
        let Some(sink) = &mut self.sink else { return Vec::new() };
        std::iter::from_fn(|| sink.poll()).collect()
    }

    /// The machine, when all of it is here; an error ends the transfer.
    pub(super) fn adopted(&mut self) -> Option<Result<Box<Arrived>, String>> {
        if let Some(why) = self.failed.take() {
            return Some(Err(why));
        }
        let commit = self.commit?;
        let sink = self.sink.take_if(|sink| sink.is_complete())?;
        Some(arrive(sink, commit))
    }
}

fn arrive(sink: Sink, commit: Commit) -> Result<Box<Arrived>, String> {
    let (mut machine, extra) = sink.finish().map_err(|e| e.to_string())?;
    let handover = Handover::decode(&extra).ok_or("the other side's state transfer is damaged")?;
    let whole = check::whole(&machine.digest());
    if whole != commit.digest || machine.icount().0 != commit.icount {
        return Err("the machine that was transferred is not the primary's".into());
    }
    Ok(Box::new(Arrived { machine, handover, commit }))
}
