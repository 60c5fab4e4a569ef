//! Frames over a stream socket with QEMU's framing: a big-endian `u32` length, then the frame.
//!
//! Contract: one peer at a time; a lost connection is made again (connect) or awaited (listen);
//! frames without a peer are dropped. A length over [`MAX_FRAME`] ends the connection.

use super::{MAX_FRAME, Network, Received};
use crate::socket::{Endpoint, Link, Stream};
use crate::threads::be_preferred;
use crate::wake::Post;
use std::io::{self, BufReader, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Frames that may wait for a slow peer before they are dropped.
const QUEUE: usize = 512;

type Peer = Arc<Mutex<Option<Arc<Stream>>>>;

/// The sending side.
pub struct StreamNetwork {
    frames: SyncSender<Vec<u8>>,
}

impl Network for StreamNetwork {
    fn send(&mut self, frame: &[u8]) {
        let mut message = Vec::with_capacity(4 + frame.len());
        message.extend_from_slice(&(frame.len() as u32).to_be_bytes());
        message.extend_from_slice(frame);
        if self.frames.try_send(message).is_err() {
            log::debug!("network: a frame is dropped: the peer is slow");
        }
    }
}

/// Opens the network of card `nic` at `endpoint`.
///
/// # Errors
/// The address cannot be bound or connected to.
pub fn open(nic: u8, endpoint: &Endpoint, post: Post<Received>) -> io::Result<StreamNetwork> {
    let link = Link::open(endpoint)?;
    let peer = Peer::default();
    let reading = peer.clone();
    let thread = |name: &str| std::thread::Builder::new().name(name.into()).stack_size(128 * 1024);
    thread("net receive").spawn(move || {
        be_preferred();
        receive(nic, &link, &reading, &post);
    })?;
    let (frames, queue) = sync_channel(QUEUE);
    thread("net send").spawn(move || {
        be_preferred();
        transmit(&queue, &peer);
    })?;
    Ok(StreamNetwork { frames })
}

fn receive(nic: u8, link: &Link, peer: &Peer, post: &Post<Received>) {
    loop {
        let stream = match link.next() {
            Ok(stream) => stream,
            Err(e) => return log::warn!("network {nic}: {e}"),
        };
        match stream.try_clone() {
            Ok(writing) => set(peer, Some(writing)),
            Err(e) => log::warn!("network {nic}: {e}"),
        }
        let mut input = BufReader::with_capacity(64 * 1024, &stream);
        loop {
            match read_frame(&mut input) {
                Ok(Some(frame)) => {
                    if post.send(Received { nic, frame }).is_err() {
                        return;
                    }
                }
                Ok(None) => break,
                Err(e) => {
                    log::warn!("network {nic}: the peer is cut off: {e}");
                    break;
                }
            }
        }
        set(peer, None);
        stream.shutdown();
    }
}

fn set(peer: &Peer, stream: Option<Stream>) {
    *peer.lock().unwrap_or_else(PoisonError::into_inner) = stream.map(Arc::new);
}

fn transmit(queue: &Receiver<Vec<u8>>, peer: &Peer) {
    for message in queue {
        let stream = peer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(stream) = stream
            && (&*stream).write_all(&message).is_err()
        {
            stream.shutdown();
        }
    }
}

/// Reads one frame; `None` at the end of the stream, between frames or inside one.
///
/// # Errors
/// A frame longer than any may be, or the host's failure.
fn read_frame(input: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut len = [0; 4];
    if !read_whole(input, &mut len)? {
        return Ok(None);
    }
    let len = u32::from_be_bytes(len) as usize;
    if len > MAX_FRAME {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it announced a frame of {len} bytes"),
        ));
    }
    let mut frame = vec![0; len];
    Ok(read_whole(input, &mut frame)?.then_some(frame))
}

fn read_whole(input: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match input.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wake::{Bell, mailbox};
    use std::os::unix::net::UnixStream;

    #[test]
    fn frames_go_both_ways_and_the_peer_may_come_again() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("lan");
        let (post, mail) = mailbox(4, Bell::new().waker());
        let endpoint = Endpoint::listen_unix(path.clone());
        let mut network = open(3, &endpoint, post).expect("listen");
        for round in 0..2u8 {
            let mut peer = UnixStream::connect(&path).expect("connect");
            peer.write_all(&[0, 0, 0, 2, 7, round, 0, 0, 0, 1, 9]).expect("write");
            let frame = vec![7, round];
            assert_eq!(mail.recv().expect("open"), Received { nic: 3, frame });
            assert_eq!(mail.recv().expect("open"), Received { nic: 3, frame: vec![9] });
            network.send(&[1, 2, 3]);
            let mut seen = [0; 7];
            peer.read_exact(&mut seen).expect("read");
            assert_eq!(seen, [0, 0, 0, 3, 1, 2, 3]);
        }
    }

    #[test]
    fn hostile_lengths_end_the_connection() {
        assert!(read_frame(&mut &[0xFF, 0xFF, 0xFF, 0xFF, 0][..]).is_err());
        assert!(read_frame(&mut &[0, 0, 0x40, 1][..]).is_err());
        assert_eq!(read_frame(&mut &[0, 0, 0, 4, 1][..]).expect("cut"), None);
        assert_eq!(read_frame(&mut &[0, 0][..]).expect("cut"), None);
        assert_eq!(read_frame(&mut &[0, 0, 0, 0][..]).expect("empty"), Some(vec![]));
    }
}
