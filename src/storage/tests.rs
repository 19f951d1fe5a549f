//! Storage as the pump uses it: the same dialogue with every lane and backend, compared with what is on disk.

use super::*;
use crate::id::BLOCK_LEN;
use crate::torrent::layout::LayoutFile;
use sha1::Digest;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder that goes away with its guard.
pub(super) struct TempDir(PathBuf);

impl TempDir {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("btmio-storage-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) const T: TorrentKey = TorrentKey::new(3, 7);
const MIB: usize = 1 << 20;
const LANES: [Lane; 4] = [Lane::Gather, Lane::Direct, Lane::Scratch, Lane::Auto];

pub(super) fn p(i: u32) -> PieceIndex {
    PieceIndex::new(i)
}
fn sha(data: &[u8]) -> [u8; 20] {
    sha1::Sha1::digest(data).into()
}
fn noise(seed: u64, n: usize) -> Vec<u8> {
    let mut out = vec![0; n];
    fastrand::Rng::with_seed(seed).fill(&mut out);
    out
}

/// Files end to end; a name that begins with `pad` is a pad file.
pub(super) fn layout(piece_len: u32, files: &[(&str, u64)]) -> Arc<Layout> {
    let mut offset = 0;
    let files = files.iter().map(|&(path, len)| {
        let f = LayoutFile { path: path.into(), offset, len, pad: path.starts_with("pad"), executable: false };
        offset += len;
        f
    });
    Arc::new(Layout::new(piece_len, files.collect()))
}

/// A torrent's content: noise, with zeros for pads.
fn content(layout: &Layout) -> Vec<u8> {
    let mut data = noise(layout.total(), layout.total() as usize);
    for f in layout.files().iter().filter(|f| f.pad) {
        data[f.offset as usize..(f.offset + f.len) as usize].fill(0);
    }
    data
}

/// A storage and a torrent in it, driven as the pump would.
pub(super) struct Rig<S> {
    pub(super) s: S,
    pub(super) layout: Arc<Layout>,
    data: Vec<u8>,
    plan: PlaceList,
    ours: UnixStream,
    peer: UnixStream,
}

impl<S: Storage> Rig<S> {
    pub(super) fn new(s: S, layout: &Arc<Layout>, dir: &Path) -> Self {
        let (ours, peer) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut rig = Self { s, data: content(layout), layout: layout.clone(), plan: PlaceList::new(), ours, peer };
        rig.open(dir);
        rig
    }
    pub(super) fn open(&mut self, dir: &Path) {
        self.s.open(T, self.layout.clone(), OpenSpec { dir: dir.into() }).unwrap();
    }
    pub(super) fn bytes(&self, piece: u32, begin: u32, len: u32) -> Vec<u8> {
        let at = self.layout.piece_offset(p(piece)) as usize + begin as usize;
        self.data[at..at + len as usize].to_vec()
    }
    pub(super) fn expected(&self, piece: u32) -> [u8; 20] {
        sha(&self.bytes(piece, 0, self.layout.piece_size(p(piece))))
    }
    /// Receives a block through the socket, or through `write` where it has no place.
    fn receive(&mut self, block: Block, bytes: &[u8]) -> Result<(), DiskError> {
        let mut at = 0;
        while at < block.len {
            self.plan.begin();
            let n = self.s.place(T, block, at, block.len - at, &mut self.plan)?;
            let part = &bytes[at as usize..(at + if n == 0 { block.len - at } else { n }) as usize];
            if n == 0 {
                self.s.write(T, block.piece, block.begin + at, part)?;
            } else {
                self.peer.write_all(part).unwrap();
                let got = self.s.regions(&mut self.plan).readv(self.ours.as_fd()).unwrap();
                assert_eq!(got, n as usize);
                self.s.landed(T, block.piece, block.begin + at, n);
            }
            at += part.len() as u32;
        }
        Ok(())
    }
    pub(super) fn receive_block(&mut self, piece: u32, i: u32) {
        let block = self.layout.block(p(piece), i);
        if !self.layout.is_all_pad(&block) {
            let bytes = self.bytes(piece, block.begin, block.len);
            self.receive(block, &bytes).unwrap();
        }
    }
    pub(super) fn receive_piece(&mut self, piece: u32) {
        (0..self.layout.blocks_in(p(piece))).for_each(|i| self.receive_block(piece, i));
    }
    pub(super) fn hash(&mut self, piece: u32) {
        let expected = self.expected(piece);
        self.s.hash(T, p(piece), expected, false);
    }
    pub(super) fn settle(&mut self) -> Vec<Done> {
        let mut turns = 0;
        while self.s.work(100_000) {
            turns += 1;
            assert!(turns < 10_000_000, "work never ends");
            // The helper has its turn too.
            std::thread::yield_now();
        }
        std::iter::from_fn(|| self.s.poll_done()).collect()
    }
    fn sync(&mut self) -> Result<(), DiskError> {
        self.s.sync(T, 7);
        match &self.settle()[..] {
            [Done::Synced { torrent: T, ticket: 7, result }] => result.clone(),
            done => panic!("{done:?}"),
        }
    }
    /// All results are good; the pieces in order.
    fn good(&mut self) -> Vec<u32> {
        let mut pieces: Vec<u32> = self.settle().iter().map(good).collect();
        pieces.sort_unstable();
        pieces
    }
    fn recheck_all(&mut self) -> Vec<bool> {
        for i in 0..self.layout.pieces() {
            let expected = self.expected(i);
            self.s.recheck(T, p(i), expected);
        }
        let mut all = vec![false; self.layout.pieces() as usize];
        for d in self.settle() {
            let Done::Hashed { piece, ok, blocks: None, .. } = d else { panic!("{d:?}") };
            all[piece.idx()] = ok;
        }
        all
    }
    /// Sends a block, as often as it takes, and compares what arrives.
    pub(super) fn send_block(&mut self, block: Block) -> Result<(), DiskError> {
        let mut got = vec![];
        while (got.len() as u32) < block.len {
            let at = got.len() as u32;
            self.plan.begin();
            assert!(self.plan.push_bytes(b"head"));
            let n = self.s.lend(T, block, at, block.len - at, &mut self.plan)?;
            if n == 0 {
                continue; // the disk has to be waited for
            }
            let sent = self.s.regions(&mut self.plan).send(self.ours.as_fd()).unwrap();
            assert!(sent > 4);
            let mut part = vec![0; sent];
            self.peer.read_exact(&mut part).unwrap();
            assert_eq!(&part[..4], b"head");
            got.extend_from_slice(&part[4..]);
        }
        assert!(got == self.bytes(block.piece.get(), block.begin, block.len), "{block:?} reads otherwise");
        Ok(())
    }
    fn all_blocks(&self) -> Vec<(u32, u32)> {
        let l = &self.layout;
        (0..l.pieces()).flat_map(|i| (0..l.blocks_in(p(i))).map(move |b| (i, b))).collect()
    }
}

pub(super) fn good(d: &Done) -> u32 {
    match d {
        Done::Hashed { torrent: T, piece, ok: true, .. } => piece.get(),
        other => panic!("{other:?}"),
    }
}

pub(super) fn config(lane: Lane) -> StorageConfig {
    // Map, so that small test files are mapped too.
    StorageConfig {
        lane,
        backend: Backend::Map,
        window: 64 << 10,
        map_limit: MIB,
        gather_limit: 4 * MIB,
        ..Default::default()
    }
}

/// What should be on disk, compared with what is.
fn assert_files(layout: &Layout, data: &[u8], dir: &Path) {
    for f in layout.files() {
        let path = dir.join(&f.path);
        if f.pad {
            assert!(!path.exists(), "{} was created", f.path);
        } else if f.len > 0 {
            let want = &data[f.offset as usize..(f.offset + f.len) as usize];
            assert!(fs::read(&path).unwrap() == want, "{} differs", f.path);
        }
    }
}

fn mixed_layout() -> Arc<Layout> {
    let files = [
        ("t/empty first", 0),
        ("t/a", 100_001),
        ("t/sub/dir/b", 3),
        ("t/sub/empty", 0),
        ("t/c", 400_000),
        ("pad/1", 24_996),
        ("t/d", 262_144),
        ("pad/2", 200_000),
        ("t/e", 1),
    ];
    layout(131_072, &files)
}

#[test]
fn every_lane_leaves_the_same_bytes_on_disk() {
    for lane in LANES {
        let (tmp, layout) = (TempDir::new(), mixed_layout());
        let mut rig = Rig::new(Disk::new(config(lane)), &layout, &tmp.path().join("new/folder"));
        rig.s.prepare(T, &|_| true).unwrap();
        let mut blocks = rig.all_blocks();
        fastrand::Rng::with_seed(1).shuffle(&mut blocks);
        blocks.into_iter().for_each(|(i, b)| rig.receive_block(i, b));
        (0..layout.pieces()).for_each(|i| rig.hash(i));
        let all: Vec<u32> = (0..layout.pieces()).collect();
        assert_eq!(rig.good(), all, "{lane:?}");
        assert_eq!(rig.s.dirty(), 0);
        let dir = tmp.path().join("new/folder");
        assert_files(&layout, &rig.data, &dir);
        for empty in ["t/empty first", "t/sub/empty"] {
            assert_eq!(fs::metadata(dir.join(empty)).unwrap().len(), 0, "{lane:?} {empty}");
        }
        for (i, b) in rig.all_blocks() {
            rig.send_block(layout.block(p(i), b)).unwrap();
        }
        assert!(rig.recheck_all().iter().all(|ok| *ok));
        rig.s.invariants();
        assert_eq!(rig.sync(), Ok(()));
        let stat = rig.s.file_stat(T, FileIndex::new(4)).unwrap();
        let m = fs::metadata(dir.join("t/c")).unwrap();
        assert_eq!((stat.len, stat.mtime, stat.inode), (400_000, m.mtime(), m.ino()));
        rig.s.close(T).unwrap();
    }
}

#[test]
fn memory_answers_as_disk_does() {
    let layout = mixed_layout();
    let mut rig = Rig::new(Memory::new(), &layout, Path::new("nowhere"));
    rig.all_blocks().into_iter().for_each(|(i, b)| rig.receive_block(i, b));
    (0..layout.pieces()).for_each(|i| rig.hash(i));
    assert_eq!(rig.good().len(), layout.pieces() as usize);
    for (i, b) in rig.all_blocks() {
        rig.send_block(layout.block(p(i), b)).unwrap();
    }
    rig.s.write(T, p(0), 5, b"other").unwrap();
    assert_eq!(rig.recheck_all().iter().position(|ok| !ok), Some(0));
    rig.hash(0);
    assert!(matches!(&rig.settle()[..], [Done::Hashed { ok: false, blocks: Some(b), .. }] if b.len() == 8));
    assert_eq!(rig.s.piece(T, p(0)), None, "a bad piece is dropped");
    rig.s.fail(DiskErrorKind::Full);
    rig.receive_piece(0);
    rig.hash(0);
    assert!(
        matches!(&rig.settle()[..], [Done::Failed { piece: Some(_), error, .. }] if error.kind == DiskErrorKind::Full)
    );
}

#[test]
fn one_read_fills_several_blocks_and_the_headers_between() {
    for lane in [Lane::Gather, Lane::Direct] {
        let (tmp, layout) = (TempDir::new(), layout(1 << 20, &[("one", 700_000), ("two", 700_000)]));
        let mut rig = Rig::new(Disk::new(config(lane)), &layout, tmp.path());
        // From within block 41 of piece 0 (which crosses from one file into the other soon) over three more.
        let blocks: Vec<Block> = [42, 43, 44, 45].map(|i| layout.block(p(0), i)).to_vec();
        let mut stream = vec![];
        rig.plan.begin();
        for (i, block) in blocks.iter().enumerate() {
            let at = if i == 0 { 1000 } else { 0 };
            if i > 0 {
                assert_eq!(rig.plan.push_slot(13), Some(i - 1));
                stream.extend_from_slice(&[i as u8; 13]);
            }
            assert_eq!(rig.s.place(T, *block, at, block.len - at, &mut rig.plan).unwrap(), block.len - at);
            stream.extend(rig.bytes(0, block.begin + at, block.len - at));
        }
        rig.peer.write_all(&stream).unwrap();
        assert_eq!(rig.plan.total(), stream.len());
        assert_eq!(rig.s.regions(&mut rig.plan).readv(rig.ours.as_fd()).unwrap(), stream.len());
        for (i, block) in blocks.iter().enumerate() {
            let at = if i == 0 { 1000 } else { 0 };
            rig.s.landed(T, p(0), block.begin + at, block.len - at);
            if i > 0 {
                assert_eq!(rig.plan.slot(i - 1), [i as u8; 13]);
            }
        }
        // What landed is taken from there; the rest comes singly, and the whole is right.
        let mut back = vec![0; 20_000];
        rig.s.read_back(T, Block::new(0, blocks[0].begin, 40_000), 1000, &mut back).unwrap();
        assert_eq!(back, rig.bytes(0, blocks[0].begin + 1000, 20_000));
        (0..layout.blocks_in(p(0))).filter(|i| !(43..=45).contains(i)).for_each(|i| rig.receive_block(0, i));
        rig.hash(0);
        assert_eq!(rig.good(), [0]);
    }
}

#[test]
fn a_wrong_prediction_is_taken_back_and_leaves_no_trace() {
    for lane in [Lane::Gather, Lane::Direct] {
        let (tmp, layout) = (TempDir::new(), layout(65_536, &[("f", 800_000)]));
        let mut rig = Rig::new(Disk::new(config(lane)), &layout, tmp.path());
        rig.plan.begin();
        let (a, b) = (layout.block(p(1), 0), layout.block(p(2), 3));
        rig.s.place(T, a, 0, a.len, &mut rig.plan).unwrap();
        rig.plan.push_slot(13);
        rig.s.place(T, b, 0, b.len, &mut rig.plan).unwrap();
        rig.peer.write_all(&rig.bytes(1, 0, a.len)).unwrap();
        rig.peer.write_all(b"another messageand more of it").unwrap();
        let n = rig.s.regions(&mut rig.plan).readv(rig.ours.as_fd()).unwrap();
        assert_eq!(n, a.len as usize + 29);
        rig.s.landed(T, p(1), 0, a.len);
        assert_eq!(rig.plan.slot(0), b"another messa");
        let mut back = [0; 16];
        rig.s.read_back(T, b, 0, &mut back).unwrap();
        assert_eq!(&back, b"geand more of it");
        for i in [1, 2] {
            rig.receive_piece(i);
            rig.hash(i);
        }
        assert_eq!(rig.good(), [1, 2]);
    }
}

#[test]
fn a_bad_piece_is_dropped_and_its_blocks_are_named() {
    for lane in LANES {
        let (tmp, layout) = (TempDir::new(), layout(131_072, &[("f", 131_072 * 2)]));
        let mut rig = Rig::new(Disk::new(config(lane)), &layout, tmp.path());
        rig.receive_piece(0);
        let mut wrong = rig.bytes(0, 3 * BLOCK_LEN, BLOCK_LEN);
        wrong[77] ^= 1;
        rig.receive(layout.block(p(0), 3), &wrong).unwrap();
        rig.hash(0);
        let [Done::Hashed { ok: false, blocks: Some(blocks), .. }] = &rig.settle()[..] else { panic!("{lane:?}") };
        let bad: Vec<usize> =
            (0..8).filter(|&i| blocks[i] != sha(&rig.bytes(0, i as u32 * BLOCK_LEN, BLOCK_LEN))).collect();
        assert_eq!((blocks.len(), bad), (8, vec![3]));
        assert_eq!(rig.s.dirty(), 0);
        if lane == Lane::Gather {
            let on_disk = fs::read(tmp.path().join("f")).unwrap_or_default();
            assert!(on_disk.iter().all(|b| *b == 0), "unverified bytes were written");
        }
        rig.receive_piece(0);
        let expected = rig.expected(0);
        rig.s.hash(T, p(0), expected, true);
        let done = rig.settle();
        let [Done::Hashed { ok: true, blocks: Some(blocks), .. }] = &done[..] else { panic!("{done:?}") };
        assert_eq!(blocks[3], sha(&rig.bytes(0, 3 * BLOCK_LEN, BLOCK_LEN)));
    }
}

#[test]
fn a_tiny_limit_evicts_and_loses_nothing() {
    // 40 pieces of 160 KiB at once through room for four extents of 64 KiB.
    let (tmp, layout) = (TempDir::new(), layout(163_840, &[("a", 3_000_000), ("pad/x", 5000), ("b", 3_548_600)]));
    let limit = 256 << 10;
    let mut rig =
        Rig::new(Disk::new(StorageConfig { gather_limit: limit, ..config(Lane::Gather) }), &layout, tmp.path());
    let mut blocks = rig.all_blocks();
    fastrand::Rng::with_seed(2).shuffle(&mut blocks);
    for (i, b) in blocks {
        rig.receive_block(i, b);
        assert!(rig.s.pool.held() <= limit);
        rig.s.invariants();
    }
    (0..layout.pieces()).for_each(|i| rig.hash(i));
    assert_eq!(rig.good().len(), layout.pieces() as usize);
    assert_files(&layout, &rig.data, tmp.path());
}

#[test]
fn a_plan_is_cut_rather_than_its_own_buffers_evicted() {
    let (tmp, layout) = (TempDir::new(), layout(65_536, &[("f", 65_536 * 20)]));
    let mut rig =
        Rig::new(Disk::new(StorageConfig { gather_limit: 256 << 10, ..config(Lane::Gather) }), &layout, tmp.path());
    rig.plan.begin();
    let placed: Vec<u32> =
        (0..6).map(|i| rig.s.place(T, layout.block(p(i), 0), 0, BLOCK_LEN, &mut rig.plan).unwrap()).collect();
    assert_eq!(placed, [BLOCK_LEN, BLOCK_LEN, BLOCK_LEN, BLOCK_LEN, 0, 0]);
    assert_eq!(rig.s.regions(&mut rig.plan).total(), 4 * BLOCK_LEN as usize);
    rig.plan.begin();
    assert_eq!(rig.s.place(T, layout.block(p(5), 0), 0, BLOCK_LEN, &mut rig.plan).unwrap(), BLOCK_LEN);
}

#[test]
fn a_long_piece_is_hashed_behind_its_contiguous_part() {
    let (tmp, layout) = (TempDir::new(), layout(1 << 20, &[("f", 3 << 20)]));
    let mut rig = Rig::new(Disk::new(StorageConfig { gather_limit: MIB, ..config(Lane::Gather) }), &layout, tmp.path());
    // 64 KiB extents: the second before the first, and a hole in the sixth.
    let order: Vec<u32> = (4..8).chain(0..4).chain(8..20).collect();
    order.iter().for_each(|&b| rig.receive_block(0, b));
    assert!(rig.settle().is_empty());
    assert!(rig.s.pool.held() > 0);
    (21..64).chain([20]).for_each(|b| rig.receive_block(0, b));
    rig.hash(0);
    assert_eq!(rig.good(), [0]);
    // A prefix of a piece that is then forgotten must not be believed.
    let junk = vec![1; BLOCK_LEN as usize];
    (0..32).for_each(|i| rig.receive(layout.block(p(1), i), &junk).unwrap());
    rig.settle();
    rig.s.forget(T, p(1));
    rig.receive_piece(1);
    rig.hash(1);
    assert_eq!(rig.good(), [1]);
}

#[test]
fn closing_keeps_what_has_landed_and_no_more() {
    for lane in LANES {
        let (tmp, layout) = (TempDir::new(), layout(262_144, &[("f", 1 << 20)]));
        let mut rig = Rig::new(Disk::new(config(lane)), &layout, tmp.path());
        [0, 1, 2, 5].into_iter().for_each(|b| rig.receive_block(1, b));
        rig.s.close(T).unwrap();
        assert_eq!(rig.s.dirty(), 0);
        rig.open(tmp.path());
        (0..16).filter(|b| ![0, 1, 2, 5].contains(b)).for_each(|b| rig.receive_block(1, b));
        rig.hash(1);
        assert_eq!(rig.good(), [1], "{lane:?}");
        assert_eq!(rig.recheck_all(), [false, true, false, false]);
        rig.s.close(T).unwrap();
        assert!(rig.s.pool.held() == 0 && rig.s.files.open_count() == 0);
    }
}

#[test]
fn files_beyond_4_gib() {
    let tmp = TempDir::new();
    let size = 5u64 << 30;
    let layout = layout(4 << 20, &[("big", size), ("next", 100)]);
    for lane in [Lane::Gather, Lane::Direct, Lane::Scratch] {
        for backend in [Backend::Map, Backend::Io] {
            let s = Disk::new(StorageConfig {
                lane,
                backend,
                // Taking 5 GiB of space is for the direct lane only: it needs the file to be there.
                allocate: if lane == Lane::Direct { Allocate::Full } else { Allocate::None },
                map_limit: 64 << 20,
                window: 4 << 20,
                ..Default::default()
            });
            let (ours, peer) = UnixStream::pair().unwrap();
            let mut rig = Rig { s, layout: layout.clone(), data: vec![], plan: PlaceList::new(), ours, peer };
            rig.open(tmp.path());
            let (piece, begin) = (p(1279), (4 << 20) - 2 * BLOCK_LEN);
            let bytes = noise(9, BLOCK_LEN as usize);
            let block = Block { piece, begin, len: BLOCK_LEN };
            if let Err(e) = rig.receive(block, &bytes) {
                assert_eq!((lane, e.kind), (Lane::Direct, DiskErrorKind::Full));
                eprintln!("skipped for the direct lane: no 5 GiB of space");
                continue;
            }
            rig.s.flush(T).unwrap();
            let mut on_disk = vec![0; BLOCK_LEN as usize];
            File::open(tmp.path().join("big"))
                .unwrap()
                .read_exact_at(&mut on_disk, size - 2 * u64::from(BLOCK_LEN))
                .unwrap();
            assert!(on_disk == bytes, "{lane:?} {backend:?}");
            rig.plan.begin();
            assert_eq!(rig.s.lend(T, block, 0, BLOCK_LEN, &mut rig.plan).unwrap(), BLOCK_LEN);
            let sent = rig.s.regions(&mut rig.plan).send(rig.ours.as_fd()).unwrap();
            let mut lent = vec![0; BLOCK_LEN as usize];
            assert_eq!(sent, lent.len());
            rig.peer.read_exact(&mut lent).unwrap();
            assert!(lent == bytes, "{lane:?} {backend:?}");
            assert!(rig.s.memory() <= 64 << 20);
            rig.s.remove_files(T).unwrap();
        }
    }
}

#[test]
fn windows_stay_within_their_limit() {
    let (tmp, layout) = (TempDir::new(), layout(1 << 20, &[("f", 8 << 20)]));
    let data = content(&layout);
    fs::write(tmp.path().join("f"), &data).unwrap();
    let mut rig =
        Rig::new(Disk::new(StorageConfig { map_limit: 256 << 10, ..config(Lane::Gather) }), &layout, tmp.path());
    for (i, b) in rig.all_blocks() {
        rig.send_block(layout.block(p(i), b)).unwrap();
        assert!(rig.s.memory() <= 256 << 10);
    }
    // A plan over more windows than the limit allows is cut, not unmapped under its feet.
    rig.plan.begin();
    let lent: Vec<u32> = (0..6).map(|i| rig.s.lend(T, Block::new(i, 0, 5), 0, 5, &mut rig.plan).unwrap()).collect();
    assert_eq!(lent, [5, 5, 5, 5, 0, 0]);
    assert_eq!(rig.s.regions(&mut rig.plan).total(), 20);
}

#[test]
fn few_descriptors_for_many_files() {
    let names: Vec<String> = (0..30).map(|i| format!("d{}/f{i}", i % 3)).collect();
    let files: Vec<(&str, u64)> = names.iter().map(|n| (n.as_str(), 10_000)).collect();
    let (tmp, layout) = (TempDir::new(), layout(32_768, &files));
    let mut rig = Rig::new(Disk::new(StorageConfig { max_open_files: 2, ..config(Lane::Gather) }), &layout, tmp.path());
    for i in 0..layout.pieces() {
        rig.receive_piece(i);
        rig.hash(i);
        assert_eq!(rig.good(), [i]);
        assert!(rig.s.files.open_count() <= 2);
    }
    assert_files(&layout, &rig.data, tmp.path());
    assert_eq!(rig.sync(), Ok(()));
    assert!(rig.s.files.open_count() <= 2);
    assert_eq!(rig.sync(), Ok(()), "nothing is left to do");
}

#[test]
fn a_sync_answers_once_for_each_call_and_names_the_file_that_failed() {
    let files: Vec<String> = (0..12).map(|i| format!("d{}/f{i}", i % 3)).collect();
    let files: Vec<(&str, u64)> = files.iter().map(|n| (n.as_str(), 10_000)).collect();
    let (tmp, layout) = (TempDir::new(), layout(32_768, &files));
    let (tx, woken) = std::sync::mpsc::channel();
    let tx = std::sync::Mutex::new(tx);
    let helper = helper::Helper::threaded(Arc::new(move || tx.lock().unwrap().send(()).unwrap_or(())));
    let config = StorageConfig { max_open_files: 2, ..config(Lane::Gather) };
    let mut rig = Rig::new(Disk::with_helper(config, helper.hand()), &layout, tmp.path());
    for i in 0..layout.pieces() {
        rig.receive_piece(i);
        rig.hash(i);
    }
    let answers = |rig: &mut Rig<Disk>, n: usize| {
        let mut answers = Vec::new();
        while answers.len() < n {
            woken.recv().unwrap();
            rig.s.work(0);
            answers.extend(std::iter::from_fn(|| rig.s.poll_done()));
        }
        answers
    };
    // The volume is not known to be fast, so the helper writes the pieces.
    rig.s.work(usize::MAX);
    assert!(rig.s.poll_done().is_none(), "reported before it was written");
    let mut written: Vec<u32> = answers(&mut rig, layout.pieces() as usize).iter().map(good).collect();
    written.sort_unstable();
    assert_eq!(written, (0..layout.pieces()).collect::<Vec<_>>());
    assert_files(&layout, &rig.data, tmp.path());
    assert_eq!(rig.s.dirty(), 0);
    rig.s.invariants();
    let fine = |ticket| Done::Synced { torrent: T, ticket, result: Ok(()) };
    // The second call comes while the first is under way.
    rig.s.sync(T, 1);
    rig.s.sync(T, 2);
    assert_eq!(answers(&mut rig, 2), [fine(1), fine(2)]);
    // Written again, and gone by the time it is to be synced: no descriptor is left of the first of so many.
    let data = rig.data.clone();
    rig.s.files.write_at(T, 0, &data).unwrap();
    fs::remove_file(tmp.path().join("d0/f0")).unwrap();
    rig.s.sync(T, 3);
    let [Done::Synced { ticket: 3, result: Err(e), .. }] = &answers(&mut rig, 1)[..] else {
        panic!("a lost file is synced")
    };
    assert_eq!((e.kind, &e.path), (DiskErrorKind::Missing, &tmp.path().join("d0/f0")));
    // What failed is still to be synced; the others are.
    rig.s.files.write_at(T, 0, &data[..10_000]).unwrap();
    rig.s.sync(T, 4);
    assert_eq!(answers(&mut rig, 1), [fine(4)]);
}

#[test]
fn many_files_are_synced_with_their_volume_and_one_by_one_when_that_fails() {
    let files: Vec<String> = (0..files::MANY + 6).map(|i| format!("d{}/f{i}", i % 3)).collect();
    let files: Vec<(&str, u64)> = files.iter().map(|n| (n.as_str(), 1000)).collect();
    let (tmp, layout) = (TempDir::new(), layout(16_384, &files));
    let mut rig = Rig::new(Disk::new(config(Lane::Gather)), &layout, tmp.path());
    let data = rig.data.clone();
    rig.s.files.write_at(T, 0, &data[..1000]).unwrap();
    rig.s.sync(T, 1);
    assert_eq!(rig.s.sync_items(), ["d0/f0", "", "d0"], "the first file is there, in new folders");
    while rig.s.work(0) {}
    assert!(matches!(rig.s.poll_done(), Some(Done::Synced { ticket: 1, result: Ok(()), .. })));
    // The files that are open still are written again.
    let known = sys::syncs_volume(&fs::File::open(tmp.path().join("d0/f0")).unwrap());
    for ticket in [2, 3] {
        rig.s.files.write_at(T, 0, &data).unwrap();
        rig.s.sync(T, ticket);
        assert_eq!(rig.s.sync_items() == ["*"], known);
        while rig.s.work(0) {}
        assert!(matches!(rig.s.poll_done(), Some(Done::Synced { result: Ok(()), .. })));
    }
    // What an earlier process wrote was written before there is an anchor.
    rig.s.files.cover(T, PieceIndex::new(0));
    rig.s.files.write_at(T, 0, &data).unwrap();
    rig.s.sync(T, 2);
    assert!(rig.s.sync_items().len() > files::MANY);
    while rig.s.work(0) {}
    assert!(matches!(rig.s.poll_done(), Some(Done::Synced { ticket: 2, result: Ok(()), .. })));

    let config = StorageConfig { max_open_files: 2, ..config(Lane::Gather) };
    let mut rig = Rig::new(Disk::new(config), &layout, tmp.path());
    rig.s.files.write_at(T, 0, &data).unwrap();
    fs::remove_file(tmp.path().join("d1/f1")).unwrap();
    rig.s.sync(T, 3);
    assert_eq!(rig.s.sync_items() == ["*"], known);
    if known {
        rig.s.fail_sync(libc::EIO);
        assert!(rig.s.sync_items().len() > files::MANY);
    }
    while rig.s.work(0) {}
    let Some(Done::Synced { ticket: 3, result: Err(e), .. }) = rig.s.poll_done() else {
        panic!("a lost file is synced")
    };
    assert_eq!((e.kind, &e.path), (DiskErrorKind::Missing, &tmp.path().join("d1/f1")));
}

#[test]
fn links_and_special_files_are_refused() {
    for backend in [Backend::Map, Backend::Io] {
        let (tmp, layout) = (TempDir::new(), layout(16_384, &[("t/f", 16_384), ("t/g", 16_384), ("t/h/i", 16_384)]));
        let dir = tmp.path().join("in");
        fs::create_dir_all(dir.join("t")).unwrap();
        fs::write(tmp.path().join("outside"), b"mine").unwrap();
        symlink("../../outside", dir.join("t/f")).unwrap();
        assert!(Command::new("mkfifo").arg(dir.join("t/g")).status().unwrap().success());
        symlink("../..", dir.join("t/h")).unwrap();
        let mut rig = Rig::new(Disk::new(StorageConfig { backend, ..config(Lane::Gather) }), &layout, &dir);
        for i in 0..3 {
            rig.receive_piece(i);
            rig.hash(i);
            let done = rig.settle();
            let [Done::Failed { piece: Some(_), error, .. }] = &done[..] else { panic!("{done:?}") };
            assert_eq!(error.kind, DiskErrorKind::NotAFile, "{error}");
            assert!(error.to_string().starts_with(dir.to_str().unwrap()), "{error}");
            assert!(rig.send_block(layout.block(p(i), 0)).is_err());
            assert_eq!(rig.s.file_stat(T, FileIndex::new(i)), None);
        }
        assert_eq!(fs::read(tmp.path().join("outside")).unwrap(), b"mine");
        assert!(!tmp.path().join("i").exists());
        // The download folder itself may be a link.
        fs::remove_file(dir.join("t/f")).unwrap();
        symlink(&dir, tmp.path().join("link")).unwrap();
        rig.s.close(T).unwrap();
        rig.open(&tmp.path().join("link"));
        rig.receive_piece(0);
        rig.hash(0);
        assert_eq!(rig.good(), [0]);
    }
}

#[test]
fn missing_and_short_files() {
    let (tmp, layout) = (TempDir::new(), layout(65_536, &[("a", 65_536), ("b", 65_536)]));
    for backend in [Backend::Map, Backend::Io] {
        let mut rig = Rig::new(Disk::new(StorageConfig { backend, ..config(Lane::Gather) }), &layout, tmp.path());
        fs::write(tmp.path().join("b"), &content(&layout)[65_536..65_536 + 40_000]).unwrap();
        assert_eq!(rig.recheck_all(), [false, false]);
        assert!(!tmp.path().join("a").exists(), "looking creates nothing");
        assert_eq!(rig.send_block(layout.block(p(0), 0)).unwrap_err().kind, DiskErrorKind::Missing);
        rig.send_block(layout.block(p(1), 0)).unwrap();
        if backend == Backend::Io {
            assert_eq!(rig.send_block(layout.block(p(1), 3)).unwrap_err().kind, DiskErrorKind::Truncated);
        }
        // Longer than it should be: what belongs is read, and nothing is cut off.
        let mut long = content(&layout)[65_536..].to_vec();
        long.extend_from_slice(b"more");
        fs::write(tmp.path().join("b"), &long).unwrap();
        assert_eq!(rig.recheck_all(), [false, true]);
        rig.receive_piece(1);
        rig.hash(1);
        assert_eq!(rig.good(), [1]);
        assert_eq!(fs::metadata(tmp.path().join("b")).unwrap().len(), 65_540);
    }
}

#[test]
fn a_folder_that_goes_away_is_not_made_again() {
    let (tmp, layout) = (TempDir::new(), layout(65_536, &[("a", 65_536), ("b", 65_536)]));
    let dir = tmp.path().join("volume");
    let mut rig = Rig::new(Disk::new(config(Lane::Gather)), &layout, &dir);
    rig.receive_piece(0);
    rig.hash(0);
    assert_eq!(rig.good(), [0]);
    fs::remove_dir_all(&dir).unwrap();
    rig.receive_piece(1);
    rig.hash(1);
    let done = rig.settle();
    assert!(matches!(&done[..], [Done::Failed { error, .. }] if error.kind == DiskErrorKind::Missing), "{done:?}");
    assert!(!dir.exists());
}

#[test]
fn a_file_cut_short_under_its_window_is_an_error_with_a_cause() {
    let (tmp, layout) = (TempDir::new(), layout(262_144, &[("f", 1 << 20)]));
    let path = tmp.path().join("f");
    fs::write(&path, content(&layout)).unwrap();
    let mut rig = Rig::new(Disk::new(config(Lane::Direct)), &layout, tmp.path());
    let block = layout.block(p(2), 4);
    rig.send_block(block).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
    rig.plan.begin();
    rig.plan.push_bytes(b"head");
    rig.s.lend(T, block, 0, block.len, &mut rig.plan).unwrap();
    let e = rig.s.regions(&mut rig.plan).send(rig.ours.as_fd());
    // The header may have gone out before the fault: then the count says so.
    assert!(matches!(e, Ok(4)) || e.is_err_and(|e| e.raw_os_error() == Some(libc::EFAULT)));
    let mut buf = [0; 64];
    assert_eq!(rig.s.regions(&mut rig.plan).copy_to(&mut buf).unwrap(), 4);
    let error = rig.s.fault(&rig.plan);
    assert_eq!((error.kind, error.path), (DiskErrorKind::Truncated, path.clone()));
    // The same while receiving: the bytes stay in the socket.
    fs::write(&path, content(&layout)).unwrap();
    rig.plan.begin();
    assert_eq!(rig.s.place(T, block, 0, block.len, &mut rig.plan).unwrap(), block.len);
    File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
    let bytes = rig.bytes(2, block.begin, block.len);
    rig.peer.write_all(&bytes).unwrap();
    let e = rig.s.regions(&mut rig.plan).readv(rig.ours.as_fd()).unwrap_err();
    assert_eq!(e.raw_os_error(), Some(libc::EFAULT));
    let e = rig.s.regions(&mut rig.plan).copy_from(&bytes).unwrap_err();
    match e.raw_os_error() {
        Some(libc::ENOSYS | libc::EPERM) => eprintln!("skipped: no process_vm_writev in this sandbox"),
        e => assert_eq!(e, Some(libc::EFAULT)),
    }
    assert_eq!(rig.s.fault(&rig.plan).kind, DiskErrorKind::Truncated);
    let mut still = vec![0; block.len as usize];
    let n = rig.ours.read(&mut still).unwrap();
    assert!(n > 0 && still[..n] == bytes[..n]);
}

#[test]
fn removing_leaves_what_is_not_ours() {
    let (tmp, layout) = (TempDir::new(), mixed_layout());
    let mut rig = Rig::new(Disk::new(config(Lane::Gather)), &layout, tmp.path());
    rig.s.prepare(T, &|_| true).unwrap();
    (0..layout.pieces()).for_each(|i| rig.receive_piece(i));
    fs::write(tmp.path().join("t/foreign"), b"x").unwrap();
    rig.s.remove_files(T).unwrap();
    assert_eq!(rig.s.dirty(), 0);
    let left: Vec<_> = fs::read_dir(tmp.path().join("t")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["foreign"]);
}

#[test]
fn unwanted_files_are_not_made() {
    let (tmp, layout) = (TempDir::new(), layout(16_384, &[("t/a/x", 0), ("t/b/y", 0), ("t/b/z", 10)]));
    let mut rig = Rig::new(Disk::new(config(Lane::Gather)), &layout, tmp.path());
    rig.s.prepare(T, &|f| f.get() != 0).unwrap();
    assert!(tmp.path().join("t/b/y").exists() && !tmp.path().join("t/a").exists());
    assert!(!tmp.path().join("t/b/z").exists(), "files with content are made with their first byte");
}

#[test]
fn space_is_taken_before_the_first_byte() {
    let (tmp, layout) = (TempDir::new(), layout(1 << 20, &[("f", 8 << 20)]));
    for (allocate, blocks) in [(Allocate::None, 0), (Allocate::Full, (8 << 20) / 512)] {
        let mut rig = Rig::new(Disk::new(StorageConfig { allocate, ..config(Lane::Gather) }), &layout, tmp.path());
        rig.receive_block(3, 0);
        let m = fs::metadata(tmp.path().join("f"));
        let got = m.map_or(0, |m| m.blocks());
        if got == 0 && allocate == Allocate::Full {
            eprintln!("skipped: this file system cannot take space");
        } else {
            assert!(got >= blocks && (blocks > 0 || got == 0), "{allocate:?}: {got} blocks");
        }
        rig.s.forget(T, p(3));
    }
    let huge = self::layout(256 << 20, &[("huge", 1 << 60)]);
    let mut rig = Disk::new(config(Lane::Gather));
    rig.open(T, huge, OpenSpec { dir: tmp.path().into() }).unwrap();
    rig.prepare(T, &|_| false).unwrap();
    rig.allocate(T, FileIndex::new(0)).expect("nothing is taken for a file that is not wanted");
    let e = rig.prepare(T, &|_| true).unwrap_err();
    assert_eq!(e.kind, DiskErrorKind::Full, "{e}");
    let e = rig.allocate(T, FileIndex::new(0)).unwrap_err();
    assert!(matches!(e.kind, DiskErrorKind::Full | DiskErrorKind::TooBig), "{e}");
    assert_eq!(fs::metadata(tmp.path().join("huge")).unwrap().len(), 0, "what was taken is given back");
}

#[test]
fn a_full_disk_fails_its_torrent_only() {
    let (small, other) = (TempDir::new(), TempDir::new());
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "none"]).arg(small.path()).output();
    if !mount.is_ok_and(|m| m.status.success()) {
        eprintln!("skipped: mounting a small tmpfs needs root");
        return;
    }
    let result = std::panic::catch_unwind(|| {
        let layout = layout(65_536, &[("f", 1 << 20)]);
        let limit = StorageConfig { gather_limit: 256 << 10, ..config(Lane::Gather) };
        let mut rig = Rig::new(Disk::new(limit), &layout, small.path());
        assert_eq!(rig.s.prepare(T, &|_| true).unwrap_err().kind, DiskErrorKind::Full);
        // Unfinished pieces that have to be written early, on behalf of another torrent at last.
        (0..4).for_each(|i| (0..3).for_each(|b| rig.receive_block(i, b)));
        fs::write(small.path().join("filler"), vec![0; 1 << 20]).unwrap_err();
        let t2 = TorrentKey::new(0, 0);
        rig.s.open(t2, layout.clone(), OpenSpec { dir: other.path().into() }).unwrap();
        for i in 0..4 {
            rig.s.write(t2, p(i), 0, &rig.bytes(i, 0, 65_536)).unwrap();
            let expected = rig.expected(i);
            rig.s.hash(t2, p(i), expected, false);
        }
        let done = rig.settle();
        let (bad, fine): (Vec<_>, Vec<_>) = done.iter().partition(|d| matches!(d, Done::Failed { .. }));
        assert_eq!((bad.len(), fine.len()), (1, 4), "{done:?}");
        for d in bad {
            let Done::Failed { torrent: T, error, .. } = d else { panic!("{d:?}") };
            assert_eq!((error.kind, &error.path), (DiskErrorKind::Full, &small.path().join("f")));
        }
        assert!(fine.iter().all(|d| matches!(d, Done::Hashed { torrent, ok: true, .. } if *torrent == t2)));
        assert_eq!(rig.s.flush(T).unwrap_err().kind, DiskErrorKind::Full);
        assert_eq!(rig.s.dirty(), 0);
        // A whole piece: verified, but not had.
        rig.receive_piece(5);
        rig.hash(5);
        let done = rig.settle();
        assert!(matches!(&done[..], [Done::Failed { error, .. }] if error.kind == DiskErrorKind::Full), "{done:?}");
        assert_eq!(rig.s.dirty(), 0);
        // Room again, and it works again.
        fs::remove_file(small.path().join("filler")).unwrap();
        rig.receive_piece(5);
        rig.hash(5);
        assert_eq!(rig.good(), [5]);
    });
    Command::new("umount").arg(small.path()).status().unwrap();
    result.unwrap();
}

#[test]
fn pieces_wait_for_company_only_while_bytes_land() {
    let (tmp, layout) = (TempDir::new(), layout(65_536, &[("f", 1 << 20)]));
    let mut rig = Rig::new(Disk::new(config(Lane::Gather)), &layout, tmp.path());
    if rig.s.hasher.lanes.width() < 4 {
        eprintln!("skipped: this processor hashes one piece at a time");
        return;
    }
    rig.receive_piece(0);
    rig.hash(0);
    assert!(rig.s.work(MIB));
    assert_eq!(rig.s.poll_done(), None, "waits: bytes have just landed");
    assert!(!rig.s.work(MIB), "nothing landed since");
    assert_eq!(rig.s.poll_done().as_ref().map(good), Some(0));
    for i in 1..5 {
        rig.receive_piece(i);
        rig.hash(i);
    }
    assert!(!rig.s.work(MIB), "four need not wait");
    assert_eq!(rig.good(), [1, 2, 3, 4]);
    // Company that never comes is not waited for for ever.
    rig.receive_piece(5);
    rig.hash(5);
    let turns = (0..1000).position(|_| {
        rig.receive_block(6, 0);
        !rig.s.work(MIB)
    });
    assert!(turns.is_some_and(|n| n > 1 && n < 100), "{turns:?}");
}

/// Random torrents and random operations, compared with a plain vector.
#[test]
fn agrees_with_a_model() {
    for seed in 0..24 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let names: Vec<String> = (0..rng.usize(1..9))
            .map(|i| if rng.u8(..5) == 0 { format!("pad/{i}") } else { format!("d{}/{i}", i % 2) })
            .collect();
        let files: Vec<(&str, u64)> =
            names.iter().map(|n| (n.as_str(), if rng.u8(..5) == 0 { 0 } else { rng.u64(1..400_000) })).collect();
        let layout = layout([16_384, 50_000, 65_536, 200_000][rng.usize(..4)], &files);
        if layout.pieces() == 0 {
            continue;
        }
        let tmp = TempDir::new();
        let conf = StorageConfig {
            lane: LANES[seed as usize % 4],
            backend: [Backend::Map, Backend::Io, Backend::Auto][rng.usize(..3)],
            gather_limit: 256 << 10,
            map_limit: 128 << 10,
            max_open_files: 3,
            hash_lanes: rng.usize(1..=8),
            ..config(Lane::Auto)
        };
        let mut rig = Rig::new(Disk::new(conf), &layout, tmp.path());
        let mut todo = rig.all_blocks();
        let mut have = vec![false; layout.pieces() as usize];
        rng.shuffle(&mut todo);
        let mut missing: Vec<u32> = (0..layout.pieces()).map(|i| layout.blocks_in(p(i))).collect();
        while let Some((i, b)) = todo.pop() {
            match rng.u8(..20) {
                0 => rig.s.flush(T).unwrap(),
                1 => {
                    // A wrong block, put right at once.
                    let block = layout.block(p(i), b);
                    let junk = noise(seed, block.len as usize);
                    if !layout.is_all_pad(&block) {
                        rig.receive(block, &junk).unwrap();
                    }
                }
                2 => drop(rig.s.work(30_000)),
                3 if rng.bool() => {
                    rig.s.close(T).unwrap();
                    rig.open(tmp.path());
                    // Dropped results and hashing are asked for again.
                    let full = (0..layout.pieces()).filter(|&i| missing[i as usize] == 0 && !have[i as usize]);
                    full.collect::<Vec<_>>().into_iter().for_each(|i| rig.hash(i));
                }
                _ => {}
            }
            rig.receive_block(i, b);
            missing[i as usize] -= 1;
            if missing[i as usize] == 0 {
                rig.hash(i);
            }
            while let Some(d) = rig.s.poll_done() {
                have[good(&d) as usize] = true;
            }
            rig.s.invariants();
        }
        for i in rig.good() {
            have[i as usize] = true;
        }
        assert!(have.iter().all(|h| *h), "seed {seed}: {have:?}");
        assert_eq!(rig.s.dirty(), 0);
        assert_files(&layout, &rig.data, tmp.path());
        for (i, b) in rig.all_blocks() {
            rig.send_block(layout.block(p(i), b)).unwrap();
        }
        assert!(rig.recheck_all().iter().all(|ok| *ok), "seed {seed}");
    }
}

#[test]
fn a_closed_torrent_reports_nothing_more() {
    let (tmp, layout) = (TempDir::new(), layout(65_536, &[("f", 131_072)]));
    let mut rig = Rig::new(Disk::new(config(Lane::Gather)), &layout, tmp.path());
    rig.receive_piece(0);
    rig.hash(0);
    while rig.s.work(MIB) {}
    rig.receive_piece(1);
    rig.hash(1);
    rig.s.recheck(T, p(0), [0; 20]);
    rig.s.close(T).unwrap();
    assert_eq!(rig.settle(), [], "a result and two jobs of a torrent that is gone");
    rig.open(tmp.path());
    assert_eq!(rig.recheck_all(), [true, true], "bytes that had landed were written");
    // A recheck of a piece whose bytes are buffered: good means in the files, here too.
    rig.receive_piece(0);
    assert_eq!(rig.recheck_all(), [true, true]);
    assert_eq!(rig.s.dirty(), 0);
    rig.receive_piece(0);
    rig.hash(0);
    rig.s.forget(T, p(0));
    assert_eq!((rig.settle(), rig.s.dirty()), (vec![], 0));
}

#[test]
fn looking_makes_no_folder_and_executables_are_made_so() {
    let tmp = TempDir::new();
    let file =
        |path: &str, offset, executable| LayoutFile { path: path.into(), offset, len: 100, pad: false, executable };
    let layout = Arc::new(Layout::new(16_384, vec![file("plain", 0, false), file("run", 100, true)]));
    let dir = tmp.path().join("d");
    let mut rig = Rig::new(Disk::new(config(Lane::Gather)), &layout, &dir);
    assert_eq!(rig.recheck_all(), [false]);
    assert_eq!(rig.s.file_stat(T, FileIndex::new(0)), None);
    assert!(!dir.exists());
    rig.receive_piece(0);
    rig.hash(0);
    assert_eq!(rig.good(), [0]);
    let owner_may_run = |name: &str| fs::metadata(dir.join(name)).unwrap().mode() & 0o100 != 0;
    assert!(owner_may_run("run") && !owner_may_run("plain"));
}
