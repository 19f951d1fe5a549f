//! Peers that cost next to nothing: seeders that serve from a few cached MiB, leechers that drop what they read, and
//! peers that only shake hands.

use super::content::{BLOCK, Content, handshake};
use super::measure::stat;
use std::collections::HashMap;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Blocks in one call.
pub(crate) const STRIDE: usize = 64;
/// Requests that a leecher keeps outstanding.
const AHEAD: u64 = 500;

/// A piece of the payload as a request names it: piece, begin, length.
type Asked = (u32, u32, u32);

/// With bbr as the system's default, its pacing would set the speed.
pub(crate) fn plain_congestion(stream: &TcpStream) {
    let _ = rustix::net::sockopt::set_tcp_congestion(stream, "cubic");
}

/// Connects from another loopback address for every number, because clients take few connections from one.
fn connect(to: SocketAddr, number: u32) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    let [a, b] = [(number / 250) as u8, (number % 250) as u8 + 2];
    let own = if number == 0 { Ipv4Addr::LOCALHOST } else { Ipv4Addr::new(127, 1, a, b) };
    socket.bind(&SocketAddr::from((own, 0)).into())?;
    socket.connect(&to.into())?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk::<4>().map_or(0, |b| u32::from_be_bytes(*b))
}

/// Shakes hands. Nothing follows before the answer has come: aria2 closes a connection on which more than a
/// handshake waits for it.
fn shake(stream: &mut TcpStream, handshake: &[u8; 68]) -> io::Result<()> {
    stream.write_all(handshake)?;
    stream.read_exact(&mut [0; 68])
}

/// Calls `on` for every message after the handshake, until it says to stop or the stream ends. The payload of
/// `piece` messages is passed over: `on` gets their header alone, when all of them has come.
fn messages(
    stream: &mut TcpStream,
    mut on: impl FnMut(&mut TcpStream, u8, &[u8], bool) -> io::Result<bool>,
) -> io::Result<()> {
    let (mut buf, mut have, mut skip) = (vec![0; 512 << 10], 0, 0);
    let mut piece = None;
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
            if skip == 0 {
                if let Some(header) = piece.take() {
                    let header: [u8; 8] = header;
                    if !on(stream, 7, &header, at == have)? {
                        return Ok(());
                    }
                }
            }
            let left = &buf[at..have];
            let len = word(left) as usize;
            if skip > 0 || left.len() < 4 {
                break;
            }
            let is_piece = len >= 9 && left.get(4) == Some(&7);
            let take = if is_piece { 9 } else { len };
            if left.len() < 4 + take || (len > 0 && left.len() < 5) {
                break;
            }
            at += 4 + take;
            skip = len - take;
            if is_piece {
                piece = left[5..].first_chunk::<8>().copied();
                continue;
            }
            // A keep-alive is passed on as well, as the id that nothing has: it may be the last in the buffer.
            let (id, body) = if len > 0 { (left[4], &left[5..4 + take]) } else { (u8::MAX, &left[..0]) };
            if !on(stream, id, body, at == have)? {
                return Ok(());
            }
        }
        buf.copy_within(at..have, 0);
        have -= at;
    }
}

/// Something that goes on in threads of its own until it is dropped.
pub(crate) struct Running {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for t in self.threads.drain(..) {
            let _ = t.join();
        }
    }
}

/// Seeders that dial a client again and again, each sending at most `rate` bytes per second.
pub(crate) fn seed(content: &Content, to: SocketAddr, peers: u32, rate: Option<f64>) -> Running {
    let stop = Arc::new(AtomicBool::new(false));
    let first = u32::from(peers > 1);
    let threads = (first..first + peers).map(|number| {
        let (stop, content) = (stop.clone(), content.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                // Some clients refuse whoever comes before they have looked at their files. Whatever ended it:
                // the client tells whether it has everything.
                let _ = seed_once(&content, to, number, rate);
                std::thread::sleep(Duration::from_millis(2));
            }
        })
    });
    Running { threads: threads.collect(), stop }
}

fn seed_once(content: &Content, to: SocketAddr, number: u32, rate: Option<f64>) -> io::Result<()> {
    let mut stream = connect(to, number)?;
    plain_congestion(&stream);
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    shake(&mut stream, &content.handshake(number))?;
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
    let (mut asked, mut due) = (Vec::new(), None);
    messages(&mut stream, |stream, id, body, last| {
        if id == 6 && body.len() == 12 {
            asked.push((word(body), word(&body[4..]), word(&body[8..])));
        }
        let Some(rate) = rate else {
            if last || asked.len() >= STRIDE {
                serve(content, stream, &asked)?;
                asked.clear();
            }
            return Ok(true);
        };
        for one in std::mem::take(&mut asked) {
            let now = Instant::now();
            let at = due.get_or_insert(now);
            // What was not used is not saved up for long.
            *at = (*at).max(now - Duration::from_millis(100));
            std::thread::sleep(at.saturating_duration_since(now));
            *at += Duration::from_secs_f64(f64::from(one.2) / rate);
            serve(content, stream, &[one])?;
        }
        Ok(true)
    })
}

/// Sends blocks, [`STRIDE`] in a call.
pub(crate) fn serve(content: &Content, stream: &mut TcpStream, asked: &[Asked]) -> io::Result<()> {
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

fn push_request(out: &mut Vec<u8>, k: u64) {
    out.extend([0, 0, 0, 13, 6]);
    out.extend(((k / 64) as u32).to_be_bytes());
    out.extend(((k % 64) as u32 * BLOCK as u32).to_be_bytes());
    out.extend((BLOCK as u32).to_be_bytes());
}

fn leech_once(content: &Content, to: SocketAddr, pid: u32, patience: Duration) -> io::Result<Option<Leeched>> {
    let mut stream = connect(to, 0)?;
    stream.set_read_timeout(Some(patience))?;
    shake(&mut stream, &content.handshake(0))?;
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
                push_request(&mut out, asked);
                asked += 1;
            }
            stream.write_all(&out)?;
        }
        Ok(got < total)
    })?;
    let seconds = begin.map(|b| b.elapsed().as_secs_f64());
    Ok(seconds.filter(|_| got == total).map(|seconds| Leeched { seconds, cpu_before }))
}

/// Keeps `depth` requests outstanding for `time`, over the whole payload again and again; returns how long each
/// block took, in seconds.
pub(crate) fn latencies(content: &Content, to: SocketAddr, depth: u64, time: Duration) -> io::Result<Vec<f64>> {
    let mut stream = connect(to, 0)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    shake(&mut stream, &content.handshake(depth as u32))?;
    stream.write_all(&[0, 0, 0, 1, 2])?;
    let total = content.pieces * 64;
    let (mut next, mut begin) = (0, None);
    let mut out_at: HashMap<(u32, u32), Instant> = HashMap::new();
    let mut took = Vec::new();
    let mut out = Vec::new();
    messages(&mut stream, |stream, id, body, last| {
        match id {
            1 => _ = begin.get_or_insert_with(Instant::now),
            7 => {
                if let Some(at) = out_at.remove(&(word(body), word(&body[4..]))) {
                    took.push(at.elapsed().as_secs_f64());
                }
            }
            _ => {}
        }
        if begin.is_some() && last {
            out.clear();
            while (out_at.len() as u64) < depth {
                let k = next % total;
                push_request(&mut out, k);
                out_at.insert(((k / 64) as u32, (k % 64) as u32 * BLOCK as u32), Instant::now());
                next += 1;
            }
            stream.write_all(&out)?;
        }
        Ok(begin.is_none_or(|b| b.elapsed() < time))
    })?;
    Ok(took)
}

/// Shakes hands with a client that has this torrent, says that it has nothing, and keeps the connection. Tries until
/// it is answered.
pub(crate) fn acquaintance(
    info_hash: &[u8; 20],
    to: SocketAddr,
    number: u32,
    patience: Duration,
) -> io::Result<TcpStream> {
    let begin = Instant::now();
    loop {
        let one = || {
            let mut stream = connect(to, number)?;
            stream.set_read_timeout(Some(patience))?;
            shake(&mut stream, &handshake(info_hash, number))?;
            Ok(stream)
        };
        match one() {
            Ok(stream) => return Ok(stream),
            Err(e) if begin.elapsed() > patience => return Err(e),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}
