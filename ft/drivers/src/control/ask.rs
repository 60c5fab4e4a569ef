//! Asking a running machine over its control socket.

use super::{LINE_MAX, Reply, Request};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The machine has this much longer than its own patience.
const MARGIN: Duration = Duration::from_secs(2);

/// Asks the machine whose control socket is at `path`; [`Reply::Error`] is an `Ok` here.
///
/// # Errors
/// The line for the user, without the path: nobody listens there, or the answer does not come or
/// makes no sense.
pub fn ask(path: &Path, request: &Request) -> Result<Reply, String> {
    exchange(path, request).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => "there is no such socket".into(),
        io::ErrorKind::ConnectionRefused => "no machine listens there any more".into(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "the machine does not answer".into(),
        _ => e.to_string(),
    })
}

fn exchange(path: &Path, request: &Request) -> io::Result<Reply> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(request.patience() + MARGIN))?;
    stream.set_write_timeout(Some(request.patience()))?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    (&stream).write_all(line.as_bytes())?;
    line.clear();
    BufReader::new(stream.take(LINE_MAX as u64)).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::Error::other("the machine has ended without an answer"));
    }
    serde_json::from_str(&line).map_err(|_| io::Error::other("what answers is no ftemu"))
}
