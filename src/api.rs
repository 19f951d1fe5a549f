//! What goes in and out of a [`Session`](crate::session::Session): settings of one torrent, statuses,
//! alerts for the embedder, actions and inputs for the driver.
//!
//! Everything here is plain data. Amounts are bytes, rates bytes per second.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::Error;
use crate::id::{Block, ConnKey, FileIndex, InfoHash, PieceIndex, TorrentKey};
use crate::metainfo::Metainfo;
use crate::metainfo::magnet::Magnet;
use crate::time::{Duration, Instant};
use crate::torrent::layout::Layout;
pub use crate::torrent::picker::Priority;

/// A torrent to add: what it is, where its files go, and how it starts.
#[derive(Debug)]
pub struct Add {
    /// The parsed `.torrent`, or what a magnet link says (see [`Add::magnet`]).
    pub meta: Metainfo,
    /// The download folder; the torrent's own paths lie below it.
    pub dir: PathBuf,
    /// Start paused.
    pub paused: bool,
    /// One priority a file, in the torrent's order; empty means all `Normal`.
    pub priorities: Vec<Priority>,
    /// Files to fetch when `priorities` is empty, by first and last index counted from 0 (BEP 53); empty means
    /// all. What the torrent does not have is ignored.
    pub select: Vec<(u32, u32)>,
    /// Pause as soon as the metadata is known: no file is touched.
    pub metadata_only: bool,
    /// Download in order instead of rarest first.
    pub sequential: bool,
    /// Tracker URLs to use besides the torrent's own, as tiers of their own.
    pub trackers: Vec<String>,
    /// Leave the torrent's own trackers alone.
    pub no_trackers: bool,
    /// Peers to dial, as the user gave them: they are exempt from address filters.
    pub peers: Vec<SocketAddr>,
    /// What an earlier run saved (see [`Action::Save`]).
    pub resume: Option<Vec<u8>>,
    /// Its have-journal, where the driver keeps one (see [`Action::Note`]). It outweighs `resume`.
    pub journal: Option<Vec<u8>>,
    /// A hash of the system's boot id, to tell what was written since it started; 0 when unknown.
    pub boot: u64,
    /// Check all data on disk, whatever `resume` says.
    pub verify: bool,
    /// Stop at this ratio of uploaded to downloaded (or to the size, for what was there at the start).
    pub seed_ratio: Option<f64>,
    /// Stop after seeding for so long.
    pub seed_time: Option<Duration>,
}

impl Add {
    /// A torrent with default settings, its files below `dir`.
    pub fn new(meta: Metainfo, dir: impl Into<PathBuf>) -> Self {
        Self {
            meta,
            dir: dir.into(),
            paused: false,
            priorities: Vec::new(),
            select: Vec::new(),
            metadata_only: false,
            sequential: false,
            trackers: Vec::new(),
            no_trackers: false,
            peers: Vec::new(),
            resume: None,
            journal: None,
            boot: 0,
            verify: false,
            seed_ratio: None,
            seed_time: None,
        }
    }

    /// A torrent by its magnet link, its files below `dir`; what it is, is asked of its peers
    /// ([`Alert::Metadata`]). Of the peers in the link those are taken that are given by IP address.
    ///
    /// # Errors
    /// [`Error::V2Only`] when the link has no version 1 hash.
    pub fn magnet(magnet: &Magnet, dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let meta = Metainfo::of_magnet(magnet).ok_or(Error::V2Only)?;
        let addr = |(host, port): &(String, u16)| Some(SocketAddr::new(host.parse().ok()?, *port));
        let peers = magnet.peers.iter().filter_map(addr).collect();
        Ok(Self { peers, select: magnet.select.clone(), ..Self::new(meta, dir) })
    }
}

/// What a torrent is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Asking peers what it is; pieces of the info dictionary that have come, of all: 0 while nobody has told.
    FetchingMetadata {
        /// Pieces so far.
        done: u32,
        /// Pieces in all.
        total: u32,
    },
    /// Reading what lies on disk; pieces looked at, of those to look at.
    Checking {
        /// Pieces checked so far.
        done: u32,
        /// Pieces to check in all.
        total: u32,
    },
    /// Fetching wanted pieces.
    Downloading,
    /// Has everything it wants and serves it.
    Seeding,
    /// Stopped by command, or after reaching its seeding goal.
    Paused,
    /// Stopped by an error, told in [`Status::error`]; or its files can only be read, and what there is is served.
    Error,
}

/// One torrent at a glance.
#[derive(Clone, Debug)]
pub struct Status {
    /// The torrent.
    pub key: TorrentKey,
    /// Its info hash.
    pub info_hash: InfoHash,
    /// Its name, safe for a file system.
    pub name: String,
    /// What it is doing.
    pub state: State,
    /// Why it stopped, in [`State::Error`].
    pub error: Option<String>,
    /// Payload of all files, pad files left out.
    pub size: u64,
    /// Payload of the selected files.
    pub wanted: u64,
    /// Verified payload of the selected files.
    pub have: u64,
    /// Of these, what a power cut cannot take any more.
    pub durable: u64,
    /// Payload that passed its hash in this torrent's life.
    pub downloaded: u64,
    /// Payload that sockets took in this torrent's life.
    pub uploaded: u64,
    /// Payload that arrived in vain: twice, or failing its hash.
    pub wasted: u64,
    /// Payload received per second.
    pub rate_down: u64,
    /// Payload sent per second.
    pub rate_up: u64,
    /// Connected peers.
    pub peers: usize,
    /// Connected peers that have everything.
    pub seeds: usize,
    /// Connection attempts under way.
    pub connecting: usize,
    /// Addresses known.
    pub known: usize,
    /// Pieces verified, of all.
    pub pieces: (u32, u32),
    /// Time to completion at the present rate; `None` when that is unknown or nothing is left.
    pub eta: Option<Duration>,
    /// Time spent seeding.
    pub seeding_for: Duration,
    /// The seeding goal (ratio or time) has been reached.
    pub goal_reached: bool,
    /// Its files are known: false for a magnet link until its metadata has come.
    pub has_metadata: bool,
}

impl Status {
    /// Uploaded over downloaded, or over what is had when nothing was downloaded; 0 when neither.
    pub fn ratio(&self) -> f64 {
        let base = if self.downloaded > 0 { self.downloaded } else { self.have };
        if base == 0 { 0.0 } else { self.uploaded as f64 / base as f64 }
    }
    /// All selected files are complete, verified, and on the device.
    pub fn is_complete(&self) -> bool {
        let done = self.has_metadata && self.have == self.wanted && self.durable == self.wanted;
        done && matches!(self.state, State::Seeding | State::Paused)
    }
}

/// One file of a torrent.
#[derive(Clone, Debug)]
pub struct FileStatus {
    /// Its place in the torrent's list.
    pub index: FileIndex,
    /// Its path below the download folder.
    pub path: String,
    /// Its length.
    pub len: u64,
    /// Verified bytes of it.
    pub have: u64,
    /// Its priority.
    pub priority: Priority,
}

/// Totals of a session.
#[derive(Clone, Copy, Default, Debug)]
pub struct Stats {
    /// Payload received per second.
    pub rate_down: u64,
    /// Payload sent per second.
    pub rate_up: u64,
    /// Payload received.
    pub received: u64,
    /// Payload sent.
    pub sent: u64,
    /// Connected peers.
    pub peers: usize,
    /// Connection attempts under way.
    pub half_open: usize,
    /// Torrents.
    pub torrents: usize,
    /// Requests of peers that wait to be served.
    pub requests_in: usize,
    /// Requests refused because [`limits::REQUESTS_IN_TOTAL`](crate::config::limits::REQUESTS_IN_TOTAL)
    /// waited already.
    pub requests_over: u64,
    /// Payload that arrived in vain, in the lives of the torrents that are here.
    pub wasted: u64,
    /// Pieces that failed their hash.
    pub pieces_failed: u64,
    /// Syncs that failed: what was written before them had to be read again.
    pub sync_errors: u64,
    /// Peers banned for bad data.
    pub banned: u64,
    /// Times that an address was not dialled, or not let in, because it is blocked.
    pub blocked: u64,
    /// Connections turned away, or closed before they said anything, for want of room.
    pub turned_away: u64,
    /// Idle or crowded peers closed to make room.
    pub evicted: u64,
    /// Peers closed because they broke the protocol.
    pub breaches: u64,
    /// Peers closed because they did not read what they had asked for.
    pub stuck: u64,
    /// Times the system had no more sockets for us.
    pub exhausted: u64,
    /// Alerts lost because nobody pulled them.
    pub alerts_lost: u64,
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The other side closed it.
    Eof,
    /// The socket failed: the system's error text.
    Io(String),
    /// The system has no more sockets, or no memory for them: not the peer's fault.
    Exhausted(String),
    /// There is no network to reach it by, the interface that all is bound to being gone: not the peer's fault.
    NoNetwork(String),
    /// No answer to the connection attempt in time.
    ConnectTimeout,
    /// No complete handshake in time.
    HandshakeTimeout,
    /// Nothing was received for too long.
    Idle,
    /// The other side broke the protocol.
    Protocol(String),
    /// It does not read what it has asked for.
    Stuck,
    /// It asked for a torrent that is not here.
    UnknownInfoHash,
    /// It is this very session.
    Ourselves,
    /// A second connection to the same peer.
    Duplicate,
    /// It sent data that is proven bad.
    Banned,
    /// Both sides have everything.
    NothingToTrade,
    /// There is no room for more peers.
    TooManyPeers,
    /// Its address is in the list of blocked ones.
    Blocked,
    /// The torrent was paused, removed, or failed.
    TorrentStopped,
    /// The data asked for could not be read.
    Disk,
    /// The session ends.
    Shutdown,
    /// A tracker connection that has done its work.
    Done,
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Eof => f.write_str("closed by the other side"),
            Self::Io(e) | Self::Exhausted(e) | Self::NoNetwork(e) => f.write_str(e),
            Self::ConnectTimeout => f.write_str("no answer to the connection attempt"),
            Self::HandshakeTimeout => f.write_str("no complete handshake in time"),
            Self::Idle => f.write_str("silent for too long"),
            Self::Protocol(e) => write!(f, "protocol violation: {e}"),
            Self::Stuck => f.write_str("asks for more answers than it reads"),
            Self::UnknownInfoHash => f.write_str("asked for a torrent that is not here"),
            Self::Ourselves => f.write_str("that is this client itself"),
            Self::Duplicate => f.write_str("second connection to the same peer"),
            Self::Banned => f.write_str("sent bad data"),
            Self::NothingToTrade => f.write_str("both sides have everything"),
            Self::TooManyPeers => f.write_str("no room for more peers"),
            Self::Blocked => f.write_str("its address is blocked"),
            Self::TorrentStopped => f.write_str("torrent stopped"),
            Self::Disk => f.write_str("data could not be read"),
            Self::Shutdown => f.write_str("shutting down"),
            Self::Done => f.write_str("done"),
        }
    }
}

/// How an announce or a scrape ended.
#[derive(Clone, Debug)]
pub enum TrackerOutcome {
    /// It answered.
    Reply {
        /// Peers it named.
        peers: usize,
        /// Complete peers it counts.
        seeders: Option<u32>,
        /// Incomplete peers it counts.
        leechers: Option<u32>,
        /// Time until the next announce.
        interval: Duration,
        /// A warning to show.
        warning: Option<String>,
    },
    /// It failed; told once for each kind of failure until it works again.
    Error(String),
    /// A scrape was answered.
    Scrape {
        /// Complete peers it counts.
        seeders: Option<u32>,
        /// Incomplete peers it counts.
        leechers: Option<u32>,
        /// Downloads it counts.
        downloaded: Option<u32>,
    },
    /// A scrape failed.
    ScrapeError(String),
}

/// What happened, for the embedder. Pull them with `poll_alert`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Alert {
    /// A torrent was added, and what is needed to begin with it again is on the device: from now on no crash makes it
    /// disappear. It may have begun before.
    Added {
        /// Which.
        torrent: TorrentKey,
    },
    /// A torrent was added, but a crash can take it: it could not be stored. It is tried again.
    NotKept {
        /// Which.
        torrent: TorrentKey,
        /// Why.
        error: String,
    },
    /// What it is has been learnt from its peers: see `Session::metainfo`.
    Metadata {
        /// Which.
        torrent: TorrentKey,
    },
    /// What lay on disk has been looked at.
    Checked {
        /// Which.
        torrent: TorrentKey,
        /// Pieces found good, of all.
        pieces: (u32, u32),
    },
    /// A piece was verified and written.
    Piece {
        /// Which torrent.
        torrent: TorrentKey,
        /// Which piece.
        piece: PieceIndex,
    },
    /// A piece failed its hash and is fetched again.
    PieceFailed {
        /// Which torrent.
        torrent: TorrentKey,
        /// Which piece.
        piece: PieceIndex,
    },
    /// All pieces of a file are verified.
    File {
        /// Which torrent.
        torrent: TorrentKey,
        /// Which file.
        file: FileIndex,
    },
    /// All selected files are complete, and on the device.
    Finished {
        /// Which.
        torrent: TorrentKey,
    },
    /// The seeding goal was reached; the torrent is paused.
    GoalReached {
        /// Which.
        torrent: TorrentKey,
    },
    /// An announce or a scrape ended.
    Tracker {
        /// Which torrent.
        torrent: TorrentKey,
        /// The tracker, without secrets.
        url: String,
        /// How.
        outcome: TrackerOutcome,
    },
    /// A peer finished its handshake.
    PeerConnected {
        /// Which torrent.
        torrent: TorrentKey,
        /// The connection.
        conn: ConnKey,
        /// Its address.
        addr: SocketAddr,
        /// Its client, as far as its peer id tells; control characters escaped.
        client: String,
        /// It dialled us.
        incoming: bool,
    },
    /// A peer connection ended (only those that were announced as connected).
    PeerClosed {
        /// Which torrent.
        torrent: TorrentKey,
        /// The connection.
        conn: ConnKey,
        /// Its address.
        addr: SocketAddr,
        /// Why.
        why: CloseReason,
    },
    /// An address was banned for bad data.
    PeerBanned {
        /// Which torrent.
        torrent: TorrentKey,
        /// Its address.
        addr: SocketAddr,
    },
    /// The torrent stopped on an error. When it is about its files, it tries again by itself: [`Alert::Resumed`] comes
    /// when that has come to something, and another error when that is another.
    Error {
        /// Which.
        torrent: TorrentKey,
        /// What, and where.
        error: String,
        /// What kind, for exit codes.
        kind: ErrorKind,
    },
    /// Paused by command.
    Paused {
        /// Which.
        torrent: TorrentKey,
    },
    /// Going again, by command or after an error.
    Resumed {
        /// Which.
        torrent: TorrentKey,
    },
    /// Gone from the session.
    Removed {
        /// Its name, for a last message.
        info_hash: InfoHash,
    },
}

/// Alerts that wait to be pulled: at most `limits::ALERTS`, the oldest are lost first.
#[derive(Debug, Default)]
pub struct Alerts {
    queue: std::collections::VecDeque<Alert>,
    lost: u64,
}

impl Alerts {
    /// Adds one.
    pub fn push_back(&mut self, alert: Alert) {
        if self.queue.len() >= crate::config::limits::ALERTS {
            self.queue.pop_front();
            self.lost += 1;
        }
        self.queue.push_back(alert);
    }

    /// Takes the oldest.
    pub fn pop_front(&mut self) -> Option<Alert> {
        self.queue.pop_front()
    }

    /// How many were lost because nobody pulled them.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

/// Whether a torrent is there again after a crash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kept {
    /// It is being stored.
    Waiting,
    /// It is, or nobody keeps anything.
    Yes,
    /// It could not be stored, so far: why.
    No(String),
}

/// Kinds of torrent errors that a caller may want to tell apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// No space left, or over quota. What is there is served meanwhile.
    NoSpace,
    /// The volume is mounted read-only. What is there is served meanwhile.
    ReadOnly,
    /// A file is too big for its file system, or for a limit. What is there is served meanwhile.
    TooBig,
    /// The system refuses: no permission, something else in the way. That does not pass by itself, though it is tried
    /// again.
    Refused,
    /// A file is shorter than it was, or gone: somebody else changed it.
    FilesChanged,
    /// Any other failure of files.
    FileIo,
    /// The metadata that belongs to a magnet link is no torrent that can be used.
    Metadata,
}

impl ErrorKind {
    /// Whether files that fail so can be read all the same.
    pub(crate) const fn concerns_writing(self) -> bool {
        matches!(self, Self::NoSpace | Self::ReadOnly | Self::TooBig)
    }
}

/// What the session wants its driver to do. Drain after every call that takes `&mut Session`.
#[derive(Debug)]
pub enum Action {
    /// Open a stream to `addr` and answer with `Connected` or `Closed`.
    Connect {
        /// The connection it is for.
        conn: ConnKey,
        /// Where to.
        addr: SocketAddr,
        /// Speak TLS there with this host, a name or an IP address; it is `Connected` once its certificate has
        /// been verified.
        tls: Option<String>,
    },
    /// Drop the stream; the session has forgotten it already. Bytes already handed to
    /// `chunks` need not be sent.
    Close {
        /// The connection.
        conn: ConnKey,
        /// Why, for the log.
        why: CloseReason,
    },
    /// `chunks` has something to send again, or `want` something to receive.
    Wake {
        /// The connection.
        conn: ConnKey,
    },
    /// Look a host name up and answer with `Resolved`.
    Resolve {
        /// Echoed in the answer.
        id: u64,
        /// The name.
        host: String,
    },
    /// Make the torrent's files usable.
    Open {
        /// The torrent.
        torrent: TorrentKey,
        /// Its files.
        layout: Arc<Layout>,
        /// The download folder.
        dir: PathBuf,
        /// Files that are wanted now (empty ones among them are created).
        wanted: Vec<bool>,
    },
    /// Selection changed: files that are wanted now.
    Wanted {
        /// The torrent.
        torrent: TorrentKey,
        /// One flag a file.
        wanted: Vec<bool>,
    },
    /// Hash a piece and answer with `Hashed`.
    Hash {
        /// The torrent.
        torrent: TorrentKey,
        /// The piece.
        piece: PieceIndex,
        /// Its SHA-1.
        expected: [u8; 20],
        /// The data lies on disk from earlier (a check), and has not just arrived.
        at_rest: bool,
        /// Give the SHA-1 of each block too, to find out who sent bad ones.
        blocks: bool,
    },
    /// Send the first message to the IPv4 group of [`lan::lsd`](crate::lan::lsd), the second to that of IPv6, on every
    /// interface in use.
    Multicast {
        /// The messages.
        messages: [Vec<u8>; 2],
    },
    /// This block will be served soon.
    Prefetch {
        /// The torrent.
        torrent: TorrentKey,
        /// The block.
        block: Block,
    },
    /// Flush the torrent's files, look at their sizes and times, and store what
    /// `Session::record` makes of them, to be given back as [`Add::resume`].
    Save {
        /// The torrent.
        torrent: TorrentKey,
        /// Its name in the state folder.
        info_hash: InfoHash,
    },
    /// Keep what `Session::recollection` says in the place of what was kept before, on the device, for
    /// [`recall`](crate::torrent::recall), and answer with [`Input::Remembered`]: at once where nothing is kept.
    Remember {
        /// The torrent.
        torrent: TorrentKey,
        /// Its name in the state folder.
        info_hash: InfoHash,
    },
    /// Keep the torrent's info dictionary (`Session::metainfo`), so that a restart need not fetch it.
    SaveMetadata {
        /// The torrent.
        torrent: TorrentKey,
        /// Its name in the state folder.
        info_hash: InfoHash,
    },
    /// Bring what was reported good to the device, note in the journal that these pieces are there, sync that too, and
    /// answer with [`Input::Synced`]. One at a time for each torrent.
    Sync {
        /// The torrent.
        torrent: TorrentKey,
        /// Echoed in the answer.
        ticket: u32,
        /// Pieces that are verified and not yet durable.
        pieces: Vec<PieceIndex>,
    },
    /// For the have-journal, where the driver keeps one.
    Note {
        /// The torrent.
        torrent: TorrentKey,
        /// Its name in the state folder.
        info_hash: InfoHash,
        /// What to note.
        note: Note,
    },
    /// Flush and close the torrent's files.
    CloseFiles {
        /// The torrent.
        torrent: TorrentKey,
    },
    /// The torrent is gone: close its files, forget its record, and delete its data when asked to.
    Remove {
        /// The torrent.
        torrent: TorrentKey,
        /// Its name in the state folder.
        info_hash: InfoHash,
        /// Its files.
        layout: Arc<Layout>,
        /// The download folder.
        dir: PathBuf,
        /// Delete the downloaded files.
        with_data: bool,
    },
}

/// What a have-journal is told (see `torrent::journal`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Note {
    /// A run begins.
    Begin {
        /// The journal does not say what is known now, and must be replaced by what [`Session::claims`] says.
        ///
        /// [`Session::claims`]: crate::session::Session::claims
        rewrite: bool,
        /// Pieces are being looked at that no journal names.
        checking: bool,
    },
    /// Everything has been looked at.
    Settled,
    /// A piece was verified.
    Verified(PieceIndex),
    /// A piece is not to be believed any more.
    Lost(PieceIndex),
}

/// What the driver tells the session.
#[derive(Debug)]
pub enum Input {
    /// The stream is open; `local` is its own address.
    Connected {
        /// The connection.
        conn: ConnKey,
        /// Our end.
        local: Option<SocketAddr>,
    },
    /// The stream failed or ended.
    Closed {
        /// The connection.
        conn: ConnKey,
        /// Why.
        why: CloseReason,
    },
    /// A name lookup ended.
    Resolved {
        /// As in [`Action::Resolve`].
        id: u64,
        /// Addresses, or an error to show.
        result: Result<Vec<std::net::IpAddr>, String>,
    },
    /// A torrent's files are usable.
    Opened {
        /// The torrent.
        torrent: TorrentKey,
        /// Size and times of each file now (None: absent), to compare with the resume record.
        files: Vec<Option<FileStamp>>,
    },
    /// A piece was hashed.
    Hashed {
        /// The torrent.
        torrent: TorrentKey,
        /// The piece.
        piece: PieceIndex,
        /// It is good, and written to its files.
        ok: bool,
        /// SHA-1 of each block, when asked for.
        blocks: Option<Vec<[u8; 20]>>,
    },
    /// A datagram could not be sent to `to`; the system's error text. What is merely lost is not told.
    Unsent {
        /// Where to.
        to: SocketAddr,
        /// Why not.
        error: String,
    },
    /// What had landed of a piece is gone: it could not be written. Comes before [`Input::DiskFailed`].
    PieceLost {
        /// The torrent.
        torrent: TorrentKey,
        /// The piece; `None` is every piece that is not verified.
        piece: Option<PieceIndex>,
    },
    /// A verified piece cannot be read any more, for a fault of the device: it is fetched again.
    PieceUnreadable {
        /// The torrent.
        torrent: TorrentKey,
        /// The piece.
        piece: PieceIndex,
        /// Why, and where.
        error: String,
    },
    /// What [`Action::Remember`] asked for is done, or could not be.
    Remembered {
        /// The torrent.
        torrent: TorrentKey,
        /// An error is to be shown.
        result: Result<(), String>,
    },
    /// A sync is over. After an error nothing that was not durable before is believed.
    Synced {
        /// The torrent.
        torrent: TorrentKey,
        /// As in [`Action::Sync`]: success counts only for what was asked for with it.
        ticket: u32,
        /// How it ended; an error as in [`Input::DiskFailed`].
        result: Result<(), (String, ErrorKind)>,
    },
    /// Files could not be read or written: the torrent stops until it is resumed.
    DiskFailed {
        /// The torrent.
        torrent: TorrentKey,
        /// What, and where.
        error: String,
        /// What kind.
        kind: ErrorKind,
    },
    /// Time passed.
    Tick,
}

/// What a file looked like: reasons to distrust a resume record, never to trust it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FileStamp {
    /// Length in bytes.
    pub len: u64,
    /// Modification time: seconds and nanoseconds since the epoch.
    pub mtime: (i64, u32),
    /// Inode number.
    pub inode: u64,
    /// Number of the device it is on. Not in a resume record: it may be another one after a restart.
    pub device: u64,
    /// Number of the mount it was found in, 0 when unknown. Not in a resume record either.
    pub mount: u64,
}

impl FileStamp {
    /// It looks like the same file with the same content, wherever that is mounted.
    pub fn looks_like(&self, other: &Self) -> bool {
        (self.len, self.mtime, self.inode) == (other.len, other.mtime, other.inode)
    }
}

/// Where the next bytes of a connection belong.
#[derive(Debug, PartialEq, Eq)]
pub enum Want<'a> {
    /// Read into scratch and `feed` it.
    Bytes,
    /// Payload of `run[0]` from `at` on; behind it, each after 13 bytes of header, the blocks that
    /// are expected next. With `at_header` set the first header has not come yet either.
    Payload {
        /// Whose files.
        torrent: TorrentKey,
        /// The block under way and those predicted behind it.
        run: &'a [Block],
        /// Bytes of `run[0]` that have arrived.
        at: u32,
        /// Not even the header of `run[0]` has arrived.
        at_header: bool,
        /// At most so many bytes (rate limits).
        max: usize,
    },
    /// Payload that is not wanted: read `left` bytes and drop them.
    Discard {
        /// Bytes to drop.
        left: u32,
    },
    /// Do not read before `until`, or before a `Wake`.
    Nothing {
        /// When to ask again.
        until: Instant,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::limits;

    #[test]
    fn alerts_nobody_pulls_are_bounded() {
        let mut alerts = Alerts::default();
        let alert = |i| Alert::Piece { torrent: TorrentKey::new(0, 0), piece: PieceIndex::new(i) };
        for i in 0..=limits::ALERTS as u32 {
            alerts.push_back(alert(i));
        }
        assert_eq!(alerts.lost(), 1);
        assert!(matches!(alerts.pop_front(), Some(Alert::Piece { piece, .. }) if piece.get() == 1));
    }
}
