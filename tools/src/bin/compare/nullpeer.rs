//! Peers that cost next to nothing: a seeder that serves from a few cached MiB, a leecher that drops what it reads; and
//! what one thread needs without any protocol.
//!
//! The payload is a formula: block `k` is 16 KiB of a random pool, from a place that depends on `k`.

use super::measure::{Figures, stat, thread_cpu};
use btmio::storage::lanes::Lanes;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const BLOCK: usize = 16 << 10;
const PIECE: usize = 1 << 20;
const POOL: usize = 4 << 20;
/// Blocks in one call.
const STRIDE: usize = 64;
/// Requests that the leecher keeps outstanding.
const AHEAD: u64 = 500;

/// The payload, as a formula.
#[derive(Clone)]
pub(crate) struct Content {
    pool: Arc<Vec<u8>>,
    pieces: u64,
    info_hash: [u8; 20],
    torrent: Arc<Vec<u8>>,
}

impl Content {
    pub(crate) const NAME: &'static str = "payload.bin";

    /// `len` bytes, a multiple of 1 MiB.
    pub(crate) fn new(len: u64) -> Self {
        let mut x = 0x9E37_79B9_7F4A_7C15_u64;
        let mut pool = Vec::with_capacity(POOL + 8);
        while pool.len() < POOL {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            pool.extend_from_slice(&x.to_le_bytes());
        }
        let mut this =
            Self { pool: Arc::new(pool), pieces: len / PIECE as u64, info_hash: [0; 20], torrent: Arc::default() };
        let lanes = Lanes::new(4);
        let mut hashes = Vec::new();
        let piece = |p: u64| (0..64).flat_map(|b| this.block(p * 64 + b)).copied().collect::<Vec<u8>>();
        for p in 0..this.pieces {
            hashes.extend(lanes.digest_many(&[&piece(p)])[0]);
        }
        let mut info =
            format!("d6:lengthi{len}e4:name11:{}12:piece lengthi{PIECE}e6:pieces{}:", Self::NAME, hashes.len())
                .into_bytes();
        info.extend(hashes);
        info.push(b'e');
        this.info_hash = lanes.digest_many(&[&info])[0];
        this.torrent = Arc::new([b"d4:info", &info[..], b"e"].concat());
        this
    }

    fn block(&self, k: u64) -> &[u8] {
        let at = (k as usize).wrapping_mul(40_507 * 8) % (POOL - BLOCK);
        &self.pool[at..at + BLOCK]
    }

    pub(crate) fn len(&self) -> u64 {
        self.pieces * PIECE as u64
    }

    pub(crate) fn torrent(&self) -> &[u8] {
        &self.torrent
    }

    /// Writes the payload's file below `dir`.
    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)?;
        let mut file = io::BufWriter::with_capacity(PIECE, std::fs::File::create(dir.join(Self::NAME))?);
        (0..self.pieces * 64).try_for_each(|k| file.write_all(self.block(k)))?;
        file.flush()
    }

    fn handshake(&self) -> [u8; 68] {
        let mut h = [0; 68];
        h[..20].copy_from_slice(b"\x13BitTorrent protocol");
        h[28..48].copy_from_slice(&self.info_hash);
        h[48..].copy_from_slice(b"-NP0001-............");
        h
    }
}

/// Connects as soon as somebody listens.
fn dial(to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let begin = Instant::now();
    loop {
        match TcpStream::connect(to) {
            Ok(s) => {
                s.set_nodelay(true)?;
                s.set_read_timeout(Some(patience))?;
                return Ok(s);
            }
            Err(e) if begin.elapsed() > patience => return Err(e),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk::<4>().map_or(0, |b| u32::from_be_bytes(*b))
}

/// Calls `on` for every message after the handshake, until it says to stop or the stream ends. The payload of
/// `piece` messages is passed over: `on` gets their header alone.
fn messages(
    stream: &mut TcpStream,
    mut on: impl FnMut(&mut TcpStream, u8, &[u8], bool) -> io::Result<bool>,
) -> io::Result<()> {
    let (mut buf, mut have, mut skip) = (vec![0; 512 << 10], 0, 68);
    loop {
        let n = stream.read(&mut buf[have..])?;
        if n == 0 {
            return Ok(());
        }
        have += n;
        let mut at = 0;
        loop {
            let pass = skip.min(have - at);
            at += pass;
            skip -= pass;
            let left = &buf[at..have];
            let len = word(left) as usize;
            if skip > 0 || left.len() < 4 {
                break;
            }
            let take = if len > 0 && left.get(4) == Some(&7) { 9 } else { len };
            if left.len() < 4 + take || (len > 0 && left.len() < 5) {
                break;
            }
            at += 4 + take;
            skip = len - take;
            if len > 0 && !on(stream, left[4], &left[5..4 + take], at == have)? {
                return Ok(());
            }
        }
        buf.copy_within(at..have, 0);
        have -= at;
    }
}

/// Serves one client until it leaves.
pub(crate) fn seed(content: Content, to: SocketAddr, patience: Duration) -> JoinHandle<io::Result<()>> {
    std::thread::spawn(move || {
        let mut stream = dial(to, patience)?;
        stream.write_all(&content.handshake())?;
        // All pieces, and go ahead.
        let mut bits = vec![0xFF; content.pieces.div_ceil(8) as usize];
        if content.pieces % 8 != 0 {
            *bits.last_mut().expect("there is a piece") <<= 8 - content.pieces % 8;
        }
        let mut hello = (bits.len() as u32 + 1).to_be_bytes().to_vec();
        hello.push(5);
        hello.extend(bits);
        hello.extend([0, 0, 0, 1, 1]);
        stream.write_all(&hello)?;
        let mut asked = Vec::new();
        let r = messages(&mut stream, |stream, id, body, last| {
            if id == 6 && body.len() == 12 {
                asked.push((word(body), word(&body[4..]), word(&body[8..])));
            }
            if last || asked.len() >= STRIDE {
                serve(&content, stream, &mut asked)?;
            }
            Ok(true)
        });
        match r {
            // It has all it wanted and closed.
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => Ok(()),
            r => r,
        }
    })
}

fn serve(content: &Content, stream: &mut TcpStream, asked: &mut Vec<(u32, u32, u32)>) -> io::Result<()> {
    for some in asked.chunks(STRIDE) {
        let headers: Vec<[u8; 13]> = some
            .iter()
            .map(|(piece, begin, len)| {
                let mut h = [0; 13];
                h[..4].copy_from_slice(&(len + 9).to_be_bytes());
                h[4] = 7;
                h[5..9].copy_from_slice(&piece.to_be_bytes());
                h[9..].copy_from_slice(&begin.to_be_bytes());
                h
            })
            .collect();
        let mut parts = Vec::with_capacity(2 * STRIDE);
        for (h, (piece, begin, len)) in headers.iter().zip(some) {
            let block = content.block(u64::from(*piece) * 64 + u64::from(*begin) / BLOCK as u64);
            let (from, len) = (*begin as usize % BLOCK, *len as usize);
            let Some(bytes) = block.get(from..from + len) else {
                return Err(io::Error::other("wanted requests within one block of 16 KiB"));
            };
            parts.extend([IoSlice::new(h), IoSlice::new(bytes)]);
        }
        let mut parts = &mut parts[..];
        while !parts.is_empty() {
            let n = stream.write_vectored(parts)?;
            IoSlice::advance_slices(&mut parts, n);
        }
    }
    asked.clear();
    Ok(())
}

/// What the leecher saw.
pub(crate) struct Leeched {
    /// From the first request to the last block.
    pub(crate) seconds: f64,
    /// CPU seconds of the seeder before the first request.
    pub(crate) cpu_before: f64,
}

/// Takes everything from a client, once.
pub(crate) fn leech(content: &Content, to: SocketAddr, pid: u32, patience: Duration) -> io::Result<Leeched> {
    let begin = Instant::now();
    loop {
        match leech_once(content, to, pid, patience) {
            Ok(Some(l)) => return Ok(l),
            // It is still looking at its files.
            _ if begin.elapsed() < patience => std::thread::sleep(Duration::from_millis(10)),
            Ok(None) => return Err(io::Error::other("the client closed every connection")),
            Err(e) => return Err(e),
        }
    }
}

fn leech_once(content: &Content, to: SocketAddr, pid: u32, patience: Duration) -> io::Result<Option<Leeched>> {
    let mut stream = dial(to, patience)?;
    stream.write_all(&content.handshake())?;
    stream.write_all(&[0, 0, 0, 1, 2])?;
    let total = content.pieces * 64;
    let (mut asked, mut got, mut begin, mut cpu_before) = (0, 0, None, 0.0);
    let mut out = Vec::new();
    messages(&mut stream, |stream, id, _, last| {
        match id {
            1 if begin.is_none() => {
                cpu_before = stat(pid).map_err(io::Error::other)?.1;
                begin = Some(Instant::now());
            }
            7 => got += 1,
            _ => {}
        }
        if begin.is_some() && (last || asked - got < AHEAD / 2) {
            out.clear();
            while asked < total && asked - got < AHEAD {
                out.extend([0, 0, 0, 13, 6]);
                out.extend(((asked / 64) as u32).to_be_bytes());
                out.extend(((asked % 64) as u32 * BLOCK as u32).to_be_bytes());
                out.extend((BLOCK as u32).to_be_bytes());
                asked += 1;
            }
            stream.write_all(&out)?;
        }
        Ok(got < total)
    })?;
    let seconds = begin.map(|b| b.elapsed().as_secs_f64());
    Ok(seconds.filter(|_| got == total).map(|seconds| Leeched { seconds, cpu_before }))
}

/// The limit: receive in large calls, hash four pieces at once, write each piece once.
pub(crate) fn limit(content: &Content, dir: &Path) -> Result<Figures, String> {
    let text = |e: io::Error| e.to_string();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(text)?;
    let to = listener.local_addr().map_err(text)?;
    let sender = std::thread::spawn({
        let content = content.clone();
        move || {
            let mut stream = TcpStream::connect(to)?;
            let block = |k: u64| (k as u32 / 64, k as u32 % 64 * BLOCK as u32, BLOCK as u32);
            for p in 0..content.pieces {
                serve(&content, &mut stream, &mut (p * 64..p * 64 + 64).map(block).collect())?;
            }
            io::Result::Ok(())
        }
    });
    let (mut stream, _) = listener.accept().map_err(text)?;
    let path = dir.join("limit.bin");
    let file = std::fs::File::create(&path).map_err(text)?;
    let lanes = Lanes::new(4);
    let mut pieces = vec![vec![0; PIECE]; 4];
    let mut headers = vec![[0; 13]; STRIDE];
    let (begin, before) = (Instant::now(), thread_cpu());
    let mut p = 0;
    while p < content.pieces {
        let n = (content.pieces - p).min(4) as usize;
        for piece in &mut pieces[..n] {
            let mut parts: Vec<IoSliceMut<'_>> = headers
                .iter_mut()
                .zip(piece.chunks_mut(BLOCK))
                .flat_map(|(h, b)| [IoSliceMut::new(h), IoSliceMut::new(b)])
                .collect();
            let mut parts = &mut parts[..];
            while !parts.is_empty() {
                match stream.read_vectored(parts).map_err(text)? {
                    0 => return Err("the sender ended early".into()),
                    n => IoSliceMut::advance_slices(&mut parts, n),
                }
            }
        }
        let messages: Vec<&[u8]> = pieces[..n].iter().map(Vec::as_slice).collect();
        std::hint::black_box(lanes.digest_many(&messages));
        for (i, piece) in messages.iter().enumerate() {
            file.write_all_at(piece, (p + i as u64) * PIECE as u64).map_err(text)?;
        }
        p += n as u64;
    }
    let figures =
        Figures { wall: begin.elapsed().as_secs_f64(), cpu: thread_cpu() - before, anon: f64::NAN, peak: f64::NAN };
    sender.join().map_err(|_| "the sender panicked")?.map_err(text)?;
    std::fs::remove_file(&path).map_err(text)?;
    Ok(figures)
}
