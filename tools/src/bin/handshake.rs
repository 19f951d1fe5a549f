//! `handshake [--seconds=N] HOST:PORT FILE.torrent`: says hello to a peer and shows what it says.
//!
//! It connects, sends a handshake for the torrent, and prints the peer's handshake, its reserved
//! bits, its client, its extension handshake and every message for N seconds (5 if not said), each
//! with the seconds since the connection was opened. It claims to have nothing and asks for
//! nothing. Whatever comes from the peer is escaped.
//!
//! Exits with 0 when the peer answered, 1 when it did not, refused the torrent or broke the
//! protocol, 2 for a wrong command line.

use btmio::id;
use btmio::metainfo::Metainfo;
use btmio::wire::{
    Decoder, Event, Ext, ExtHandshake, Handshake, HandshakeEvent, HandshakeReader, Message, OurExt, Reserved, Want,
    client_name, encode, encode_ext, encode_handshake, parse_dont_have, parse_upload_only, printable,
};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: handshake [--seconds=N] HOST:PORT FILE.torrent";

/// How long to wait for a connection, and then for a handshake.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most of a payload that is shown.
const SHOWN: usize = 160;

struct Options {
    peer: String,
    torrent: String,
    seconds: Duration,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(o) => o,
        Err(why) => {
            eprintln!("handshake: {why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options, &mut std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("handshake: {why}");
            ExitCode::FAILURE
        }
    }
}

fn options(args: impl Iterator<Item = String>) -> Result<Options, String> {
    let (mut seconds, mut free) = (5.0, Vec::new());
    for arg in args {
        if let Some(n) = arg.strip_prefix("--seconds=") {
            seconds = n.parse().ok().filter(|n| (0.0..=86_400.0).contains(n)).ok_or("--seconds wants a number")?;
        } else if arg.starts_with("--") {
            return Err(format!("unknown option {arg}"));
        } else {
            free.push(arg);
        }
    }
    let [peer, torrent] = <[String; 2]>::try_from(free).map_err(|_| "wanted a peer's address and a torrent")?;
    Ok(Options { peer, torrent, seconds: Duration::from_secs_f64(seconds) })
}

fn run(options: &Options, out: &mut dyn Write) -> Result<(), String> {
    let file = std::fs::read(&options.torrent).map_err(|e| format!("{}: {e}", options.torrent))?;
    let meta = Metainfo::parse(&file).map_err(|e| format!("{}: {e}", options.torrent))?;
    let info_hash = match (meta.info_hash, meta.info_hash_v2) {
        (Some(v1), _) => v1,
        // On the wire a version 2 hash is cut to 20 bytes (BEP 52).
        (None, Some(v2)) => id::InfoHash::new(*v2.as_bytes().first_chunk().expect("32 is more than 20")),
        (None, None) => return Err(format!("{}: no info hash", options.torrent)),
    };
    let mut peer = Peer::connect(&options.peer)?;
    let mut talk = Talk { out, start: Instant::now(), pieces: meta.hashes.len() };
    talk.say(format_args!("connected to {}, asking for {info_hash}", peer.name))?;
    let theirs = shake(&mut peer, info_hash)?;
    talk.say(format_args!("handshake: reserved {:?} ({})", theirs.reserved, bits(theirs.reserved)))?;
    talk.say(format_args!("peer id {:?}: {}", theirs.peer_id, client_name(&theirs.peer_id)))?;
    peer.send(&greeting(theirs.reserved))?;
    talk.listen(&mut peer, options.seconds)
}

/// What we say after the handshake: that we have nothing, and which extensions we would like to see.
fn greeting(theirs: Reserved) -> Vec<u8> {
    let mut hello = Vec::new();
    if theirs.has_extended() {
        let ours = OurExt { exts: &Ext::ALL, client: Some("btmio handshake"), ..OurExt::default() };
        encode(&Message::Extended { id: 0, payload: &encode_ext(&ours) }, &mut hello);
    }
    if theirs.has_fast() {
        encode(&Message::HaveNone, &mut hello);
    }
    hello
}

struct Peer {
    name: String,
    stream: TcpStream,
    buf: Vec<u8>,
    filled: usize,
}

impl Peer {
    fn connect(name: &str) -> Result<Self, String> {
        let mut why = format!("{name}: no address");
        for addr in name.to_socket_addrs().map_err(|e| format!("{name}: {e}"))? {
            match TcpStream::connect_timeout(&addr, PATIENCE) {
                Ok(stream) => {
                    return Ok(Self { name: addr.to_string(), stream, buf: vec![0; 64 << 10], filled: 0 });
                }
                Err(e) => why = format!("cannot connect to {addr}: {e}"),
            }
        }
        Err(why)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).map_err(|e| format!("{}: {e}", self.name))
    }

    /// Reads until `deadline` what there is; `None` when nothing came.
    fn read(&mut self, deadline: Instant) -> std::io::Result<Option<usize>> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut self.buf) {
                Ok(n) => {
                    self.filled = n;
                    return Ok(Some(n));
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// Exchanges handshakes. What the peer sent behind its own stays at the front of its buffer.
fn shake(peer: &mut Peer, info_hash: id::InfoHash) -> Result<Handshake, String> {
    let mut dice = btmio::rng::seeded(std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos() as u64));
    let mut peer_id = *b"-bM0001-............";
    peer_id[8..].fill_with(|| dice.alphanumeric() as u8);
    let ours = Handshake { reserved: Reserved::ours(), info_hash, peer_id: id::PeerId::new(peer_id) };
    peer.send(&encode_handshake(&ours))?;

    let (mut reader, deadline, mut total) = (HandshakeReader::new(), Instant::now() + PATIENCE, 0);
    loop {
        let read = match peer.read(deadline) {
            Ok(Some(n)) if n > 0 => n,
            Ok(None) => return Err(format!("{}: no handshake within {} s", peer.name, PATIENCE.as_secs())),
            Ok(_) if total > 0 => return Err(format!("{}: closed after {total} bytes of handshake", peer.name)),
            Ok(_) => return Err(refused(&peer.name, "it closed the connection")),
            Err(e) if total == 0 => return Err(refused(&peer.name, &e.to_string())),
            Err(e) => return Err(format!("{}: {e}", peer.name)),
        };
        total += read;
        let mut at = 0;
        while at < read {
            let (n, event) = reader.feed(&peer.buf[at..read]).map_err(|e| format!("{}: {e}", peer.name))?;
            at += n;
            match event {
                Some(HandshakeEvent::InfoHash(_, theirs)) if theirs != info_hash => {
                    return Err(format!("{}: answered for another torrent, {theirs}", peer.name));
                }
                Some(HandshakeEvent::Done(theirs)) => {
                    peer.buf.copy_within(at..read, 0);
                    peer.filled = read - at;
                    return Ok(theirs);
                }
                _ => {}
            }
        }
    }
}

fn refused(name: &str, how: &str) -> String {
    format!("{name}: refused: {how}. It does not have this torrent, or wants an encrypted connection")
}

fn bits(reserved: Reserved) -> String {
    let names = [
        (reserved.has_extended(), "extended"),
        (reserved.has_fast(), "fast"),
        (reserved.has_dht(), "dht"),
        (reserved.has_v2(), "v2"),
    ];
    let set: Vec<&str> = names.into_iter().filter(|n| n.0).map(|n| n.1).collect();
    if set.is_empty() { "nothing that is known here".to_owned() } else { set.join(", ") }
}

struct Talk<'a> {
    out: &'a mut dyn Write,
    start: Instant,
    pieces: usize,
}

impl Talk<'_> {
    fn say(&mut self, what: std::fmt::Arguments<'_>) -> Result<(), String> {
        let seconds = self.start.elapsed().as_secs_f64();
        writeln!(self.out, "{seconds:9.3}  {what}").map_err(|e| format!("output: {e}"))
    }

    /// Shows messages for `time`, or until the peer closes the connection.
    fn listen(&mut self, peer: &mut Peer, time: Duration) -> Result<(), String> {
        let mut decoder = Decoder::new();
        decoder.set_bitfield_len(self.pieces.div_ceil(8));
        let deadline = Instant::now() + time;
        loop {
            self.messages(&mut decoder, &peer.buf[..peer.filled]).map_err(|e| format!("{}: {e}", peer.name))?;
            match peer.read(deadline) {
                Ok(Some(0)) => return self.say(format_args!("the peer closed the connection")),
                Ok(Some(_)) => {}
                Ok(None) => return self.say(format_args!("{} s are over", time.as_secs_f64())),
                Err(e) => return self.say(format_args!("the connection broke: {e}")),
            }
        }
    }

    fn messages(&mut self, decoder: &mut Decoder, bytes: &[u8]) -> Result<(), String> {
        let mut at = 0;
        while at < bytes.len() {
            if let Want::Payload { block, at: done } = decoder.want() {
                let n = ((block.len - done) as usize).min(bytes.len() - at);
                at += n;
                decoder.filled(n as u32);
                continue;
            }
            let (n, event) = decoder.feed(&bytes[at..]).map_err(|e| e.to_string())?;
            at += n;
            match event {
                Some(Event::BlockStart(b)) => self.say(format_args!("piece {} {}+{}", b.piece, b.begin, b.len))?,
                Some(Event::Message(m)) => self.message(&m)?,
                None => {}
            }
        }
        Ok(())
    }

    fn message(&mut self, m: &Message<'_>) -> Result<(), String> {
        let block = |b: &id::Block| format!("{} {}+{}", b.piece, b.begin, b.len);
        let text = match m {
            Message::KeepAlive => "keep-alive".to_owned(),
            Message::Choke => "choke".to_owned(),
            Message::Unchoke => "unchoke".to_owned(),
            Message::Interested => "interested".to_owned(),
            Message::NotInterested => "not interested".to_owned(),
            Message::Have(p) => format!("have {p}"),
            Message::Bitfield(bits) => self.bitfield(bits),
            Message::Request(b) => format!("request {}", block(b)),
            Message::Piece { piece, begin, data } => format!("piece {piece} {begin}+{}", data.len()),
            Message::Cancel(b) => format!("cancel {}", block(b)),
            Message::Port(port) => format!("port {port}"),
            Message::Suggest(p) => format!("suggest {p}"),
            Message::HaveAll => "have all".to_owned(),
            Message::HaveNone => "have none".to_owned(),
            Message::Reject(b) => format!("reject {}", block(b)),
            Message::AllowedFast(p) => format!("allowed fast {p}"),
            Message::Extended { id: 0, payload } => extension_handshake(payload),
            Message::Extended { id, payload } => extension(*id, payload),
            Message::Unknown { id, len } => format!("unknown message {id}, {len} bytes"),
        };
        self.say(format_args!("{text}"))
    }

    fn bitfield(&self, bits: &[u8]) -> String {
        let have: u32 = bits.iter().map(|b| b.count_ones()).sum();
        let wrong = if bits.len() == self.pieces.div_ceil(8) { "" } else { " (wrong length)" };
        format!("bitfield: {have} of {} pieces, {} bytes{wrong}", self.pieces, bits.len())
    }
}

fn extension(id: u8, payload: &[u8]) -> String {
    let text = printable(payload, SHOWN);
    match Ext::from_id(id) {
        Some(Ext::UploadOnly) => format!("upload_only {:?}", parse_upload_only(payload)),
        Some(Ext::DontHave) => format!("lt_donthave {:?}", parse_dont_have(payload)),
        Some(ext) => format!("{}, {} bytes: {text}", ext.name(), payload.len()),
        None => format!("extended message {id}, which we never asked for, {} bytes: {text}", payload.len()),
    }
}

fn extension_handshake(payload: &[u8]) -> String {
    let h = match ExtHandshake::parse(payload) {
        Ok(h) => h,
        Err(e) => return format!("extension handshake: {e}: {}", printable(payload, SHOWN)),
    };
    let mut text = "extension handshake:".to_owned();
    for ext in Ext::ALL {
        if let Some(id) = h.m.get(ext) {
            text += &format!(" {}={id}", ext.name());
        }
    }
    let mut field = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text += &format!("; {name} {value}");
        }
    };
    field("client", h.client);
    field("reqq", h.reqq.map(|n| n.to_string()));
    field("port", h.port.map(|n| n.to_string()));
    field("metadata_size", h.metadata_size.map(|n| n.to_string()));
    field("upload_only", h.upload_only.map(|b| b.to_string()));
    field("yourip", h.yourip.map(|ip| ip.to_string()));
    field("ipv4", h.ipv4.map(|ip| ip.to_string()));
    field("ipv6", h.ipv6.map(|ip| ip.to_string()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use btmio::bencode::Writer;
    use std::net::{SocketAddr, TcpListener};
    use std::path::PathBuf;
    use std::thread::JoinHandle;

    /// A torrent of three pieces in a file of its own, removed at the end.
    struct Torrent(PathBuf);

    impl Torrent {
        fn new(name: &str) -> Self {
            let mut w = Writer::new();
            w.begin_dict().key(b"info").begin_dict();
            w.key(b"length").int(40_000).key(b"name").bytes(b"x").key(b"piece length").int(16384);
            w.key(b"pieces").bytes(&[7; 60]).end().end();
            let path = std::env::temp_dir().join(format!("btmio-handshake-{}-{name}.torrent", std::process::id()));
            std::fs::write(&path, w.into_bytes()).unwrap();
            Self(path)
        }
    }
    impl Drop for Torrent {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    /// A peer that reads our handshake and answers with what `answer` makes of it.
    fn peer(answer: impl FnOnce([u8; 68]) -> Vec<u8> + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut theirs = [0; 68];
            stream.read_exact(&mut theirs).unwrap();
            stream.write_all(&answer(theirs)).unwrap();
            // Their greeting is read, so that closing does not reset the connection under our answer.
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        });
        (addr, thread)
    }

    fn handshake(
        name: &str,
        answer: impl FnOnce([u8; 68]) -> Vec<u8> + Send + 'static,
    ) -> (Result<(), String>, String) {
        let torrent = Torrent::new(name);
        let (addr, thread) = peer(answer);
        let args = [addr.to_string(), torrent.0.to_str().unwrap().to_owned()];
        let mut out = Vec::new();
        let result = run(&options(args.into_iter()).unwrap(), &mut out);
        thread.join().unwrap();
        (result, String::from_utf8(out).unwrap())
    }

    #[test]
    fn what_a_peer_says_is_shown() {
        let (result, out) = handshake("says", |mut ours| {
            ours[48..].copy_from_slice(b"-TR2940-abcdefghijkl");
            let mut answer = ours.to_vec();
            let ext = b"d1:md11:ut_metadatai3ee1:v6:\x1b[31mXe";
            encode(&Message::Extended { id: 0, payload: ext }, &mut answer);
            encode(&Message::Bitfield(&[0b1010_0000]), &mut answer);
            encode(&Message::Piece { piece: id::PieceIndex::new(2), begin: 0, data: b"unasked" }, &mut answer);
            encode(&Message::Unchoke, &mut answer);
            answer
        });
        assert_eq!(result, Ok(()));
        let lines: Vec<&str> = out.lines().map(|l| l[9..].trim()).collect();
        assert!(lines[1].ends_with("(extended, fast)"), "{out}");
        assert!(lines[2].ends_with(": Transmission 2.94"), "{out}");
        assert_eq!(lines[3], "extension handshake: ut_metadata=3; client \\u{1b}[31mX");
        assert_eq!(
            lines[4..],
            ["bitfield: 2 of 3 pieces, 1 bytes", "piece 2 0+7", "unchoke", "the peer closed the connection"]
        );
    }

    #[test]
    fn a_refusal_is_an_error_that_says_so() {
        let (result, _) = handshake("refused", |_| Vec::new());
        assert!(result.as_ref().is_err_and(|e| e.contains("refused")), "{result:?}");
        let (result, _) = handshake("other", |mut ours| {
            ours[30] ^= 1;
            ours.to_vec()
        });
        assert!(result.as_ref().is_err_and(|e| e.contains("another torrent")), "{result:?}");
        let (result, _) = handshake("http", |_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
        assert!(result.as_ref().is_err_and(|e| e.contains("not a BitTorrent handshake")), "{result:?}");
        let (result, _) = handshake("short", |ours| ours[..60].to_vec());
        assert!(result.as_ref().is_err_and(|e| e.contains("closed after 60 bytes")), "{result:?}");
        let (result, _) = handshake("broken", |ours| [&ours[..], &[0, 0, 0, 9, 4]].concat());
        assert!(result.as_ref().is_err_and(|e| e.contains("wanted 5")), "{result:?}");
    }

    #[test]
    fn nobody_there_is_an_error() {
        let torrent = Torrent::new("nobody");
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let args = [gone.to_string(), torrent.0.to_str().unwrap().to_owned()];
        let result = run(&options(args.into_iter()).unwrap(), &mut Vec::new());
        assert!(result.as_ref().is_err_and(|e| e.contains("cannot connect")), "{result:?}");
    }

    #[test]
    fn the_command_line() {
        let parse = |args: &[&str]| options(args.iter().map(|a| (*a).to_owned()));
        let o = parse(&["--seconds=1.5", "h:1", "f"]).unwrap();
        assert_eq!((o.seconds, o.peer.as_str(), o.torrent.as_str()), (Duration::from_millis(1500), "h:1", "f"));
        for wrong in [&["h:1"][..], &["h:1", "f", "g"], &["--seconds=-1", "h:1", "f"], &["--x", "h:1", "f"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
