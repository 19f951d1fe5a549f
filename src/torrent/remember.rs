//! What a session must not forget of a torrent: what it is, where its files are, and how it was added.
//!
//! ```text
//! d 8:announce <url>  13:announce-list l l <url> ... e ... e           as in any .torrent: any client can read it
//!   5:btmio d 3:dir <path>                                             the download folder, absolute
//!             4:name <text>                                            of a magnet link whose metadata has not come
//!             6:paused i1e
//!             5:peers l "ip:port" ... e                                that the user named
//!             10:priorities <a letter a file: s l n h>
//!             10:seed-ratio <decimal>   9:seed-time i<seconds>e        absent: no such goal
//!             6:select l l i<first>e i<last>e e ... e                  while it is not known which files there are
//!             10:sequential i1e
//!             7:version i1e e
//!   4:info d ... e                                                     absent while it has not come
//!   8:url-list l <url> ... e e
//! ```
//!
//! One file a torrent, named by its info hash, which says whether the info dictionary is the right one. It is written
//! as a whole when the torrent is added, and again when something of this changes.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::{Cx, Torrent};
use crate::api::{Action, Add, Alert, Kept, Priority};
use crate::bencode::{self, Node, Writer};
use crate::id::InfoHash;
use crate::metainfo::Metainfo;
use crate::metainfo::magnet::Magnet;
use crate::time::{Duration, Instant};

const VERSION: i64 = 1;
/// After a failure it is tried again so much later.
const AGAIN: Duration = Duration::from_secs(30);

/// How far the remembering is.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) kept: Kept,
    again: Option<Instant>,
    /// Peers that the user named when it was added.
    pub(super) peers: Vec<std::net::SocketAddr>,
}

impl Memory {
    pub(super) fn new(peers: Vec<std::net::SocketAddr>) -> Self {
        Self { kept: Kept::Waiting, again: None, peers }
    }

    /// When it is tried again.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.again
    }
}

impl Torrent {
    /// Something has changed that the next start should know.
    pub(super) fn remember(&mut self, cx: &mut Cx<'_>) {
        self.memory.again = None;
        if self.metadata_only {
            return self.on_remembered(cx, Ok(()));
        }
        cx.actions.push_back(Action::Remember { torrent: self.key, info_hash: self.info_hash });
    }

    pub(super) fn remember_when_due(&mut self, cx: &mut Cx<'_>) {
        if self.memory.again.is_some_and(|at| at <= cx.now) {
            self.remember(cx);
        }
    }

    /// It is on the device, or could not be brought there.
    pub(crate) fn on_remembered(&mut self, cx: &mut Cx<'_>, result: Result<(), String>) {
        match result {
            Ok(()) => {
                if std::mem::replace(&mut self.memory.kept, Kept::Yes) != Kept::Yes {
                    cx.alerts.push_back(Alert::Added { torrent: self.key });
                }
            }
            Err(error) => {
                if self.memory.kept != Kept::Yes && self.memory.kept != Kept::No(error.clone()) {
                    cx.alerts.push_back(Alert::NotKept { torrent: self.key, error: error.clone() });
                }
                if self.memory.kept != Kept::Yes {
                    self.memory.kept = Kept::No(error);
                }
                self.memory.again = Some(cx.now + AGAIN);
            }
        }
    }

    /// Whether a crash can take it.
    pub(crate) fn kept(&self) -> &Kept {
        &self.memory.kept
    }

    /// The record, as bytes.
    pub(crate) fn recollection(&self) -> Vec<u8> {
        let m = &self.meta;
        let mut w = Writer::new();
        w.begin_dict();
        if let Some(first) = m.trackers.iter().flatten().next() {
            w.key(b"announce").bytes(first.as_bytes());
        }
        if !m.trackers.is_empty() {
            w.key(b"announce-list").begin_list();
            for tier in &m.trackers {
                w.begin_list();
                tier.iter().for_each(|url| _ = w.bytes(url.as_bytes()));
                w.end();
            }
            w.end();
        }
        w.key(b"btmio").begin_dict();
        w.key(b"dir").bytes(self.dir.as_os_str().as_bytes());
        if !self.is_known() {
            w.key(b"name").bytes(m.name.as_bytes());
        }
        w.key(b"paused").int(i64::from(self.paused && !self.goal_reached));
        w.key(b"peers").begin_list();
        self.memory.peers.iter().for_each(|p| _ = w.bytes(p.to_string().as_bytes()));
        w.end();
        if !m.info.is_empty() {
            w.key(b"priorities").bytes(&self.priorities.iter().map(|p| letter(*p)).collect::<Vec<_>>());
        }
        if let Some(ratio) = self.seed_ratio {
            w.key(b"seed-ratio").bytes(ratio.to_string().as_bytes());
        }
        if let Some(time) = self.seed_time {
            w.key(b"seed-time").int(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
        }
        w.key(b"select").begin_list();
        for (from, to) in &self.ranges {
            w.begin_list().int(i64::from(*from)).int(i64::from(*to)).end();
        }
        w.end();
        w.key(b"sequential").int(i64::from(self.sequential));
        w.key(b"version").int(VERSION);
        w.end();
        if !m.info.is_empty() {
            w.key(b"info").raw(&m.info);
        }
        if !m.url_seeds.is_empty() {
            w.key(b"url-list").begin_list();
            m.url_seeds.iter().for_each(|url| _ = w.bytes(url.as_bytes()));
            w.end();
        }
        w.end();
        w.into_bytes()
    }
}

const LETTERS: [(u8, Priority); 4] =
    [(b's', Priority::Skip), (b'l', Priority::Low), (b'n', Priority::Normal), (b'h', Priority::High)];

fn letter(p: Priority) -> u8 {
    LETTERS.iter().find(|l| l.1 == p).map_or(b'n', |l| l.0)
}

/// Why a record is of no use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecallError {
    /// It is of a version that this program does not know: to be left alone, for one that does.
    Version(i64),
    /// It is damaged, or another torrent's: what is wrong with it.
    Bad(String),
}

impl std::fmt::Display for RecallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Version(got) => write!(f, "wanted version {VERSION}, got {got}"),
            Self::Bad(why) => f.write_str(why),
        }
    }
}

/// The torrent that was remembered under this info hash.
///
/// # Errors
/// When the bytes are no such record, of another torrent, or of a version that is not known.
pub fn recall(info_hash: &InfoHash, bytes: &[u8]) -> Result<Add, RecallError> {
    let bad = |why: &dyn std::fmt::Display| RecallError::Bad(why.to_string());
    let doc = bencode::parse(bytes).map_err(|e| bad(&e))?;
    let root = doc.root();
    let ours = root.get(b"btmio").ok_or(bad(&"'btmio' is missing"))?;
    match ours.get(b"version").and_then(|v| v.as_int()) {
        Some(VERSION) => {}
        Some(other) => return Err(RecallError::Version(other)),
        None => return Err(bad(&"'version' is missing")),
    }
    let dir = ours.get(b"dir").and_then(|d| d.as_bytes()).filter(|d| !d.is_empty() && !d.contains(&0));
    let dir = OsString::from_vec(dir.ok_or(bad(&"'dir' is missing"))?.to_vec());
    let magnet = Magnet {
        info_hash: Some(*info_hash),
        name: ours.get(b"name").and_then(|n| n.as_str()).map(str::to_owned),
        ..Magnet::default()
    };
    let mut meta = Metainfo::of_magnet(&magnet).ok_or(bad(&"no info hash"))?;
    meta.trackers = list(root.get(b"announce-list")).map(|tier| strings(Some(tier))).collect();
    meta.url_seeds = strings(root.get(b"url-list"));
    if let Some(info) = root.get(b"info") {
        meta.learn(info.raw()).map_err(|e| bad(&e))?;
    }
    let is = |key: &[u8]| ours.get(key).and_then(|v| v.as_int()) == Some(1);
    let mut add = Add::new(meta, dir);
    let letters = ours.get(b"priorities").and_then(|p| p.as_bytes()).unwrap_or_default();
    let priority = |l: &u8| LETTERS.iter().find(|x| x.0 == *l).map(|x| x.1);
    add.priorities = letters.iter().map(priority).collect::<Option<_>>().ok_or(bad(&"unknown priorities"))?;
    if !add.priorities.is_empty() && add.priorities.len() != add.meta.files.len() {
        let text = format!("{} files, but {} priorities", add.meta.files.len(), add.priorities.len());
        return Err(RecallError::Bad(text));
    }
    add.select = list(ours.get(b"select")).map(range).collect::<Option<_>>().ok_or(bad(&"a selection is none"))?;
    add.peers = strings(ours.get(b"peers")).iter().filter_map(|p| p.parse().ok()).collect();
    add.paused = is(b"paused");
    add.sequential = is(b"sequential");
    let ratio = ours.get(b"seed-ratio").and_then(|r| r.as_str()).and_then(|r| r.parse::<f64>().ok());
    add.seed_ratio = ratio.filter(|r| r.is_finite() && *r >= 0.0);
    let time = ours.get(b"seed-time").and_then(|t| t.as_int()).and_then(|t| u64::try_from(t).ok());
    add.seed_time = time.map(Duration::from_secs);
    Ok(add)
}

fn list<'a, 'd>(node: Option<Node<'a, 'd>>) -> impl Iterator<Item = Node<'a, 'd>> {
    node.into_iter().flat_map(|n| n.items())
}

fn strings(node: Option<Node<'_, '_>>) -> Vec<String> {
    list(node).filter_map(|n| n.as_str()).map(str::to_owned).collect()
}

fn range(node: Node<'_, '_>) -> Option<(u32, u32)> {
    let mut ends = node.items().map(|n| n.as_int().and_then(|i| u32::try_from(i).ok()));
    Some((ends.next()??, ends.next()??))
}

#[cfg(test)]
mod tests;
