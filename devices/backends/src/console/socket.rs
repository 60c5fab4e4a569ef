//! A serial port on a TCP or Unix socket.
//!
//! Contract: one peer at a time; a lost connection is made again (connect) or awaited (listen);
//! output without a peer is dropped, as on a serial line with nothing plugged in, and what a peer
//! does not read is dropped, too, when much of it waits: no peer makes the machine stand still.

use super::{Console, ConsoleEvent, Full, Writer};
use crate::socket::{Endpoint, Link, Stream};
use crate::wake::Post;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// Opens the console of `port` at `endpoint`; `wait`: returns only when a peer is there.
///
/// # Errors
/// The address cannot be bound or connected to.
pub fn open(
    port: u8,
    endpoint: &Endpoint,
    wait: bool,
    post: Post<ConsoleEvent>,
) -> io::Result<Console> {
    let link = Link::open(endpoint)?;
    let peer = Peer::default();
    let first = if wait { Some(link.next()?) } else { None };
    if let Some(stream) = &first {
        peer.set(stream.try_clone()?);
    }
    let reader = peer.clone();
    std::thread::Builder::new()
        .name("serial socket".into())
        .stack_size(128 * 1024)
        .spawn(move || serve(port, &link, first, &reader, &post))?;
    let name = format!("serial port {port}");
    Ok(Console::Writer(Writer::spawn(&name, peer, Full::Drop)?))
}

/// The peer of the moment, to write to.
#[derive(Clone, Default)]
struct Peer(Arc<Mutex<Option<Arc<Stream>>>>);

impl Peer {
    fn set(&self, stream: Stream) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(stream));
    }

    fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn get(&self) -> Option<Arc<Stream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(stream) = self.get()
            && (&*stream).write_all(bytes).is_err()
        {
            self.clear();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn serve(port: u8, link: &Link, mut first: Option<Stream>, peer: &Peer, post: &Post<ConsoleEvent>) {
    loop {
        let stream = match first.take().map_or_else(|| link.next(), Ok) {
            Ok(stream) => stream,
            Err(e) => return log::warn!("serial port {port}: {e}"),
        };
        match stream.try_clone() {
            Ok(writing) => peer.set(writing),
            Err(e) => log::warn!("serial port {port}: {e}"),
        }
        let mut buffer = [0; 4096];
        loop {
            match (&stream).read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(n) => {
                    let bytes = buffer[..n].to_vec();
                    if post.send(ConsoleEvent::Bytes { port, bytes }).is_err() {
                        return;
                    }
                }
            }
        }
        peer.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::ROOM;
    use crate::wake::{Bell, mailbox};
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_go_both_ways_and_a_second_peer_may_follow() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("serial");
        let bell = Bell::new();
        let (post, mail) = mailbox(4, bell.waker());
        let endpoint = Endpoint::listen_unix(path.clone());
        let mut console = open(1, &endpoint, false, post).expect("listen");
        for _ in 0..2 {
            let mut peer = UnixStream::connect(&path).expect("connect");
            peer.write_all(b"typed").expect("write");
            let event = mail.recv().expect("open");
            assert_eq!(event, ConsoleEvent::Bytes { port: 1, bytes: b"typed".to_vec() });
            console.write(b"shown");
            let mut shown = [0; 5];
            peer.read_exact(&mut shown).expect("read");
            assert_eq!(&shown, b"shown");
        }
    }

    /// If the sender had to wait for its peer this would not end.
    #[test]
    fn a_peer_that_never_reads_loses_output_and_still_types() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("serial");
        let bell = Bell::new();
        let (post, mail) = mailbox(4, bell.waker());
        let endpoint = Endpoint::listen_unix(path.clone());
        let mut console = open(0, &endpoint, false, post).expect("listen");
        let mut peer = UnixStream::connect(&path).expect("connect");
        peer.write_all(b"a").expect("write");
        assert!(mail.recv().is_ok(), "it is connected");
        for _ in 0..8 * ROOM / 4096 {
            console.write(&[b'x'; 4096]);
        }
        peer.write_all(b"b").expect("write");
        let event = mail.recv().expect("open");
        assert_eq!(event, ConsoleEvent::Bytes { port: 0, bytes: b"b".to_vec() });
        // What was kept is read after all.
        let mut kept = vec![0; ROOM - 4096];
        peer.read_exact(&mut kept).expect("read");
        assert!(kept.iter().all(|byte| *byte == b'x'));
    }
}
