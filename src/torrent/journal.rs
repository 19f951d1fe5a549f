//! The have-journal: which pieces of a torrent are verified, and which of those are on the device.
//!
//! ```text
//!   0      2         3      4     8          16      20      24           28       32
//!   | "hj" | version | kind | seq | boot     | first | count | generation | crc32c |   little endian
//!
//!   S  a snapshot begins: `first` records of it follow; `count` is the torrent's number of pieces,
//!      `generation` what it is doing (0 trading, 1 checking, 2 closed)
//!   V  pieces first..first+count are verified; their bytes are in the page cache at least
//!   D  these pieces were on the device before this was written
//!   L  these pieces are not to be believed any more
//!   O  it trades    K  a check is under way    C  closed in good order, after the resume record was stored
//! ```
//!
//! `V` is written plainly, and so survives a killed process but not a power cut; whoever reads it trusts it only under
//! the same boot (`boot`) and in the same files (`generation`). `D` is written after the data was
//! synced, and then the journal is synced itself: it is true whenever it can be read. The upper half of a
//! generation is a hash of the mounts and devices of the piece's files, 0 where those cannot be told from
//! later ones and `V` is not trusted; the lower half is one of their inodes. They are reasons to distrust,
//! never to trust.
//!
//! The checksum covers the info hash too, so a journal filed under another name says nothing. Sequence
//! numbers only grow, also from one snapshot to the next, so that stale blocks of an older file behind the end of this
//! one are seen for what they are. A snapshot is synced before it takes its name, and so is whole or was damaged later.
//! Behind it, a part of a record at the end, or zeros, are a torn write and are ignored; all else that cannot be read
//! is damage. What is missing then may be an `L`, so after damage nothing is believed, and everything is looked at.
//!
//! Nothing here touches a file: see `crate::state` for who writes it and when.

use crate::api::FileStamp;
use crate::bitfield::Bitfield;
use crate::crc32c::crc32c;
use crate::id::{InfoHash, PieceIndex};
use crate::torrent::layout::Layout;

/// Bytes of one record.
pub const RECORD: usize = 32;
const MAGIC: [u8; 2] = *b"hj";
const VERSION: u8 = 1;
/// Sequence numbers begin anew with the first snapshot behind this.
const SEQ_TURN: u32 = 1 << 31;

/// What a record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A snapshot begins.
    Snapshot,
    /// Pieces were verified.
    Verified,
    /// Pieces are on the device.
    Durable,
    /// Pieces are not to be believed.
    Lost,
    /// The torrent trades.
    Trading,
    /// A check is under way.
    Checking,
    /// Closed in good order.
    Closed,
}

impl Kind {
    fn letter(self) -> u8 {
        match self {
            Self::Snapshot => b'S',
            Self::Verified => b'V',
            Self::Durable => b'D',
            Self::Lost => b'L',
            Self::Trading => b'O',
            Self::Checking => b'K',
            Self::Closed => b'C',
        }
    }

    fn of(letter: u8) -> Option<Self> {
        Some(match letter {
            b'S' => Self::Snapshot,
            b'V' => Self::Verified,
            b'D' => Self::Durable,
            b'L' => Self::Lost,
            b'O' => Self::Trading,
            b'K' => Self::Checking,
            b'C' => Self::Closed,
            _ => return None,
        })
    }
}

/// What the torrent was doing when the journal ends.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Phase {
    /// Trading: its files were being written.
    #[default]
    Trading,
    /// Checking: pieces that are not named may be good all the same.
    Checking,
    /// Closed in good order: the stamps of the resume record are the files' last ones.
    Closed,
}

/// One record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Grows from record to record.
    pub seq: u32,
    /// Hash of the boot id it was written under; 0 is unknown.
    pub boot: u64,
    /// What it says.
    pub kind: Kind,
    /// The first piece it is about; of a snapshot, its number of records.
    pub first: u32,
    /// How many pieces it is about; of a snapshot, the torrent's number of pieces.
    pub count: u32,
    /// Which files the pieces are in; of a snapshot, what the torrent is doing.
    pub generation: u32,
}

impl Record {
    /// The record as bytes.
    pub fn encode(&self, info_hash: &InfoHash) -> [u8; RECORD] {
        let mut b = [0; RECORD];
        b[..2].copy_from_slice(&MAGIC);
        b[2] = VERSION;
        b[3] = self.kind.letter();
        b[4..8].copy_from_slice(&self.seq.to_le_bytes());
        b[8..16].copy_from_slice(&self.boot.to_le_bytes());
        b[16..20].copy_from_slice(&self.first.to_le_bytes());
        b[20..24].copy_from_slice(&self.count.to_le_bytes());
        b[24..28].copy_from_slice(&self.generation.to_le_bytes());
        let sum = checksum(info_hash, &b[..28]);
        b[28..].copy_from_slice(&sum.to_le_bytes());
        b
    }

    /// The record in 32 bytes; `None` when they are not one of this torrent's and this version.
    pub fn decode(info_hash: &InfoHash, b: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_le_bytes(b.get(at..at + 4)?.try_into().ok()?));
        if b.len() != RECORD || b[..2] != MAGIC || b[2] != VERSION || word(28)? != checksum(info_hash, &b[..28]) {
            return None;
        }
        Some(Self {
            seq: word(4)?,
            boot: u64::from_le_bytes(b[8..16].try_into().ok()?),
            kind: Kind::of(b[3])?,
            first: word(16)?,
            count: word(20)?,
            generation: word(24)?,
        })
    }
}

fn checksum(info_hash: &InfoHash, bytes: &[u8]) -> u32 {
    let mut all = [0; 20 + RECORD - 4];
    all[..20].copy_from_slice(info_hash.as_bytes());
    all[20..].copy_from_slice(bytes);
    crc32c(&all)
}

/// Whether some of these records say that a piece is lost.
pub fn tell_of_loss(records: &[u8]) -> bool {
    records.chunks(RECORD).any(|r| r.get(3) == Some(&Kind::Lost.letter()))
}

/// What can be read of a journal.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Replay {
    /// Good records about pieces, in order.
    pub records: Vec<Record>,
    /// What the torrent was doing.
    pub phase: Phase,
    /// Something that was written whole, or belongs to the snapshot, cannot be read.
    pub damaged: bool,
    /// It does not end with a whole record: nothing may be appended.
    pub torn: bool,
    /// The sequence number for the next record.
    pub next: u32,
}

impl Replay {
    /// Reads a journal. Whatever the bytes are, this is an answer.
    pub fn of(info_hash: &InfoHash, bytes: &[u8], pieces: u32) -> Self {
        let mut out = Self { next: 1, ..Self::default() };
        let decode = |slot: &[u8]| {
            let r = Record::decode(info_hash, slot)?;
            let fits = match r.kind {
                Kind::Snapshot => r.count == pieces && r.generation <= 2,
                Kind::Verified | Kind::Durable | Kind::Lost => {
                    r.count > 0 && r.first.checked_add(r.count).is_some_and(|end| end <= pieces)
                }
                Kind::Trading | Kind::Checking | Kind::Closed => true,
            };
            fits.then_some(r)
        };
        let mut hole = false;
        // Records the snapshot still has to come up with.
        let mut owed = 0;
        for (i, slot) in bytes.chunks(RECORD).enumerate() {
            let Some(r) = decode(slot).filter(|r| r.seq >= out.next && (i > 0) == (r.kind != Kind::Snapshot)) else {
                hole = true;
                out.damaged |= slot.len() == RECORD && slot.iter().any(|b| *b != 0);
                continue;
            };
            // The numbers tell of a record that is missing from between.
            out.damaged |= hole || (i > 0 && r.seq != out.next);
            hole = false;
            out.next = r.seq.saturating_add(1);
            match r.kind {
                Kind::Snapshot => {
                    owed = r.first;
                    out.phase = [Phase::Trading, Phase::Checking, Phase::Closed][r.generation as usize];
                }
                Kind::Trading => out.phase = Phase::Trading,
                Kind::Checking => out.phase = Phase::Checking,
                Kind::Closed => out.phase = Phase::Closed,
                _ => out.records.push(r),
            }
            if r.kind != Kind::Snapshot {
                owed = owed.saturating_sub(1);
            }
        }
        out.torn = hole;
        // Without its first record nothing tells how much there was.
        let headless = bytes.get(..RECORD).and_then(decode).is_none();
        out.damaged |= headless || owed > 0;
        out
    }
}

/// What an earlier run knew of the pieces, in the light of what the files are now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claims {
    /// On the device, as far as is known.
    pub durable: Bitfield,
    /// Verified, and believed because it is the same boot and the same files.
    pub verified: Bitfield,
    /// Named, and to be hashed before they are believed.
    pub doubted: Bitfield,
    /// Those of `durable` that this boot has seen in these files: no sample is needed.
    pub seen: Bitfield,
    /// What the torrent was doing.
    pub phase: Phase,
    /// Nothing is believed, and pieces that are not named may be good all the same.
    pub damaged: bool,
    /// The journal says exactly this, and can be appended to.
    pub fits: bool,
}

impl Claims {
    /// Nothing is known of so many pieces.
    pub fn none(pieces: u32) -> Self {
        Self {
            durable: Bitfield::none(pieces),
            verified: Bitfield::none(pieces),
            doubted: Bitfield::none(pieces),
            seen: Bitfield::none(pieces),
            phase: Phase::Checking,
            damaged: false,
            fits: false,
        }
    }

    /// What a journal says. `generations` has one entry a piece, `None` where a file is absent; `boot` is the present
    /// boot's hash, 0 when unknown.
    pub fn of(replay: &Replay, generations: &[Option<u32>], boot: u64) -> Self {
        let mut c = Self { phase: replay.phase, damaged: replay.damaged, ..Self::none(generations.len() as u32) };
        c.fits = !replay.torn && !replay.damaged && boot != 0;
        for r in &replay.records {
            let same_boot = boot != 0 && r.boot == boot;
            c.fits &= same_boot;
            for p in r.first..r.first.saturating_add(r.count).min(generations.len() as u32) {
                let (p, now) = (PieceIndex::new(p), generations[p as usize]);
                // A mount without a number may be another one.
                let here = same_boot && now == Some(r.generation) && r.generation >> 16 != 0;
                let same_files = now.is_some_and(|now| now & 0xFFFF == r.generation & 0xFFFF);
                c.fits &= r.kind == Kind::Lost || here;
                for set in [&mut c.durable, &mut c.verified, &mut c.doubted, &mut c.seen] {
                    set.clear(p);
                }
                match r.kind {
                    Kind::Verified if here => _ = c.verified.set(p),
                    Kind::Durable if same_files => {
                        c.durable.set(p);
                        if here {
                            c.seen.set(p);
                        }
                    }
                    Kind::Verified | Kind::Durable if now.is_some() => _ = c.doubted.set(p),
                    _ => {}
                }
            }
        }
        if c.damaged {
            (0..generations.len() as u32).for_each(|p| c.doubt(PieceIndex::new(p)));
        }
        c
    }

    /// Takes a piece out of what is believed; it is to be hashed.
    pub fn doubt(&mut self, piece: PieceIndex) {
        let known = self.durable.clear(piece) | self.verified.clear(piece);
        self.seen.clear(piece);
        if known {
            self.doubted.set(piece);
        }
    }

    /// Takes a piece out altogether.
    pub fn drop(&mut self, piece: PieceIndex) {
        self.doubt(piece);
        self.doubted.clear(piece);
    }

    /// It is believed as things are.
    pub fn believes(&self, piece: PieceIndex) -> bool {
        self.durable.get(piece) || self.verified.get(piece)
    }
}

/// In which files a piece lies: a hash of their mounts and devices above one of their inodes. `None` when one is
/// absent. `stamp` is asked for each file of the piece, pads left out.
pub fn generation(
    layout: &Layout,
    piece: PieceIndex,
    stamp: &mut dyn FnMut(usize) -> Option<FileStamp>,
) -> Option<u32> {
    let mix = |h: u64, x: u64| (h ^ x).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    let (mut place, mut inode) = (0, 0);
    let mut told = true;
    for span in layout.spans(layout.piece_offset(piece), u64::from(layout.piece_size(piece))) {
        if !span.pad {
            let s = stamp(span.file.idx())?;
            place = mix(mix(place, s.mount), s.device);
            told &= s.mount != 0;
            inode = mix(inode, s.inode);
        }
    }
    let place = if told { ((place >> 48) as u32).max(1) } else { 0 };
    Some(place << 16 | (inode >> 48) as u32)
}

/// Puts records together, numbered.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    /// Whose journal it is.
    pub info_hash: InfoHash,
    /// The number of the next record.
    pub next: u32,
    /// The present boot.
    pub boot: u64,
}

impl Writer {
    /// Adds one record.
    pub fn push(&mut self, out: &mut Vec<u8>, kind: Kind, first: u32, count: u32, generation: u32) {
        let record = Record { seq: self.next, boot: self.boot, kind, first, count, generation };
        self.next = self.next.saturating_add(1);
        out.extend_from_slice(&record.encode(&self.info_hash));
    }

    /// Adds records about pieces: one for each run of neighbours in the same files. `generation` is
    /// asked for each; pieces without one are left out.
    pub fn push_pieces(
        &mut self,
        out: &mut Vec<u8>,
        kind: Kind,
        pieces: impl Iterator<Item = PieceIndex>,
        generation: &mut dyn FnMut(PieceIndex) -> Option<u32>,
    ) {
        let mut run: Option<(u32, u32, u32)> = None;
        for p in pieces {
            let Some(g) = generation(p) else { continue };
            match &mut run {
                Some((first, count, of)) if *first + *count == p.get() && *of == g => *count += 1,
                _ => {
                    if let Some((first, count, of)) = run.replace((p.get(), 1, g)) {
                        self.push(out, kind, first, count, of);
                    }
                }
            }
        }
        if let Some((first, count, of)) = run {
            self.push(out, kind, first, count, of);
        }
    }

    /// A whole new journal that says only this.
    pub fn snapshot(
        &mut self,
        pieces: u32,
        durable: &Bitfield,
        verified: impl Iterator<Item = PieceIndex>,
        phase: Phase,
        generation: &mut dyn FnMut(PieceIndex) -> Option<u32>,
    ) -> Vec<u8> {
        if self.next > SEQ_TURN {
            self.next = 1;
        }
        let (head, mut out) = (self.next, vec![0; RECORD]);
        self.next += 1;
        self.push_pieces(&mut out, Kind::Durable, durable.iter_set(), generation);
        self.push_pieces(&mut out, Kind::Verified, verified, generation);
        let head = Record {
            seq: head,
            boot: self.boot,
            kind: Kind::Snapshot,
            first: (out.len() / RECORD - 1) as u32,
            count: pieces,
            generation: phase as u32,
        };
        out[..RECORD].copy_from_slice(&head.encode(&self.info_hash));
        out
    }
}

#[cfg(test)]
#[path = "journal/tests.rs"]
mod tests;
