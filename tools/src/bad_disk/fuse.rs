//! A FUSE file system of one file, spoken to the kernel directly: what a failing disk is made of.
//!
//! The protocol is that of Linux's `include/uapi/linux/fuse.h`, version 7.31: requests and replies in the machine's
//! byte order, a header before each. Only what a loop device asks for is answered; everything else is `ENOSYS`.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes one request may write.
const MAX_WRITE: usize = 128 << 10;
/// The node of the file; that of the folder is 1.
const NODE: u64 = 2;
/// The file's name.
pub(super) const NAME: &str = "disk";

const NOENT: i32 = 2;
const IO: i32 = 5;
const NOSYS: i32 = 38;

/// How the disk behaves at present.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Bytes a second it takes; 0 means as many as come.
    pub(super) wbps: AtomicU64,
    /// Bytes a second it gives.
    pub(super) rbps: AtomicU64,
    /// Writing and syncing fails.
    pub(super) weio: AtomicBool,
    /// Reading fails.
    pub(super) reio: AtomicBool,
    /// Nothing is answered.
    pub(super) hang: AtomicBool,
}

/// Number `at` bytes into the request.
fn u32_at(request: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(request[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(request: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(request[at..at + 8].try_into().expect("eight bytes"))
}

/// A reply is written as numbers, one after the other.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn u16(mut self, n: u16) -> Self {
        self.0.extend(n.to_ne_bytes());
        self
    }

    fn u32(mut self, n: u32) -> Self {
        self.0.extend(n.to_ne_bytes());
        self
    }

    fn u64(mut self, n: u64) -> Self {
        self.0.extend(n.to_ne_bytes());
        self
    }

    fn zeros(mut self, bytes: usize) -> Self {
        self.0.resize(self.0.len() + bytes, 0);
        self
    }

    /// `struct fuse_attr`.
    fn attr(self, node: u64, size: u64) -> Self {
        let (size, mode) = if node == NODE { (size, 0o100_600) } else { (0, 0o040_700) };
        // Number, size, blocks, three times; the parts of their seconds; mode, links, owner, group, device, block.
        self.u64(node).u64(size).u64(size / 512).zeros(24).zeros(12).u32(mode).u32(1).zeros(12).u32(4096).zeros(4)
    }
}

/// The disk: bytes in memory, and the time until which it is busy.
pub(super) struct Disk {
    data: Vec<u8>,
    faults: Arc<Faults>,
    busy: Instant,
}

impl Disk {
    pub(super) fn new(size: usize, faults: Arc<Faults>) -> Self {
        Self { data: vec![0; size], faults, busy: Instant::now() }
    }

    /// Answers the kernel until the file system is taken off.
    pub(super) fn serve(mut self, mut kernel: &File) {
        let mut request = vec![0; MAX_WRITE + 4096];
        while let Ok(n) = kernel.read(&mut request) {
            if let Some(reply) = self.answer(&request[..n]) {
                // One whose asker has gone is refused, which is as well.
                let _ = kernel.write_all(&reply);
            }
        }
    }

    /// The whole reply, header and all; some requests have none.
    fn answer(&mut self, request: &[u8]) -> Option<Vec<u8>> {
        let (opcode, unique, node) = (u32_at(request, 4), u64_at(request, 8), u64_at(request, 16));
        let (size, body) = (self.data.len() as u64, &request[40..]);
        let none = || Ok(Out::default());
        let said = match opcode {
            // FORGET, INTERRUPT, BATCH_FORGET.
            2 | 36 | 42 => return None,
            // LOOKUP: node, generation, for how long that holds, attributes.
            1 if body == [NAME.as_bytes(), &[0]].concat() => {
                Ok(Out::default().u64(NODE).u64(0).u64(3600).u64(3600).zeros(8).attr(NODE, size))
            }
            1 => Err(NOENT),
            // GETATTR, SETATTR.
            3 | 4 => Ok(Out::default().u64(3600).zeros(8).attr(node, size)),
            // OPEN: nothing of the file is kept in memory, so every read is one of the disk. (A loop device that is
            // told to be direct itself fails to write to FUSE.)
            14 => Ok(Out::default().u64(0).u32(1).u32(0)),
            // OPENDIR.
            27 => Ok(Out::default().u64(0).zeros(8)),
            // READ: handle, offset, size.
            15 => self.read(u64_at(body, 8), u32_at(body, 16)),
            // WRITE: the same, and 16 bytes more.
            16 => self.write(u64_at(body, 8), &body[40..]),
            // STATFS.
            17 => Ok(Out::default().u64(size / 4096).zeros(32).u32(4096).u32(255).u32(4096).zeros(28)),
            // FSYNC.
            20 => self.work(0, false).and_then(|()| none()),
            // RELEASE, FLUSH, READDIR of nothing, RELEASEDIR, ACCESS, DESTROY.
            18 | 25 | 28 | 29 | 34 | 38 => none(),
            // INIT: version, readahead, features (large writes), queue, largest write, the rest.
            26 => {
                let out = Out::default().u32(7).u32(31).u32(u32_at(body, 8)).u32(1 << 5);
                Ok(out.u16(16).u16(12).u32(MAX_WRITE as u32).u32(1).zeros(36))
            }
            _ => Err(NOSYS),
        };
        let (error, out) = said.map_or_else(|e| (-e, Vec::new()), |out| (0, out.0));
        let mut reply = Out::default().u32(16 + out.len() as u32).u32(error as u32).u64(unique).0;
        reply.extend(out);
        Some(reply)
    }

    /// Lets the time pass that the disk needs, and fails when it is to.
    fn work(&mut self, bytes: usize, reads: bool) -> Result<(), i32> {
        let faults = Arc::clone(&self.faults);
        while faults.hang.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let (rate, fails) = if reads { (&faults.rbps, &faults.reio) } else { (&faults.wbps, &faults.weio) };
        let rate = rate.load(Ordering::Relaxed);
        if rate > 0 {
            let now = Instant::now();
            self.busy = self.busy.max(now) + Duration::from_secs_f64(bytes as f64 / rate as f64);
            std::thread::sleep(self.busy - now);
        }
        if fails.load(Ordering::Relaxed) { Err(IO) } else { Ok(()) }
    }

    fn read(&mut self, at: u64, len: u32) -> Result<Out, i32> {
        let from = usize::try_from(at).unwrap_or(usize::MAX).min(self.data.len());
        let len = (len as usize).min(self.data.len() - from);
        self.work(len, true)?;
        Ok(Out(self.data[from..from + len].to_vec()))
    }

    fn write(&mut self, at: u64, data: &[u8]) -> Result<Out, i32> {
        self.work(data.len(), false)?;
        let end = usize::try_from(at).ok().and_then(|at| at.checked_add(data.len())).ok_or(IO)?;
        let to = self.data.get_mut(end - data.len()..end).ok_or(IO)?;
        to.copy_from_slice(data);
        Ok(Out::default().u32(data.len() as u32).u32(0))
    }
}

/// Mounts the file system whose requests come from this file.
pub(super) fn mount(kernel: &File, at: &Path) -> std::io::Result<()> {
    use rustix::mount::{MountFlags, mount};
    use std::os::fd::AsRawFd;
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0\0", kernel.as_raw_fd());
    let data = std::ffi::CStr::from_bytes_with_nul(data.as_bytes()).expect("one zero, at its end");
    Ok(mount("bad-disk", at, "fuse", MountFlags::NOSUID | MountFlags::NODEV, data)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        let mut out = Out::default().u32(40 + body.len() as u32).u32(opcode).u64(77).u64(NODE).zeros(16).0;
        out.extend(body);
        out
    }

    #[test]
    fn what_was_written_is_read_until_the_disk_fails() {
        let faults = Arc::new(Faults::default());
        let mut disk = Disk::new(1 << 20, Arc::clone(&faults));
        let mut write = Out::default().u64(0).u64(4096).u32(3).zeros(20).0;
        write.extend(b"abc");
        let read = Out::default().u64(0).u64(4096).u32(4).zeros(20).0;
        let reply = disk.answer(&request(16, &write)).unwrap();
        assert_eq!((u32_at(&reply, 0), u32_at(&reply, 4), u64_at(&reply, 8), u32_at(&reply, 16)), (24, 0, 77, 3));
        assert_eq!(disk.answer(&request(15, &read)).unwrap()[16..], *b"abc\0");
        faults.weio.store(true, Ordering::Relaxed);
        assert_eq!(u32_at(&disk.answer(&request(16, &write)).unwrap(), 4), (-IO) as u32);
        assert_eq!(u32_at(&disk.answer(&request(15, &read)).unwrap(), 4), 0);
        faults.reio.store(true, Ordering::Relaxed);
        assert_eq!(disk.answer(&request(15, &read)).unwrap().len(), 16);
    }

    #[test]
    fn replies_are_as_long_as_the_kernel_wants_them() {
        let mut disk = Disk::new(1 << 20, Arc::default());
        let mut long = |opcode, body: &[u8]| disk.answer(&request(opcode, body)).map_or(0, |r| r.len() - 16);
        assert_eq!(long(1, b"disk\0"), 128);
        assert_eq!(long(1, b"other\0"), 0);
        assert_eq!(long(3, &[0; 16]), 104);
        assert_eq!(long(14, &[0; 8]), 16);
        assert_eq!(long(17, &[]), 80);
        assert_eq!(long(26, &[0; 16]), 64);
    }
}
