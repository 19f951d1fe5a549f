//! The system calls that the standard library does not have, each wrapped to be safe to call.
//!
//! Opening below a folder without following links (`openat2`, with a walk by component where the
//! kernel or a sandbox does not have it), making and removing names there, taking space, asking
//! for free space and for the kind of file system, hints to the page cache.
//!
//! What it does not do: decide. Every function is one call (or one walk) and its `io::Result`.
//!
//! # Contract of the unsafe code
//!
//! Every call passes descriptors that are borrowed for its length, strings that end in NUL, and
//! structures of ours that outlive it; returned descriptors are owned at once.
#![allow(unsafe_code)]

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn cstr(s: &OsStr) -> io::Result<CString> {
    CString::new(s.as_bytes()).map_err(|_| errno(libc::EINVAL))
}

pub(super) fn errno(e: i32) -> io::Error {
    io::Error::from_raw_os_error(e)
}

fn check(r: libc::c_int) -> io::Result<libc::c_int> {
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r) }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
const O_PATH: libc::c_int = libc::O_PATH;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const O_PATH: libc::c_int = libc::O_RDONLY;

// Without it a 32-bit program cannot open what is larger than 2 GiB. openat2 always can.
#[cfg(any(target_os = "linux", target_os = "android"))]
const LARGE: libc::c_int = libc::O_LARGEFILE;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const LARGE: libc::c_int = 0;

/// Opens a folder by any path; links are followed.
pub(super) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let path = cstr(path.as_os_str())?;
    // SAFETY: a NUL-terminated path; the result is owned at once.
    unsafe {
        let fd = check(libc::open(path.as_ptr(), O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// A number that tells the file system from others, if possible also after it is mounted again.
pub(super) fn file_system(fd: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: an all-zero statvfs is a valid one.
    let mut v: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: an open descriptor, and the structure is ours.
    check(unsafe { libc::fstatvfs(fd.as_raw_fd(), &raw mut v) })?;
    #[allow(clippy::unnecessary_cast)] // of other widths elsewhere
    let id = v.f_fsid as u64;
    if id != 0 {
        return Ok(id);
    }
    // SAFETY: an all-zero stat is a valid one.
    let mut s: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: an open descriptor, and the structure is ours.
    check(unsafe { libc::fstat(fd.as_raw_fd(), &raw mut s) })?;
    #[allow(clippy::unnecessary_cast)] // of other widths elsewhere
    Ok(s.st_dev as u64)
}

fn openat(dir: BorrowedFd<'_>, name: &OsStr, flags: libc::c_int, mode: u32) -> io::Result<OwnedFd> {
    let name = cstr(name)?;
    let flags = flags | LARGE;
    // SAFETY: `dir` is open, the name ends in NUL; the result is owned at once.
    unsafe {
        let fd = check(libc::openat(dir.as_raw_fd(), name.as_ptr(), flags | libc::O_CLOEXEC, mode as libc::c_uint))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Opens `path`, which must be relative and plain (no `..`, no empty component), below `dir` without following any
/// link.
pub(super) fn open_beneath(dir: BorrowedFd<'_>, path: &str, flags: libc::c_int, mode: u32) -> io::Result<OwnedFd> {
    let _ = components(path)?;
    let flags = flags | libc::O_NOFOLLOW | libc::O_NOCTTY;
    match openat2(dir, path, flags, mode) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EAGAIN | libc::E2BIG)) => {
            walk_open(dir, path, flags, mode)
        }
        r => r,
    }
}

/// Opens a folder below `dir`, itself for an empty path, without following any link.
pub(super) fn open_folder_beneath(dir: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    if path.is_empty() {
        return dir.try_clone_to_owned();
    }
    let _ = components(path)?;
    let flags = O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    match openat2(dir, path, flags, 0) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EAGAIN | libc::E2BIG)) => {
            walk_open(dir, path, flags, 0)
        }
        r => r,
    }
}

/// A folder that was opened as a place only, opened so that it can be synced.
pub(super) fn reopen_folder(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    openat(dir, OsStr::new("."), libc::O_RDONLY | libc::O_DIRECTORY, 0)
}

/// Opens the file of that name, one plain component, in a folder. A link is not followed.
pub(super) fn open_in(dir: BorrowedFd<'_>, name: &str, flags: libc::c_int, mode: u32) -> io::Result<OwnedFd> {
    let name = single(name)?;
    openat(dir, name, flags | libc::O_NOFOLLOW | libc::O_NOCTTY, mode)
}

/// What a folder says about the file of that name; `None` for anything but a plain file.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn stat_in(dir: BorrowedFd<'_>, name: &str) -> Option<super::FileStat> {
    use rustix::fs::{AtFlags, FileType, StatxFlags, makedev, statx};
    // Plain numbers of mounts are given again; these, which Linux has since 6.8, are not.
    let unique = StatxFlags::from_bits_retain(0x4000);
    let asked = StatxFlags::BASIC_STATS | unique;
    let s = match statx(dir, single(name).ok()?, AtFlags::SYMLINK_NOFOLLOW, asked) {
        Ok(s) => s,
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => return stat_in_old(dir, name),
        Err(_) => return None,
    };
    let told = StatxFlags::from_bits_retain(s.stx_mask).contains(unique);
    (FileType::from_raw_mode(s.stx_mode.into()) == FileType::RegularFile).then(|| super::FileStat {
        len: s.stx_size,
        mtime: s.stx_mtime.tv_sec,
        mtime_nsec: s.stx_mtime.tv_nsec,
        inode: s.stx_ino,
        device: makedev(s.stx_dev_major, s.stx_dev_minor),
        mount: if told { s.stx_mnt_id } else { 0 },
    })
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) use stat_in_old as stat_in;

/// The same where there is no `statx`: not Linux, before 4.11, or a sandbox that has not heard of it.
pub(super) fn stat_in_old(dir: BorrowedFd<'_>, name: &str) -> Option<super::FileStat> {
    use std::os::unix::fs::MetadataExt;
    let name = single(name).ok()?;
    let file = File::from(openat(dir, name, libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOFOLLOW, 0).ok()?);
    let m = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let mtime_nsec = u32::try_from(m.mtime_nsec()).unwrap_or(0);
    Some(super::FileStat { len: m.len(), mtime: m.mtime(), mtime_nsec, inode: m.ino(), device: m.dev(), mount: 0 })
}

/// A name that cannot lead elsewhere.
fn single(name: &str) -> io::Result<&OsStr> {
    let mut parts = components(name)?;
    match (parts.next(), parts.next()) {
        (Some(name), None) => Ok(name),
        _ => Err(errno(libc::EINVAL)),
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn openat2(dir: BorrowedFd<'_>, path: &str, flags: libc::c_int, mode: u32) -> io::Result<OwnedFd> {
    let path = cstr(OsStr::new(path))?;
    // SAFETY: an all-zero open_how is a valid one.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from((flags | libc::O_CLOEXEC) as u32);
    how.mode = if flags & libc::O_CREAT != 0 { u64::from(mode) } else { 0 };
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: `dir` is open, the path ends in NUL, `how` has the size that is told; the result is owned at once.
    unsafe {
        let fd = libc::syscall(
            libc::SYS_openat2,
            dir.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        );
        Ok(OwnedFd::from_raw_fd(check(fd as libc::c_int)?))
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn openat2(_: BorrowedFd<'_>, _: &str, _: libc::c_int, _: u32) -> io::Result<OwnedFd> {
    Err(errno(libc::ENOSYS))
}

/// The components of a relative path. Anything that could lead elsewhere is refused.
pub(super) fn components(path: &str) -> io::Result<impl DoubleEndedIterator<Item = &OsStr>> {
    if path.split('/').any(|c| matches!(c, "" | "." | "..")) {
        return Err(errno(libc::EINVAL));
    }
    Ok(path.split('/').map(OsStr::new))
}

/// The same as `openat2` gives, one component at a time.
fn walk_open(dir: BorrowedFd<'_>, path: &str, flags: libc::c_int, mode: u32) -> io::Result<OwnedFd> {
    let (parent, name) = walk_to_parent(dir, path)?;
    openat(parent.as_ref().map_or(dir, AsFd::as_fd), name, flags, mode)
}

/// The folder a path's last component is in (`None`: `dir` itself), and that component.
fn walk_to_parent<'p>(dir: BorrowedFd<'_>, path: &'p str) -> io::Result<(Option<OwnedFd>, &'p OsStr)> {
    let mut parts = components(path)?;
    let Some(name) = parts.next_back() else { return Err(errno(libc::EINVAL)) };
    let mut at: Option<OwnedFd> = None;
    for part in parts {
        let from = at.as_ref().map_or(dir, AsFd::as_fd);
        at = Some(openat(from, part, O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0)?);
    }
    Ok((at, name))
}

/// Makes the folders that `path` lies in, below `dir`, without following any link.
pub(super) fn make_parents(dir: BorrowedFd<'_>, path: &str) -> io::Result<()> {
    let mut parts = components(path)?;
    parts.next_back();
    let mut at: Option<OwnedFd> = None;
    for part in parts {
        let from = at.as_ref().map_or(dir, AsFd::as_fd);
        let name = cstr(part)?;
        // SAFETY: `from` is open and the name ends in NUL.
        if let Err(e) = check(unsafe { libc::mkdirat(from.as_raw_fd(), name.as_ptr(), 0o777) }) {
            if e.kind() != io::ErrorKind::AlreadyExists {
                return Err(e);
            }
        }
        let next = openat(from, part, O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0)?;
        at = Some(next);
    }
    Ok(())
}

/// Removes a file, or with `folder` an empty folder, below `dir`, without following any link.
pub(super) fn remove_beneath(dir: BorrowedFd<'_>, path: &str, folder: bool) -> io::Result<()> {
    let (parent, name) = walk_to_parent(dir, path)?;
    let name = cstr(name)?;
    let parent = parent.as_ref().map_or(dir, AsFd::as_fd);
    let flags = if folder { libc::AT_REMOVEDIR } else { 0 };
    // SAFETY: `parent` is open and the name ends in NUL.
    check(unsafe { libc::unlinkat(parent.as_raw_fd(), name.as_ptr(), flags) }).map(|_| ())
}

/// Takes `len` bytes of space from `at` on; the file grows to hold them. False where the file
/// system cannot. After an error some of it may have been taken (ext4 does that).
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn fallocate(file: &File, at: u64, len: u64) -> io::Result<bool> {
    let (Ok(at), Ok(len)) = (at.try_into(), len.try_into()) else { return Err(errno(libc::EFBIG)) };
    loop {
        // SAFETY: an open descriptor and two numbers.
        let r = check(unsafe { libc::fallocate64(file.as_raw_fd(), 0, at, len) });
        return match r {
            Ok(_) => Ok(true),
            Err(e) => match e.raw_os_error() {
                Some(libc::EINTR) => continue,
                Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL) => Ok(false),
                _ => Err(e),
            },
        };
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn fallocate(_: &File, _: u64, _: u64) -> io::Result<bool> {
    Ok(false)
}

/// What the file system is, as far as it changes what we do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FsKind {
    /// Mappings work and tell the truth.
    Plain,
    /// Mappings hide errors, do not exist or lose, and a write can wait for another process or machine: FUSE, network
    /// and flash file systems.
    NoMap,
    /// Memory: no mappings, and taking space takes memory.
    Ram,
}

/// The kind of file system a file is on.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn fs_kind(file: &File) -> FsKind {
    // SAFETY: an all-zero statfs is a valid one.
    let mut s: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: an open descriptor and a structure of ours.
    if unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut s) } != 0 {
        return FsKind::NoMap;
    }
    // The field's type differs by target; the magic numbers are 32 bits wide.
    match s.f_type as u32 {
        0x0102_1994 | 0x8584_58F6 => FsKind::Ram,
        0x6573_5546 | 0x6969 | 0xFF53_4D42 | 0xFE53_4D42 | 0x517B | 0x0102_1997 | 0x2FC1_2FC1 | 0x72B6 => FsKind::NoMap,
        _ => FsKind::Plain,
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn fs_kind(_: &File) -> FsKind {
    FsKind::NoMap
}

/// Bytes that we may still take on the volume of `dir`; `None` where it does not say.
pub(super) fn free_space(dir: BorrowedFd<'_>) -> Option<u64> {
    // SAFETY: an all-zero statvfs is a valid one.
    let mut s: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: an open descriptor and a structure of ours.
    let r = unsafe { libc::fstatvfs(dir.as_raw_fd(), &raw mut s) };
    #[allow(clippy::unnecessary_cast)] // these types are narrower on 32-bit targets
    (r == 0 && s.f_blocks > 0).then(|| (s.f_bavail as u64).saturating_mul(s.f_frsize as u64))
}

/// Asks the kernel to read a range into its cache. A hint: errors mean nothing.
pub(super) fn will_need(file: &File, at: u64, len: u64) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let (Ok(at), Ok(len)) = (at.try_into(), len.try_into()) {
        // SAFETY: an open descriptor and numbers.
        unsafe { libc::posix_fadvise64(file.as_raw_fd(), at, len, libc::POSIX_FADV_WILLNEED) };
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (file, at, len);
}

/// Has the kernel begin to write what is dirty of a file, so that the sync behind it finds less to do. A hint.
pub(super) fn start_writeback(file: &File) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // SAFETY: an open descriptor and numbers; 0 bytes from 0 on is all of the file.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE);
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = file;
}

/// Whether [`sync_volume`] makes a file durable and tells of errors: on the file systems that are known to, since
/// Linux 5.8. Others send no flush (FUSE), or keep the errors of another file system to themselves (overlay).
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn syncs_volume(file: &File) -> bool {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    // SAFETY: an all-zero statfs is a valid one.
    let mut s: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: an open descriptor and a structure of ours.
    let r = unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut s) };
    // ext2 to ext4, XFS, btrfs, F2FS.
    let known = matches!(s.f_type as u32, 0xEF53 | 0x5846_5342 | 0x9123_683E | 0xF2F5_2010);
    // Kernels have told the mount's number since 5.8 too.
    let mount = StatxFlags::MNT_ID;
    let new = || statx(file, "", AtFlags::EMPTY_PATH, mount).is_ok_and(|s| s.stx_mask & mount.bits() != 0);
    r == 0 && known && new()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn syncs_volume(_: &File) -> bool {
    false
}

/// Brings all that is dirty on the file's volume to the device. An error is one of any file, new to this descriptor.
pub(super) fn sync_volume(file: &File) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // SAFETY: an open descriptor.
    return if unsafe { libc::syncfs(file.as_raw_fd()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    file.sync_all()
}

/// Has the kernel begin to write what is dirty of a range, or waits until it is on the device, as far as its bytes go
/// (no metadata). Where the file system cannot, it does neither.
pub(super) fn write_back(file: &File, at: u64, len: u64, wait: bool) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let (Ok(at), Ok(len)) = (at.try_into(), len.try_into()) {
        let all = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        let flags = if wait { all } else { libc::SYNC_FILE_RANGE_WRITE };
        // SAFETY: an open descriptor and numbers.
        unsafe { libc::sync_file_range(file.as_raw_fd(), at, len, flags) };
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (file, at, len, wait);
}

/// Reads as much as can be had without waiting for the disk: `EAGAIN` when that is nothing, `EOPNOTSUPP` where the file
/// system does not say.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn read_nowait(file: &File, at: u64, buf: &mut [u8]) -> io::Result<usize> {
    let Ok(at) = at.try_into() else { return Err(errno(libc::EINVAL)) };
    let part = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: an open descriptor, and one region that is ours to write for the length of the call.
    let n = unsafe { libc::preadv64v2(file.as_raw_fd(), &raw const part, 1, at, libc::RWF_NOWAIT) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn read_nowait(_: &File, _: u64, _: &mut [u8]) -> io::Result<usize> {
    Err(errno(libc::EOPNOTSUPP))
}

/// How often this thread has gone to sleep by itself, where the system counts that: a call in which it did not was not
/// waiting for a disk, however long it took.
pub(super) fn sleeps() -> Option<u64> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        // SAFETY: all zeros is a value of this structure of numbers.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the structure is ours to fill.
        let r = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
        (r == 0).then_some(usage.ru_nvcsw as u64)
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    None
}

/// Bytes of a page.
pub(super) fn page_size() -> usize {
    // SAFETY: a question without arguments.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Has the kernel forget what it has cached of a file, as far as that is clean. A hint.
pub(super) fn drop_cache(file: &File) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // SAFETY: an open descriptor and numbers; 0 bytes from 0 on is all of the file.
    unsafe {
        libc::posix_fadvise64(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED);
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = file;
}

#[cfg(all(any(target_os = "linux", target_os = "android"), target_env = "gnu", target_pointer_width = "32"))]
type Lock = libc::flock64;
#[cfg(all(any(target_os = "linux", target_os = "android"), not(all(target_env = "gnu", target_pointer_width = "32"))))]
type Lock = libc::flock;

/// Locks one byte of a file for whoever has this opening of it, or gives it free. False when another has it. The end
/// of the process gives it free too.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn lock_byte(file: &File, at: u64, lock: bool) -> io::Result<bool> {
    // SAFETY: an all-zero flock is a valid one.
    let mut l: Lock = unsafe { std::mem::zeroed() };
    l.l_type = (if lock { libc::F_WRLCK } else { libc::F_UNLCK }) as _;
    l.l_whence = libc::SEEK_SET as _;
    l.l_start = at.try_into().map_err(|_| errno(libc::EINVAL))?;
    l.l_len = 1;
    // SAFETY: an open descriptor, and a structure of ours that outlives the call.
    match check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const l) }) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn lock_byte(_file: &File, _at: u64, _lock: bool) -> io::Result<bool> {
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::tests::TempDir;
    use super::*;
    use std::os::unix::fs::symlink;

    const WRITE: libc::c_int = libc::O_RDWR | libc::O_CREAT;

    /// Both ways of opening, so that the one this kernel does not need is tested too.
    fn both(dir: BorrowedFd<'_>, path: &str, flags: libc::c_int) -> [io::Result<OwnedFd>; 2] {
        [open_beneath(dir, path, flags, 0o666), walk_open(dir, path, flags | libc::O_NOFOLLOW, 0o666)]
    }

    #[test]
    fn opening_stays_below_the_folder() {
        let tmp = TempDir::new();
        std::fs::create_dir(tmp.path().join("sub")).unwrap();
        std::fs::write(tmp.path().join("secret"), b"s").unwrap();
        symlink("../secret", tmp.path().join("sub/link")).unwrap();
        symlink("..", tmp.path().join("sub/up")).unwrap();
        // A link that stays inside is a link all the same.
        std::fs::create_dir(tmp.path().join("sub/real")).unwrap();
        symlink("real", tmp.path().join("sub/alias")).unwrap();
        let dir = open_dir(&tmp.path().join("sub")).unwrap();
        for path in ["../secret", "link", "up/secret", "alias/x", "/etc/passwd", "a//b", "./a", ""] {
            for r in both(dir.as_fd(), path, WRITE) {
                assert!(r.is_err(), "{path:?} was opened");
            }
        }
        for r in both(dir.as_fd(), "plain", WRITE) {
            r.unwrap();
        }
        assert!(make_parents(dir.as_fd(), "up/x/y").is_err());
        assert!(make_parents(dir.as_fd(), "../x/y").is_err());
        assert!(!tmp.path().join("x").exists());
        assert!(remove_beneath(dir.as_fd(), "up/secret", false).is_err());
        make_parents(dir.as_fd(), "a/b/c").unwrap();
        make_parents(dir.as_fd(), "a/b/d").unwrap();
        assert!(tmp.path().join("sub/a/b").is_dir() && !tmp.path().join("sub/a/b/c").exists());
        remove_beneath(dir.as_fd(), "a/b", true).unwrap();
        assert!(!tmp.path().join("sub/a/b").exists());
        assert_eq!(std::fs::read(tmp.path().join("secret")).unwrap(), b"s");
    }

    #[test]
    fn the_temporary_folder_has_space() {
        let tmp = TempDir::new();
        let dir = open_dir(tmp.path()).unwrap();
        assert!(free_space(dir.as_fd()).unwrap() > 0);
    }
}
