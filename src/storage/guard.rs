//! The guard: what keeps a process alive when it touches a mapped page that its file no longer has.
//!
//! Windows hand their addresses to the kernel only, and a call on a page that is gone answers `EFAULT`: no signal
//! comes. This is the second line, for a slip in that rule: a handler of `SIGBUS` that puts a page of zeros where a
//! window has lost one, and marks the window, which is not used again. A fault anywhere else is the business of whoever
//! handled the signal before, or ends the process as ever.
//!
//! The handler belongs to the whole process, so it is the program's to install ([`install`]); a library that embeds
//! this one has its own views of signals.
//!
//! What it does not do: tell why, or save what was written to the page.
//!
//! # Contract of the unsafe code
//!
//! The handler reads and writes atomics, calls `mmap` for a page that lies whole in a window that is registered, and
//! nothing else: no lock, no allocation. A range is registered while its mapping is alive and not a moment longer
//! (`Ward`), so the page it replaces is ours. What the signal was handled by before is written once, before the
//! handler is in place.
#![allow(unsafe_code)]

use super::sys;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Windows that can be guarded at once; those beyond are not.
const MOST: usize = 128;

type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

struct Range {
    /// 0 is free.
    start: AtomicUsize,
    len: AtomicUsize,
    hit: AtomicBool,
}

static RANGES: [Range; MOST] =
    [const { Range { start: AtomicUsize::new(0), len: AtomicUsize::new(0), hit: AtomicBool::new(false) } }; MOST];
static PAGE: AtomicUsize = AtomicUsize::new(0);
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Installs the handler, once for the process.
pub fn install() -> io::Result<()> {
    PAGE.store(sys::page_size(), Ordering::Relaxed);
    // SAFETY: an all-zero sigaction is a valid one.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: only asks, and the structure is ours.
    if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut before) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if BEFORE.set(before).is_err() {
        return Ok(()); // it is there
    }
    // SAFETY: an all-zero sigaction is a valid one.
    let mut ours: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: Handler = on_bus_error;
    ours.sa_sigaction = handler as usize;
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler has the form that SA_SIGINFO asks for, and does what the module's head says.
    match unsafe { libc::sigaction(libc::SIGBUS, &raw const ours, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid structure, and for this signal an address in it.
    let at = unsafe { (*info).si_addr() } as usize;
    let page = PAGE.load(Ordering::Relaxed);
    for range in &RANGES {
        let (start, len) = (range.start.load(Ordering::Acquire), range.len.load(Ordering::Relaxed));
        if start == 0 || at < start || at - start >= len {
            continue;
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let from = at & !(page - 1);
        // SAFETY: a whole page of a mapping of ours, which is alive while its range is registered.
        let r =
            unsafe { libc::mmap(from as *mut libc::c_void, page, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if r != libc::MAP_FAILED {
            range.hit.store(true, Ordering::Release);
            return;
        }
    }
    if let Some(before) = BEFORE.get() {
        if before.sa_sigaction > libc::SIG_IGN && before.sa_flags & libc::SA_SIGINFO != 0 {
            // SAFETY: whoever installed it said that it has this form.
            let theirs = unsafe { std::mem::transmute::<usize, Handler>(before.sa_sigaction) };
            return theirs(signal, info, context);
        }
        // What has no such form had better have its way alone: the fault comes again when this returns.
        // SAFETY: what the system gave us is given back.
        unsafe { libc::sigaction(libc::SIGBUS, before, std::ptr::null_mut()) };
    }
}

/// A mapping that is guarded, until this is dropped.
#[derive(Debug)]
pub(super) struct Ward(Option<usize>);

impl Ward {
    /// Guards a mapping if the handler is installed. It must outlive this.
    pub(super) fn new(start: usize, len: usize) -> Self {
        if BEFORE.get().is_none() {
            return Self(None);
        }
        let free = RANGES.iter().position(|r| {
            // Taken with an address that is nobody's until the length is there.
            r.start.compare_exchange(0, usize::MAX, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        if let Some(r) = free.map(|i| &RANGES[i]) {
            r.hit.store(false, Ordering::Relaxed);
            r.len.store(len, Ordering::Relaxed);
            r.start.store(start, Ordering::Release);
        }
        Self(free)
    }

    /// A page of it was lost.
    pub(super) fn is_hit(&self) -> bool {
        self.0.is_some_and(|i| RANGES[i].hit.load(Ordering::Acquire))
    }
}

impl Drop for Ward {
    fn drop(&mut self) {
        if let Some(i) = self.0 {
            RANGES[i].start.store(0, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::TempDir;
    use super::*;
    use memmap2::{MmapOptions, MmapRaw};
    use std::fs::File;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    /// A mapping of two pages whose file has lost them.
    fn cut() -> (TempDir, MmapRaw, File) {
        let tmp = TempDir::new();
        let file = File::options().read(true).write(true).create_new(true).open(tmp.path().join("f")).unwrap();
        file.set_len(2 * sys::page_size() as u64).unwrap();
        let map = MmapOptions::new().map_raw(&file).unwrap();
        file.set_len(0).unwrap();
        (tmp, map, file)
    }

    fn touch(map: &MmapRaw) -> u8 {
        // SAFETY: a byte of a mapping that is alive, read as it may change.
        unsafe { map.as_ptr().add(sys::page_size() + 7).read_volatile() }
    }

    #[test]
    fn a_lost_page_reads_as_zeros_and_marks_its_window() {
        install().unwrap();
        install().unwrap();
        let (_tmp, map, _file) = cut();
        let ward = Ward::new(map.as_ptr() as usize, map.len());
        assert!(!ward.is_hit());
        assert_eq!(touch(&map), 0);
        assert!(ward.is_hit());
        drop(ward);
        assert!(!Ward::new(map.as_ptr() as usize, map.len()).is_hit(), "another window");
    }

    #[test]
    #[ignore = "ends its process; the next test runs it"]
    fn touches_what_nobody_guards() {
        install().unwrap();
        let (_tmp, map, _file) = cut();
        touch(&map);
    }

    #[test]
    fn what_nobody_guards_ends_the_process_as_ever() {
        let me = std::env::current_exe().unwrap();
        let test = "storage::guard::tests::touches_what_nobody_guards";
        let out = Command::new(me).args(["--exact", test, "--ignored", "--test-threads=1"]).output().unwrap();
        assert_eq!(out.status.signal(), Some(libc::SIGBUS), "{out:?}");
    }
}
