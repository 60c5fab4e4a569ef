//! The machine's end of the control socket.
//!
//! Contract: every connection has a small thread; at most `CONNECTIONS_MAX` at a time, and one
//! that says nothing for `IDLE` is closed. A line that is too long ends its connection; a line
//! that makes no sense is answered by an error. The driver answers each [`ControlRequest`] once,
//! when it comes to it; dropping it is an answer too.

use super::{LINE_MAX, Reply, Request};
use backends::socket::bind_unix;
use backends::wake::Post;
use rustix::net::Shutdown;
use std::fs::Permissions;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 16;
/// A connection that says nothing is closed after this long.
const IDLE: Duration = Duration::from_secs(60);
/// A client that does not take its answer is given up after this long.
const SLOW: Duration = Duration::from_secs(5);
/// Stack of the threads here.
const STACK: usize = 256 * 1024;
/// After the host could not accept a connection.
const BREATH: Duration = Duration::from_millis(100);

/// A request, and where its answer goes.
#[derive(Debug)]
pub struct ControlRequest {
    /// What is asked.
    pub request: Request,
    /// Who asks.
    pub respond: Respond,
}

/// Answers one request. Dropped without an answer it says that the machine has ended.
#[derive(Debug)]
pub struct Respond(SyncSender<Reply>);

impl Respond {
    /// Answers; never waits. Who has asked may be gone, which is no matter.
    pub fn answer(self, reply: Reply) {
        let _ = self.0.try_send(reply);
    }
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    listener: OwnedFd,
    stopped: Arc<AtomicBool>,
}

impl Server {
    /// Listens at `path`, in place of a socket that nobody listens on any more. Requests go to
    /// `post`.
    ///
    /// # Errors
    /// Somebody listens there, or the host refuses.
    pub fn open(path: &Path, post: Post<ControlRequest>) -> io::Result<Self> {
        let listener = bind_unix(path)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        let stopped = Arc::new(AtomicBool::new(false));
        let server = Self {
            path: path.into(),
            listener: listener.try_clone()?.into(),
            stopped: Arc::clone(&stopped),
        };
        let thread = std::thread::Builder::new().name("control".into()).stack_size(STACK);
        thread.spawn(move || listen(&listener, &stopped, &post))?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        let _ = rustix::net::shutdown(&self.listener, Shutdown::Both);
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Counts a connection for as long as it lives.
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(seats: &Arc<AtomicUsize>) -> Option<Self> {
        let seat = Self(Arc::clone(seats));
        // Dropping gives it back in either case.
        (seats.fetch_add(1, Ordering::Relaxed) < CONNECTIONS_MAX).then_some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn listen(listener: &UnixListener, stopped: &AtomicBool, post: &Post<ControlRequest>) {
    let seats = Arc::new(AtomicUsize::new(0));
    while !stopped.load(Ordering::Acquire) {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) => {
                if !stopped.load(Ordering::Acquire) {
                    log::warn!("control socket: {e}");
                    std::thread::sleep(BREATH);
                }
                continue;
            }
        };
        let Some(seat) = Seat::take(&seats) else { continue };
        let post = post.clone();
        let body = move || {
            if let Err(e) = talk(&stream, &post) {
                log::debug!("control socket: {e}");
            }
            drop(seat);
        };
        let thread = std::thread::Builder::new().name("control client".into()).stack_size(STACK);
        if let Err(e) = thread.spawn(body) {
            log::warn!("control socket: no thread: {e}");
        }
    }
}

/// Answers every line of one client.
fn talk(stream: &UnixStream, post: &Post<ControlRequest>) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(SLOW))?;
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut reader).take(LINE_MAX as u64).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        let whole = line.ends_with(b"\n") || read < LINE_MAX;
        let reply = match whole {
            true => reply(&line, post),
            false => Reply::error(format!("a line has at most {LINE_MAX} bytes")),
        };
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        (&*stream).write_all(&text)?;
        if !whole {
            return Ok(());
        }
    }
}

fn reply(line: &[u8], post: &Post<ControlRequest>) -> Reply {
    match serde_json::from_slice(line) {
        Ok(asked) => request(asked, post),
        Err(e) => Reply::error(e.to_string()),
    }
}

/// Asks the driver that reads `post`'s mailbox, and waits for its answer.
pub(super) fn request(request: Request, post: &Post<ControlRequest>) -> Reply {
    let patience = request.patience();
    let ended = || Reply::error("the machine has ended");
    let (sender, receiver) = sync_channel(1);
    if post.send(ControlRequest { request, respond: Respond(sender) }).is_err() {
        return ended();
    }
    match receiver.recv_timeout(patience) {
        Ok(reply) => reply,
        Err(RecvTimeoutError::Disconnected) => ended(),
        Err(RecvTimeoutError::Timeout) => Reply::error("the machine does not answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Keys, Status, ask};
    use super::*;
    use backends::wake::{Bell, mailbox};
    use proptest::prelude::*;

    /// A server whose machine answers everything.
    struct Answering {
        _folder: tempfile::TempDir,
        path: PathBuf,
        server: Server,
    }

    fn answering() -> Answering {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control");
        let (post, requests) = mailbox::<ControlRequest>(4, Bell::new().waker());
        let server = Server::open(&path, post).expect("listens");
        std::thread::spawn(move || {
            for ControlRequest { request, respond } in requests {
                match request {
                    Request::Status {} => respond.answer(Reply::Status(Box::new(status()))),
                    Request::Promote {} => respond.answer(Reply::error("no")),
                    // Forgotten.
                    Request::Detach {} => drop(respond),
                    _ => respond.answer(Reply::Done {}),
                }
            }
        });
        Answering { _folder: folder, path, server }
    }

    fn status() -> Status {
        Status { icount: u64::MAX, peer: Some("x".into()), ..Status::default() }
    }

    #[test]
    fn every_request_is_answered() {
        let server = answering();
        let say = |request| ask(&server.path, &request);
        assert_eq!(say(Request::Status {}), Ok(Reply::Status(Box::new(status()))));
        assert_eq!(say(Request::Promote {}), Ok(Reply::error("no")));
        assert_eq!(say(Request::Detach {}), Ok(Reply::error("the machine has ended")));
        let keys = Keys::parse("ctrl-alt-delete").expect("keys");
        for request in [
            Request::Powerdown {},
            Request::Reset {},
            Request::Pause {},
            Request::Resume {},
            Request::Snapshot { file: "/x y".into() },
            Request::Sendkey { keys },
        ] {
            assert_eq!(say(request), Ok(Reply::Done {}));
        }
    }

    #[test]
    fn the_socket_is_its_owners_and_goes_with_the_machine() {
        let Answering { _folder, path, server } = answering();
        let mode = path.metadata().expect("a socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(server);
        let error = ask(&path, &Request::Status {});
        assert_eq!(error, Err("there is no such socket".into()));
    }

    /// What is answered to `lines`, up to the end of the connection.
    fn raw(path: &Path, lines: &[u8]) -> String {
        let stream = UnixStream::connect(path).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        // A server that has had enough closes.
        let _ = (&stream).write_all(lines);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = (&stream).read_to_end(&mut answer);
        String::from_utf8(answer).expect("UTF-8")
    }

    #[test]
    fn lines_are_as_documented() {
        let server = answering();
        let check =
            |line: &str, answer: &str| assert_eq!(raw(&server.path, line.as_bytes()), answer);
        check(
            "{\"request\":\"reset\"}\n{\"request\":\"promote\"}\n",
            "{\"done\":{}}\n{\"error\":\"no\"}\n",
        );
        check("{\"request\":\"reset\"}", "{\"done\":{}}\n");
        let key = raw(&server.path, b"{\"request\":\"sendkey\",\"keys\":\"entr\"}\n");
        assert!(key.starts_with("{\"error\":\"there is no key 'entr'"), "{key}");
        assert!(raw(&server.path, b"{\"request\":\"fly\"}\n").contains("unknown variant"));
        assert!(raw(&server.path, b"{\"request\":\"reset\",\"x\":1}\n").contains("unknown field"));
        let deep = "[".repeat(LINE_MAX / 2);
        assert!(raw(&server.path, deep.as_bytes()).starts_with("{\"error\":"));
        let long = raw(&server.path, &[b' '; 2 * LINE_MAX]);
        assert!(long.is_empty() || long.contains("a line has at most"), "{long}");
    }

    #[test]
    fn many_connections_that_say_nothing_end_nothing() {
        let server = answering();
        let idle: Vec<_> =
            (0..50).map(|_| UnixStream::connect(&server.path).expect("connected")).collect();
        drop(idle);
        let start = std::time::Instant::now();
        while ask(&server.path, &Request::Reset {}) != Ok(Reply::Done {}) {
            assert!(start.elapsed() < Duration::from_secs(20), "the seats are not given back");
        }
    }

    proptest! {
        #[test]
        fn hostile_lines_are_answered_by_errors(line: Vec<u8>) {
            let (post, requests) = mailbox::<ControlRequest>(4, Bell::new().waker());
            drop(requests);
            prop_assert!(matches!(reply(&line, &post), Reply::Error(_)));
        }
    }
}
