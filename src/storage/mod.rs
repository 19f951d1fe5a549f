//! Where payload rests: files, buffers and windows, and the hashing of pieces.
//!
//! [`Storage`] is what the pump sees; [`Disk`] keeps torrents in files, [`Memory`] keeps them in
//! memory for tests and the simulator. Everything is named by torrent and piece. Nothing is called back: results
//! are asked for with [`Storage::poll_done`]. Calls that may stand in a disk's queue are left to the [`helper`].
//!
//! # How the pump drives it
//!
//! Receiving, once per vectored read:
//!
//! ```text
//! plan.begin();
//! n = storage.place(torrent, block, at, block.len - at, &mut plan)?    // the rest of this block
//! plan.push_slot(13);                                                  // the next header, predicted
//! n = storage.place(torrent, next, 0, next.len, &mut plan)?            // the next block
//! got = stream.recv(&mut storage.regions(&mut plan))?
//! for every block that got bytes: storage.landed(torrent, piece, begin, len)
//! ```
//!
//! `place` may cover less than was asked, also nothing: the plan is full, the buffers are used up, or
//! the lane has no place for these bytes. End the plan there; with an empty plan read into a scratch
//! buffer and call [`Storage::write`], which always takes the bytes. When a prediction was wrong, the bytes
//! behind it are taken back with [`Storage::read_back`] and never reported as landed. An `EFAULT` from the
//! read is explained by [`Storage::fault`].
//!
//! Sending is the same with [`PlaceList::push_bytes`] and [`Storage::lend`]. A short write means that
//! what is left is lent again, from another `at`.
//!
//! When a piece is complete: [`Storage::hash`]. Then, every turn of the loop, [`Storage::work`] with a budget and
//! [`Storage::poll_done`] until it is empty. Pieces wait a few turns, while bytes keep landing, to be hashed
//! several at once; as soon as nothing lands they are hashed. While `work` answers true the loop must not sleep.
//!
//! # What becomes of the bytes
//!
//! ```text
//! gather   socket -> extent buffer -> hash while hot -> one pwrite    (default)
//! direct   socket -> window of the mapped file; hashed through pread
//! scratch  socket -> the caller's buffer -> pwrite; hashed through pread
//! ```
//!
//! # Invariants
//!
//! - A piece is reported good only after its bytes were hashed *and* written to its files.
//! - Bytes that are not valid in a buffer are in the files, if anywhere: early flushes write valid
//!   ranges only.
//! - Buffers, windows and descriptors in use never exceed their limits by more than one.
//! - Nothing outside a torrent's folder is ever opened, and no link is followed below it.

mod cold;
mod disk;
mod error;
mod extents;
mod files;
mod flight;
pub mod guard;
mod hash;
pub mod helper;
mod iov;
pub mod lanes;
pub mod lanes256;
mod map;
mod memory;
mod plan;
mod sync;
mod sys;
#[cfg(test)]
mod tests;
mod volume;
mod wide;

pub use disk::Disk;
pub use error::{DiskError, DiskErrorKind};
#[cfg(feature = "sim")]
pub(crate) use iov::HeapLender;
pub use iov::{IoVecs, MAX_REGIONS};
pub use memory::Memory;
pub use plan::{MAX_PARTS, PlaceList};
#[cfg(feature = "sim")]
pub(crate) use plan::{Part, resolve};
pub(crate) use sys::lock_byte;

use crate::config::limits;
use crate::id::{Block, FileIndex, PieceIndex, TorrentKey};
use crate::torrent::layout::Layout;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Which file system a folder is on, for the helper; 0 when nobody can tell.
pub(crate) fn file_system_of(dir: &Path) -> u64 {
    sys::open_dir(dir).and_then(|fd| sys::file_system(fd.as_fd())).unwrap_or(0)
}

/// How files are read and written.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Backend {
    /// Per file: mapped windows where the file system keeps their promises, system calls elsewhere.
    #[default]
    Auto,
    /// Mapped windows wherever a mapping is possible at all.
    Map,
    /// `pread` and `pwrite` only.
    Io,
}

/// Which way downloaded bytes take. See the module's head.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Lane {
    /// What measures best: gather.
    #[default]
    Auto,
    /// Straight into a window of the mapped file, where its space has been taken and it can be mapped; elsewhere as
    /// gather.
    Direct,
    /// Into extent buffers, each written once.
    Gather,
    /// Through the caller's buffer.
    Scratch,
}

/// Who writes to files, where there is a helper.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Writer {
    /// The caller where the volume has shown that it is fast, the helper elsewhere.
    #[default]
    Auto,
    /// The helper, as if all volumes were slow.
    Helper,
}

/// Whether space is taken before bytes come.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Allocate {
    /// Files grow as bytes are written; they have holes until then.
    None,
    /// The whole file at its first byte, so that a full disk is known before the download.
    #[default]
    Full,
}

/// What a [`Disk`] is made with. Sizes in bytes.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    /// How files are read and written.
    pub backend: Backend,
    /// Which way downloaded bytes take.
    pub lane: Lane,
    /// Length of a mapped window.
    pub window: usize,
    /// Most bytes mapped at once, the window in use apart.
    pub map_limit: usize,
    /// Most bytes in extent buffers, those of the plan under construction apart.
    pub gather_limit: usize,
    /// Most files open at once.
    pub max_open_files: usize,
    /// Whether space is taken before bytes come.
    pub allocate: Allocate,
    /// Most bytes that are on their way to a slow disk: no more payload is read for it until they are fewer.
    pub unwritten: usize,
    /// Who writes to files.
    pub writer: Writer,
    /// Calls that may block are done by a thread of their own, and not in slices between other work.
    pub helper: bool,
    /// Pieces hashed at once, 1 to [`lanes::MAX_LANES`]. Counts only where the processor gains by it.
    pub hash_lanes: usize,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            backend: Backend::Auto,
            lane: Lane::Auto,
            window: 2 << 20,
            map_limit: 16 << 20,
            gather_limit: 16 << 20,
            max_open_files: 128,
            allocate: Allocate::Full,
            unwritten: limits::UNWRITTEN,
            writer: Writer::Auto,
            helper: true,
            hash_lanes: lanes::MAX_LANES,
        }
    }
}

/// Where a torrent's files are.
#[derive(Clone, Debug)]
pub struct OpenSpec {
    /// The download folder. It may be a symbolic link; it is made when it is missing.
    pub dir: PathBuf,
}

/// What the file system says about a file, to distrust resume data by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileStat {
    /// Length in bytes.
    pub len: u64,
    /// Time of the last change to the content, in seconds since 1970.
    pub mtime: i64,
    /// The nanoseconds of `mtime`.
    pub mtime_nsec: u32,
    /// The file's number on its volume.
    pub inode: u64,
    /// The number of that volume's device.
    pub device: u64,
    /// The number of the mount it was found in; 0 where the system does not tell.
    pub mount: u64,
}

impl From<FileStat> for crate::api::FileStamp {
    fn from(s: FileStat) -> Self {
        Self { len: s.len, mtime: (s.mtime, s.mtime_nsec), inode: s.inode, device: s.device, mount: s.mount }
    }
}

/// A result of queued work.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Done {
    /// A piece was hashed.
    Hashed {
        /// The torrent.
        torrent: TorrentKey,
        /// The piece.
        piece: PieceIndex,
        /// The hash is the expected one, and the piece's bytes are in its files. When false, what was
        /// buffered of it has been dropped.
        ok: bool,
        /// SHA-1 of each 16 KiB of the piece, to find out who sent which bad block: given when it was
        /// asked for, and for every piece that came out bad after [`Storage::hash`] with all its bytes there.
        blocks: Option<Vec<[u8; 20]>>,
    },
    /// A piece could not be read or written. What was buffered of it has been dropped, so what had landed of it
    /// counts as missing. It can be an unfinished piece, written early to make room.
    Failed {
        /// The torrent.
        torrent: TorrentKey,
        /// The piece, if it was about one.
        piece: Option<PieceIndex>,
        /// File and cause.
        error: DiskError,
    },
    /// What [`Storage::sync`] asked for is over.
    Synced {
        /// The torrent.
        torrent: TorrentKey,
        /// With which it was asked.
        ticket: u32,
        /// Whether everything reported good before the call is on the device. After an error nothing that was
        /// written since the last success may be believed until it has been read again: a second sync can well
        /// succeed without the bytes being there. Descriptors and cache of the files concerned have been renewed.
        result: Result<(), DiskError>,
    },
}

/// A place for the payload of torrents. See the module's head for the order of calls.
///
/// A call with a torrent that is not open, or a range outside of its piece, is a bug of the caller:
/// debug builds panic, others answer an error of kind [`DiskErrorKind::Other`] or nothing.
pub trait Storage {
    /// Takes on a torrent. Touches no file: files are opened when they are needed.
    fn open(&mut self, t: TorrentKey, layout: Arc<Layout>, spec: OpenSpec) -> Result<(), DiskError>;

    /// Writes out what is buffered and forgets the torrent, its descriptors and its windows (pause,
    /// remove, exit). Queued hashing is dropped without a result. The first error of the flush is
    /// returned; the torrent is forgotten all the same. What is on its way to a slow volume gets there later: to know
    /// when, flush and wait until [`Storage::flushing`] is false, and then close.
    fn close(&mut self, t: TorrentKey) -> Result<(), DiskError>;

    /// Deletes a torrent's files and the folders that this leaves empty. The torrent is forgotten first,
    /// with nothing written out. Files that are not there are no error; it goes on after one and returns the first.
    fn remove_files(&mut self, t: TorrentKey) -> Result<(), DiskError>;

    /// Makes the folders and the empty files among the wanted ones, and compares the space they
    /// still need with what the volume has. From then on the others take no more space than the bytes
    /// that are written to them.
    fn prepare(&mut self, t: TorrentKey, wanted: &dyn Fn(FileIndex) -> bool) -> Result<(), DiskError>;

    /// Takes the space of a whole file at once, if so configured and the volume can. [`Self::place`] and
    /// [`Self::write`] do this before a file's first byte. What was taken is given back when it is not enough.
    fn allocate(&mut self, t: TorrentKey, file: FileIndex) -> Result<(), DiskError>;

    /// Adds to the plan where `block[at..at + max]` rests, for receiving. Returns how many of these bytes
    /// are covered, from the first on; see the module's head for less than `max`.
    fn place(&mut self, t: TorrentKey, block: Block, at: u32, max: u32, out: &mut PlaceList) -> Result<u32, DiskError>;

    /// The addresses of a plan's parts, for one system call.
    fn regions<'a>(&'a mut self, plan: &'a mut PlaceList) -> IoVecs<'a>;

    /// Why a system call on this plan's regions was an `EFAULT`: the file behind it is asked. Drops the
    /// windows concerned.
    fn fault(&mut self, plan: &PlaceList) -> DiskError;

    /// Bytes of a plan have arrived: `piece[begin..begin + len]` is valid now.
    fn landed(&mut self, t: TorrentKey, piece: PieceIndex, begin: u32, len: u32);

    /// Takes back bytes that landed at `block[at..]` but do not belong there. Only between the read and
    /// the next call of anything else.
    fn read_back(&mut self, t: TorrentKey, block: Block, at: u32, buf: &mut [u8]) -> Result<(), DiskError>;

    /// Takes bytes from the caller's buffer: place, copy and landed in one.
    fn write(&mut self, t: TorrentKey, piece: PieceIndex, begin: u32, data: &[u8]) -> Result<(), DiskError>;

    /// Drops what is buffered of a piece and any hashing queued for it.
    fn forget(&mut self, t: TorrentKey, piece: PieceIndex);

    /// Queues a complete piece for verification. `want_blocks` asks for the hashes of its blocks in any case.
    fn hash(&mut self, t: TorrentKey, piece: PieceIndex, expected: [u8; 20], want_blocks: bool);

    /// Queues a piece at rest for verification (start, user's check). Missing and short files make it bad, not
    /// failed.
    fn recheck(&mut self, t: TorrentKey, piece: PieceIndex, expected: [u8; 20]);

    /// The next result.
    fn poll_done(&mut self) -> Option<Done>;

    /// Hashes and writes about `budget` bytes of what is queued. True when there is more to do.
    fn work(&mut self, budget: usize) -> bool;

    /// Adds to the plan `block[at..at + max]` for sending. The piece must have been verified. Returns how many bytes
    /// are covered: fewer where the disk has to be waited for, which begins to read them then. Ask again later.
    fn lend(&mut self, t: TorrentKey, block: Block, at: u32, max: u32, out: &mut PlaceList) -> Result<u32, DiskError>;

    /// Tells that a block will be lent soon, so that the disk can start on it.
    fn prefetch(&mut self, t: TorrentKey, block: Block);

    /// Writes out the valid ranges of unfinished pieces and empties their buffers. On a slow volume that is only begun:
    /// see [`Storage::flushing`].
    fn flush(&mut self, t: TorrentKey) -> Result<(), DiskError>;

    /// The next sync is to cover this piece, whoever wrote it: an earlier process may have, and died before it had
    /// synced its files and the folders it made them in.
    fn cover(&mut self, t: TorrentKey, piece: PieceIndex) {
        let _ = (t, piece);
    }

    /// What had landed before the last [`Storage::flush`] of this torrent is still on its way to its files, and changes
    /// them. [`Storage::work`] takes it further; an error comes as [`Done::Failed`].
    fn flushing(&self, t: TorrentKey) -> bool {
        let _ = t;
        false
    }

    /// Asks that everything reported good so far be brought to the device; the answer is [`Done::Synced`] with
    /// this ticket, unless the torrent is closed before. At most one a torrent is under way; asking again meanwhile is
    /// answered by itself.
    fn sync(&mut self, t: TorrentKey, ticket: u32);

    /// What the file system says about a file; `None` when it is not there or not a plain file.
    fn file_stat(&mut self, t: TorrentKey, file: FileIndex) -> Option<FileStat>;

    /// Which file system the download folder was on when it was last found; `None` when it was not, or nobody can tell.
    fn home(&self, t: TorrentKey) -> Option<u64> {
        let _ = t;
        None
    }

    /// An earlier process found files of this torrent in its folder on this file system: where that is not mounted now,
    /// nothing is made.
    fn set_home(&mut self, t: TorrentKey, home: u64) {
        let _ = (t, home);
    }

    /// The disk is behind: read no more payload of this torrent for now. What has arrived is still taken.
    fn holds_back(&self, t: TorrentKey) -> bool {
        let _ = t;
        false
    }

    /// Bytes that have landed and are not in a file yet.
    fn dirty(&self) -> usize;

    /// Bytes of memory held: buffers and mapped windows.
    fn memory(&self) -> usize;
}
