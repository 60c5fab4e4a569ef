//! The thread that serves a disk, so that the machine never waits for the host's storage.
//!
//! Contract: requests are carried out and answered in the order in which they were submitted; dropping or finishing
//! the worker carries out all of them first.

use super::{Disk, SECTOR};
use crate::wake::Post;
use devices::io::{DiskOperation, DiskResult};
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// A request of the machine, or its answer on the way back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Index of the disk.
    pub disk: u8,
    /// Number of the request.
    pub request: u64,
    /// How it ended.
    pub result: DiskResult,
}

/// Requests that may wait; the guest's controllers have a few outstanding at most.
const QUEUE: usize = 256;

/// The worker of one disk.
#[derive(Debug)]
pub struct DiskWorker {
    requests: Option<SyncSender<(u64, DiskOperation)>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl DiskWorker {
    /// Serves `disk`, the `index`-th of the machine; answers go to `post`.
    ///
    /// # Errors
    /// The host has no thread to spare.
    pub fn spawn(index: u8, disk: Box<dyn Disk>, post: Post<Completion>) -> io::Result<Self> {
        let (requests, queue) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name(format!("disk{index}"))
            .stack_size(256 * 1024)
            .spawn(move || serve(index, disk, &queue, &post))?;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    /// Queues a request; its answer is posted.
    pub fn submit(&self, request: u64, operation: DiskOperation) {
        let sender = self.requests.as_ref().expect("only finish takes it, with the worker");
        // The thread outlives the sender, so this fails only if it panicked, which finish reports.
        let _ = sender.send((request, operation));
    }

    /// Carries out what is queued, makes it durable and ends the thread.
    ///
    /// # Errors
    /// The last flush failed.
    pub fn finish(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        self.requests = None;
        match self.thread.take() {
            Some(thread) => {
                thread.join().unwrap_or_else(|_| Err(io::Error::other("the disk thread panicked")))
            }
            None => Ok(()),
        }
    }
}

impl Drop for DiskWorker {
    fn drop(&mut self) {
        if let Err(e) = self.end() {
            log::error!("disk: {e}");
        }
    }
}

fn serve(
    index: u8,
    mut disk: Box<dyn Disk>,
    queue: &Receiver<(u64, DiskOperation)>,
    post: &Post<Completion>,
) -> io::Result<()> {
    let mut dirty = false;
    while let Ok((request, operation)) = queue.recv() {
        match operation {
            DiskOperation::Write { .. } => dirty = true,
            DiskOperation::Flush => dirty = false,
            DiskOperation::Read { .. } => {}
        }
        let result = perform(&mut *disk, index, &operation);
        // Writes still queued must be carried out even when nobody waits for the answer.
        let _ = post.send(Completion { disk: index, request, result });
    }
    if dirty { disk.flush() } else { Ok(()) }
}

/// Carries out one operation; a failure of the host becomes a medium error of the guest.
pub fn perform(disk: &mut dyn Disk, index: u8, operation: &DiskOperation) -> DiskResult {
    let done = match operation {
        DiskOperation::Read { lba, sectors } => {
            let mut data = vec![0; *sectors as usize * SECTOR];
            match disk.read(*lba, &mut data) {
                Ok(()) => return DiskResult::Data(data),
                Err(e) => Err(e),
            }
        }
        DiskOperation::Write { lba, data } => disk.write(*lba, data),
        DiskOperation::Flush => disk.flush(),
    };
    match done {
        Ok(()) => DiskResult::Done,
        Err(e) => {
            log::warn!("disk {index}: {}: {e}", describe(operation));
            DiskResult::Failed
        }
    }
}

fn describe(operation: &DiskOperation) -> String {
    match operation {
        DiskOperation::Read { lba, sectors } => format!("read of {sectors} sectors at {lba}"),
        DiskOperation::Write { lba, data } => {
            format!("write of {} sectors at {lba}", data.len() / SECTOR)
        }
        DiskOperation::Flush => String::from("flush"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fault::FaultDisk;
    use super::super::memory::MemoryDisk;
    use super::*;
    use crate::wake::{Bell, mailbox};

    #[test]
    fn answers_in_order_and_reports_failures() {
        let mut disk = FaultDisk::new(MemoryDisk::new(vec![5; 8 * SECTOR]));
        disk.fail_reads(7..8);
        let bell = Bell::new();
        let (post, mail) = mailbox(16, bell.waker());
        let worker = DiskWorker::spawn(2, Box::new(disk), post).expect("thread");
        worker.submit(10, DiskOperation::Read { lba: 1, sectors: 1 });
        worker.submit(11, DiskOperation::Write { lba: 1, data: vec![6; SECTOR] });
        worker.submit(12, DiskOperation::Read { lba: 0, sectors: 2 });
        worker.submit(13, DiskOperation::Read { lba: 7, sectors: 1 });
        worker.submit(14, DiskOperation::Read { lba: 7, sectors: 2 });
        worker.submit(15, DiskOperation::Flush);
        worker.finish().expect("flush");
        let answers: Vec<Completion> = mail.try_iter().collect();
        let mixed = [vec![5; SECTOR], vec![6; SECTOR]].concat();
        let expected = [
            (10, DiskResult::Data(vec![5; SECTOR])),
            (11, DiskResult::Done),
            (12, DiskResult::Data(mixed)),
            (13, DiskResult::Failed),
            (14, DiskResult::Failed),
            (15, DiskResult::Done),
        ]
        .map(|(request, result)| Completion { disk: 2, request, result });
        assert_eq!(answers, expected);
    }

    #[test]
    fn finish_reports_a_flush_that_failed() {
        let mut disk = FaultDisk::new(MemoryDisk::new(vec![0; SECTOR]));
        disk.fail_flush(true);
        let (post, _mail) = mailbox(4, Bell::new().waker());
        let worker = DiskWorker::spawn(0, Box::new(disk), post).expect("thread");
        worker.submit(0, DiskOperation::Write { lba: 0, data: vec![1; SECTOR] });
        assert!(worker.finish().is_err());
    }
}
