//! The NBD protocol as a client speaks it: fixed newstyle negotiation, simple replies.
//!
//! After the NBD project's doc/proto.md. Contract: works on any stream of bytes; what the server
//! sends is bounded before it is kept, and a server that talks on and on is left after
//! [`MAX_REPLIES`].

use std::io::{self, Read, Write};

const MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
const REPLY_MAGIC: u64 = 0x0003_E889_0455_65A9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;

/// Handshake flags, the same for server and client.
const FIXED_NEWSTYLE: u16 = 1 << 0;
const NO_ZEROES: u16 = 1 << 1;

const OPT_EXPORT_NAME: u32 = 1;
const OPT_GO: u32 = 7;

const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
/// Replies from here on are errors.
const REP_ERROR: u32 = 1 << 31;
const REP_ERR_UNSUP: u32 = REP_ERROR + 1;

const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flags.
const HAS_FLAGS: u16 = 1 << 0;
const READ_ONLY: u16 = 1 << 1;
const SEND_FLUSH: u16 = 1 << 2;
const SEND_FUA: u16 = 1 << 3;

/// Flag of a write that is to be durable when it is answered.
const CMD_FLAG_FUA: u16 = 1 << 0;

/// Longest name of an export (doc/proto.md, "Values": strings).
pub(super) const MAX_NAME: usize = 4096;
/// Longest answer to an option that is kept.
const MAX_OPTION_REPLY: u32 = 64 * 1024;
/// Answers to one option.
const MAX_REPLIES: usize = 64;
/// Most bytes of one request, as every server takes them unless it says less.
const MAX_PAYLOAD: u32 = 32 << 20;
/// What this client sends at most: long requests of the guest go in pieces, each with its own time
/// limit.
const PIECE: u32 = 4 << 20;

/// What the server said of its export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Export {
    /// Bytes.
    pub size: u64,
    pub read_only: bool,
    pub flush: bool,
    pub fua: bool,
    /// Bytes of a request at most.
    pub piece: u32,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Read = 0,
    Write = 1,
    Disconnect = 2,
    Flush = 3,
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn u16_from(stream: &mut impl Read) -> io::Result<u16> {
    let mut bytes = [0; 2];
    stream.read_exact(&mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}

fn u32_from(stream: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

fn u64_from(stream: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

/// Negotiates until the export `name` is open.
///
/// # Errors
/// The stream's, `InvalidData` when the server speaks something else, `Other` when it refuses.
pub(super) fn negotiate<S: Read + Write>(stream: &mut S, name: &str) -> io::Result<Export> {
    assert!(name.len() <= MAX_NAME, "bounded when it was parsed");
    if u64_from(stream)? != MAGIC {
        return Err(bad("this is no NBD server"));
    }
    match u64_from(stream)? {
        OPTION_MAGIC => {}
        OLDSTYLE_MAGIC => return Err(bad("an old server: fixed newstyle negotiation is needed")),
        _ => return Err(bad("this is no NBD server")),
    }
    let offered = u16_from(stream)?;
    if offered & FIXED_NEWSTYLE == 0 {
        return Err(bad("an old server: fixed newstyle negotiation is needed"));
    }
    let taken = offered & (FIXED_NEWSTYLE | NO_ZEROES);
    stream.write_all(&u32::from(taken).to_be_bytes())?;
    match go(stream, name)? {
        Some(export) => Ok(export),
        None => export_name(stream, name, taken & NO_ZEROES != 0),
    }
}

fn send_option(stream: &mut impl Write, option: u32, data: &[u8]) -> io::Result<()> {
    let len = u32::try_from(data.len()).expect("a name and a few words");
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes.extend(data);
    stream.write_all(&bytes)
}

/// NBD_OPT_GO; `None` when the server does not know it.
fn go<S: Read + Write>(stream: &mut S, name: &str) -> io::Result<Option<Export>> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    // One request for information: asking for block sizes promises to keep to them.
    data.extend(1u16.to_be_bytes());
    data.extend(INFO_BLOCK_SIZE.to_be_bytes());
    send_option(stream, OPT_GO, &data)?;
    let mut export = None;
    let mut piece = PIECE;
    for _ in 0..MAX_REPLIES {
        if u64_from(stream)? != REPLY_MAGIC || u32_from(stream)? != OPT_GO {
            return Err(bad("not an answer to NBD_OPT_GO"));
        }
        let (kind, len) = (u32_from(stream)?, u32_from(stream)?);
        if len > MAX_OPTION_REPLY {
            return Err(bad("an answer to NBD_OPT_GO is too long"));
        }
        let mut data = vec![0; len as usize];
        stream.read_exact(&mut data)?;
        match kind {
            REP_ACK => {
                let (size, flags) =
                    export.ok_or_else(|| bad("the server does not say the size"))?;
                return Ok(Some(opened(size, flags, piece)));
            }
            REP_INFO => match info(&data)? {
                Info::Export(size, flags) => export = Some((size, flags)),
                Info::MaxPayload(max) => piece = piece.min(max),
                Info::Other => {}
            },
            REP_ERR_UNSUP => return Ok(None),
            REP_ERROR.. => return Err(refused(kind, &data)),
            // Not asked for, and nothing depends on it.
            _ => {}
        }
    }
    Err(bad("the server does not come to an end"))
}

enum Info {
    Export(u64, u16),
    MaxPayload(u32),
    Other,
}

fn info(mut data: &[u8]) -> io::Result<Info> {
    let short = |_| bad("a cut answer to NBD_OPT_GO");
    match u16_from(&mut data).map_err(short)? {
        INFO_EXPORT => {
            let size = u64_from(&mut data).map_err(short)?;
            Ok(Info::Export(size, u16_from(&mut data).map_err(short)?))
        }
        INFO_BLOCK_SIZE => {
            let min = u32_from(&mut data).map_err(short)?;
            let _preferred = u32_from(&mut data).map_err(short)?;
            let max = u32_from(&mut data).map_err(short)?;
            if min > 512 || min == 0 || 512 % min != 0 {
                let text = format!("the export has blocks of {min} bytes, the guest's have 512");
                return Err(io::Error::other(text));
            }
            // Whole sectors, and not less than one.
            Ok(Info::MaxPayload((max.min(MAX_PAYLOAD) / 512).max(1) * 512))
        }
        _ => Ok(Info::Other),
    }
}

fn opened(size: u64, flags: u16, piece: u32) -> Export {
    let has = |flag| flags & HAS_FLAGS != 0 && flags & flag != 0;
    Export {
        size,
        read_only: has(READ_ONLY),
        flush: has(SEND_FLUSH),
        fua: has(SEND_FUA),
        piece: piece.min(PIECE),
    }
}

/// NBD_OPT_EXPORT_NAME, of servers that know no better.
fn export_name<S: Read + Write>(stream: &mut S, name: &str, no_zeroes: bool) -> io::Result<Export> {
    send_option(stream, OPT_EXPORT_NAME, name.as_bytes())?;
    let size = u64_from(stream).map_err(|e| match e.kind() {
        // There is no other answer to a name that it does not know.
        io::ErrorKind::UnexpectedEof => io::Error::other("the server knows no such export"),
        _ => e,
    })?;
    let flags = u16_from(stream)?;
    if !no_zeroes {
        stream.read_exact(&mut [0; 124])?;
    }
    Ok(opened(size, flags, PIECE))
}

fn refused(kind: u32, text: &[u8]) -> io::Error {
    let what = match kind - REP_ERROR {
        2 => "it is not allowed",
        3 => "the request is invalid",
        4 => "the platform cannot do it",
        5 => "it wants TLS, which is not supported",
        6 => "it knows no such export",
        7 => "it is shutting down",
        8 => "it wants block sizes to be asked for",
        9 => "the request is too big",
        _ => "it refuses",
    };
    let text = String::from_utf8_lossy(text);
    let printable: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    if printable.is_empty() {
        io::Error::other(format!("the server says: {what}"))
    } else {
        io::Error::other(format!("the server says: {what} ({printable})"))
    }
}

/// Sends a request, with `data` if it is a write.
pub(super) fn send(
    stream: &mut impl Write,
    command: Command,
    fua: bool,
    cookie: u64,
    (offset, len): (u64, u32),
    data: &[u8],
) -> io::Result<()> {
    let mut header = [0; 28];
    header[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    header[4..6].copy_from_slice(&if fua { CMD_FLAG_FUA } else { 0 }.to_be_bytes());
    header[6..8].copy_from_slice(&(command as u16).to_be_bytes());
    header[8..16].copy_from_slice(&cookie.to_be_bytes());
    header[16..24].copy_from_slice(&offset.to_be_bytes());
    header[24..28].copy_from_slice(&len.to_be_bytes());
    stream.write_all(&header)?;
    stream.write_all(data)
}

/// The reply to the request with `cookie`: its error, 0 if it was carried out. Data of a read
/// follow then.
pub(super) fn reply(stream: &mut impl Read, cookie: u64) -> io::Result<u32> {
    if u32_from(stream)? != SIMPLE_REPLY_MAGIC {
        return Err(bad("not a reply of NBD"));
    }
    let error = u32_from(stream)?;
    if u64_from(stream)? != cookie {
        return Err(bad("a reply to a request that was not made"));
    }
    Ok(error)
}

/// What an error of a reply means (doc/proto.md, "Error values").
pub(super) fn refusal(error: u32) -> io::Error {
    match error {
        1 => io::Error::new(io::ErrorKind::PermissionDenied, "the server does not permit it"),
        5 => io::Error::other("the server reports an I/O error"),
        12 => io::Error::other("the server has no memory"),
        22 => io::Error::other("the server finds the request invalid"),
        28 => io::Error::new(io::ErrorKind::StorageFull, "the server has no space left"),
        75 => io::Error::other("the server finds the request too long"),
        95 => io::Error::other("the server does not support it"),
        108 => io::Error::other("the server is shutting down"),
        other => io::Error::other(format!("the server reports error {other}")),
    }
}
