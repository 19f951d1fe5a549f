//! The payload, as a formula: block `k` is 16 KiB of a random pool, from a place that depends on `k`.
//!
//! One file, or many of one length in folders of a hundred.

use btmio::storage::lanes::Lanes;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) const BLOCK: usize = 16 << 10;
pub(crate) const PIECE: usize = 1 << 20;
const POOL: usize = 4 << 20;

#[derive(Clone)]
pub(crate) struct Content {
    name: &'static str,
    pool: Arc<Vec<u8>>,
    pub(crate) pieces: u64,
    files: u64,
    pub(crate) info_hash: [u8; 20],
    info: Arc<Vec<u8>>,
}

impl Content {
    /// `len` bytes, a multiple of 1 MiB, in one file called `name` or in `files` below a folder of that name.
    pub(crate) fn new(name: &'static str, len: u64, files: u64) -> Self {
        let mut x = 0x9E37_79B9_7F4A_7C15_u64;
        let mut pool = Vec::with_capacity(POOL + 8);
        while pool.len() < POOL {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            pool.extend_from_slice(&x.to_le_bytes());
        }
        let pieces = len / PIECE as u64;
        let mut this =
            Self { name, pool: Arc::new(pool), pieces, files, info_hash: [0; 20], info: Arc::new(Vec::new()) };
        let lanes = Lanes::new(4);
        let mut hashes = Vec::new();
        let mut piece = Vec::with_capacity(PIECE);
        for p in 0..pieces {
            piece.clear();
            (0..64).for_each(|b| piece.extend_from_slice(this.block(p * 64 + b)));
            hashes.extend(lanes.digest_many(&[&piece])[0]);
        }
        let mut info = b"d".to_vec();
        if files == 1 {
            info.extend(format!("6:lengthi{len}e").bytes());
        } else {
            info.extend(b"5:filesl");
            for i in 0..files {
                let (folder, file) = Self::path_of(i);
                let (from, to) = this.range_of(i);
                info.extend(format!("d6:lengthi{}e4:pathl4:{folder}6:{file}ee", to - from).bytes());
            }
            info.push(b'e');
        }
        info.extend(format!("4:name{}:{name}12:piece lengthi{PIECE}e6:pieces{}:", name.len(), hashes.len()).bytes());
        info.extend(hashes);
        info.push(b'e');
        this.info_hash = lanes.digest_many(&[&info])[0];
        this.info = Arc::new(info);
        this
    }

    fn path_of(i: u64) -> (String, String) {
        (format!("d{:03}", i / 100), format!("f{i:05}"))
    }

    /// Where a file's bytes lie on the torrent's line of bytes.
    fn range_of(&self, i: u64) -> (u64, u64) {
        let each = self.len() / self.files;
        (i * each, if i + 1 == self.files { self.len() } else { (i + 1) * each })
    }

    pub(crate) fn block(&self, k: u64) -> &[u8] {
        let at = (k as usize).wrapping_mul(40_507 * 8) % (POOL - BLOCK);
        &self.pool[at..at + BLOCK]
    }

    pub(crate) fn len(&self) -> u64 {
        self.pieces * PIECE as u64
    }

    pub(crate) fn gib(&self) -> f64 {
        self.len() as f64 / (1u64 << 30) as f64
    }

    /// Writes the torrent without trackers, and one beside it whose tracker answers nobody, for clients that
    /// want one.
    pub(crate) fn torrent(&self, dir: &Path) -> io::Result<PathBuf> {
        let path = dir.join(format!("{}.torrent", self.name));
        std::fs::write(&path, [b"d4:info", &self.info[..], b"e"].concat())?;
        let announce = &b"d8:announce27:http://127.0.0.1:1/announce4:info"[..];
        std::fs::write(path.with_extension("tracker"), [announce, &self.info, b"e"].concat())?;
        Ok(path)
    }

    /// Whether it is a folder of files.
    pub(crate) const fn is_many(&self) -> bool {
        self.files > 1
    }

    /// The files below `dir` with their ranges.
    fn files(&self, dir: &Path) -> impl Iterator<Item = (PathBuf, u64, u64)> + '_ {
        let root = dir.join(self.name);
        (0..self.files).map(move |i| {
            let (from, to) = self.range_of(i);
            let (folder, file) = Self::path_of(i);
            (if self.files == 1 { root.clone() } else { root.join(folder).join(file) }, from, to)
        })
    }

    /// Copies bytes of the payload from `at` on.
    fn read(&self, at: u64, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let pos = at + done as u64;
            let from = &self.block(pos / BLOCK as u64)[(pos % BLOCK as u64) as usize..];
            let n = from.len().min(out.len() - done);
            out[done..done + n].copy_from_slice(&from[..n]);
            done += n;
        }
    }

    /// Writes the payload below `dir`.
    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        let mut buf = vec![0; PIECE];
        for (path, from, to) in self.files(dir) {
            std::fs::create_dir_all(path.parent().unwrap_or(dir))?;
            let mut file = std::fs::File::create(&path)?;
            let mut at = from;
            while at < to {
                let part = &mut buf[..((to - at) as usize).min(PIECE)];
                self.read(at, part);
                file.write_all(part)?;
                at += part.len() as u64;
            }
        }
        Ok(())
    }

    /// Whether every file below `dir` has its length, and a sample of its bytes is what it must be.
    pub(crate) fn is_in(&self, dir: &Path) -> Result<(), String> {
        let samples = if self.files == 1 { 256 } else { 1 };
        for (path, from, to) in self.files(dir) {
            let fail = |what: String| format!("{}: {what}", path.display());
            let file = std::fs::File::open(&path).map_err(|e| fail(e.to_string()))?;
            let len = file.metadata().map_err(|e| fail(e.to_string()))?.len();
            if len != to - from {
                return Err(fail(format!("wanted {} bytes, got {len}", to - from)));
            }
            for i in 0..samples {
                let at = (to - from) / samples * i;
                let n = (to - from - at).min(4096) as usize;
                let (mut want, mut got) = (vec![0; n], vec![0; n]);
                self.read(from + at, &mut want);
                file.read_exact_at(&mut got, at).map_err(|e| fail(e.to_string()))?;
                if want != got {
                    return Err(fail(format!("other bytes than it should have at {at}")));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn handshake(&self, peer: u32) -> [u8; 68] {
        handshake(&self.info_hash, peer)
    }
}

/// A handshake without extensions, from a peer with this number.
pub(crate) fn handshake(info_hash: &[u8; 20], peer: u32) -> [u8; 68] {
    let mut h = [0; 68];
    h[..20].copy_from_slice(b"\x13BitTorrent protocol");
    h[28..48].copy_from_slice(info_hash);
    h[48..].copy_from_slice(format!("-NP0002-{peer:012}").as_bytes());
    h
}
