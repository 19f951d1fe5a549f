//! An honest peer that wants one block.

use crate::{HONEST, TARGET};
use btmio::id::Block;
use btmio::wire::{self, Event, Message};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long one connection is given before another is tried: a round of anybody's choker.
const TRY: Duration = Duration::from_secs(11);

/// Between two tries: some refuse whom they find pushy.
const PAUSE: Duration = Duration::from_millis(300);

/// Time until a block has come, with as many connections as that takes.
pub(crate) fn first_block(hash: [u8; 20], patience: Duration) -> Option<Duration> {
    let begin = Instant::now();
    while begin.elapsed() < patience {
        if attempt(hash, (begin + patience).min(Instant::now() + TRY)).is_some() {
            return Some(begin.elapsed());
        }
        std::thread::sleep(PAUSE);
    }
    None
}

/// One connection: `None` when it ended without a block.
fn attempt(hash: [u8; 20], until: Instant) -> Option<()> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let left = || until.checked_duration_since(Instant::now()).filter(|d| !d.is_zero());
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).ok()?;
    socket.bind(&SocketAddr::new(HONEST, 0).into()).ok()?;
    socket.connect_timeout(&TARGET.into(), left()?).ok()?;
    let mut id = *b"-HO0000-000000000000";
    id[16..].copy_from_slice(&COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    let ours = wire::Handshake {
        reserved: wire::Reserved::ours(),
        info_hash: btmio::id::InfoHash::new(hash),
        peer_id: btmio::id::PeerId::new(id),
    };
    (&socket).write_all(&wire::encode_handshake(&ours)).ok()?;
    let mut theirs = [0; 68];
    socket.set_read_timeout(left()).ok()?;
    (&socket).read_exact(&mut theirs).ok()?;
    let mut out = Vec::new();
    // Some take it for no message at all, and are right when they have not named the extension: rqbit does.
    if theirs[27] & 4 != 0 {
        wire::encode(&Message::HaveNone, &mut out);
    }
    wire::encode(&Message::Interested, &mut out);
    (&socket).write_all(&out).ok()?;
    let (mut decoder, mut buf) = (wire::Decoder::new(), [0; 32 << 10]);
    loop {
        socket.set_read_timeout(Some(left()?)).ok()?;
        let n = (&socket).read(&mut buf).ok().filter(|n| *n > 0)?;
        let mut rest = &buf[..n];
        while !rest.is_empty() {
            if let wire::Want::Payload { block, at } = decoder.want() {
                let n = rest.len().min((block.len - at) as usize);
                rest = &rest[n..];
                if decoder.filled(n as u32).is_some() {
                    return Some(());
                }
                continue;
            }
            let (n, event) = decoder.feed(rest).ok()?;
            rest = &rest[n..];
            let ask = match event {
                Some(Event::Message(Message::Unchoke)) => Some(0),
                Some(Event::Message(Message::AllowedFast(piece))) => Some(piece.get()),
                _ => None,
            };
            if let Some(piece) = ask {
                let mut out = Vec::new();
                wire::encode(&Message::Request(Block::new(piece, 0, 16_384)), &mut out);
                (&socket).write_all(&out).ok()?;
            }
        }
    }
}
