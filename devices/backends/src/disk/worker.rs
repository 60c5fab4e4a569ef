//! The thread that serves a disk, so that the machine never waits for the host's storage.
//!
//! Contract: requests are carried out and answered in the order in which they were submitted;
//! dropping or finishing the worker carries out all of them first. What [`super::sync`] asks for
//! comes between them. Behind a fence, writes wait for its leave; those that will never have it are
//! not carried out and not answered.

use super::fence::Fence;
use super::sync::{Sync, SyncRequest, Synced};
use super::{Disk, SECTOR};
use crate::wake::Post;
use devices::io::{DiskOperation, DiskResult};
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
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

/// What the worker is told.
#[derive(Debug)]
enum Job {
    /// The guest's request and its number.
    Guest(u64, DiskOperation),
    /// Towards two equal copies.
    Sync(SyncRequest, Post<Synced>),
    /// The machine goes live.
    MakeWritable,
    /// Others have written.
    DropCache,
}

/// The worker of one disk.
#[derive(Debug)]
pub struct DiskWorker {
    requests: Option<SyncSender<Job>>,
    fence: Option<Fence>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl DiskWorker {
    /// Serves `disk`, the `index`-th of the machine; answers go to `post`.
    ///
    /// # Errors
    /// The host has no thread to spare.
    pub fn spawn(index: u8, disk: Box<dyn Disk>, post: Post<Completion>) -> io::Result<Self> {
        Self::spawn_behind(None, index, disk, post)
    }

    /// The same; writes need the leave of `fence`.
    ///
    /// # Errors
    /// The host has no thread to spare.
    pub fn spawn_behind(
        fence: Option<Fence>,
        index: u8,
        mut disk: Box<dyn Disk>,
        post: Post<Completion>,
    ) -> io::Result<Self> {
        let (requests, queue) = sync_channel(QUEUE);
        if let Some(fence) = &fence {
            disk.guard(fence);
        }
        let asked = fence.clone();
        let thread = std::thread::Builder::new()
            .name(format!("disk{index}"))
            .stack_size(256 * 1024)
            .spawn(move || serve(index, disk, asked.as_ref(), &queue, &post))?;
        Ok(Self { requests: Some(requests), fence, thread: Some(thread) })
    }

    /// Queues a request; its answer is posted.
    pub fn submit(&self, request: u64, operation: DiskOperation) {
        self.send(Job::Guest(request, operation));
    }

    /// Queues a request for [`super::sync`]; its answer is posted to `reply`, whose mailbox must
    /// have room for the answers of all that is asked for and not read: the guest's requests wait
    /// otherwise.
    pub fn synchronize(&self, request: SyncRequest, reply: &Post<Synced>) {
        self.send(Job::Sync(request, reply.clone()));
    }

    /// Lets the disk be written from here on, if it was opened for reading: see
    /// [`Disk::make_writable`]. Where that fails, each write after it fails as well.
    pub fn make_writable(&self) {
        self.send(Job::MakeWritable);
    }

    /// Has later reads come from where others have written: see [`Disk::drop_cache`].
    pub fn drop_cache(&self) {
        self.send(Job::DropCache);
    }

    fn send(&self, job: Job) {
        let sender = self.requests.as_ref().expect("only finish takes it, with the worker");
        // The thread outlives the sender, so this fails only if it panicked, which finish reports.
        let _ = sender.send(job);
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
        if let Some(fence) = &self.fence {
            fence.last();
        }
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
    fence: Option<&Fence>,
    queue: &Receiver<Job>,
    post: &Post<Completion>,
) -> io::Result<()> {
    let mut sync = Sync::new(index);
    let leave = || fence.map_or(Ok(()), Fence::wait);
    let mut dirty = false;
    let mut next = queue.recv().ok();
    while let Some(job) = next {
        match job {
            Job::Guest(request, operation) => {
                let read = matches!(operation, DiskOperation::Read { .. });
                if !read && let Err(e) = leave() {
                    log::info!("disk {index}: {}: {e}", describe(&operation));
                    next = next_job(queue, &mut sync, &mut *disk);
                    continue;
                }
                match operation {
                    DiskOperation::Write { .. } => dirty = true,
                    DiskOperation::Flush => dirty = false,
                    DiskOperation::Read { .. } => {}
                }
                sync.note(&operation, disk.sectors());
                let result = perform(&mut *disk, index, &operation);
                // Writes still queued must be carried out even when nobody waits for the answer.
                let _ = post.send(Completion { disk: index, request, result });
            }
            Job::Sync(request, reply) => sync.push(request, reply),
            Job::DropCache => disk.drop_cache(),
            Job::MakeWritable => {
                if let Err(e) = disk.make_writable() {
                    log::error!("disk {index} cannot be written: {e}");
                }
            }
        }
        next = next_job(queue, &mut sync, &mut *disk);
    }
    while !sync.is_idle() {
        sync.step(&mut *disk);
    }
    if (dirty || sync.is_unflushed()) && leave().is_ok() { disk.flush() } else { Ok(()) }
}

/// The next job; while there is none, steps of what `sync` has to do.
fn next_job(queue: &Receiver<Job>, sync: &mut Sync, disk: &mut dyn Disk) -> Option<Job> {
    while !sync.is_idle() {
        match queue.try_recv() {
            Ok(job) => return Some(job),
            Err(TryRecvError::Empty) => sync.step(disk),
            Err(TryRecvError::Disconnected) => return None,
        }
    }
    queue.recv().ok()
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
    use super::super::blocks::{BLOCK, BlockSet};
    use super::super::fault::FaultDisk;
    use super::super::memory::MemoryDisk;
    use super::super::sync::SyncAnswer;
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

    /// A disk that waits before each read until it is told to go on.
    struct Gated(MemoryDisk, std::sync::mpsc::Receiver<()>);

    impl Disk for Gated {
        fn sectors(&self) -> u64 {
            self.0.sectors()
        }
        fn read(&mut self, lba: u64, data: &mut [u8]) -> io::Result<()> {
            self.1.recv().map_err(io::Error::other)?;
            self.0.read(lba, data)
        }
        fn write(&mut self, lba: u64, data: &[u8]) -> io::Result<()> {
            self.0.write(lba, data)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_long_request_lets_the_guest_through() {
        const BLOCKS: usize = 64;
        let (go, gate) = std::sync::mpsc::channel();
        let disk = Gated(MemoryDisk::new(vec![1; BLOCKS * BLOCK]), gate);
        let (post, mail) = mailbox(16, Bell::new().waker());
        let (sync_post, sync_mail) = mailbox(64, Bell::new().waker());
        let worker = DiskWorker::spawn(0, Box::new(disk), post).expect("thread");
        worker.synchronize(SyncRequest::Hash { first: 0, blocks: 1000 }, &sync_post);
        worker.synchronize(SyncRequest::TakeDirty, &sync_post);
        // The first step has begun and waits at the gate; the guest's write comes after it.
        worker.submit(1, DiskOperation::Write { lba: 130, data: vec![2; SECTOR] });
        for _ in 0..4 {
            go.send(()).expect("the disk lives");
        }
        assert_eq!(mail.recv().expect("an answer").request, 1);
        (4..BLOCKS).for_each(|_| go.send(()).expect("the disk lives"));
        let mut hashes = Vec::new();
        let dirty = loop {
            match sync_mail.recv().expect("an answer").answer {
                SyncAnswer::Hashes { first, hashes: more, .. } => {
                    assert_eq!(first, hashes.len() as u64);
                    hashes.extend(more);
                }
                SyncAnswer::Dirty(blocks) => break blocks,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(dirty.iter().collect::<Vec<_>>(), [1]);
        let same = hashes.iter().filter(|&&hash| hash == hashes[0]).count();
        assert!(hashes.len() == BLOCKS && same >= BLOCKS - 1);
        drop(go);
        worker.finish().expect("nothing to flush fails");
    }

    #[test]
    fn blocks_are_read_written_and_marked() {
        let bell = Bell::new();
        let (post, _mail) = mailbox(16, bell.waker());
        let (sync_post, sync_mail) = mailbox(64, bell.waker());
        let mut disk = FaultDisk::new(MemoryDisk::new(vec![3; 2 * BLOCK + SECTOR]));
        disk.fail_writes(1..2);
        let worker = DiskWorker::spawn(5, Box::new(disk), post).expect("thread");
        worker.submit(1, DiskOperation::Write { lba: 255, data: vec![4; 2 * SECTOR] });
        worker.submit(2, DiskOperation::Write { lba: 0, data: vec![4; 2 * SECTOR] });
        let requests = [
            SyncRequest::TakeDirty,
            SyncRequest::Write(2, vec![9; SECTOR]),
            SyncRequest::Write(2, vec![9; 2 * SECTOR]),
            SyncRequest::Write(u64::MAX, vec![9; SECTOR]),
            SyncRequest::Read(2),
            SyncRequest::Read(3),
            SyncRequest::Flush,
            SyncRequest::TakeDirty,
        ];
        for request in requests {
            worker.synchronize(request, &sync_post);
        }
        worker.finish().expect("flush");
        let answers: Vec<Synced> = sync_mail.try_iter().collect();
        assert!(answers.iter().all(|synced| synced.disk == 5));
        let [a, b, c, d, e, f, g, h] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!(a.answer, SyncAnswer::Dirty(BlockSet::all(3)), "failed writes count");
        assert_eq!(b.answer, SyncAnswer::Written(2));
        assert!(matches!(c.answer, SyncAnswer::Failed(_)));
        assert!(matches!(d.answer, SyncAnswer::Failed(_)));
        assert_eq!(e.answer, SyncAnswer::Block(2, vec![9; SECTOR]));
        assert!(matches!(f.answer, SyncAnswer::Failed(_)));
        assert_eq!(g.answer, SyncAnswer::Flushed);
        assert_eq!(h.answer, SyncAnswer::Dirty(BlockSet::default()), "only the guest's");
    }

    #[test]
    fn a_write_that_comes_too_late_is_not_made() {
        use super::super::fence::Leave;
        let fence = Fence::new();
        let (post, mail) = mailbox(16, Bell::new().waker());
        let disk = Box::new(MemoryDisk::new(vec![0; 4 * SECTOR]));
        let worker = DiskWorker::spawn_behind(Some(fence.clone()), 0, disk, post).expect("thread");
        let write = |byte| DiskOperation::Write { lba: 1, data: vec![byte; SECTOR] };
        worker.submit(1, DiskOperation::Read { lba: 1, sectors: 1 });
        worker.submit(2, write(7));
        assert_eq!(mail.recv().expect("reads need no leave").request, 1);
        assert!(mail.recv_timeout(std::time::Duration::from_millis(20)).is_err(), "no leave yet");
        fence.alone_from(0);
        fence.set(Leave::Open);
        assert_eq!(mail.recv().expect("written").request, 2);
        fence.set(Leave::Closed);
        worker.submit(3, write(8));
        worker.submit(4, DiskOperation::Flush);
        worker.submit(5, DiskOperation::Read { lba: 1, sectors: 1 });
        worker.finish().expect("nothing is flushed");
        let left: Vec<Completion> = mail.try_iter().collect();
        let result = DiskResult::Data(vec![7; SECTOR]);
        assert_eq!(left, [Completion { disk: 0, request: 5, result }]);
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
