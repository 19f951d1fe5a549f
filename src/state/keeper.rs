//! Keeps the have-journals of a session's torrents in a [`Folder`].
//!
//! ```text
//!             Begin {rewrite}            Create done: append what came since, rename     folder synced
//!   Absent ────────────────────▶ Moving ──────────────────────────────────────▶ Naming ──────────────▶ Ready
//!     ▲  └── Begin, nothing to rewrite ──────────────────────────────────────────────────────────────▶  │ │
//!     └──────────────────────────────── an error ◀──────────────────────────────────────────────────────┘ │
//!                               Moving ◀────────────── it has grown by COMPACT ◀───────────────────────────┘
//! ```
//!
//! Records are gathered through a turn and appended with one plain write, so that they survive a process that is
//! killed. While a snapshot is being made, what is appended to the old journal is kept aside too, and added
//! to the new one before that takes its place: at no moment is anything missing from the file that has the name.
//!
//! Where a plain write may wait for the device ([`Folder::waits`]) it is a job, behind those under way; what a process
//! that is killed had not got to then is not known at the next start, and is fetched or checked again. Not so what
//! was lost: a piece is written anew after that, and whoever finds the journal must not believe in the old one. Such a
//! record is written at once, or the journal goes.
//!
//! `D` records are written when the torrent's data has been synced, and the session is told that pieces
//! are durable when the journal has been synced behind them. A journal that cannot be written is an error in the
//! log and costs a check at the next start; it does not keep a download from its end. It is tried
//! again with the next sync.
//!
//! What a torrent is, is written only when the folder says something else, so that a start with ten thousand known
//! torrents stores none of them again. That it can be read does not tell that a power cut would leave it, so
//! the folder is synced, once for all that are known by then.
//!
//! Invariants: of the jobs that make, name and sync a journal at most one is under way, and those of a journal that was
//! given up change nothing of the one after it (`life`); nothing is appended by the loop while an append is queued;
//! nothing looks at all torrents in a turn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Folder, Job, name};
use crate::api::{Add, FileStamp, Note};
use crate::id::{FileIndex, InfoHash, PieceIndex, TorrentKey};
use crate::session::Session;
use crate::storage::Storage;
use crate::torrent::journal::{self, Kind, Phase, Replay, Writer};
use crate::torrent::{self, RecallError};

/// A journal that has grown by so many bytes, and by as much as its snapshot had, is replaced by a snapshot.
const COMPACT: usize = 64 << 10;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Stage {
    /// There is no journal that may be appended to.
    Absent,
    /// A snapshot is being made; this is what came since. The flag: the old one is appended to meanwhile.
    Moving(Vec<u8>, bool),
    /// It has its name, and the folder is being synced.
    Naming,
    /// It can be appended to.
    Ready,
}

#[derive(Debug)]
struct Kept {
    writer: Writer,
    stage: Stage,
    phase: Phase,
    batch: Vec<u8>,
    /// Bytes of the snapshot, and behind it.
    size: (usize, usize),
    /// What the files that were written looked like, by file.
    stamps: BTreeMap<usize, Option<FileStamp>>,
    /// The sync of data that was asked for last, and its pieces, in order.
    asked: (u32, Vec<PieceIndex>),
    /// `D` records wait to be synced: those of the sync that was asked for with this ticket.
    waiting: Option<u32>,
    /// `L` records that a power cut must not take: a `D` may stand before them.
    lost: bool,
    /// Some of them are not known to be on the device: the journal that does without them says too much.
    losing: bool,
    /// Its files are closed: `C` is due when the resume record is stored.
    closed: bool,
    records: u32,
    /// Grows with each snapshot, and when a journal is given up.
    life: u32,
    /// Jobs that append to a journal, or name it with what they append.
    queued: u32,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Snapshot(TorrentKey, u32),
    Folder(TorrentKey, u32),
    Adopt(TorrentKey, u32),
    /// The flag: to a journal that a snapshot is to replace.
    Append(TorrentKey, u32, bool),
    /// `D` records wait for it: see [`Kept::waiting`].
    Journal(TorrentKey, u32, Option<u32>),
    Record(TorrentKey),
    Torrent(TorrentKey, InfoHash),
    /// What was stored already: see [`Keeper::known`].
    Known,
    /// What a torrent is, is removed.
    Gone(InfoHash),
    Other,
}

/// What the session waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// A torrent's sync is over, and it was asked for with this ticket.
    Synced(TorrentKey, u32),
    /// A torrent is remembered, or could not be.
    Remembered(TorrentKey, Result<(), String>),
}

/// See the module's head.
#[derive(Debug)]
pub struct Keeper<F> {
    folder: F,
    boot: u64,
    kept: BTreeMap<TorrentKey, Kept>,
    /// Those of them that may have something to be written.
    touched: BTreeSet<TorrentKey>,
    /// Torrents whose journal is being synced.
    syncing: BTreeSet<TorrentKey>,
    /// Torrents of which the folder says what it should: while it is being synced, and that wait for the next time.
    known: (Vec<TorrentKey>, Vec<TorrentKey>),
    /// How many jobs are under way that change what the folder says of a torrent.
    changing: BTreeMap<InfoHash, u32>,
    /// Such a job has failed: what the folder says now may not be what the device has, and no sync would tell.
    doubtful: bool,
    /// Journals that were read and whose torrent has not begun: the next number.
    read: BTreeMap<InfoHash, (u32, usize)>,
    jobs: BTreeMap<u64, What>,
    ticket: u64,
    answers: VecDeque<Answer>,
}

impl<F: Folder> Keeper<F> {
    /// Journals in this folder. `boot` is a hash of the system's boot id, 0 when unknown.
    pub fn new(folder: F, boot: u64) -> Self {
        Self {
            folder,
            boot,
            kept: BTreeMap::new(),
            touched: BTreeSet::new(),
            syncing: BTreeSet::new(),
            known: (Vec::new(), Vec::new()),
            changing: BTreeMap::new(),
            doubtful: false,
            read: BTreeMap::new(),
            jobs: BTreeMap::new(),
            ticket: 0,
            answers: VecDeque::new(),
        }
    }

    /// The folder.
    pub fn folder(&mut self) -> &mut F {
        &mut self.folder
    }

    /// A hash of the boot id.
    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// Nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.answers.is_empty()
    }

    /// A torrent's resume record and journal. What cannot be read is set aside.
    pub fn load(&mut self, info_hash: &InfoHash, pieces: u32) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let then = "the data is checked";
        let (name, mut resume) = (name::resume(info_hash), self.read(&name::resume(info_hash), then));
        if let Some(bytes) = resume.as_mut().filter(|bytes| !crate::torrent::is_record(bytes)) {
            self.set_aside(&name, &"not a resume record", then);
            bytes.clear();
        }
        let (name, journal) = (name::have(info_hash), self.read(&name::have(info_hash), then));
        if let Some(bytes) = &journal {
            let replay = Replay::of(info_hash, bytes, pieces);
            if replay.damaged {
                self.set_aside(&name, &"damaged", then);
            }
            self.read.insert(*info_hash, (replay.next, if replay.damaged { 0 } else { bytes.len() }));
        }
        (resume, journal)
    }

    /// The info dictionary that was kept of a torrent; its hash is for the caller to check.
    pub fn load_metadata(&mut self, info_hash: &InfoHash) -> Option<Vec<u8>> {
        self.read(&name::info(info_hash), "the metadata is fetched")
    }

    /// Keeps an info dictionary.
    pub fn store_metadata(&mut self, info_hash: &InfoHash, bytes: Vec<u8>) {
        self.submit(What::Other, Job::Replace { name: name::info(info_hash), bytes });
    }

    /// What the DHT node knew. Losing it costs a new start from the bootstrap nodes.
    pub fn load_dht(&mut self) -> Option<Vec<u8>> {
        self.read(name::DHT, "the DHT begins anew")
    }

    /// Keeps what the DHT node knows.
    pub fn store_dht(&mut self, bytes: Vec<u8>) {
        self.submit(What::Other, Job::Replace { name: name::DHT.into(), bytes });
    }

    /// A file that cannot be read is an empty one: there was something, and nothing is known of it.
    fn read(&mut self, name: &str, then: &str) -> Option<Vec<u8>> {
        self.folder.read(name).unwrap_or_else(|e| {
            self.set_aside(name, &e, then);
            Some(Vec::new())
        })
    }

    fn set_aside(&mut self, name: &str, why: &dyn std::fmt::Display, then: &str) {
        match self.folder.rename(name, &format!("{name}.bad")) {
            Ok(()) => log::warn!("{name}: {why}; it is set aside, and {then}"),
            // It had been already.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => log::error!("{name}: {why}; it cannot be set aside: {e}"),
        }
    }

    /// All torrents that are remembered. What makes no sense is set aside, and does not keep the others from coming.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn recall(&mut self) -> std::io::Result<Vec<Add>> {
        let mut all = Vec::new();
        let mut names = self.folder.list()?;
        names.sort_unstable();
        for name in names {
            let hash = name.strip_suffix(name::TORRENT).and_then(InfoHash::from_hex);
            let Some(hash) = hash.filter(|h| name::torrent(h) == name) else { continue };
            let then = "this torrent is forgotten";
            let Some(bytes) = self.read(&name, then) else { continue };
            match torrent::recall(&hash, &bytes) {
                Ok(add) => all.push(add),
                Err(e @ RecallError::Version(_)) => log::error!("{name}: {e}; it is left alone"),
                Err(e) => self.set_aside(&name, &e, then),
            }
        }
        Ok(all)
    }

    /// Keeps what is needed to begin with a torrent again.
    pub fn remember(&mut self, key: TorrentKey, info_hash: &InfoHash, bytes: Vec<u8>) {
        let name = name::torrent(info_hash);
        let settled = !self.doubtful && !self.changing.contains_key(info_hash);
        if settled && self.folder.read(&name).is_ok_and(|there| there.as_ref() == Some(&bytes)) {
            self.known.1.push(key);
            return self.sync_known();
        }
        *self.changing.entry(*info_hash).or_default() += 1;
        self.submit(What::Torrent(key, *info_hash), Job::Replace { name, bytes });
    }

    /// A name that can be read may have been given shortly before the earlier process was killed.
    fn sync_known(&mut self) {
        if self.known.0.is_empty() && !self.known.1.is_empty() {
            self.known.0 = std::mem::take(&mut self.known.1);
            self.submit(What::Known, Job::SyncFolder);
        }
    }

    fn changed(&mut self, info_hash: &InfoHash, failed: bool) {
        self.doubtful |= failed;
        if let Some(n) = self.changing.get_mut(info_hash) {
            *n -= 1;
            if *n == 0 {
                self.changing.remove(info_hash);
            }
        }
    }

    /// It is not among those that [`Keeper::recall`] finds any more; all else that is kept of it stays.
    pub fn dismiss(&mut self, info_hash: &InfoHash) {
        *self.changing.entry(*info_hash).or_default() += 1;
        self.remove(What::Gone(*info_hash), vec![name::torrent(info_hash)]);
    }

    /// Files are gone at once, and once more behind the jobs that may be making them anew.
    fn remove(&mut self, what: What, names: Vec<String>) {
        for name in &names {
            if let Err(e) = self.folder.remove(name) {
                log::error!("{name}: {e}");
            }
        }
        self.submit(what, Job::Remove { names });
    }

    fn submit(&mut self, what: What, job: Job) {
        self.ticket += 1;
        self.jobs.insert(self.ticket, what);
        self.folder.submit(self.ticket, job);
    }

    /// What the session wants noted.
    pub fn note(&mut self, s: &Session, st: &mut dyn Storage, key: TorrentKey, info_hash: &InfoHash, note: Note) {
        if let Note::Begin { rewrite, checking } = note {
            return self.begin(s, st, key, info_hash, rewrite, checking);
        }
        let Some(k) = self.kept.get_mut(&key) else { return };
        self.touched.insert(key);
        match note {
            Note::Begin { .. } => {}
            Note::Settled if k.phase == Phase::Trading => {}
            Note::Settled => {
                k.phase = Phase::Trading;
                k.writer.push(&mut k.batch, Kind::Trading, 0, 0, 0);
            }
            Note::Verified(piece) => {
                if let Some(generation) = generation(s, st, key, k, piece) {
                    k.writer.push(&mut k.batch, Kind::Verified, piece.get(), 1, generation);
                }
            }
            Note::Lost(piece) => {
                k.writer.push(&mut k.batch, Kind::Lost, piece.get(), 1, 0);
                (k.lost, k.losing) = (true, true);
                // A sync under way may end well all the same, and make nothing of it durable.
                if let Ok(at) = k.asked.1.binary_search(&piece) {
                    k.asked.1.remove(at);
                }
                if k.stage == Stage::Absent {
                    self.drop_stale(key);
                }
            }
        }
    }

    fn begin(
        &mut self,
        s: &Session,
        st: &mut dyn Storage,
        key: TorrentKey,
        info_hash: &InfoHash,
        rewrite: bool,
        checking: bool,
    ) {
        self.touched.insert(key);
        let (next, size) = self.read.remove(info_hash).unwrap_or((1, 0));
        let boot = self.boot;
        let k = self.kept.entry(key).or_insert_with(|| Kept {
            writer: Writer { info_hash: *info_hash, next, boot },
            stage: if size > 0 && !rewrite { Stage::Ready } else { Stage::Absent },
            phase: Phase::Trading,
            batch: Vec::new(),
            size: (size, 0),
            stamps: BTreeMap::new(),
            asked: (0, Vec::new()),
            waiting: None,
            lost: false,
            losing: false,
            closed: false,
            records: 0,
            life: 0,
            queued: 0,
        });
        (k.phase, k.closed) = (if checking { Phase::Checking } else { Phase::Trading }, false);
        k.stamps.clear();
        let kind = if checking { Kind::Checking } else { Kind::Trading };
        k.writer.push(&mut k.batch, kind, 0, 0, 0);
        if rewrite || k.stage == Stage::Absent {
            self.snapshot(s, st, key);
        }
    }

    /// Replaces the journal by one that says what is known now.
    fn snapshot(&mut self, s: &Session, st: &mut dyn Storage, key: TorrentKey) {
        // What waits in the batch is in the snapshot too, but for the old journal it comes first.
        self.flush(key);
        let (Some(k), Some((durable, verified))) = (self.kept.get_mut(&key), s.claims(key)) else { return };
        if !matches!(k.stage, Stage::Absent | Stage::Ready) {
            return;
        }
        let (mut writer, phase) = (k.writer, k.phase);
        let bytes = {
            let mut of = |p| generation(s, st, key, k, p);
            writer.snapshot(durable.len(), durable, verified.into_iter(), phase, &mut of)
        };
        k.writer = writer;
        k.size = (bytes.len(), 0);
        k.stage = Stage::Moving(Vec::new(), k.stage == Stage::Ready);
        k.life += 1;
        let (name, life) = (name::have_new(&k.writer.info_hash), k.life);
        self.submit(What::Snapshot(key, life), Job::Create { name, bytes });
    }

    /// The session asks for a sync of these pieces' data.
    pub fn sync_asked(&mut self, key: TorrentKey, ticket: u32, mut pieces: Vec<PieceIndex>) {
        if let Some(k) = self.kept.get_mut(&key) {
            pieces.sort_unstable();
            k.asked = (ticket, pieces);
        }
    }

    /// The data asked for with this ticket is on the device: notes that, and syncs the note.
    pub fn data_synced(&mut self, s: &Session, st: &mut dyn Storage, key: TorrentKey, ticket: u32) {
        if self.kept.get(&key).is_some_and(|k| k.stage == Stage::Absent) {
            self.snapshot(s, st, key);
        }
        let Some(k) = self.kept.get_mut(&key) else { return self.answers.push_back(Answer::Synced(key, ticket)) };
        if k.asked.0 != ticket {
            return;
        }
        let pieces = std::mem::take(&mut k.asked.1);
        // A file that has been replaced since a piece was verified does not hold it.
        let before = std::mem::take(&mut k.stamps);
        let (mut writer, mut batch) = (k.writer, std::mem::take(&mut k.batch));
        let mut of = |p| {
            let layout = s.layout(key)?;
            let same = |a: Option<FileStamp>, b: Option<FileStamp>| match (a, b) {
                (Some(a), Some(b)) => (a.inode, a.device, a.mount) == (b.inode, b.device, b.mount),
                _ => false,
            };
            let now = generation(s, st, key, k, p)?;
            let spans = layout.spans(layout.piece_offset(p), u64::from(layout.piece_size(p)));
            let kept = |f: usize| match before.get(&f) {
                Some(then) => same(*then, k.stamps.get(&f).copied().flatten()),
                None => true,
            };
            spans.filter(|s| !s.pad).all(|s| kept(s.file.idx())).then_some(now)
        };
        writer.push_pieces(&mut batch, Kind::Durable, pieces.into_iter(), &mut of);
        (k.writer, k.batch, k.waiting) = (writer, batch, Some(ticket));
        self.flush(key);
        self.sync_journal(key);
    }

    fn sync_journal(&mut self, key: TorrentKey) {
        // An `L` that is not there yet is not synced.
        self.flush(key);
        let Some(k) = self.kept.get_mut(&key) else { return };
        if !(k.waiting.is_some() || k.lost) || self.syncing.contains(&key) {
            return;
        }
        match k.stage {
            Stage::Ready => {
                let (name, what) = (name::have(&k.writer.info_hash), What::Journal(key, k.life, k.waiting));
                k.lost = false;
                self.syncing.insert(key);
                self.submit(what, Job::Sync { name });
            }
            // The journal cannot be kept, but the data is where it should be.
            Stage::Absent => {
                k.lost = false;
                if let Some(ticket) = k.waiting.take() {
                    self.answers.push_back(Answer::Synced(key, ticket));
                }
            }
            Stage::Moving(..) | Stage::Naming => {}
        }
    }

    fn broken(&mut self, key: TorrentKey, error: &std::io::Error) {
        let Some(k) = self.kept.get_mut(&key) else { return };
        log::error!("cannot keep the journal of {}: {error}; the next start may have to check", k.writer.info_hash);
        self.give_up(key);
    }

    /// Nothing is appended to this journal any more.
    fn give_up(&mut self, key: TorrentKey) {
        let Some(k) = self.kept.get_mut(&key) else { return };
        k.stage = Stage::Absent;
        k.life += 1;
        k.batch.clear();
        self.drop_stale(key);
        self.sync_journal(key);
    }

    /// A journal that cannot be told what was lost must not be believed.
    fn drop_stale(&mut self, key: TorrentKey) {
        let Some(k) = self.kept.get_mut(&key) else { return };
        if std::mem::take(&mut k.losing) {
            // In this order: what is being renamed meanwhile is caught under one name or the other.
            let names = vec![name::have_new(&k.writer.info_hash), name::have(&k.writer.info_hash)];
            self.remove(What::Other, names);
        }
    }

    /// Appends what was gathered.
    fn flush(&mut self, key: TorrentKey) {
        let Some(k) = self.kept.get_mut(&key).filter(|k| !k.batch.is_empty()) else { return };
        let batch = std::mem::take(&mut k.batch);
        let to_old = match &mut k.stage {
            Stage::Absent => false,
            Stage::Moving(since, old) => {
                since.extend_from_slice(&batch);
                *old
            }
            Stage::Naming | Stage::Ready => true,
        };
        k.size.1 += batch.len();
        let name = name::have(&k.writer.info_hash);
        let losing = journal::tell_of_loss(&batch);
        if !to_old {
        } else if k.queued == 0 && (losing || !self.folder.waits()) {
            match self.folder.append(&name, &batch) {
                Ok(()) => {}
                Err(e) => self.not_appended(key, &e),
            }
        } else if losing {
            // It would come behind what is queued, and perhaps too late.
            self.give_up(key);
        } else {
            k.queued += 1;
            let what = What::Append(key, k.life, matches!(k.stage, Stage::Moving(..)));
            self.submit(what, Job::Append { name, bytes: batch });
        }
    }

    /// The journal that has the name misses something.
    fn not_appended(&mut self, key: TorrentKey, error: &std::io::Error) {
        match self.kept.get_mut(&key).map(|k| (&mut k.stage, name::have(&k.writer.info_hash))) {
            // The new one will do without it. Until then it is better to know nothing.
            Some((Stage::Moving(_, old), name)) => {
                if std::mem::take(old) {
                    log::error!("{name}: {error}; if this process ends now, the next start has to check");
                    if let Err(e) = self.folder.remove(&name) {
                        log::error!("{name}: {e}");
                    }
                }
            }
            _ => self.broken(key, error),
        }
    }

    /// Stores a resume record in the place of the one before.
    pub fn store(&mut self, key: TorrentKey, info_hash: &InfoHash, bytes: Vec<u8>) {
        if let Some(k) = self.kept.get_mut(&key) {
            k.records += 1;
        }
        self.submit(What::Record(key), Job::Replace { name: name::resume(info_hash), bytes });
    }

    /// The torrent's files are closed.
    pub fn closed(&mut self, key: TorrentKey) {
        if let Some(k) = self.kept.get_mut(&key) {
            k.closed = true;
            self.note_closed(key);
        }
    }

    fn note_closed(&mut self, key: TorrentKey) {
        let Some(k) = self.kept.get_mut(&key) else { return };
        if k.closed && k.records == 0 && k.phase == Phase::Trading {
            k.phase = Phase::Closed;
            k.writer.push(&mut k.batch, Kind::Closed, 0, 0, 0);
            self.flush(key);
        }
    }

    /// Forgets a torrent.
    pub fn forget(&mut self, key: TorrentKey, info_hash: &InfoHash) {
        self.kept.remove(&key);
        // What makes it come back goes first.
        let names = [name::torrent, name::have, name::have_new, name::resume, name::info];
        *self.changing.entry(*info_hash).or_default() += 1;
        self.remove(What::Gone(*info_hash), names.iter().map(|name| name(info_hash)).collect());
    }

    /// Once a turn: writes what was gathered, and takes jobs further. Returns what the session is to be told.
    pub fn turn(&mut self, s: &Session, st: &mut dyn Storage) -> Option<Answer> {
        while let Some((ticket, result)) = self.folder.poll_done() {
            let Some(what) = self.jobs.remove(&ticket) else { continue };
            self.job_done(what, result);
        }
        // Not between the writing of `D` and the answer: the snapshot would not know of it.
        let grown = |k: &Kept| k.stage == Stage::Ready && k.waiting.is_none() && k.size.1 > COMPACT.max(k.size.0);
        for key in std::mem::take(&mut self.touched) {
            if !self.kept.get(&key).is_some_and(|k| !k.batch.is_empty() || grown(k)) {
                continue;
            }
            self.flush(key);
            if self.kept.get(&key).is_some_and(|k| k.lost) {
                self.sync_journal(key);
            }
            if self.kept.get(&key).is_some_and(grown) {
                self.snapshot(s, st, key);
            }
        }
        self.answers.pop_front()
    }

    fn job_done(&mut self, what: What, result: std::io::Result<()>) {
        if let What::Snapshot(key, _) | What::Folder(key, _) | What::Append(key, ..) | What::Journal(key, ..) = what {
            self.touched.insert(key);
        }
        if let What::Journal(key, ..) = what {
            self.syncing.remove(&key);
        }
        match (what, result) {
            (What::Record(key), result) => {
                if let Err(e) = result {
                    log::error!("cannot store a resume record: {e}");
                }
                if let Some(k) = self.kept.get_mut(&key) {
                    k.records -= 1;
                    self.note_closed(key);
                }
            }
            (What::Torrent(key, info_hash), result) => {
                self.changed(&info_hash, result.is_err());
                self.answers.push_back(Answer::Remembered(key, result.map_err(|e| e.to_string())));
            }
            (What::Known, result) => {
                self.doubtful |= result.is_err();
                for key in std::mem::take(&mut self.known.0) {
                    let told = result.as_ref().map_err(ToString::to_string);
                    self.answers.push_back(Answer::Remembered(key, told.copied()));
                }
                self.sync_known();
            }
            (What::Gone(_) | What::Other, result) => {
                if let What::Gone(info_hash) = what {
                    self.changed(&info_hash, result.is_err());
                }
                if let Err(e) = result {
                    log::warn!("cannot keep what is known for the next start: {e}");
                }
            }
            (What::Append(key, life, to_old), result) => {
                let Some(k) = self.kept.get_mut(&key) else { return };
                k.queued -= 1;
                let concerns = k.life == life && to_old == matches!(k.stage, Stage::Moving(..));
                // A snapshot that has been begun since is to take its place too.
                let replaced = k.life == life + 1 && !to_old && matches!(k.stage, Stage::Moving(..));
                if let (Err(e), true) = (result, concerns || replaced) {
                    self.not_appended(key, &e);
                }
            }
            (What::Adopt(key, life), result) => {
                if let Some(k) = self.kept.get_mut(&key) {
                    k.queued -= 1;
                }
                self.job_done(What::Folder(key, life), result);
            }
            (What::Snapshot(key, life), Ok(())) => self.name_journal(key, life),
            (What::Folder(key, life), Ok(())) => {
                let naming = |k: &&mut Kept| k.stage == Stage::Naming && k.life == life;
                if let Some(k) = self.kept.get_mut(&key).filter(naming) {
                    k.stage = Stage::Ready;
                    k.losing = k.lost;
                }
                self.sync_journal(key);
            }
            (What::Journal(key, _, waited), Ok(())) => {
                if let Some(k) = self.kept.get_mut(&key).filter(|k| k.stage == Stage::Ready) {
                    k.losing = k.lost;
                }
                if let (Some(k), Some(ticket)) = (self.kept.get_mut(&key), waited) {
                    // What was noted since, in another life of the torrent, is not covered by it.
                    k.waiting = k.waiting.filter(|t| *t != ticket);
                    self.answers.push_back(Answer::Synced(key, ticket));
                }
                self.sync_journal(key);
            }
            (What::Snapshot(key, life) | What::Folder(key, life) | What::Journal(key, life, _), Err(e)) => {
                match self.kept.get(&key) {
                    Some(k) if k.life == life => self.broken(key, &e),
                    _ => self.sync_journal(key),
                }
            }
        }
    }

    /// The snapshot is on the device: it gets what came since, and the name.
    fn name_journal(&mut self, key: TorrentKey, life: u32) {
        self.flush(key);
        let Some(k) = self.kept.get_mut(&key).filter(|k| k.life == life) else { return };
        let Stage::Moving(since, _) = &mut k.stage else { return };
        let since = std::mem::take(since);
        k.stage = Stage::Naming;
        let (have, new) = (name::have(&k.writer.info_hash), name::have_new(&k.writer.info_hash));
        if k.queued > 0 || self.folder.waits() {
            k.queued += 1;
            return self.submit(What::Adopt(key, life), Job::Adopt { from: new, to: have, bytes: since });
        }
        let appended = if since.is_empty() { Ok(()) } else { self.folder.append(&new, &since) };
        match appended.and_then(|()| self.folder.rename(&new, &have)) {
            Ok(()) => self.submit(What::Folder(key, life), Job::SyncFolder),
            Err(e) => self.broken(key, &e),
        }
    }
}

/// The generation of a piece, with stamps that are looked up once a file.
fn generation(s: &Session, st: &mut dyn Storage, key: TorrentKey, k: &mut Kept, piece: PieceIndex) -> Option<u32> {
    journal::generation(s.layout(key)?, piece, &mut |f| {
        let mut stamp = || st.file_stat(key, FileIndex::new(f as u32)).map(FileStamp::from);
        let known = k.stamps.get(&f).copied().flatten();
        // A file that was absent may have been made since.
        known.or_else(|| {
            let now = stamp();
            k.stamps.insert(f, now);
            now
        })
    })
}

#[cfg(test)]
mod tests;
