//! What has to be found again after a crash: which pieces of its torrents are there.
//!
//! ```text
//!   HASH.torrent   what it is, where its files are, how it was added: see `torrent::remember`
//!   HASH.have      its have-journal: see `torrent::journal`
//!   HASH.resume    stamps of its files, unfinished pieces, addresses, totals; replaced now and then
//!   HASH.info      the info dictionary of one that was added by a magnet link
//!   dht            what the DHT node knows
//!   lock, lock-?   locked by byte: one a torrent, by the process that has it, and one for `dht`
//!   *.bad          what could not be read, or made no sense, set aside
//! ```
//!
//! [`Folder`] is what the rest needs of a file system, no more; a driver has it in a real folder, the
//! simulator in one that crashes.

mod keeper;

use std::io;

pub use keeper::{Answer, Keeper};

use crate::id::InfoHash;

/// Files larger than this are not ours.
pub const FILE_MAX: u64 = 64 << 20;

/// Names of the files of a torrent.
pub mod name {
    use super::InfoHash;

    /// What the DHT node knows.
    pub const DHT: &str = "dht";

    /// Its have-journal.
    pub fn have(h: &InfoHash) -> String {
        format!("{h}.have")
    }

    /// What it is, and how it was added.
    pub fn torrent(h: &InfoHash) -> String {
        format!("{h}{TORRENT}")
    }

    /// The end of such a name.
    pub const TORRENT: &str = ".torrent";

    /// A journal on its way to take the other's place.
    pub fn have_new(h: &InfoHash) -> String {
        format!("{h}.have.new")
    }

    /// The info dictionary of a torrent that was added by a magnet link.
    pub fn info(h: &InfoHash) -> String {
        format!("{h}.info")
    }

    /// The rest of what the next run should know.
    pub fn resume(h: &InfoHash) -> String {
        format!("{h}.resume")
    }
}

/// Work on a folder that waits for the device, and so is answered later.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Job {
    /// Makes a file with these bytes, instead of one that may be there, and syncs it. Until the folder is synced too,
    /// a power cut may leave the old one, or none.
    Create {
        /// Its name.
        name: String,
        /// What is in it.
        bytes: Vec<u8>,
    },
    /// Puts a file with these bytes in the place of another as a whole: made under another name, synced, renamed, and
    /// the folder synced. Whatever happens meanwhile, one of the two is there.
    Replace {
        /// Its name.
        name: String,
        /// What is in it.
        bytes: Vec<u8>,
    },
    /// Adds bytes at the end of a file that is there: see [`Folder::waits`].
    Append {
        /// Its name.
        name: String,
        /// What is added.
        bytes: Vec<u8>,
    },
    /// Adds bytes at the end of a file that is there, gives it another name, and syncs the folder. A file that has that
    /// name already is gone.
    Adopt {
        /// The name it has.
        from: String,
        /// The name it gets.
        to: String,
        /// What is added.
        bytes: Vec<u8>,
    },
    /// Syncs what has been appended to a file.
    Sync {
        /// Its name.
        name: String,
    },
    /// Removes files, in this order, and syncs the folder. Those that are not there are no error.
    Remove {
        /// Their names.
        names: Vec<String>,
    },
    /// Syncs the folder: what was made, renamed and removed in it stays so.
    SyncFolder,
}

/// A folder of files that are named, read and written as a whole. Names are plain: no separators.
///
/// What [`Folder::append`], [`Folder::rename`] and [`Folder::remove`] do survives the end of the process at once,
/// and a power cut only after a job has synced it. Jobs are carried out in the order they were given.
pub trait Folder {
    /// The names of all files.
    fn list(&mut self) -> io::Result<Vec<String>>;

    /// A whole file: `None` when there is none. An error when it is something else than a file, or larger
    /// than [`FILE_MAX`].
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Appending and renaming may wait for the device now, and are better left to jobs: what is written then is lost
    /// with a process that is killed before the job is done.
    fn waits(&mut self) -> bool;

    /// Adds bytes at the end of a file that is there. Not while a job that writes to it is under way.
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Gives a file another name; one that has it already is gone.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. One that is not there is no error.
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// Begins a job; its end is told with this ticket.
    fn submit(&mut self, ticket: u64, job: Job);

    /// The next job that has ended.
    fn poll_done(&mut self) -> Option<(u64, io::Result<()>)>;
}
