//! One torrent: its pieces, its peers, its trackers, and what it is doing.
//!
//! ```text
//!            Action::Open        Input::Opened            pieces to doubt
//!   add ──────────────────▶ Opening ──────────▶ Checking ───────────────▶ Active ─┐
//!    │                       ▲ ▲                                            │     │ Downloading or
//!    │ of a magnet link      │ │ resume                                     │     │ Seeding: whether
//!    └───────────▶ Fetching ─┘ └────────── Stopped (paused, or an error) ◀──┘     │ wanted pieces lack
//!                  metadata                                                       ▼
//! ```
//!
//! `Torrent` keeps the lifecycle; `exchange` speaks with peers, `blocks` asks for and takes blocks,
//! `serve` gives them; [`picker`] decides what to fetch,
//! [`choker`] whom to serve, [`swarm`] whom to dial, `check` what on disk can be trusted, and
//! `resume` is the record for the next run; `metadata` finds out what the torrent is, with `fetch`.
//! Nothing here touches a file, a socket or a clock:
//! it emits [`Action`]s and [`Alert`]s through its [`Cx`].

mod announce;
mod blocks;
mod check;
pub mod choker;
mod durable;
mod exchange;
mod fetch;
mod gossip;
pub mod journal;
pub mod layout;
mod metadata;
pub mod picker;
mod remember;
mod resume;
mod retry;
mod serve;
mod suspects;
pub mod swarm;
mod unreadable;
mod unwritable;

use std::collections::VecDeque;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::api::{Action, Add, Alert, Alerts, CloseReason, ErrorKind, FileStamp, FileStatus, State, Stats, Status};
use crate::bitfield::Bitfield;
use crate::blocklist::Blocklist;
use crate::config::Config;
use crate::id::{Block, ConnKey, FileIndex, InfoHash, PeerId, PeerTag, PieceIndex, TorrentKey};
use crate::metainfo::Metainfo;
use crate::peer::{Conn, Peer};
use crate::rate::Rate;
use crate::rng::Rng;
use crate::slots::Slots;
use crate::time::{Duration, Instant, earlier};
use crate::tracker::tiers::Tiers;
use choker::Choker;
use fetch::Fetch;
use layout::Layout;
use picker::{BlockRef, Picker, Priority};
pub use remember::{RecallError, recall};
use resume::Record;
use suspects::Suspects;
use swarm::{Source, Swarm};

/// Pause after the system had no socket for an attempt to connect.
const EXHAUSTED: Duration = Duration::from_secs(1);

/// What a torrent may use of its session while it handles one event.
pub struct Cx<'a> {
    /// The time.
    pub now: Instant,
    /// The dice.
    pub rng: &'a mut Rng,
    /// All connections.
    pub conns: &'a mut Slots<ConnKey, Conn>,
    /// What to do, for the driver.
    pub actions: &'a mut VecDeque<Action>,
    /// What happened, for the embedder.
    pub alerts: &'a mut Alerts,
    /// Settings.
    pub config: &'a Config,
    /// Totals.
    pub stats: &'a mut Stats,
    /// Who we are.
    pub me: &'a Me,
    /// Connections whose timer must be armed anew.
    pub touched: &'a mut Vec<ConnKey>,
    /// Incoming connections whose handshake is not complete.
    pub strangers: &'a mut usize,
    /// Addresses nothing is to be had to do with.
    pub blocklist: &'a Blocklist,
    /// DHT nodes that peers say they are (BEP 5), to be pinged.
    pub dht_nodes: &'a mut Vec<std::net::SocketAddr>,
}

/// Who we are, to peers and trackers.
#[derive(Debug)]
pub struct Me {
    /// Our peer id.
    pub id: PeerId,
    /// Our key for trackers, the same for all address families.
    pub key: u32,
    /// The port peers can dial.
    pub port: u16,
}

impl Cx<'_> {
    pub(crate) fn peer(&mut self, conn: ConnKey) -> Option<&mut Peer> {
        self.conns.get_mut(conn).and_then(Conn::peer_mut)
    }
}

#[derive(Debug)]
enum Life {
    /// Finding out what it is.
    Fetching(Box<Fetch>),
    /// Waiting for the files.
    Opening,
    /// Looking at what lies there.
    Checking(check::Check),
    /// Trading.
    Active,
    /// Not doing anything.
    Stopped(Option<(String, ErrorKind)>),
}

/// One torrent.
#[derive(Debug)]
pub struct Torrent {
    /// Its key.
    pub key: TorrentKey,
    /// What it is.
    pub meta: Metainfo,
    /// Its info hash (version 1).
    pub info_hash: InfoHash,
    /// Where its pieces lie in its files.
    pub layout: Arc<Layout>,
    /// Where its files lie.
    pub dir: PathBuf,
    /// What to fetch.
    pub picker: Picker,
    /// Whom to dial.
    pub swarm: Swarm,
    /// Its trackers.
    pub tiers: Tiers,
    /// What each address family of them knows of us.
    pub(crate) known: announce::Known,
    /// Peers whose handshake is done.
    pub peers: Vec<ConnKey>,
    /// Who came and went last, for those who are to be told.
    changes: gossip::Changes,
    choker: Choker,
    life: Life,
    /// What the torrent does once it is resumed.
    paused: bool,
    verify: bool,
    record: Option<Record>,
    /// There is a record, and it cannot be read.
    garbled: bool,
    journal: Option<Vec<u8>>,
    boot: u64,
    safe: durable::Durable,
    priorities: Vec<Priority>,
    sequential: bool,
    /// Files to fetch, by first and last index, once it is known which there are; empty is all.
    ranges: Vec<(u32, u32)>,
    /// Stop as soon as the metadata is known.
    metadata_only: bool,
    /// Unverified pieces of each file; 0 is a complete file.
    missing: Vec<u32>,
    /// Digests of the blocks of pieces that failed, with who sent each: to be compared when the piece passes.
    suspects: Suspects,
    /// Blocks lie in a piece in other lengths than 16 KiB at pad files: see `wire_block`.
    pads: bool,
    connecting: usize,
    /// Nothing is dialled before then: the system had run out of sockets.
    dial_after: Instant,
    uploaded: u64,
    downloaded: u64,
    wasted: u64,
    /// `downloaded` when this run began, for trackers: they are told what this run did.
    announced_base: (u64, u64),
    rate_down: Rate,
    rate_up: Rate,
    seeding_since: Option<Instant>,
    seeding_before: Duration,
    seed_ratio: Option<f64>,
    seed_time: Option<Duration>,
    goal_reached: bool,
    dirty: bool,
    save_at: Option<Instant>,
    stamps: resume::Stamps,
    memory: remember::Memory,
    /// The file system that files of it were found on.
    pub(crate) home: Option<u64>,
    picked: Vec<BlockRef>,
    /// Blocks came free: idle peers should be asked.
    kick: bool,
    /// Its disk has failed.
    retry: retry::Retry,
    /// Something that had come was lost, and it is not known what: see [`Input::PieceLost`](crate::api::Input).
    unsure: bool,
    /// Pieces that could not be read any more; made with the first.
    unreadable: Option<Box<unreadable::Unreadable>>,
    /// It can only be read.
    unwritable: Option<unwritable::Unwritable>,
    /// The timer that is armed for it.
    pub(crate) timer: Instant,
}

impl Torrent {
    /// A torrent that is about to open its files.
    pub(crate) fn new(key: TorrentKey, info_hash: InfoHash, mut add: Add, cx: &mut Cx<'_>) -> Self {
        let picker = Picker::new(1, 0, 1, cx.rng);
        let mut urls = if add.no_trackers { Vec::new() } else { std::mem::take(&mut add.meta.trackers) };
        let extra = add.trackers.drain(..).map(|t| vec![t]);
        urls.splice(0..0, extra);
        let tiers = Tiers::new(&urls, cx.rng);
        add.meta.trackers = urls;
        let record = add.resume.as_deref().and_then(Record::decode);
        let mut t = Self {
            key,
            info_hash,
            dir: add.dir,
            picker,
            swarm: Swarm::for_peers(cx.config.max_peers_torrent),
            tiers,
            known: announce::Known::default(),
            peers: Vec::new(),
            changes: gossip::Changes::default(),
            choker: Choker::new(cx.now),
            life: Life::Stopped(None),
            paused: add.paused,
            verify: add.verify,
            priorities: add.priorities,
            sequential: add.sequential,
            ranges: add.select,
            metadata_only: add.metadata_only,
            missing: Vec::new(),
            suspects: Suspects::default(),
            pads: false,
            connecting: 0,
            dial_after: Instant::ZERO,
            uploaded: 0,
            downloaded: 0,
            wasted: 0,
            announced_base: (0, 0),
            rate_down: Rate::new(Duration::from_secs(5)),
            rate_up: Rate::new(Duration::from_secs(5)),
            seeding_since: None,
            seeding_before: Duration::ZERO,
            seed_ratio: add.seed_ratio,
            seed_time: add.seed_time,
            goal_reached: false,
            dirty: false,
            save_at: None,
            stamps: resume::Stamps::default(),
            memory: remember::Memory::new(add.peers.clone()),
            home: None,
            picked: Vec::new(),
            kick: false,
            retry: retry::Retry::default(),
            unsure: false,
            unreadable: None,
            unwritable: None,
            timer: Instant::FAR,
            garbled: add.resume.is_some() && record.is_none(),
            record,
            journal: add.journal,
            boot: add.boot,
            safe: durable::Durable::new(0),
            layout: Arc::new(add.meta.layout()),
            meta: add.meta,
        };
        if t.is_known() {
            t.set_up(cx);
            t.paused |= t.metadata_only;
        }
        for addr in add.peers {
            t.swarm.add(cx.now, addr, Source::User);
        }
        if let Some(r) = &t.record {
            // Of another folder it tells nothing, nor of one that nothing was in.
            let some = r.files.iter().flatten().any(|f| f.len > 0);
            let here = r.home.as_ref().filter(|(dir, _)| some && dir[..] == *t.dir.as_os_str().as_bytes());
            t.home = here.map(|h| h.1);
            t.uploaded = r.uploaded;
            t.downloaded = r.downloaded;
            t.wasted = r.wasted;
            t.seeding_before = Duration::from_secs(r.seeding_for);
            t.announced_base = (r.uploaded, r.downloaded);
            for addr in &r.peers {
                t.swarm.add(cx.now, *addr, Source::Resume);
            }
        }
        t.remember(cx);
        if !t.paused {
            t.begin(cx);
        }
        t
    }

    /// What follows from the metadata.
    fn set_up(&mut self, cx: &mut Cx<'_>) {
        self.layout = Arc::new(self.meta.layout());
        self.safe = durable::Durable::new(self.layout.pieces());
        self.pads = self.layout.files().iter().any(|f| f.pad);
        let files = self.layout.files().len();
        if self.priorities.len() != files {
            let chosen = |i: u32| self.ranges.is_empty() || self.ranges.iter().any(|(a, b)| (*a..=*b).contains(&i));
            let priority = |i| if chosen(i) { Priority::Normal } else { Priority::Skip };
            self.priorities = (0..files as u32).map(priority).collect();
        }
        self.count_missing();
        self.picker = self.new_picker(cx.rng);
        self.apply_priorities();
        self.choker.set_quota(20 * u64::from(self.layout.piece_len()));
    }

    /// Sets out, with what is known of it.
    fn begin(&mut self, cx: &mut Cx<'_>) {
        self.retry.disarm();
        if self.is_known() {
            return self.open(cx);
        }
        self.life = Life::Fetching(Box::new(Fetch::new(self.info_hash, cx.config.metadata_max)));
        self.tiers.start(cx.now);
        self.swarm.revive(cx.now);
        self.tick(cx);
    }

    fn open(&mut self, cx: &mut Cx<'_>) {
        self.life = Life::Opening;
        if self.opens_later() {
            return;
        }
        cx.actions.push_back(Action::Open {
            torrent: self.key,
            layout: Arc::clone(&self.layout),
            dir: self.dir.clone(),
            wanted: self.wanted_files(),
        });
    }

    fn wanted_files(&self) -> Vec<bool> {
        let pads = self.layout.files().iter().map(|f| f.pad);
        self.priorities.iter().zip(pads).map(|(p, pad)| *p != Priority::Skip && !pad).collect()
    }

    /// A piece has the highest priority of the files it touches; pads are wanted by nobody.
    fn apply_priorities(&mut self) {
        let mut best = vec![Priority::Skip; self.layout.pieces() as usize];
        let files = self.layout.files();
        for (i, p) in self.priorities.iter().enumerate().filter(|(i, _)| !files[*i].pad) {
            for piece in self.layout.pieces_of(file(i)) {
                let b = &mut best[piece as usize];
                *b = (*b).max(*p);
            }
        }
        for (i, p) in best.into_iter().enumerate() {
            self.picker.set_priority(PieceIndex::new(i as u32), p);
        }
    }

    fn new_picker(&self, rng: &mut Rng) -> Picker {
        let pieces = self.layout.pieces();
        let blocks = |piece| self.layout.blocks_in(PieceIndex::new(piece));
        // A torrent of nothing but empty files has no pieces, but the picker wants to know their size.
        let (per_piece, last) = if pieces == 0 { (1, 1) } else { (blocks(0), blocks(pieces - 1)) };
        let mut picker = Picker::new(per_piece, pieces, last, rng);
        picker.set_sequential(self.sequential);
        picker
    }

    /// Fetches in order, or rarest first.
    pub(crate) fn set_sequential(&mut self, cx: &mut Cx<'_>, on: bool) {
        self.sequential = on;
        self.picker.set_sequential(on);
        self.remember(cx);
    }

    /// Blocks that lie in pad files are zeros and are never missing (BEP 47). Returns the pieces that
    /// are nothing else: they can be hashed.
    fn mark_pads(&mut self) -> Vec<PieceIndex> {
        let mut touched = std::collections::BTreeSet::new();
        for f in (0..self.layout.files().len()).filter(|f| self.layout.files()[*f].pad) {
            touched.extend(self.layout.pieces_of(file(f)).map(PieceIndex::new));
        }
        let layout = Arc::clone(&self.layout);
        let mut all_pad = Vec::new();
        for piece in touched {
            let (n, pad) = (layout.blocks_in(piece), |i: &u32| layout.is_all_pad(&layout.block(piece, *i)));
            let mut start = 0;
            while let Some(from) = (start..n).find(pad) {
                start = (from..n).find(|i| !pad(i)).unwrap_or(n);
                if self.picker.mark_pad(piece, from..start) {
                    all_pad.push(piece);
                }
            }
        }
        all_pad
    }

    /// The block as it is asked for on the wire: a tail that lies in a pad file is left out.
    pub(crate) fn wire_block(&self, r: BlockRef) -> Block {
        let mut block = self.layout.block(r.piece, r.block);
        if self.pads {
            let offset = self.layout.piece_offset(r.piece) + u64::from(block.begin);
            let mut tail = 0;
            for span in self.layout.spans(offset, u64::from(block.len)) {
                tail = if span.pad { tail + span.len } else { 0 };
            }
            block.len -= tail as u32;
        }
        block
    }

    /// The picker's name for a block that we would ask for; none other is expected.
    pub(crate) fn block_ref(&self, block: &Block) -> Option<BlockRef> {
        if block.piece.get() >= self.layout.pieces() || block.begin % crate::id::BLOCK_LEN != 0 {
            return None;
        }
        let r = BlockRef { piece: block.piece, block: block.begin / crate::id::BLOCK_LEN };
        (r.block < self.layout.blocks_in(r.piece) && self.wire_block(r) == *block).then_some(r)
    }

    /// Payload that arrived in vain in its life.
    pub fn wasted(&self) -> u64 {
        self.wasted
    }

    /// It trades with peers.
    pub fn is_active(&self) -> bool {
        matches!(self.life, Life::Active)
    }

    /// It may have peers: it trades, or is about to.
    pub(crate) fn is_running(&self) -> bool {
        !matches!(self.life, Life::Stopped(_))
    }

    /// It looks for peers: it trades, or asks what it is.
    pub(crate) fn wants_peers(&self) -> bool {
        matches!(self.life, Life::Active | Life::Fetching(_))
    }

    /// All wanted pieces are verified.
    pub fn is_complete(&self) -> bool {
        self.is_known() && self.picker.is_complete()
    }

    // ---------------------------------------------------------------- lifecycle

    /// The files are usable: find out what of them to trust.
    pub(crate) fn on_opened(&mut self, cx: &mut Cx<'_>, files: &[Option<FileStamp>]) {
        if !matches!(self.life, Life::Opening) {
            return;
        }
        self.stamps = resume::Stamps::new(files);
        let check = self.plan_check(cx, files);
        self.life = Life::Checking(check);
        self.step_check(cx);
    }

    /// Everything on disk has been looked at: begin to trade.
    fn activate(&mut self, cx: &mut Cx<'_>) {
        if self.has_nothing_to_serve(cx) {
            return;
        }
        self.life = Life::Active;
        self.record = None;
        self.journal = None;
        self.safe.ours = true;
        self.verify = false;
        self.note(cx, crate::api::Note::Settled);
        self.count_missing();
        self.stamps.settle(&self.missing);
        let have = self.picker.have().count();
        cx.alerts.push_back(Alert::Checked { torrent: self.key, pieces: (have, self.layout.pieces()) });
        self.tiers.start(cx.now);
        self.swarm.revive(cx.now);
        if self.is_complete() {
            self.unwritable = None;
            self.files_work(cx);
            self.seeding_since = Some(cx.now);
            self.finish(cx);
        }
        self.mark_dirty(cx);
        self.adopt_all(cx);
        self.tick(cx);
    }

    fn count_missing(&mut self) {
        let have = self.picker.have();
        let count = |f| self.layout.pieces_of(file(f)).filter(|p| !have.get(PieceIndex::new(*p))).count() as u32;
        self.missing = (0..self.layout.files().len()).map(count).collect();
    }

    pub(crate) fn pause(&mut self, cx: &mut Cx<'_>) {
        self.paused = true;
        self.remember(cx);
        self.retry = retry::Retry::default();
        if !matches!(self.life, Life::Stopped(None)) {
            self.stop(cx, None, CloseReason::TorrentStopped);
            cx.alerts.push_back(Alert::Paused { torrent: self.key });
        }
    }

    pub(crate) fn resume(&mut self, cx: &mut Cx<'_>) {
        self.paused = false;
        self.remember(cx);
        self.retry = retry::Retry::default();
        if self.unwritable.is_some() {
            cx.alerts.push_back(Alert::Resumed { torrent: self.key });
        }
        if let Life::Stopped(_) = self.life {
            // A goal that was reached stays so: whoever resumes after it wants to seed on.
            // Pieces that were verified stay so unless their files have changed meanwhile: the
            // record made when it stopped tells.
            self.begin(cx);
            cx.alerts.push_back(Alert::Resumed { torrent: self.key });
        }
    }

    /// Checks everything again.
    pub(crate) fn verify(&mut self, cx: &mut Cx<'_>) {
        self.stop(cx, None, CloseReason::TorrentStopped);
        self.verify = true;
        if !self.paused {
            self.begin(cx);
        }
    }

    fn tell_failed(&mut self, cx: &mut Cx<'_>, error: &str, kind: ErrorKind) {
        if self.retry.failed(cx.now, error) {
            cx.alerts.push_back(Alert::Error { torrent: self.key, error: error.to_owned(), kind });
        }
    }

    /// It cannot go on: this torrent stops, the others go on. It tries again by itself.
    pub(crate) fn fail(&mut self, cx: &mut Cx<'_>, error: String, kind: ErrorKind) {
        if matches!(self.life, Life::Stopped(_)) {
            return;
        }
        self.tell_failed(cx, &error, kind);
        if kind == ErrorKind::Metadata {
            self.retry.disarm();
        }
        if kind == ErrorKind::FilesChanged {
            self.stamps.distrust();
        }
        self.stop(cx, Some((error, kind)), CloseReason::TorrentStopped);
    }

    /// A piece is in its files, or all of them are.
    fn files_work(&mut self, cx: &mut Cx<'_>) {
        if self.retry.works() {
            cx.alerts.push_back(Alert::Resumed { torrent: self.key });
        }
    }

    /// Closes its peers, takes leave of its trackers, saves its record and closes its files.
    pub(crate) fn stop(&mut self, cx: &mut Cx<'_>, error: Option<(String, ErrorKind)>, why: CloseReason) {
        self.unwritable = None;
        if error.is_some() {
            self.forget_volatile(cx);
        }
        let was = std::mem::replace(&mut self.life, Life::Stopped(error));
        let keys: Vec<_> = cx
            .conns
            .iter()
            .filter(|(_, c)| c.peer().is_some_and(|p| p.torrent == Some(self.key)))
            .map(|(k, _)| k)
            .collect();
        for conn in keys {
            self.close(cx, conn, why.clone());
        }
        if let Some(since) = self.seeding_since.take() {
            self.seeding_before += cx.now - since;
        }
        // It may be running while the torrent does not trade yet, if it was fetched by a magnet link.
        self.tiers.stop(cx.now);
        self.announce_due(cx);
        match was {
            Life::Active => {
                self.save(cx);
                self.close_files(cx);
            }
            Life::Opening | Life::Checking(_) => self.close_files(cx),
            Life::Fetching(_) | Life::Stopped(_) => {}
        }
    }

    fn save(&mut self, cx: &mut Cx<'_>) {
        self.dirty = false;
        self.save_at = None;
        cx.actions.push_back(Action::Save { torrent: self.key, info_hash: self.info_hash });
    }

    fn mark_dirty(&mut self, cx: &Cx<'_>) {
        if !self.dirty {
            self.dirty = true;
            self.save_at = Some(cx.now + cx.config.save_interval);
        }
    }

    /// The record to resume from, given what the files look like now. It is kept here too, for
    /// the case that the torrent is resumed within this run.
    pub(crate) fn make_record(&mut self, now: Instant, files: Vec<Option<FileStamp>>) -> Vec<u8> {
        let files = self.stamps.renew(files, &self.missing);
        let record = Record {
            have: self.picker.have().to_wire(),
            durable: Some(self.safe.pieces.to_wire()),
            files,
            partial: self.picker.partials().collect(),
            home: self.home.map(|id| (self.dir.as_os_str().as_bytes().to_vec(), id)),
            peers: self.swarm.worth_keeping(50).collect(),
            uploaded: self.uploaded,
            downloaded: self.downloaded,
            wasted: self.wasted,
            seeding_for: self.seeding_for(now).as_secs(),
        };
        let bytes = record.encode();
        // It may be about to begin again, when a slow disk took its time.
        if matches!(self.life, Life::Stopped(_) | Life::Opening) {
            self.record = Some(record);
        }
        bytes
    }

    // ---------------------------------------------------------------- time

    /// When it wants to be ticked next.
    pub(crate) fn deadline(&self, now: Instant, config: &Config) -> Option<Instant> {
        let mut at = earlier(self.tiers.deadline(), self.safe.deadline(config));
        at = earlier(at, self.memory.deadline());
        at = earlier(at, self.tries_at());
        if matches!(self.life, Life::Stopped(Some(_))) {
            at = earlier(at, self.retry.at());
        }
        if self.is_active() {
            at = earlier(at, self.save_at.filter(|_| self.unwritable.is_none()));
            if !self.peers.is_empty() {
                at = earlier(at, Some(self.choker.next()));
            }
            if let (Some(since), Some(limit)) = (self.seeding_since, self.seed_time) {
                at = earlier(at, Some(since + limit.saturating_sub(self.seeding_before)));
            }
        }
        if let Life::Fetching(fetch) = &self.life {
            at = earlier(at, fetch.deadline(now));
        }
        if self.wants_peers() && self.peers.len() + self.connecting < config.max_peers_torrent {
            // What is due already is the session's to begin, when there is room: see `wants_to_dial`.
            at = earlier(at, self.next_dial().filter(|at| *at > now));
        }
        at
    }

    /// Does whatever is due.
    pub(crate) fn tick(&mut self, cx: &mut Cx<'_>) {
        self.announce_due(cx);
        self.sync_when_due(cx);
        self.remember_when_due(cx);
        self.fetch_more(cx);
        self.try_writing(cx);
        if matches!(self.life, Life::Stopped(Some(_))) && self.retry.at().is_some_and(|at| at <= cx.now) {
            self.begin(cx);
        }
        if !self.is_active() {
            return;
        }
        if self.choker.next() <= cx.now {
            self.rechoke(cx);
        }
        self.kick_idle(cx);
        if self.unwritable.is_none() && self.save_at.is_some_and(|at| at <= cx.now) {
            self.save(cx);
        }
        self.check_goal(cx);
    }

    fn next_dial(&self) -> Option<Instant> {
        self.swarm.next_due().map(|at| at.max(self.dial_after))
    }

    /// An address is due, and this torrent has room for another peer.
    pub(crate) fn wants_to_dial(&self, now: Instant, config: &Config) -> bool {
        self.wants_peers()
            && self.peers.len() + self.connecting < config.max_peers_torrent
            && self.next_dial().is_some_and(|at| at <= now)
    }

    /// Dials the next address that is due. The session has room for another attempt.
    pub(crate) fn dial(&mut self, cx: &mut Cx<'_>) {
        let (tag, addr) = loop {
            let Some((tag, addr)) = self.swarm.next(cx.now, self.is_complete()) else { return };
            if !cx.blocklist.contains(addr.ip()) {
                break (tag, addr);
            }
            // The user, or an earlier run, knew it; or the list is newer.
            log::info!("peer {addr}: not dialled, it is blocked");
            cx.stats.blocked += 1;
        };
        let peer = Peer::new(cx.now, addr, false, Some(self.key), Some(tag));
        let conn = cx.conns.insert(Conn::Peer(Box::new(peer)));
        self.swarm.attach(tag, conn);
        self.connecting += 1;
        cx.stats.half_open += 1;
        cx.actions.push_back(Action::Connect { conn, addr, tls: None });
        cx.touched.push(conn);
    }

    fn check_goal(&mut self, cx: &mut Cx<'_>) {
        if self.seeding_since.is_none() || self.goal_reached || !self.safe.is_settled() {
            return;
        }
        let status = self.status(cx.now);
        let ratio = self.seed_ratio.is_some_and(|r| status.ratio() >= r);
        let time = self.seed_time.is_some_and(|t| self.seeding_for(cx.now) >= t);
        if ratio || time {
            self.goal_reached = true;
            cx.alerts.push_back(Alert::GoalReached { torrent: self.key });
            self.paused = true;
            self.stop(cx, None, CloseReason::TorrentStopped);
        }
    }

    fn seeding_for(&self, now: Instant) -> Duration {
        self.seeding_before + self.seeding_since.map_or(Duration::ZERO, |s| now - s)
    }

    // ---------------------------------------------------------------- trackers

    /// What is missing of the whole torrent, as trackers want it.
    fn left(&self) -> u64 {
        if !self.is_known() {
            // Something, or we count as a seed.
            return u64::from(crate::id::BLOCK_LEN);
        }
        self.layout.total() - self.have_len()
    }

    fn have_len(&self) -> u64 {
        let have = self.picker.have();
        if have.is_all() {
            return self.layout.total();
        }
        have.iter_set().map(|p| u64::from(self.layout.piece_size(p))).sum()
    }

    // ---------------------------------------------------------------- commands and views

    pub(crate) fn select(&mut self, cx: &mut Cx<'_>, priorities: Vec<Priority>) {
        self.priorities = priorities;
        self.remember(cx);
        self.apply_priorities();
        cx.actions.push_back(Action::Wanted { torrent: self.key, wanted: self.wanted_files() });
        for i in 0..self.peers.len() {
            self.recount_wanted(cx, self.peers[i]);
        }
        if !self.is_complete() {
            self.goal_reached = false;
        }
        if self.is_active() {
            if self.is_complete() {
                self.on_complete(cx);
            } else if let Some(since) = self.seeding_since.take() {
                self.seeding_before += cx.now - since;
                self.swarm.revive(cx.now);
                self.tell_upload_only(cx, false);
            }
            self.kick = true;
            self.kick_idle(cx);
        }
        self.mark_dirty(cx);
    }

    pub(crate) fn status(&self, now: Instant) -> Status {
        let have = self.picker.have();
        let (state, error) = match &self.life {
            Life::Fetching(f) => {
                let (done, total) = f.progress();
                (State::FetchingMetadata { done, total }, None)
            }
            Life::Opening => (State::Checking { done: 0, total: 0 }, None),
            Life::Checking(c) => (c.progress(), None),
            Life::Active if self.unwritable.is_some() => (State::Error, self.why_unwritable().map(str::to_owned)),
            Life::Active if self.is_complete() => (State::Seeding, None),
            Life::Active => (State::Downloading, None),
            Life::Stopped(None) => (State::Paused, None),
            Life::Stopped(Some((e, _))) => (State::Error, Some(e.clone())),
        };
        let (mut size, mut wanted, mut had) = (0, 0, 0);
        for (i, f) in self.layout.files().iter().enumerate().filter(|(_, f)| !f.pad) {
            size += f.len;
            if self.priorities[i] != Priority::Skip {
                wanted += f.len;
                had += self.file_have(i, have);
            }
        }
        let durable = had - self.safe.volatile().map(|p| self.wanted_of(p)).sum::<u64>().min(had);
        let rate_down = self.rate_down.get(now);
        let eta = (rate_down > 0 && had < wanted).then(|| Duration::from_secs((wanted - had) / rate_down));
        Status {
            key: self.key,
            info_hash: self.info_hash,
            name: self.meta.name.clone(),
            state,
            error,
            size,
            wanted,
            have: had,
            durable,
            downloaded: self.downloaded,
            uploaded: self.uploaded,
            wasted: self.wasted,
            rate_down,
            rate_up: self.rate_up.get(now),
            peers: self.peers.len(),
            seeds: 0,
            connecting: self.connecting,
            known: self.swarm.len(),
            pieces: (have.count(), self.layout.pieces()),
            eta,
            seeding_for: self.seeding_for(now),
            goal_reached: self.goal_reached,
            has_metadata: self.is_known(),
        }
    }

    /// Payload of a piece in selected files.
    fn wanted_of(&self, piece: PieceIndex) -> u64 {
        let spans = self.layout.spans(self.layout.piece_offset(piece), u64::from(self.layout.piece_size(piece)));
        spans.filter(|s| !s.pad && self.priorities[s.file.idx()] != Priority::Skip).map(|s| s.len).sum()
    }

    pub(crate) fn claims(&self) -> (&Bitfield, Vec<PieceIndex>) {
        (&self.safe.pieces, self.safe.volatile().collect())
    }

    /// Its files are still to be synced and closed.
    pub(crate) fn is_closing(&self) -> bool {
        self.safe.is_closing()
    }

    fn file_have(&self, i: usize, have: &Bitfield) -> u64 {
        let f = &self.layout.files()[i];
        if have.is_all() {
            return f.len;
        }
        let pieces = self.layout.pieces_of(file(i));
        let overlap = |p: u32| {
            let start = self.layout.piece_offset(PieceIndex::new(p));
            let end = start + u64::from(self.layout.piece_size(PieceIndex::new(p)));
            end.min(f.offset + f.len) - start.max(f.offset)
        };
        pieces.filter(|p| have.get(PieceIndex::new(*p))).map(overlap).sum()
    }

    /// What must hold between any two calls; panics when it does not. O(peers x pieces).
    pub(crate) fn invariants(&self, conns: &Slots<ConnKey, Conn>) {
        self.picker.invariants();
        let ours = |(_, c): &(ConnKey, &Conn)| c.peer().is_some_and(|p| p.torrent == Some(self.key));
        let live = |(_, c): &(ConnKey, &Conn)| c.peer().is_some_and(Peer::is_live);
        let mut listed = self.peers.clone();
        listed.sort_unstable();
        let mut there: Vec<_> = conns.iter().filter(ours).filter(live).map(|(k, _)| k).collect();
        there.sort_unstable();
        assert_eq!(listed, there, "live peers");
        let dialled = |(_, c): &(ConnKey, &Conn)| c.peer().is_some_and(|p| !p.incoming);
        let connecting = conns.iter().filter(ours).filter(dialled).filter(|c| !live(c)).count();
        assert_eq!(self.connecting, connecting, "connection attempts");
        assert!(self.is_running() || self.peers.len() + self.connecting == 0, "peers of a torrent that is stopped");
        let waits = |c: &ConnKey| conns.get(*c).and_then(Conn::peer).is_some_and(|p| p.early.is_some());
        assert!(!self.is_active() || !self.peers.iter().any(waits), "a peer waits for a torrent that trades");
        let mut out = 0;
        for &conn in &self.peers {
            let p = conns.get(conn).and_then(Conn::peer).expect("a live peer");
            let wanted = p.have.iter_set().filter(|i| self.picker.wants(*i)).count();
            assert_eq!(p.wanted_pieces as usize, wanted, "pieces we want of {conn:?}");
            assert_eq!(p.interested, wanted > 0 && self.unwritable.is_none(), "interest in {conn:?}");
            assert!(self.unwritable.is_none() || p.trade.asked.is_empty(), "asked for what cannot be written");
            let requested = self.picker.requested_at(conn);
            assert!(requested as usize <= p.trade.asked.len(), "{requested} requests at {conn:?}: {:?}", p.trade.asked);
            out += requested;
            assert_eq!(p.tag.and_then(|t| self.swarm.conn(t)), Some(conn), "the address of {conn:?}");
            if let Some(r) = p.trade.receiving.filter(|r| !r.dropped).and_then(|r| self.block_ref(&r.block)) {
                assert_eq!(self.picker.lease_of(r), Some(conn), "{r:?} is arriving");
            }
        }
        assert_eq!(out, self.picker.requests_out(), "requests at connections that are gone");
    }

    pub(crate) fn files(&self) -> Vec<FileStatus> {
        let have = self.picker.have();
        let files = self.layout.files().iter().enumerate().filter(|(_, f)| !f.pad);
        files
            .map(|(i, f)| FileStatus {
                index: file(i),
                path: f.path.clone(),
                len: f.len,
                have: self.file_have(i, have),
                priority: self.priorities[i],
            })
            .collect()
    }
}

/// Whether bytes are a resume record that can be read.
pub fn is_record(bytes: &[u8]) -> bool {
    Record::decode(bytes).is_some()
}

fn file(i: usize) -> FileIndex {
    FileIndex::new(u32::try_from(i).expect("files are bounded by limits::FILES"))
}

/// The id of a name lookup made for `conn`.
pub(crate) fn lookup_id(conn: ConnKey) -> u64 {
    (conn.index() as u64) << 32 | u64::from(conn.generation())
}

/// The connection a name lookup was made for.
pub(crate) fn lookup_conn(id: u64) -> ConnKey {
    ConnKey::new((id >> 32) as u32, id as u32)
}
