//! What the simulated torrent contains: bytes by formula, so that nobody has to keep them.
//!
//! Every block of 16 KiB is a window into one table of noise. Windows of different blocks begin at
//! different places, so no two blocks are equal, and a block that ended up in the place of another
//! is found out. A hash is a formula as well: whoever holds a [`Disk`](super::disk::SimDisk) knows
//! the truth and need not compute SHA-1.

use std::sync::OnceLock;

use crate::id::{BLOCK_LEN, InfoHash};
use crate::metainfo::{File, Metainfo};

/// Blocks until the windows repeat, a prime.
const WINDOWS: u64 = 65_537;
/// Distance between the windows of neighbours.
const STEP: u64 = 40_503;

/// The noise that all content is cut from.
pub(super) fn table() -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut rng = crate::rng::seeded(0x5EED);
        (0..WINDOWS as usize + BLOCK_LEN as usize).map(|_| rng.u8(..)).collect()
    })
}

/// Where in the table the byte at `offset` of the torrent lies. The rest of its block follows it.
pub(super) fn window(offset: u64) -> usize {
    let block = offset / u64::from(BLOCK_LEN);
    ((block % WINDOWS) * STEP % WINDOWS + offset % u64::from(BLOCK_LEN)) as usize
}

/// The true bytes at `offset`, which must lie within one block.
pub(super) fn truth(offset: u64, len: usize) -> &'static [u8] {
    debug_assert!(offset % u64::from(BLOCK_LEN) + len as u64 <= u64::from(BLOCK_LEN));
    let at = window(offset);
    &table()[at..at + len]
}

/// 20 bytes that stand for the hash of a thing.
pub(super) fn digest(what: u64, n: u64, odd: u64) -> [u8; 20] {
    let mut out = [0; 20];
    let mut x = what;
    for (i, word) in [n, odd, n ^ odd.rotate_left(32)].iter().enumerate() {
        x = mix(x ^ mix(*word));
        let bytes = x.to_le_bytes();
        let n = 8.min(20 - i * 8);
        out[i * 8..i * 8 + n].copy_from_slice(&bytes[..n]);
    }
    out
}

/// Scatters the bits of a word.
pub(super) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// What stands for the SHA-1 of a piece.
pub(super) fn piece_hash(piece: u32) -> [u8; 20] {
    digest(1, u64::from(piece), 0)
}

/// The torrent: `files` are lengths, whose sum is the torrent's.
pub(super) fn metainfo(seed: u64, piece_len: u32, files: &[u64], trackers: Vec<Vec<String>>) -> Metainfo {
    let total: u64 = files.iter().sum();
    let pieces = total.div_ceil(u64::from(piece_len)) as u32;
    let file = |(i, len): (usize, &u64)| File { path: format!("t/{i}"), len: *len, pad: false, executable: false };
    Metainfo {
        name: "t".to_owned(),
        info_hash: Some(InfoHash::new(digest(2, seed, 0))),
        info_hash_v2: None,
        piece_len,
        hashes: (0..pieces).map(piece_hash).collect(),
        files: files.iter().enumerate().map(file).collect(),
        private: false,
        trackers,
        url_seeds: Vec::new(),
        comment: None,
        created_by: None,
        creation_date: None,
        info: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_blocks_are_equal() {
        let block = |i: u64| truth(i * u64::from(BLOCK_LEN), BLOCK_LEN as usize);
        for i in 0..300 {
            for j in 0..i {
                assert_ne!(block(i), block(j), "{i} {j}");
            }
        }
        assert_eq!(truth(16_390, 4), &block(1)[6..10]);
    }
}
