//! Regions of memory for one vectored read or write, gathered without handing out slices.
//!
//! A list names where bytes rest or shall rest: slices of ordinary memory, extent buffers, windows
//! of mapped files. Only the kernel moves bytes between a socket and a mapped file, because there a
//! bad disk is an `EFAULT` from a system call, while a load or store of our own would be a `SIGBUS`.
//! So nobody outside this module ever holds a `&[u8]` or `&mut [u8]` into a mapping.
//!
//! What it does not do: own memory, retry, or remember anything after the call.
//!
//! # Contract of the unsafe code
//!
//! - `IoVecs<'a>` borrows for `'a` whatever its regions belong to, exclusively where they may be
//!   written. Safe callers push slices, whose lifetimes say so. The one unsafe way in, [`IoVecs::push_raw`],
//!   makes its caller promise that the region stays allocated (or mapped) for `'a`.
//! - Regions may name a mapping that another process truncates: the kernel then answers `EFAULT`.
//!   [`IoVecs::copy_from`] and [`IoVecs::copy_to`], which move bytes in user space, therefore go
//!   through `process_vm_readv`/`writev` on ourselves for regions marked as mapped.
//! - A list that holds a shared slice is never written to: `readv` and `copy_from` refuse it.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Most regions in one list. The kernel takes 1,024; this much lives on the stack.
pub const MAX_REGIONS: usize = 256;

/// A list of regions for one vectored system call. See the module's head.
pub struct IoVecs<'a> {
    v: [MaybeUninit<libc::iovec>; MAX_REGIONS],
    /// Bit i: region i lies in a mapped file.
    mapped: [u32; MAX_REGIONS / 32],
    len: usize,
    total: usize,
    shared: bool,
    owner: PhantomData<&'a mut [u8]>,
}

impl Default for IoVecs<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> IoVecs<'a> {
    /// An empty list.
    pub const fn new() -> Self {
        Self {
            v: [const { MaybeUninit::uninit() }; MAX_REGIONS],
            mapped: [0; MAX_REGIONS / 32],
            len: 0,
            total: 0,
            shared: false,
            owner: PhantomData,
        }
    }

    /// Regions in the list.
    pub const fn len(&self) -> usize {
        self.len
    }
    /// Whether there is no region.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Bytes in all regions together.
    pub const fn total(&self) -> usize {
        self.total
    }

    /// Adds bytes to be sent. The list can then no longer be read into. False when the list is full.
    pub fn push_slice(&mut self, s: &'a [u8]) -> bool {
        self.shared = true;
        // SAFETY: the slice is borrowed for 'a; `shared` keeps it from being written to.
        unsafe { self.push_raw(s.as_ptr().cast_mut(), s.len(), false) }
    }

    /// Adds room to be read into (or bytes to be sent). False when the list is full.
    pub fn push_mut(&mut self, s: &'a mut [u8]) -> bool {
        // SAFETY: the slice is borrowed exclusively for 'a.
        unsafe { self.push_raw(s.as_mut_ptr(), s.len(), false) }
    }

    /// Adds a region by address. False when the list is full. Empty regions are left out.
    ///
    /// # Safety
    ///
    /// `at..at + len` must be one allocation or one mapping that stays in place for `'a`, that
    /// nobody else in this process reads or writes through references during `'a`. With `mapped` false it
    /// must be ordinary memory, which user code can touch without a signal, and which may be written
    /// unless `push_slice` marks this list as shared. With `mapped` true it may be a read-only mapping: only
    /// the kernel touches it, and answers `EFAULT`.
    pub(super) unsafe fn push_raw(&mut self, at: *mut u8, len: usize, mapped: bool) -> bool {
        if len == 0 {
            return true;
        }
        let Some(slot) = self.v.get_mut(self.len) else { return false };
        slot.write(libc::iovec { iov_base: at.cast(), iov_len: len });
        if mapped {
            self.mapped[self.len / 32] |= 1 << (self.len % 32);
        }
        self.len += 1;
        self.total += len;
        true
    }

    /// Cuts the list so that no more than `max` bytes are moved.
    pub fn limit(&mut self, max: usize) {
        while self.total > max {
            // SAFETY: total > 0, so len > 0, and the first len entries are written.
            let last = unsafe { self.v[self.len - 1].assume_init_mut() };
            let over = self.total - max;
            if last.iov_len > over {
                last.iov_len -= over;
                self.total = max;
            } else {
                self.total -= last.iov_len;
                self.len -= 1;
                self.mapped[self.len / 32] &= !(1 << (self.len % 32));
            }
        }
    }

    fn list(&self) -> &[libc::iovec] {
        // SAFETY: the first `len` entries are written, and MaybeUninit<T> has the layout of T.
        unsafe { std::slice::from_raw_parts(self.v.as_ptr().cast(), self.len) }
    }

    fn writable(&self) -> io::Result<()> {
        if self.shared { Err(io::Error::from_raw_os_error(libc::EINVAL)) } else { Ok(()) }
    }

    /// One `readv`: bytes read, 0 at the end of the stream. `EFAULT` where a mapping had no page to
    /// give: nothing was taken from the socket then.
    pub fn readv(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        self.writable()?;
        let v = self.list();
        // SAFETY: every entry names memory that is ours to write during 'a (see push_raw).
        count(unsafe { libc::readv(fd.as_raw_fd(), v.as_ptr(), v.len() as libc::c_int) })
    }

    /// One `writev`: bytes written. A count short of the total is exact, also where a mapping ended.
    pub fn writev(&self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        let v = self.list();
        // SAFETY: every entry names memory that stays in place during 'a; the kernel only reads it.
        count(unsafe { libc::writev(fd.as_raw_fd(), v.as_ptr(), v.len() as libc::c_int) })
    }

    /// The same on a socket, without a `SIGPIPE` when the other side is gone.
    pub fn send(&self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
        {
            let v = self.list();
            // SAFETY: an all-zero msghdr is a valid one.
            let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
            msg.msg_iov = v.as_ptr().cast_mut();
            msg.msg_iovlen = v.len() as _;
            // SAFETY: as for writev; msg lives across the call.
            count(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const msg, libc::MSG_NOSIGNAL) })
        }
        #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
        self.writev(fd)
    }

    /// Copies `data` into the regions from the start, for streams that have no descriptor. Returns
    /// the bytes copied, less than `data.len()` only when the regions are used up or a mapping faults
    /// behind some bytes; a fault at once is `EFAULT`.
    pub fn copy_from(&mut self, data: &[u8]) -> io::Result<usize> {
        self.writable()?;
        let mut done = 0;
        for (i, r) in self.list().iter().enumerate() {
            let part = &data[done..data.len().min(done + r.iov_len)];
            if part.is_empty() {
                break;
            }
            let n = if self.is_mapped(i) {
                match vm_copy(r.iov_base.cast(), part.as_ptr().cast_mut(), part.len(), true) {
                    Ok(n) => n,
                    Err(_) if done > 0 => return Ok(done),
                    Err(e) => return Err(e),
                }
            } else {
                // SAFETY: ordinary memory of at least part.len() bytes, ours alone during 'a; `data`
                // is a live shared slice and so cannot overlap it.
                unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), r.iov_base.cast(), part.len()) };
                part.len()
            };
            done += n;
            if n < part.len() {
                break;
            }
        }
        Ok(done)
    }

    /// Copies bytes out of the regions from the start: the counterpart of [`Self::copy_from`].
    pub fn copy_to(&self, out: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        for (i, r) in self.list().iter().enumerate() {
            let end = out.len().min(done + r.iov_len);
            let part = &mut out[done..end];
            if part.is_empty() {
                break;
            }
            let n = if self.is_mapped(i) {
                match vm_copy(r.iov_base.cast(), part.as_mut_ptr(), part.len(), false) {
                    Ok(n) => n,
                    Err(_) if done > 0 => return Ok(done),
                    Err(e) => return Err(e),
                }
            } else {
                // SAFETY: ordinary memory of at least part.len() bytes that nobody writes during 'a;
                // `out` is exclusive and so cannot overlap it.
                unsafe { std::ptr::copy_nonoverlapping(r.iov_base.cast(), part.as_mut_ptr(), part.len()) };
                part.len()
            };
            done += n;
            if n < part.len() {
                break;
            }
        }
        Ok(done)
    }

    fn is_mapped(&self, i: usize) -> bool {
        self.mapped[i / 32] & (1 << (i % 32)) != 0
    }
}

/// Addresses of ranges of several buffers at once, for as long as all of them are borrowed.
pub(crate) struct HeapLender<'a> {
    bufs: &'a mut [Vec<u8>],
}

impl<'a> HeapLender<'a> {
    pub(crate) fn new(bufs: &'a mut [Vec<u8>]) -> Self {
        Self { bufs }
    }

    /// Adds a range of buffer `i` to a list; false when there is no such range or the list is full.
    pub(crate) fn push(&mut self, io: &mut IoVecs<'a>, i: usize, from: usize, len: usize) -> bool {
        let Some(buf) = self.bufs.get_mut(i) else { return false };
        if from > buf.len() || len > buf.len() - from {
            return false;
        }
        // SAFETY: the range lies in the buffer (just checked). All buffers are borrowed exclusively for 'a,
        // so none of them moves or is touched through references; as_mut_ptr makes no reference to the bytes.
        unsafe { io.push_raw(buf.as_mut_ptr().add(from), len, false) }
    }
}

fn count(n: isize) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Moves bytes between a mapped region and plain memory through the kernel, where a page that is not
/// there is `EFAULT`. `into`: towards the region.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn vm_copy(region: *mut u8, plain: *mut u8, len: usize, into: bool) -> io::Result<usize> {
    let local = libc::iovec { iov_base: plain.cast(), iov_len: len };
    let remote = libc::iovec { iov_base: region.cast(), iov_len: len };
    // SAFETY: both name `len` bytes of this process: `plain` is a live slice of the caller, `region` a
    // mapping that the kernel checks page by page. With `into` only the region is written.
    count(unsafe {
        let pid = libc::getpid();
        if into {
            libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0)
        } else {
            libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0)
        }
    })
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn vm_copy(_region: *mut u8, _plain: *mut u8, _len: usize, _into: bool) -> io::Result<usize> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn one_call_fills_all_regions_in_order() {
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(b"hello, world").unwrap();
        let (mut x, mut y) = ([0u8; 5], [0u8; 20]);
        let mut io = IoVecs::new();
        assert!(io.push_mut(&mut x) && io.push_mut(&mut []) && io.push_mut(&mut y));
        assert_eq!((io.len(), io.total()), (2, 25));
        assert_eq!(io.readv(b.as_fd()).unwrap(), 12);
        assert_eq!((&x[..], &y[..7]), (&b"hello"[..], &b", world"[..]));
    }

    #[test]
    fn send_and_limit() {
        let (a, mut b) = UnixStream::pair().unwrap();
        let mut io = IoVecs::new();
        for part in [&b"abc"[..], b"defg", b"hi"] {
            assert!(io.push_slice(part));
        }
        io.limit(5);
        assert_eq!((io.len(), io.total()), (2, 5));
        assert_eq!(io.send(a.as_fd()).unwrap(), 5);
        io.limit(3);
        assert_eq!(io.writev(a.as_fd()).unwrap(), 3);
        drop(a);
        let mut got = Vec::new();
        b.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"abcdeabc");
    }

    #[test]
    fn sending_to_nobody_is_an_error_and_no_signal() {
        let (a, b) = UnixStream::pair().unwrap();
        drop(b);
        let mut io = IoVecs::new();
        io.push_slice(b"x");
        assert_eq!(io.send(a.as_fd()).unwrap_err().raw_os_error(), Some(libc::EPIPE));
    }

    #[test]
    fn shared_slices_are_never_written() {
        let mut io = IoVecs::new();
        io.push_slice(b"constant");
        assert_eq!(io.copy_from(b"x").unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn copies_stop_at_the_shorter_side() {
        let (mut x, mut y) = ([0u8; 3], [0u8; 3]);
        let mut io = IoVecs::new();
        io.push_mut(&mut x);
        io.push_mut(&mut y);
        assert_eq!(io.copy_from(b"abcd").unwrap(), 4);
        let mut back = [0u8; 9];
        assert_eq!(io.copy_to(&mut back).unwrap(), 6);
        assert_eq!(&back[..6], b"abcd\0\0");
        assert_eq!(io.copy_from(b"0123456789").unwrap(), 6);
    }

    #[test]
    fn a_full_list_says_so() {
        let mut io = IoVecs::new();
        assert!((0..MAX_REGIONS).all(|_| io.push_slice(b"x")));
        assert!(!io.push_slice(b"y"));
        assert_eq!(io.total(), MAX_REGIONS);
    }
}
