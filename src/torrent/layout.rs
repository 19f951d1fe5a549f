//! Where a torrent's bytes are: pieces, blocks and files over one line of bytes.
//!
//! A version 1 torrent is the concatenation of its files (BEP 3). Pieces cut that line at every
//! `piece_len` bytes, blocks cut each piece at every 16 KiB, and files cut it wherever they end:
//!
//! ```text
//! files   |a.......|b|c..............|pad.|d........|
//! pieces  |0...........|1...........|2...........|3.|      last one short
//! blocks  |0...|1...|2.|0...|1...|2.|0...|1...|2.|0.|      last of each piece short
//! ```
//!
//! A [`Layout`] answers questions of place and nothing else: it holds no hashes, no state and no
//! open files, and it never changes, so that the session and the storage share one copy.
//!
//! Invariants (checked by [`Layout::new`] in debug builds): `piece_len` is not zero, every file
//! starts where the one before ended, and the sum of lengths fits 64 bits. `solid` lists the files
//! that hold bytes, in order, so that runs of empty files cost nothing to step over.
//!
//! Pad files (BEP 47) are part of the line, are hashed as zeros and are served as zeros, but are
//! never requested and never written: see [`Layout::is_all_pad`] and [`Layout::wanted_len`].
//!
//! Every query answers something harmless for an index out of range (0, nothing, `None`).

use crate::id::{BLOCK_LEN, Block, FileIndex, PieceIndex};
use std::ops::Range;

/// One file on the line of bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayoutFile {
    /// Path below the download folder, `/`-separated; safe to create when it came from a metainfo.
    pub path: String,
    /// Where the file's first byte lies on the torrent's line of bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// A pad file (BEP 47): zeros that exist only on the line, never on disk.
    pub pad: bool,
    /// To be created with the executable bits set (BEP 47).
    pub executable: bool,
}

/// A run of bytes within one file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The file.
    pub file: FileIndex,
    /// Offset of the first byte within the file.
    pub at: u64,
    /// Length in bytes, never zero.
    pub len: u64,
    /// Whether the file is a pad file.
    pub pad: bool,
}

/// The immutable geometry of a torrent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    piece_len: u32,
    total: u64,
    files: Box<[LayoutFile]>,
    /// Indices of the files that are not empty.
    solid: Box<[u32]>,
    has_pads: bool,
}

impl Layout {
    /// A layout over `files`, which must lie end to end from offset 0.
    ///
    /// # Panics
    /// When `piece_len` is zero. In debug builds also when the files leave gaps.
    pub fn new(piece_len: u32, files: Vec<LayoutFile>) -> Self {
        assert!(piece_len > 0, "a piece length of zero passed validation");
        let mut total = 0u64;
        let mut solid = Vec::new();
        for (i, f) in (0u32..).zip(&files) {
            debug_assert_eq!(f.offset, total, "{}: files do not lie end to end", f.path);
            total = f.offset + f.len;
            if f.len > 0 {
                solid.push(i);
            }
        }
        let has_pads = files.iter().any(|f| f.pad && f.len > 0);
        Self { piece_len, total, files: files.into(), solid: solid.into(), has_pads }
    }

    /// Bytes in every piece but the last, which may be shorter.
    pub fn piece_len(&self) -> u32 {
        self.piece_len
    }

    /// Bytes in all, pad files included.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The number of pieces. Zero when all files are empty.
    pub fn pieces(&self) -> u32 {
        u32::try_from(self.total.div_ceil(u64::from(self.piece_len))).unwrap_or(u32::MAX)
    }

    /// Bytes in a piece; zero for a piece that does not exist.
    pub fn piece_size(&self, piece: PieceIndex) -> u32 {
        let left = self.total.saturating_sub(self.piece_offset(piece));
        left.min(u64::from(self.piece_len)) as u32
    }

    /// All files, in the order of the metainfo, pad files and empty files included.
    pub fn files(&self) -> &[LayoutFile] {
        &self.files
    }

    /// Where a piece starts on the line of bytes.
    pub fn piece_offset(&self, piece: PieceIndex) -> u64 {
        u64::from(piece.get()) * u64::from(self.piece_len)
    }

    /// Blocks in a piece.
    pub fn blocks_in(&self, piece: PieceIndex) -> u32 {
        self.piece_size(piece).div_ceil(BLOCK_LEN)
    }

    /// The `i`-th block of a piece on the 16 KiB grid; the last one is short where the piece is.
    /// `i` must be below [`Layout::blocks_in`]; beyond it the block is empty.
    pub fn block(&self, piece: PieceIndex, i: u32) -> Block {
        let begin = i.saturating_mul(BLOCK_LEN);
        let len = self.piece_size(piece).saturating_sub(begin).min(BLOCK_LEN);
        Block { piece, begin, len }
    }

    /// Which block of its piece this is, if it is exactly a block of the grid.
    pub fn block_index(&self, block: &Block) -> Option<u32> {
        let i = block.begin / BLOCK_LEN;
        (block.len > 0 && self.block(block.piece, i) == *block).then_some(i)
    }

    /// Whether the range is not empty and lies within its piece, on the grid or not.
    pub fn contains(&self, block: &Block) -> bool {
        let end = u64::from(block.begin) + u64::from(block.len);
        block.len > 0 && end <= u64::from(self.piece_size(block.piece))
    }

    /// Where a block starts on the line of bytes.
    pub fn block_offset(&self, block: &Block) -> u64 {
        self.piece_offset(block.piece) + u64::from(block.begin)
    }

    /// The files that `len` bytes from `offset` fall into, in order; empty files are left out and
    /// the range is cut at the end of the torrent. O(log files + spans).
    pub fn spans(&self, offset: u64, len: u64) -> impl Iterator<Item = Span> + '_ {
        let end = offset.saturating_add(len).min(self.total);
        let first = self.solid.partition_point(|&i| {
            let f = &self.files[i as usize];
            f.offset + f.len <= offset
        });
        self.solid[first..].iter().map_while(move |&i| {
            let f = &self.files[i as usize];
            let from = offset.max(f.offset);
            let to = end.min(f.offset + f.len);
            (from < to).then(|| Span { file: FileIndex::new(i), at: from - f.offset, len: to - from, pad: f.pad })
        })
    }

    /// The pieces that hold bytes of a file, the shared ones at its ends included. Empty for an
    /// empty file.
    pub fn pieces_of(&self, file: FileIndex) -> Range<u32> {
        let Some(f) = self.files.get(file.idx()).filter(|f| f.len > 0) else { return 0..0 };
        let len = u64::from(self.piece_len);
        let piece = |at: u64| u32::try_from(at).unwrap_or(u32::MAX);
        piece(f.offset / len)..piece((f.offset + f.len).div_ceil(len))
    }

    /// Bytes of a piece that are not pad bytes, that is: what there is to download.
    pub fn wanted_len(&self, piece: PieceIndex) -> u32 {
        let size = self.piece_size(piece);
        size - self.pad_len(self.piece_offset(piece), size)
    }

    /// Whether a block lies wholly in pad files. Such a block is never requested: it is zeros.
    pub fn is_all_pad(&self, block: &Block) -> bool {
        self.contains(block) && self.pad_len(self.block_offset(block), block.len) == block.len
    }

    fn pad_len(&self, offset: u64, len: u32) -> u32 {
        if !self.has_pads {
            return 0;
        }
        let pads: u64 = self.spans(offset, u64::from(len)).filter(|s| s.pad).map(|s| s.len).sum();
        pads as u32 // at most `len`
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(piece_len: u32, lens: &[(u64, bool)]) -> Layout {
        let mut offset = 0;
        let files = (0..).zip(lens).map(|(i, &(len, pad))| {
            let f = LayoutFile { path: format!("f{i}"), offset, len, pad, executable: false };
            offset += len;
            f
        });
        Layout::new(piece_len, files.collect())
    }

    fn spans(l: &Layout, offset: u64, len: u64) -> Vec<(u32, u64, u64)> {
        l.spans(offset, len).map(|s| (s.file.get(), s.at, s.len)).collect()
    }

    const P0: PieceIndex = PieceIndex::new(0);

    #[test]
    fn last_piece_and_last_block_are_short() {
        let l = layout(40_000, &[(100_001, false)]);
        assert_eq!((l.pieces(), l.total()), (3, 100_001));
        assert_eq!(l.piece_size(PieceIndex::new(1)), 40_000);
        assert_eq!(l.piece_size(PieceIndex::new(2)), 20_001);
        assert_eq!(l.piece_size(PieceIndex::new(3)), 0);
        assert_eq!(l.blocks_in(P0), 3);
        assert_eq!(l.block(P0, 2), Block::new(0, 32_768, 7_232));
        assert_eq!(l.block(PieceIndex::new(2), 1), Block::new(2, 16_384, 3_617));
    }

    #[test]
    fn only_grid_blocks_have_an_index() {
        let l = layout(40_000, &[(100_001, false)]);
        assert_eq!(l.block_index(&Block::new(2, 16_384, 3_617)), Some(1));
        assert_eq!(l.block_index(&Block::new(2, 16_384, 3_616)), None);
        assert_eq!(l.block_index(&Block::new(0, 1, 16_384)), None);
        assert_eq!(l.block_index(&Block::new(0, 0, 0)), None);
        assert_eq!(l.block_index(&Block::new(3, 0, 16_384)), None);
        assert_eq!(l.block_index(&Block::new(0, u32::MAX, 1)), None);
        for p in 0..3 {
            for i in 0..l.blocks_in(PieceIndex::new(p)) {
                assert_eq!(l.block_index(&l.block(PieceIndex::new(p), i)), Some(i));
            }
            assert_eq!(l.block(PieceIndex::new(p), l.blocks_in(PieceIndex::new(p))).len, 0);
        }
    }

    #[test]
    fn ranges_beyond_the_piece_are_not_contained() {
        let l = layout(40_000, &[(100_001, false)]);
        assert!(l.contains(&Block::new(0, 39_999, 1)));
        assert!(l.contains(&Block::new(2, 0, 20_001)));
        for b in [Block::new(0, 39_999, 2), Block::new(0, 0, 0), Block::new(2, 0, 20_002), Block::new(3, 0, 1)] {
            assert!(!l.contains(&b), "{b:?}");
        }
        assert!(!l.contains(&Block::new(0, u32::MAX, u32::MAX)), "the end must not wrap");
    }

    #[test]
    fn spans_cross_files_and_step_over_empty_ones() {
        let l = layout(16, &[(0, false), (10, false), (0, false), (5, false), (0, false), (7, true), (0, false)]);
        assert_eq!(spans(&l, 0, 22), [(1, 0, 10), (3, 0, 5), (5, 0, 7)]);
        assert_eq!(spans(&l, 10, 1), [(3, 0, 1)]);
        assert_eq!(spans(&l, 9, 2), [(1, 9, 1), (3, 0, 1)]);
        assert_eq!(spans(&l, 14, 100), [(3, 4, 1), (5, 0, 7)], "cut at the end");
        assert_eq!(spans(&l, 22, 1), []);
        assert_eq!(spans(&l, u64::MAX, u64::MAX), []);
        assert_eq!(spans(&l, 3, 0), []);
    }

    #[test]
    fn spans_agree_with_a_byte_by_byte_count() {
        let lens = [3, 0, 1, 17, 0, 0, 5, 32, 1];
        let l = layout(8, &lens.map(|n| (n, false)));
        let line: Vec<(u32, u64)> = (0u32..).zip(lens).flat_map(|(i, n)| (0..n).map(move |at| (i, at))).collect();
        for from in 0..line.len() {
            for to in from..=line.len() {
                let got: Vec<_> = l
                    .spans(from as u64, (to - from) as u64)
                    .flat_map(|s| (s.at..s.at + s.len).map(move |at| (s.file.get(), at)))
                    .collect();
                assert_eq!(got, line[from..to]);
            }
        }
    }

    #[test]
    fn files_know_their_pieces() {
        let l = layout(16, &[(16, false), (0, false), (1, false), (31, false), (1, false)]);
        let of = |i| l.pieces_of(FileIndex::new(i));
        assert_eq!([of(0), of(1), of(2), of(3), of(4)], [0..1, 0..0, 1..2, 1..3, 3..4]);
        assert_eq!(of(5), 0..0);
    }

    #[test]
    fn pads_are_not_wanted() {
        let b = u64::from(BLOCK_LEN);
        // piece 0: a block and a half of data, then pad; piece 1: data; the tail: pad only
        let l = layout(4 * BLOCK_LEN, &[(b + b / 2, false), (b * 5 / 2, true), (4 * b, false), (100, true)]);
        assert_eq!(l.wanted_len(P0), BLOCK_LEN * 3 / 2);
        assert_eq!(l.wanted_len(PieceIndex::new(1)), 4 * BLOCK_LEN);
        assert_eq!(l.wanted_len(PieceIndex::new(2)), 0);
        let pad: Vec<bool> = (0..4).map(|i| l.is_all_pad(&l.block(P0, i))).collect();
        assert_eq!(pad, [false, false, true, true]);
        assert!(l.is_all_pad(&Block::new(2, 0, 100)));
        assert!(!l.is_all_pad(&Block::new(2, 0, 0)));
        assert!(!l.is_all_pad(&Block::new(3, 0, 1)));
    }

    #[test]
    fn sizes_beyond_32_bits_hold() {
        let len = 3 << 40;
        let l = layout(16 << 20, &[(len, false), (1, false)]);
        assert_eq!(l.pieces(), (3 << 16) + 1);
        assert_eq!(l.piece_offset(PieceIndex::new(3 << 16)), len);
        assert_eq!(spans(&l, len, 9), [(1, 0, 1)]);
    }

    #[test]
    fn nothing_but_empty_files_is_no_piece() {
        let l = layout(16, &[(0, false), (0, false)]);
        assert_eq!((l.pieces(), l.total(), l.piece_size(P0), l.blocks_in(P0)), (0, 0, 0, 0));
        assert_eq!(spans(&l, 0, 10), []);
    }
}
