//! HTTP on port 80: a page with the counter, its plain number, and a way to count. One request a
//! connection.

use crate::outbox::Outbox;
use crate::session::Sample;
use crate::system::Shared;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

const MAX_HEAD_BYTES: usize = 4096;

/// One request.
pub struct HttpSession {
    head: Vec<u8>,
}

/// A response: status, media type, body.
struct Response {
    status: &'static str,
    media_type: &'static str,
    body: String,
}

impl Response {
    fn plain(status: &'static str, body: String) -> Self {
        Response { status, media_type: "text/plain", body }
    }

    fn error(status: &'static str) -> Self {
        Response::plain(status, format!("{status}\n"))
    }
}

impl HttpSession {
    /// A request that begins now.
    pub fn new() -> Self {
        HttpSession { head: Vec::new() }
    }

    /// Takes bytes of the request; answers into `outbox` when its head is complete. A body is not
    /// read.
    pub fn receive(&mut self, bytes: &[u8], outbox: &mut Outbox, shared: &mut Shared) -> usize {
        for byte in bytes {
            self.head.push(*byte);
            if self.head.ends_with(b"\r\n\r\n") || self.head.ends_with(b"\n\n") {
                self.respond(outbox, shared);
                break;
            }
            if self.head.len() == MAX_HEAD_BYTES {
                send(outbox, true, &Response::error("431 Request Header Fields Too Large"));
                break;
            }
        }
        bytes.len()
    }

    fn respond(&self, outbox: &mut Outbox, shared: &mut Shared) {
        let line = self.head.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let mut words = str::from_utf8(line).unwrap_or_default().split_ascii_whitespace();
        let (method, target, version) = (words.next(), words.next(), words.next());
        let (Some(method), Some(target), true) =
            (method, target, version.is_some_and(|version| version.starts_with("HTTP/1.")))
        else {
            return send(outbox, true, &Response::error("400 Bad Request"));
        };
        let path = target.split('?').next().unwrap_or_default();
        let response = match (method, path) {
            ("GET" | "HEAD", "/") => {
                outbox.promise(shared.counter.assigned());
                Response { status: "200 OK", media_type: "text/html", body: page(shared) }
            }
            ("GET" | "HEAD", "/counter") => {
                outbox.promise(shared.counter.assigned());
                Response::plain("200 OK", format!("{}\n", shared.counter.assigned()))
            }
            ("POST", "/incr") => {
                let number = shared.counter.increment();
                outbox.promise(number);
                Response::plain("200 OK", format!("{number}\n"))
            }
            (_, "/" | "/counter" | "/incr") => Response::error("405 Method Not Allowed"),
            _ => Response::error("404 Not Found"),
        };
        send(outbox, method != "HEAD", &response);
    }
}

fn send(outbox: &mut Outbox, with_body: bool, response: &Response) {
    let Response { status, media_type, body } = response;
    let len = body.len();
    let shown = if with_body { body } else { "" };
    write!(
        outbox,
        "HTTP/1.1 {status}\r\n\
         Content-Type: {media_type}; charset=utf-8\r\nContent-Length: {len}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{shown}"
    )
    .expect("an outbox takes all text");
    outbox.close();
}

fn page(shared: &Shared) -> String {
    let uptime = shared.clock.now() / 1_000_000;
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><title>counter</title></head><body>\n\
         <h1>{}</h1>\n\
         <button onclick=\"fetch('/incr',{{method:'POST'}}).then(()=>location.reload())\">INCR\
         </button>\n\
         <ul>\n<li>uptime: {uptime} s</li>\n<li>at boot: {}</li>\n<li>now: {}</li>\n</ul>\n\
         </body></html>\n",
        shared.counter.assigned(),
        shared.boot,
        Sample::take()
    )
}
