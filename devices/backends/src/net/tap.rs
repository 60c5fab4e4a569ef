//! A TAP interface of Linux: the guest on the host's real network.
//!
//! Contract: frames carry no header (`IFF_NO_PI`); needs the right to open the interface, or one
//! made for this user (`ip tuntap add dev IF mode tap user USER`). One of the places where the
//! program talks to the kernel directly.

use super::{MAX_FRAME, Network, Received};
use crate::threads::be_preferred;
use crate::wake::Post;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

/// `TUNSETIFF`: `_IOW('T', 202, int)` (linux/if_tun.h).
const TUNSETIFF: rustix::ioctl::Opcode =
    rustix::ioctl::opcode::write::<core::ffi::c_int>(b'T', 202);
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
/// Longest name, without the NUL (`IFNAMSIZ` - 1).
const NAME_MAX: usize = 15;

/// `struct ifreq` with the flags of `union ifr_ifru`.
#[repr(C)]
#[derive(Clone, Copy)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// The sending side.
pub struct TapNetwork {
    device: Arc<File>,
}

impl Network for TapNetwork {
    fn send(&mut self, frame: &[u8]) {
        if let Err(e) = (&*self.device).write(frame) {
            log::debug!("tap: a frame is dropped: {e}");
        }
    }
}

/// Opens the TAP interface `name` as the network of card `nic`.
///
/// # Errors
/// A name that cannot be one, no right to the interface, or another user of it.
pub fn open(nic: u8, name: &str, post: Post<Received>) -> io::Result<TapNetwork> {
    let device = Arc::new(attach(name)?);
    let reading = device.clone();
    std::thread::Builder::new().name("tap".into()).stack_size(128 * 1024).spawn(move || {
        be_preferred();
        let mut buffer = vec![0; MAX_FRAME];
        loop {
            match (&*reading).read(&mut buffer) {
                Ok(n) => {
                    let frame = buffer[..n].to_vec();
                    if post.send(Received { nic, frame }).is_err() {
                        return;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // EIO while the interface is down.
                Err(e) if e.raw_os_error() == Some(5) => {
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
                Err(e) => return log::warn!("tap: {e}"),
            }
        }
    })?;
    Ok(TapNetwork { device })
}

fn attach(name: &str) -> io::Result<File> {
    if name.is_empty() || name.len() > NAME_MAX || name.contains(['/', '\0']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an interface name"));
    }
    let device = File::options().read(true).write(true).open("/dev/net/tun")?;
    let mut request = InterfaceRequest { name: [0; 16], flags: IFF_TAP | IFF_NO_PI, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    set_interface(&device, request)?;
    Ok(device)
}

#[allow(unsafe_code)]
fn set_interface(device: &File, request: InterfaceRequest) -> io::Result<()> {
    // SAFETY: TUNSETIFF reads and writes a `struct ifreq` (40 bytes on 64-bit Linux, as
    // `InterfaceRequest` is); the setter passes a pointer to one that lives through the call.
    unsafe {
        let setter = rustix::ioctl::Setter::<TUNSETIFF, InterfaceRequest>::new(request);
        rustix::ioctl::ioctl(device, setter)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wake::{Bell, mailbox};

    #[test]
    fn names_that_cannot_be_are_refused() {
        for name in ["", "a/b", "a-name-of-16-byte", "x\0"] {
            let (post, _mail) = mailbox(1, Bell::new().waker());
            let error = open(0, name, post).err().expect("refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
        assert_eq!(size_of::<InterfaceRequest>(), 40);
    }
}
