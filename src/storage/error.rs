//! What can go wrong with a disk, told so that a person can act on it.
//!
//! Every error names the file, the call and the cause as the kernel gave it. The kind decides what
//! happens to the torrent: a full disk is tried again, a missing file is not silently made anew, and
//! so on. One torrent's disk error never changes another torrent.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// What kind of trouble it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DiskErrorKind {
    /// No space left, or the quota is used up. Goes away when space is made.
    Full,
    /// The volume is mounted read-only.
    ReadOnly,
    /// The device failed (EIO and its kin).
    Io,
    /// The file or folder is not there (any more).
    Missing,
    /// Its volume is not there: the folder lies on another one, and none of the files is in it.
    Unmounted,
    /// The file ends before the bytes that were wanted.
    Truncated,
    /// We may not touch it.
    Permission,
    /// The file system or a limit refuses a file of that size.
    TooBig,
    /// Something else than a plain file is in the way: a folder, a symbolic link, a FIFO, a device.
    NotAFile,
    /// Too many files are open in this process or system.
    TooManyFiles,
    /// Anything else.
    Other,
}

/// A failed operation on a torrent's files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskError {
    /// What kind of trouble it is.
    pub kind: DiskErrorKind,
    /// The file or folder it happened to.
    pub path: PathBuf,
    /// What was being done, as a verb: `open`, `write`, `map`.
    pub op: &'static str,
    /// The `errno` behind it, 0 when there is none.
    pub source_errno: i32,
}

impl DiskErrorKind {
    /// The kind that an `errno` means.
    pub fn of_errno(errno: i32) -> Self {
        match errno {
            libc::ENOSPC | libc::EDQUOT => Self::Full,
            libc::EROFS => Self::ReadOnly,
            libc::EIO | libc::ENXIO | libc::ENODEV | libc::ESTALE => Self::Io,
            libc::ENOENT => Self::Missing,
            libc::EACCES | libc::EPERM => Self::Permission,
            libc::EFBIG => Self::TooBig,
            libc::ELOOP | libc::ENOTDIR | libc::EISDIR | libc::EXDEV => Self::NotAFile,
            libc::EMFILE | libc::ENFILE => Self::TooManyFiles,
            _ => Self::Other,
        }
    }
}

impl DiskError {
    /// An error of a kind that no `errno` stands behind.
    pub fn new(kind: DiskErrorKind, path: impl Into<PathBuf>, op: &'static str) -> Self {
        Self { kind, path: path.into(), op, source_errno: 0 }
    }

    /// An error from what a system call answered.
    pub fn io(source: &io::Error, path: impl Into<PathBuf>, op: &'static str) -> Self {
        let errno = source.raw_os_error().unwrap_or(0);
        let kind = match errno {
            0 if source.kind() == io::ErrorKind::UnexpectedEof => DiskErrorKind::Truncated,
            errno => DiskErrorKind::of_errno(errno),
        };
        Self { kind, path: path.into(), op, source_errno: errno }
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = match self.kind {
            DiskErrorKind::Full => "no space left on the volume",
            DiskErrorKind::ReadOnly => "the volume is read-only",
            DiskErrorKind::Io => "the device failed",
            DiskErrorKind::Missing => "file or folder is missing",
            DiskErrorKind::Unmounted => "its volume is not mounted",
            DiskErrorKind::Truncated => "the file is shorter than it should be",
            DiskErrorKind::Permission => "permission denied",
            DiskErrorKind::TooBig => "the file is too big for the file system or a limit",
            DiskErrorKind::NotAFile => "something else than a plain file is in the way",
            DiskErrorKind::TooManyFiles => "too many open files",
            DiskErrorKind::Other => "failed",
        };
        write!(f, "{}: {}: {cause}", self.path.display(), self.op)?;
        if self.source_errno != 0 {
            write!(f, " ({})", io::Error::from_raw_os_error(self.source_errno))?;
        }
        Ok(())
    }
}

impl std::error::Error for DiskError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_file_call_and_cause() {
        let e = DiskError::io(&io::Error::from_raw_os_error(libc::ENOSPC), "/data/a.iso", "write");
        assert_eq!(e.kind, DiskErrorKind::Full);
        let text = e.to_string();
        assert!(text.starts_with("/data/a.iso: write: no space left on the volume ("), "{text}");
    }

    #[test]
    fn an_early_end_is_a_truncation() {
        let e = DiskError::io(&io::Error::from(io::ErrorKind::UnexpectedEof), "x", "read");
        assert_eq!((e.kind, e.source_errno), (DiskErrorKind::Truncated, 0));
        assert_eq!(e.to_string(), "x: read: the file is shorter than it should be");
    }
}
