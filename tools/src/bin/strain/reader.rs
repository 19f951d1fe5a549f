//! A peer that asks for blocks here and there.

use btmio::id::{Block, InfoHash, PeerId};
use btmio::rng;
use btmio::wire::{self, Event, Message};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const BLOCK: u32 = 16 << 10;
/// Requests on the way at a time.
const AHEAD: usize = 16;

/// Reads so many random blocks of a torrent of `size` bytes; how long that took from the first request.
pub(crate) fn read(
    addr: SocketAddr,
    info_hash: InfoHash,
    size: usize,
    piece: usize,
    blocks: usize,
) -> Result<Duration, String> {
    let text = |e: std::io::Error| format!("reading from {addr}: {e}");
    let mut socket = TcpStream::connect(addr).map_err(text)?;
    socket.set_read_timeout(Some(Duration::from_secs(60))).map_err(text)?;
    let peer_id = PeerId::new(*b"-RR0000-000000000000");
    let ours = wire::Handshake { reserved: wire::Reserved::ours(), info_hash, peer_id };
    let mut out = wire::encode_handshake(&ours).to_vec();
    wire::encode(&Message::HaveNone, &mut out);
    wire::encode(&Message::Interested, &mut out);
    socket.write_all(&out).map_err(text)?;
    socket.read_exact(&mut [0; 68]).map_err(text)?;
    let mut rng = rng::seeded(7);
    let mut random = move || {
        let (piece, begin) = (rng.u32(..(size / piece) as u32), rng.u32(..piece as u32 / BLOCK) * BLOCK);
        Message::Request(Block::new(piece, begin, BLOCK))
    };
    let (mut decoder, mut buf) = (wire::Decoder::new(), vec![0; 64 << 10]);
    let (mut asked, mut came, mut begin) = (0, 0, Instant::now());
    while came < blocks {
        let n = socket.read(&mut buf).map_err(text)?;
        if n == 0 {
            return Err(format!("{addr} closed after {came} blocks"));
        }
        let (mut rest, mut open) = (&buf[..n], false);
        while !rest.is_empty() {
            if let wire::Want::Payload { block, at } = decoder.want() {
                let n = rest.len().min((block.len - at) as usize);
                rest = &rest[n..];
                came += usize::from(decoder.filled(n as u32).is_some());
                continue;
            }
            let (n, event) = decoder.feed(rest).map_err(|e| e.to_string())?;
            rest = &rest[n..];
            match event {
                Some(Event::Message(Message::Unchoke)) => open = true,
                Some(Event::Message(Message::Choke | Message::Reject(_))) => {
                    return Err(format!("{addr} does not give what was asked for"));
                }
                _ => {}
            }
        }
        if open {
            begin = Instant::now();
        }
        out.clear();
        while (open || asked > 0) && asked < blocks && asked < came + AHEAD {
            wire::encode(&random(), &mut out);
            asked += 1;
        }
        socket.write_all(&out).map_err(text)?;
    }
    Ok(begin.elapsed())
}
