//! NBD against a small server of our own, which loses its cache and its connections, against
//! hostile bytes, and against qemu-nbd.

use super::super::contract;
use super::protocol::{Command, Export, negotiate, reply, send};
use super::*;
use proptest::prelude::*;
use std::net::{Shutdown, TcpListener};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

const PATIENCE: Patience = Patience {
    one: Duration::from_secs(10),
    total: Duration::from_secs(20),
    pause: Duration::from_millis(1),
};
/// For servers that never answer.
const HASTE: Patience = Patience {
    one: Duration::from_millis(30),
    total: Duration::from_millis(100),
    pause: Duration::from_millis(1),
};
const SIZE: usize = 64 * SECTOR;

/// What the server holds, and how it behaves.
struct Store {
    durable: Vec<u8>,
    cached: Vec<u8>,
    flags: u16,
    /// Knows NBD_OPT_GO, and says this of its block sizes.
    go: Option<[u32; 3]>,
    /// Requests until it hangs up without an answer, and loses its cache.
    until_crash: Option<usize>,
    /// The error of the next reply.
    error: u32,
    connections: usize,
    requests: Vec<(u16, u16, u64, u32)>,
}

struct Server {
    store: Arc<Mutex<Store>>,
    address: NbdAddress,
    closing: Arc<Mutex<bool>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start() -> Self {
        let store = Arc::new(Mutex::new(Store {
            durable: vec![0; SIZE],
            cached: vec![0; SIZE],
            flags: 0b1101,
            go: Some([1, 4096, 32 << 20]),
            until_crash: None,
            error: 0,
            connections: 0,
            requests: Vec::new(),
        }));
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = address(&listener, "disk");
        let closing = Arc::new(Mutex::new(false));
        let (shared, end) = (store.clone(), closing.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if *end.lock().expect("no panic") {
                    return;
                }
                let stream = stream.expect("a client");
                shared.lock().expect("no panic").connections += 1;
                // Its end is the client's, or the crash that the test wants.
                let _ = serve(&stream, &shared);
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
        Self { store, address, closing, thread: Some(thread) }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().expect("no panic")
    }

    fn open(&self) -> NbdDisk {
        NbdDisk::open(&self.address, Access::ReadWrite, PATIENCE).expect("open")
    }

    fn refused(&self, access: Access) -> String {
        NbdDisk::open(&self.address, access, PATIENCE).expect_err("must be refused").to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        *self.closing.lock().expect("no panic") = true;
        let _ = TcpStream::connect((self.address.host.as_str(), self.address.port));
        self.thread.take().expect("once").join().expect("the server");
    }
}

fn address(listener: &TcpListener, export: &str) -> NbdAddress {
    let port = listener.local_addr().expect("bound").port();
    NbdAddress { host: "127.0.0.1".into(), port, export: export.into() }
}

fn take<const N: usize>(mut stream: &TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).map(|()| bytes)
}

/// One connection; `Err` when it is over.
fn serve(mut stream: &TcpStream, store: &Mutex<Store>) -> io::Result<()> {
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
    take::<4>(stream)?;
    loop {
        let _magic = take::<8>(stream)?;
        let option = u32::from_be_bytes(take(stream)?);
        let mut data = vec![0; u32::from_be_bytes(take(stream)?) as usize];
        stream.read_exact(&mut data)?;
        let (go, flags) = store.lock().map(|s| (s.go, s.flags)).expect("no panic");
        let size = SIZE as u64;
        let answer = |kind: u32, data: &[u8]| {
            let mut bytes = 0x3E889045565A9u64.to_be_bytes().to_vec();
            for word in [option, kind, data.len() as u32] {
                bytes.extend(word.to_be_bytes());
            }
            bytes.extend(data);
            bytes
        };
        let export = [&size.to_be_bytes()[..], &flags.to_be_bytes()].concat();
        match (option, go) {
            (7, None) => stream.write_all(&answer(0x8000_0001, b"what is that?"))?,
            (7, Some(_)) if data[4..8] != *b"disk" => {
                stream.write_all(&answer(0x8000_0006, b"never heard of it\n"))?;
            }
            (7, Some(sizes)) => {
                stream.write_all(&answer(3, &[&[0, 0][..], &export].concat()))?;
                let sizes: Vec<u8> = sizes.iter().flat_map(|word| word.to_be_bytes()).collect();
                stream.write_all(&answer(3, &[&[0, 3][..], &sizes].concat()))?;
                stream.write_all(&answer(1, b""))?;
                break;
            }
            (1, _) if data == b"disk" => {
                stream.write_all(&export)?;
                break;
            }
            _ => return Ok(()),
        }
    }
    // The lock is held while a request is carried out, not while the next is waited for: the test
    // looks in between.
    while stream.peek(&mut [0])? > 0 {
        if !transmit(stream, &mut store.lock().expect("no panic"))? {
            break;
        }
    }
    Ok(())
}

/// Carries out one request; whether to stay for another.
fn transmit(mut stream: &TcpStream, store: &mut Store) -> io::Result<bool> {
    let header: [u8; 28] = take(stream)?;
    let short = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let cookie: [u8; 8] = header[8..16].try_into().expect("8 bytes");
    let offset = u64::from_be_bytes(header[16..24].try_into().expect("8 bytes"));
    let len = u32::from_be_bytes(header[24..28].try_into().expect("4 bytes"));
    let (flags, command) = (short(4), short(6));
    let place = offset as usize..offset as usize + len as usize;
    let mut data = vec![0; if command == 1 { len as usize } else { 0 }];
    stream.read_exact(&mut data)?;
    store.requests.push((command, flags, offset, len));
    if let Some(left) = &mut store.until_crash {
        if *left == 0 {
            store.until_crash = None;
            store.cached = store.durable.clone();
            return Ok(false);
        }
        *left -= 1;
    }
    let error = std::mem::take(&mut store.error);
    if error == 0 {
        match command {
            0 => data = store.cached[place].to_vec(),
            1 => {
                store.cached[place.clone()].copy_from_slice(&data);
                if flags & 1 == 1 {
                    store.durable[place].copy_from_slice(&data);
                }
            }
            3 => store.durable = store.cached.clone(),
            _ => return Ok(false),
        }
    }
    let mut bytes = 0x67446698u32.to_be_bytes().to_vec();
    bytes.extend(error.to_be_bytes());
    bytes.extend(cookie);
    if command == 0 && error == 0 {
        bytes.extend(data);
    }
    stream.write_all(&bytes).map(|()| true)
}

#[test]
fn fulfils_the_contract() {
    let server = Server::start();
    contract(&mut server.open());
    assert_eq!(server.store().durable[3 * SECTOR..][..3], [1, 32, 63]);
    // The same with the older way to an export.
    server.store().go = None;
    contract(&mut server.open());
    assert_eq!(server.store().connections, 2);
}

#[test]
fn requests_keep_to_the_servers_sizes_and_flags() {
    let server = Server::start();
    server.store().go = Some([512, 512, 1024]);
    let mut disk = server.open();
    disk.write(1, &[7; 5 * SECTOR]).expect("write");
    disk.write_through(0, &[8; SECTOR]).expect("durable");
    let requests = std::mem::take(&mut server.store().requests);
    assert_eq!(
        requests,
        [(1, 0, 512, 1024), (1, 0, 1536, 1024), (1, 0, 2560, 512), (1, 1, 0, 512)]
    );
    assert_eq!(server.store().durable[..SECTOR], [8; SECTOR]);
    drop(disk);
    // Without FUA a flush does it; without either nothing is cached.
    server.store().flags = 0b0101;
    server.open().write_through(2, &[9; SECTOR]).expect("durable");
    assert_eq!(server.store().durable[2 * SECTOR..][..SECTOR], [9; SECTOR]);
    server.store().flags = 0b0001;
    let mut disk = server.open();
    server.store().requests.clear();
    disk.write_through(2, &[1; SECTOR]).expect("written");
    disk.flush().expect("nothing to do");
    assert_eq!(server.store().requests, [(1, 0, 1024, 512)]);
}

#[test]
fn a_server_that_crashes_at_any_request_loses_nothing_that_was_flushed() {
    let script = |disk: &mut NbdDisk| {
        for n in 0..4u8 {
            disk.write(u64::from(n), &[n + 1; 2 * SECTOR]).expect("write");
        }
        let mut back = [0; SECTOR];
        disk.read(2, &mut back).expect("read");
        assert_eq!(back, [3; SECTOR], "its own writes, also those of an earlier connection");
        disk.flush().expect("flush");
        disk.write(9, &[9; SECTOR]).expect("write");
        disk.write_through(9, &[10; SECTOR]).expect("write through");
        disk.flush().expect("flush");
    };
    for crash in 0..9 {
        let server = Server::start();
        let mut disk = server.open();
        server.store().until_crash = Some(crash);
        script(&mut disk);
        let store = server.store();
        assert_eq!(store.connections, 2, "it crashed at request {crash}");
        for (sector, byte) in [(0, 1), (1, 2), (2, 3), (3, 4), (4, 4), (9, 10)] {
            let found = store.durable[sector * SECTOR];
            assert_eq!(found, byte, "sector {sector} after a crash at request {crash}");
        }
    }
}

#[test]
fn a_refusal_is_an_error_at_once_and_the_connection_stays() {
    let server = Server::start();
    let mut disk = server.open();
    let mut data = [0; SECTOR];
    for error in [1, 5, 12, 22, 28, 75, 95, 77_777] {
        server.store().error = error;
        assert!(disk.read(0, &mut data).is_err(), "{error}");
        server.store().error = error;
        assert!(disk.write(0, &data).is_err(), "{error}");
        disk.read(0, &mut data).expect("the next is served");
    }
    assert_eq!(server.store().connections, 1);
    // One that is shutting down is waited for.
    server.store().error = 108;
    disk.read(0, &mut data).expect("by the next connection");
    assert_eq!(server.store().connections, 2);
}

#[test]
fn what_is_no_disk_is_refused() {
    let server = Server::start();
    server.store().flags = 0b0111;
    assert!(server.refused(Access::ReadWrite).contains("read-only"));
    let mut disk = NbdDisk::open(&server.address, Access::ReadOnly, PATIENCE).expect("open");
    assert!(disk.make_writable().is_err(), "the server says no");
    server.store().flags = 0b1101;
    drop(disk);
    server.store().go = Some([4096, 4096, 4096]);
    assert!(server.refused(Access::ReadOnly).contains("blocks of 4096 bytes"));
    let mut elsewhere = server.address.clone();
    elsewhere.export = "disc".into();
    let e = NbdDisk::open(&elsewhere, Access::ReadOnly, PATIENCE).expect_err("unknown");
    assert!(e.to_string().contains("knows no such export (never heard of it)"), "{e}");
    server.store().go = None;
    let e = NbdDisk::open(&elsewhere, Access::ReadOnly, PATIENCE).expect_err("unknown");
    assert!(e.to_string().contains("knows no such export"), "{e}");
}

#[test]
fn a_reader_becomes_the_writer() {
    let server = Server::start();
    let mut disk = NbdDisk::open(&server.address, Access::ReadOnly, PATIENCE).expect("open");
    assert!(disk.write(0, &[1; SECTOR]).is_err(), "it only reads");
    disk.flush().expect("nothing to do");
    assert_eq!(server.store().requests, [], "nothing reached the server");
    disk.make_writable().expect("the server permits it");
    contract(&mut disk);
}

#[test]
fn a_server_that_stays_away_or_silent_fails_requests_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let e = NbdDisk::open(&address(&silent, "x"), Access::ReadOnly, HASTE).expect_err("silent");
    assert_eq!(e.kind(), io::ErrorKind::TimedOut);
    drop(silent);

    let server = Server::start();
    let mut disk = server.open();
    disk.patience = HASTE;
    disk.write(0, &[1; SECTOR]).expect("write");
    // The lock holds the server up, as a storage that hangs does.
    let store = server.store();
    let begin = Instant::now();
    let e = disk.flush().expect_err("no answer");
    assert!(begin.elapsed() < Duration::from_secs(20), "in time");
    assert!(e.to_string().starts_with("nbd://127.0.0.1:"), "{e}");
    drop(store);
    disk.patience = PATIENCE;
    disk.flush().expect("it is back");
    assert_eq!(server.store().durable[..SECTOR], [1; SECTOR]);
}

#[test]
fn the_export_must_stay_the_same() {
    let server = Server::start();
    let mut disk = server.open();
    disk.patience.total = Duration::from_millis(50);
    server.store().until_crash = Some(0);
    server.store().flags = 0b0101;
    let e = disk.read(0, &mut [0; SECTOR]).expect_err("not what was opened");
    assert!(e.to_string().contains("another export"), "{e}");
}

/// Gives the bytes of a hostile server, and swallows what is sent.
struct Scripted<'a>(&'a [u8]);

impl Read for Scripted<'_> {
    fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
        self.0.read(data)
    }
}

impl Write for Scripted<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn option_reply(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = 0x3E889045565A9u64.to_be_bytes().to_vec();
    for word in [7, kind, data.len() as u32] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(data);
    bytes
}

const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\0\x03";

#[test]
fn negotiation_is_bounded() {
    let refused = |bytes: &[u8]| {
        negotiate(&mut Scripted(bytes), "x").expect_err("must be refused").to_string()
    };
    assert!(refused(b"HTTP/1.1 400 Bad Request\r\n").contains("no NBD server"));
    assert!(refused(b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53").contains("old server"));
    assert!(refused(b"NBDMAGICIHAVEOPT\0\0").contains("old server"));
    let after = |replies: &[Vec<u8>]| refused(&[GREETING, &replies.concat()].concat());
    assert!(after(&vec![option_reply(2, b""); 100]).contains("come to an end"));
    assert!(after(&[option_reply(1, b"")]).contains("does not say the size"));
    assert!(after(&[option_reply(3, b"\0\0\x01")]).contains("cut answer"));
    assert!(after(&[option_reply(0x8000_0005, b"\x1B[2J no")]).contains("wants TLS"));
    let mut long = option_reply(3, b"");
    long[16..20].fill(0xFF);
    assert!(after(&[long]).contains("too long"));
}

proptest! {
    #[test]
    fn hostile_servers_do_no_harm(
        valid in 0usize..4,
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let info = [&[0; 2][..], &[0, 0, 0, 0, 0, 1, 0, 0, 0, 13]].concat();
        let start = [&b""[..], GREETING, &option_reply(3, &info), &option_reply(1, b"")];
        let script = [start[..=valid].concat(), bytes.clone()].concat();
        match negotiate(&mut Scripted(&script), "x") {
            Ok(export) => {
                prop_assert!(valid == 3 || !bytes.is_empty());
                prop_assert!(export.piece >= 512 && export.piece <= 4 << 20);
            }
            Err(e) => prop_assert!(valid < 3, "{}", e),
        }
        let answered = reply(&mut Scripted(&bytes), 1);
        let right = bytes.len() >= 16
            && bytes[..4] == 0x67446698u32.to_be_bytes()
            && bytes[8..16] == 1u64.to_be_bytes();
        prop_assert_eq!(answered.is_ok(), right);
    }
}

#[test]
fn what_is_sent_is_what_the_protocol_says() {
    let mut bytes = Vec::new();
    send(&mut bytes, Command::Write, true, 0x0102, (0x0A00, 3), b"abc").expect("into memory");
    let expected =
        b"\x25\x60\x95\x13\0\x01\0\x01\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\x0A\0\0\0\0\x03abc";
    assert_eq!(bytes, expected);
    let info = [&[0; 2][..], &[0, 0, 0, 0, 0, 1, 0, 0, 0, 13]].concat();
    let sizes = b"\0\x03\0\0\0\x01\0\0\x10\0\0\0\x05\x01";
    let script =
        [GREETING, &option_reply(3, &info), &option_reply(3, sizes), &option_reply(1, b"")];
    let export = negotiate(&mut Scripted(&script.concat()), "x").expect("a good server");
    let expected = Export { size: 65536, read_only: false, flush: true, fua: true, piece: 1024 };
    assert_eq!(export, expected, "1,281 bytes are two sectors");
}

/// A qemu-nbd that is killed when the test ends; `None` when it is not installed.
struct QemuNbd(Child);

impl Drop for QemuNbd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl QemuNbd {
    fn start(image: &std::path::Path, port: u16) -> Self {
        let child = std::process::Command::new("qemu-nbd")
            .args(["--format=raw", "--bind=127.0.0.1", "--persistent", "--shared=2"])
            .args([&format!("--port={port}"), "--export-name=guest disk"])
            .arg(image)
            .stdin(Stdio::null())
            .spawn()
            .expect("it is installed");
        Self(child)
    }
}

#[test]
fn qemu_nbd() {
    let version = std::process::Command::new("qemu-nbd").arg("--version").output();
    if !version.is_ok_and(|done| done.status.success()) {
        let required = std::env::var_os("FTEMU_GUESTS_REQUIRED").is_some();
        assert!(!required, "qemu-nbd is not installed (Debian: qemu-utils)");
        eprintln!("qemu_nbd: left out, it is not installed (Debian: qemu-utils)");
        return;
    }
    let image = tempfile::NamedTempFile::new().expect("a temporary file");
    image.as_file().set_len(16 << 20).expect("16 MiB");
    let free = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = free.local_addr().expect("bound").port();
    drop(free);
    let mut server = QemuNbd::start(image.path(), port);
    let address: NbdAddress =
        format!("nbd://127.0.0.1:{port}/guest%20disk").parse().expect("an address");
    let begin = Instant::now();
    let mut disk = loop {
        match NbdDisk::open(&address, Access::ReadWrite, PATIENCE) {
            Ok(disk) => break disk,
            Err(e) => assert!(begin.elapsed() < Duration::from_secs(30), "{e}"),
        }
        assert!(matches!(server.0.try_wait(), Ok(None)), "qemu-nbd ended");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(disk.sectors(), (16 << 20) / SECTOR as u64);
    assert!(disk.export.flush && disk.export.fua, "{:?}", disk.export);
    contract(&mut disk);
    // Long requests go in pieces.
    let long: Vec<u8> = (0..9 << 20).map(|i: u32| (i / 512 % 251) as u8).collect();
    disk.write(100, &long).expect("write");
    let mut back = vec![0; long.len()];
    disk.read(100, &mut back).expect("read");
    assert!(back == long);
    disk.write_through(0, &[0xAA; SECTOR]).expect("durable");
    disk.write(1, &[0xBB; SECTOR]).expect("not yet durable");

    // It is killed and started again under the guest.
    drop(server);
    let restarted = QemuNbd::start(image.path(), port);
    disk.write(2, &[0xCC; SECTOR]).expect("it comes back in time");
    disk.flush().expect("flush");
    let mut other = address.clone();
    other.export = "other".into();
    let e = NbdDisk::open(&other, Access::ReadOnly, PATIENCE).expect_err("no such export");
    assert!(e.to_string().contains("knows no such export"), "{e}");
    drop(disk);
    drop(restarted);
    let bytes = std::fs::read(image.path()).expect("read");
    assert_eq!([bytes[0], bytes[SECTOR], bytes[2 * SECTOR]], [0xAA, 0xBB, 0xCC]);
    assert!(bytes[100 * SECTOR..][..long.len()] == long[..]);
}
