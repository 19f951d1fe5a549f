//! Torrents made on the spot: content by formula, `.torrent` files, and the check of what arrived.
//!
//! The programs here must know what a download has to look like without asking the code they test.
//! So this module has its own bencode writer (a dozen lines) and takes SHA-1 straight from the `sha1`
//! crate. Content is a function of the seed alone: two runs, two machines, the same bytes and the same
//! info hash.
//!
//! File sizes are odd on purpose: pieces span files, a file lies inside one piece, one is empty, one
//! is a single byte, names hold spaces and letters beyond ASCII (BEP 3 wants UTF-8).
//!
//! Everything is kept in memory (tens of MiB), which is what makes it short.

use sha1::{Digest, Sha1};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// A torrent of several files and all its bytes.
#[derive(Debug)]
pub struct Payload {
    /// The torrent's name: the folder that holds the files.
    pub name: &'static str,
    /// Bytes in a piece.
    pub piece_len: usize,
    files: Vec<(Vec<String>, usize)>,
    data: Vec<u8>,
}

/// A bencoded value, as far as a `.torrent` needs it. Keys of `Dict` must be given in order.
enum Value<'a> {
    Int(usize),
    Str(&'a [u8]),
    List(Vec<Value<'a>>),
    Dict(Vec<(&'static str, Value<'a>)>),
    Raw(&'a [u8]),
}

impl Value<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::Int(i) => out.extend(format!("i{i}e").bytes()),
            Value::Str(s) => {
                out.extend(format!("{}:", s.len()).bytes());
                out.extend_from_slice(s);
            }
            Value::List(l) => {
                out.push(b'l');
                l.iter().for_each(|v| v.write(out));
                out.push(b'e');
            }
            Value::Dict(d) => {
                debug_assert!(d.is_sorted_by_key(|(k, _)| *k), "bencode wants sorted keys");
                out.push(b'd');
                for (k, v) in d {
                    Value::Str(k.as_bytes()).write(out);
                    v.write(out);
                }
                out.push(b'e');
            }
            Value::Raw(r) => out.extend_from_slice(r),
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }
}

/// `len` bytes that depend on `seed` alone (xorshift64*, little-endian words).
pub fn bytes_of(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        out.extend_from_slice(&x.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    out.truncate(len);
    out
}

/// A `.torrent` with this raw `info` and these trackers, one tier each.
fn torrent_of(info: &[u8], tiers: &[&str]) -> Vec<u8> {
    let mut d = Vec::new();
    if let Some(first) = tiers.first() {
        d.push(("announce", Value::Str(first.as_bytes())));
    }
    if tiers.len() > 1 {
        let tiers = tiers.iter().map(|u| Value::List(vec![Value::Str(u.as_bytes())])).collect();
        d.push(("announce-list", Value::List(tiers)));
    }
    d.push(("info", Value::Raw(info)));
    Value::Dict(d).to_bytes()
}

/// The `.torrent` of one file that is somewhere else, from the hashes of its pieces; and its info hash.
pub fn single_file(
    name: &str,
    len: usize,
    piece_len: usize,
    hashes: &[[u8; 20]],
    tiers: &[&str],
) -> (Vec<u8>, [u8; 20]) {
    let info = Value::Dict(vec![
        ("length", Value::Int(len)),
        ("name", Value::Str(name.as_bytes())),
        ("piece length", Value::Int(piece_len)),
        ("pieces", Value::Str(hashes.as_flattened())),
    ])
    .to_bytes();
    (torrent_of(&info, tiers), Sha1::digest(&info).into())
}

impl Payload {
    /// A payload of the given files, each a path (parts divided by `/`) and a size in bytes.
    pub fn new(name: &'static str, piece_len: usize, seed: u64, files: &[(&str, usize)]) -> Self {
        let files: Vec<_> = files.iter().map(|(p, n)| (p.split('/').map(str::to_owned).collect(), *n)).collect();
        let total = files.iter().map(|(_, n)| n).sum();
        Self { name, piece_len, files, data: bytes_of(seed, total) }
    }

    /// The sample of the demo: a few MiB in a few files.
    pub fn sample() -> Self {
        let files = [("READ ME.txt", 1234), ("disk one.img", 5_000_011), ("empty", 0), ("more/tail.bin", 3_145_729)];
        Self::new("btmio-sample", 64 << 10, 0x5eed, &files)
    }

    /// What interoperability is tested with: 64 MiB and some, pieces of 256 KiB.
    pub fn interop() -> Self {
        let files = [
            ("a first file.bin", 20_000_003),
            ("b/one byte", 1),
            ("b/c/nested.dat", 262_145),
            ("b/c/empty", 0),
            ("b/naïve ünï.txt", 4_099),
            ("d/large.iso", 41_943_057),
            ("e/last", 4_899_999),
        ];
        Self::new("interop payload", 256 << 10, 0xb7_310, &files)
    }

    /// Bytes of all files together.
    pub fn total(&self) -> usize {
        self.data.len()
    }

    /// The bytes of all files, one behind the other.
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// The raw `info` dictionary.
    fn info(&self) -> Vec<u8> {
        let hashes: Vec<u8> = self.data.chunks(self.piece_len).flat_map(Sha1::digest).collect();
        let file = |(path, len): &(Vec<String>, usize)| {
            let parts = path.iter().map(|p| p.as_bytes().to_vec()).collect::<Vec<_>>();
            let path = Value::List(parts.iter().map(|p| Value::Str(p)).collect()).to_bytes();
            Value::Dict(vec![("length", Value::Int(*len)), ("path", Value::Raw(&path))]).to_bytes()
        };
        let files: Vec<Vec<u8>> = self.files.iter().map(file).collect();
        Value::Dict(vec![
            ("files", Value::List(files.iter().map(|f| Value::Raw(f)).collect())),
            ("name", Value::Str(self.name.as_bytes())),
            ("piece length", Value::Int(self.piece_len)),
            ("pieces", Value::Str(&hashes)),
        ])
        .to_bytes()
    }

    /// A `.torrent` with these trackers, one tier each (BEP 12); none is fine too.
    pub fn torrent(&self, tiers: &[&str]) -> Vec<u8> {
        torrent_of(&self.info(), tiers)
    }

    /// The version 1 info hash.
    pub fn info_hash(&self) -> [u8; 20] {
        Sha1::digest(self.info()).into()
    }

    /// Each file's path below the download folder and its bytes.
    fn each(&self) -> impl Iterator<Item = (std::path::PathBuf, usize, &[u8])> {
        let mut at = 0;
        self.files.iter().map(move |(path, len)| {
            let start = at;
            at += len;
            (Path::new(self.name).join(path.join("/")), start, &self.data[start..at])
        })
    }

    /// Writes the files below `dir`.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        self.write_some(dir, |_| true)
    }

    /// Writes the files below `dir`, all at full length, with zeros where `keep` refuses the piece.
    pub fn write_some(&self, dir: &Path, keep: impl Fn(usize) -> bool) -> io::Result<()> {
        for (path, start, bytes) in self.each() {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().expect("every path has the torrent's folder above it"))?;
            let mut out = vec![0; bytes.len()];
            let mut done = 0;
            while done < bytes.len() {
                let at = start + done;
                let n = (self.piece_len - at % self.piece_len).min(bytes.len() - done);
                if keep(at / self.piece_len) {
                    out[done..done + n].copy_from_slice(&bytes[done..done + n]);
                }
                done += n;
            }
            fs::write(path, out)?;
        }
        Ok(())
    }

    /// How many pieces there are.
    pub fn pieces(&self) -> usize {
        self.data.len().div_ceil(self.piece_len)
    }

    /// The pieces of which every byte below `dir` is as it should be.
    pub fn good_pieces(&self, dir: &Path) -> BTreeSet<usize> {
        let mut good: BTreeSet<usize> = (0..self.pieces()).collect();
        for (path, start, bytes) in self.each() {
            // A file that cannot be read holds nothing.
            let there = fs::read(dir.join(path)).unwrap_or_default();
            let mut done = 0;
            while done < bytes.len() {
                let n = (self.piece_len - (start + done) % self.piece_len).min(bytes.len() - done);
                if there.get(done..done + n) != Some(&bytes[done..done + n]) {
                    good.remove(&((start + done) / self.piece_len));
                }
                done += n;
            }
        }
        good
    }

    /// Compares the SHA-1 of every file below `dir` with what it must be.
    pub fn check(&self, dir: &Path) -> Result<(), String> {
        self.check_some(dir, true)
    }

    /// Like [`check`](Self::check), but with `empty` false, files without content may be missing.
    pub fn check_some(&self, dir: &Path, empty: bool) -> Result<(), String> {
        for (path, _, bytes) in self.each() {
            let at = dir.join(&path);
            if bytes.is_empty() && !empty && !at.exists() {
                continue;
            }
            let got = digest(&at).map_err(|e| format!("{}: {e}", at.display()))?;
            let want: [u8; 20] = Sha1::digest(bytes).into();
            if got != (want, bytes.len() as u64) {
                return Err(format!("{}: not the right {} bytes (it has {})", at.display(), bytes.len(), got.1));
            }
        }
        Ok(())
    }
}

fn digest(path: &Path) -> io::Result<([u8; 20], u64)> {
    let (mut file, mut sha, mut len) = (File::open(path)?, Sha1::new(), 0);
    let mut buf = vec![0; 256 << 10];
    loop {
        match file.read(&mut buf)? {
            0 => return Ok((sha.finalize().into(), len)),
            n => {
                sha.update(&buf[..n]);
                len += n as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Payload {
        Payload::new("t", 16, 7, &[("a/b", 20), ("c", 0), ("d", 13)])
    }

    #[test]
    fn the_torrent_is_exact_bencode() {
        let t = small().torrent(&["http://x/announce", "udp://y:1"]);
        let text: String = t.iter().map(|&b| if b.is_ascii_graphic() || b == b' ' { b as char } else { '?' }).collect();
        assert!(
            text.starts_with("d8:announce17:http://x/announce13:announce-listll17:http://x/announceel9:udp://y:1ee")
        );
        assert!(text.contains(
            "4:infod5:filesld6:lengthi20e4:pathl1:a1:beed6:lengthi0e4:pathl1:ceed6:lengthi13e4:pathl1:deee4:name1:t"
        ));
        assert!(text.contains("12:piece lengthi16e6:pieces60:"));
    }

    #[test]
    fn content_is_checked_per_file() {
        let dir = std::env::temp_dir().join(format!("btmio-payload-{}", std::process::id()));
        let p = small();
        p.write(&dir).unwrap();
        p.check(&dir).unwrap();
        // Piece 1 is bytes 16..32: the end of a/b and the start of d.
        p.write_some(&dir, |piece| piece != 1).unwrap();
        assert!(p.check(&dir).unwrap_err().contains("a/b"));
        assert_eq!((p.pieces(), p.good_pieces(&dir).into_iter().collect::<Vec<_>>()), (3, vec![0, 2]));
        p.write(&dir).unwrap();
        fs::remove_file(dir.join("t/c")).unwrap();
        assert!(p.check(&dir).is_err());
        p.check_some(&dir, false).unwrap();
        fs::remove_file(dir.join("t/a/b")).unwrap();
        assert!(p.check_some(&dir, false).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_same_seed_gives_the_same_info_hash() {
        assert_eq!(small().info_hash(), small().info_hash());
        let other = Payload::new("t", 16, 9, &[("a/b", 20), ("c", 0), ("d", 13)]);
        assert_ne!(small().info_hash(), other.info_hash());
    }
}
