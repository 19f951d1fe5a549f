//! Every limit in one place, and the settings a session is made with.
//!
//! Limits are constants, asserted against each other at compile time. No input from outside
//! decides an allocation: it is compared with one of these first (see each constant's source).

use crate::time::Duration;

/// How a session behaves. `Config::default()` suits a home machine.
#[derive(Clone, Debug)]
pub struct Config {
    /// Connected peers of all torrents together.
    pub max_peers: usize,
    /// Connected peers of one torrent.
    pub max_peers_torrent: usize,
    /// Connections that have dialled us and not finished their handshake. When one more comes the
    /// oldest goes, so that they never keep anybody out.
    pub max_strangers: usize,
    /// Connection attempts under way at once.
    pub half_open: usize,
    /// Peers of a torrent that are unchoked at once, the optimistic one included.
    pub unchoke_slots: usize,
    /// Payload sent per second, all torrents together; `None` is unlimited.
    pub up_limit: Option<u64>,
    /// Payload received per second, all torrents together; `None` is unlimited.
    pub down_limit: Option<u64>,
    /// Receive straight into place, several predicted blocks a call; otherwise by way of a scratch buffer.
    pub predict: bool,
    /// Blocks that one receive call covers at most, when predicting.
    pub stride: usize,
    /// Requests are kept outstanding for so much time at the present rate.
    pub queue_time: Duration,
    /// Requests kept outstanding at one peer at most; [`limits::REQUESTS_OUT`] is the ceiling.
    pub requests_out: usize,
    /// Requests of all peers together that are kept waiting; [`limits::REQUESTS_IN_TOTAL`] unless memory is scarce.
    pub requests_in_total: usize,
    /// Control bytes that wait for all peers' sockets, and of messages that have not come whole, together;
    /// [`limits::OUTBOX_TOTAL`] unless memory is scarce.
    pub outbox_total: usize,
    /// A peer that owes blocks and has sent none for so long is snubbed.
    pub snub_timeout: Duration,
    /// The largest info dictionary that is fetched from peers (BEP 9), in bytes.
    pub metadata_max: u32,
    /// How often the record for resuming is saved while something changes.
    pub save_interval: Duration,
    /// With so many verified bytes that a power cut could take, the device is asked to take them.
    pub sync_bytes: u64,
    /// So long a verified piece waits for that at most, while none is under way.
    pub sync_interval: Duration,
    /// The distributed hash table; `None`, as by default, is none.
    pub dht: Option<DhtConfig>,
    /// Peers on the local network find each other by multicast (BEP 14); off by default, since it speaks up in
    /// whatever network the host is in.
    pub lsd: bool,
}

/// How the DHT node behaves (BEP 5).
#[derive(Clone, Debug)]
pub struct DhtConfig {
    /// Nodes to ask when no other is known. By default well-known ones on the Internet.
    pub bootstrap: Vec<(String, u16)>,
    /// Ask, but answer nobody (BEP 43): for hosts that cannot be reached, or whose traffic is dear.
    pub read_only: bool,
}

impl Default for DhtConfig {
    fn default() -> Self {
        let public = [("dht.libtorrent.org", 25401), ("dht.transmissionbt.com", 6881), ("router.bittorrent.com", 6881)];
        Self { bootstrap: public.map(|(host, port)| (host.to_owned(), port)).into(), read_only: false }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_peers: 200,
            max_peers_torrent: 100,
            max_strangers: 64,
            half_open: limits::HALF_OPEN,
            unchoke_slots: 8,
            up_limit: None,
            down_limit: None,
            predict: true,
            stride: 64,
            queue_time: Duration::from_secs(2),
            requests_out: limits::REQUESTS_OUT,
            requests_in_total: limits::REQUESTS_IN_TOTAL,
            outbox_total: limits::OUTBOX_TOTAL,
            snub_timeout: Duration::from_secs(30),
            metadata_max: 8 << 20,
            save_interval: Duration::from_secs(30),
            sync_bytes: 4 << 20,
            sync_interval: Duration::from_secs(2),
            dht: None,
            lsd: false,
        }
    }
}

/// Fixed limits. Figures are bytes unless the name says otherwise.
pub mod limits {
    use super::Duration;

    /// Largest `.torrent` file.
    pub const TORRENT_FILE: usize = 10 << 20;
    /// Most pieces in a torrent.
    pub const PIECES: u32 = 1 << 20;
    /// Most files in a torrent, pad files included.
    pub const FILES: usize = 200_000;
    /// Largest piece length.
    pub const PIECE_LEN: u32 = 256 << 20;
    /// Deepest path, in components below the download folder.
    pub const PATH_DEPTH: usize = 32;
    /// Longest path component as written to disk.
    pub const PATH_COMPONENT: usize = 255;
    /// Longest path below the download folder.
    pub const PATH_TOTAL: usize = 1024;
    /// Most tracker URLs kept from one torrent.
    pub const TRACKERS: usize = 100;
    /// Deepest nesting of a bencoded value.
    pub const BENCODE_DEPTH: usize = 32;
    /// Most tokens (integers, strings, starts and ends of lists and dictionaries) of a bencoded
    /// value, 8 bytes each once parsed.
    pub const BENCODE_TOKENS: usize = 1 << 21;

    /// Largest block that is served to a peer (BEP 3 asks for 16 KiB; some old clients ask for more).
    pub const BLOCK_SERVED: u32 = 128 << 10;
    /// Largest frame a peer may send, a bitfield apart: a block of [`BLOCK_SERVED`] and its header.
    pub const FRAME: u32 = BLOCK_SERVED + 9;
    /// Largest extended message (BEP 10) that is read.
    pub const EXTENDED_FRAME: u32 = 128 << 10;
    /// Requests of one peer that are kept waiting (announced to it as `reqq`).
    pub const REQUESTS_IN: usize = 2000;
    /// Requests of all peers together that are kept waiting.
    pub const REQUESTS_IN_TOTAL: usize = 64 * 1024;
    /// Requests that are kept outstanding at one peer, whatever it announces.
    pub const REQUESTS_OUT: usize = 2000;
    /// What BEP 10 says to assume of a peer that announces no `reqq`.
    pub const REQUESTS_OUT_DEFAULT: usize = 250;
    /// Control bytes waiting for one peer's socket before it is closed as stuck.
    pub const OUTBOX: usize = 256 << 10;
    /// Control bytes waiting for all peers' sockets, and of messages that have not come whole, together; beyond it
    /// those go that let most of them wait.
    pub const OUTBOX_TOTAL: usize = 8 << 20;
    /// Payload that is moved to a peer's outbox ahead of its socket, by reference.
    pub const OUTBOX_PAYLOAD: u64 = 1 << 20;
    /// Blocks that nobody asked for until the peer that sends them is closed.
    pub const UNASKED: u32 = 32;
    /// Requests of a choked peer that are rejected until it is closed: as many as may have been on their way when it
    /// was choked, twice.
    pub const REJECTS: u32 = 2 * REQUESTS_IN as u32;
    /// Suggested pieces (BEP 6) of one peer that are remembered.
    pub const SUGGESTED: usize = 16;
    /// Allowed-fast pieces (BEP 6) of one peer that are remembered.
    pub const ALLOWED_FAST_IN: usize = 64;
    /// Digests of the blocks of pieces that failed, kept until the piece passes to find out who lied.
    pub const SUSPECTS: usize = 16 * 1024;
    /// Requests for pieces of one torrent's info dictionary that are outstanding, and those of one peer that wait.
    pub const METADATA_REQUESTS: usize = 64;
    /// Blocks that one receive call covers at most.
    pub const RUN: usize = 64;
    /// Pieces in an allowed-fast set (BEP 6).
    pub const ALLOWED_FAST: usize = 5;

    /// A peer that has not finished its handshake by then is closed.
    pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
    /// A connection attempt is given up after this long.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
    /// A peer that has sent nothing for this long is closed.
    pub const PEER_TIMEOUT: Duration = Duration::from_secs(130);
    /// A keep-alive is sent after this long without sending anything, or up to a second before.
    pub const KEEP_ALIVE: Duration = Duration::from_secs(90);

    /// Connected peers that dialled us from one IPv4 address, or one /64 of IPv6 addresses.
    pub const PEERS_PER_ADDRESS: usize = 16;
    /// A peer without payload either way for this long gives way when room is wanted.
    pub const EVICT_IDLE: Duration = Duration::from_secs(30);
    /// Descriptors that are never used for peers: files, listeners, trackers, name servers and
    /// whatever the program has open besides.
    pub const FD_RESERVE: usize = 16;

    /// Largest list of blocked addresses, decompressed.
    pub const BLOCKLIST: usize = 64 << 20;
    /// Most ranges in one, 8 bytes each for IPv4.
    pub const BLOCKLIST_RANGES: usize = 2 << 20;

    /// Bytes that are on their way to a slow disk before its payload is no longer read.
    pub const UNWRITTEN: usize = 8 << 20;
    /// What a peer wants is not in memory: the disk is asked again after this long whether it has read it.
    pub const COLD: Duration = Duration::from_millis(4);
    /// A connection whose payload a slow disk keeps from being read is looked at again after this long.
    pub const HOLD: Duration = Duration::from_millis(10);

    /// Largest tracker reply body.
    pub const TRACKER_BODY: usize = 1 << 20;
    /// Largest HTTP head.
    pub const HTTP_HEAD: usize = 64 << 10;
    /// Longest URL.
    pub const URL: usize = 8 << 10;
    /// Redirects followed for one announce.
    pub const REDIRECTS: u32 = 5;
    /// An announce is given up after this long, name lookup and redirects included.
    pub const TRACKER_TIMEOUT: Duration = Duration::from_secs(30);
    /// How long leaving waits for trackers to take their `stopped`.
    pub const TRACKER_STOP: Duration = Duration::from_secs(5);
    /// Peers asked of a tracker.
    pub const NUMWANT: u32 = 80;
    /// Shortest and longest announce interval obeyed.
    pub const ANNOUNCE_INTERVAL: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 3600));

    /// Bytes a second that the DHT node sends.
    pub const DHT_UP: u64 = 8000;
    /// Largest datagram of a DHT node that is read.
    pub const DHT_DATAGRAM_IN: usize = 4096;
    /// Largest datagram that is sent to a DHT node (BEP 32).
    pub const DHT_DATAGRAM_OUT: usize = 1024;
    /// Bytes sent to a DHT node that has not shown that it is where it seems to be, for each two bytes it sent.
    pub const DHT_UNVERIFIED: usize = 3;
    /// Peers taken from one response.
    pub const DHT_VALUES_IN: usize = 50;
    /// Contacts of one family taken from one response.
    pub const DHT_NODES_IN: usize = 16;
    /// Longest token that is kept.
    pub const DHT_TOKEN_IN: usize = 64;
    /// Torrents that others have announced to us.
    pub const DHT_TORRENTS: usize = 1024;
    /// Peers that others have announced to us, of one torrent.
    pub const DHT_PEERS_TORRENT: usize = 128;
    /// Peers that others have announced to us, in all.
    pub const DHT_PEERS: usize = 8192;
    /// Searches under way at once.
    pub const DHT_SEARCHES: usize = 8;
    /// Nodes named by peers that wait to be pinged.
    pub const DHT_PORTS: usize = 32;
    /// Queries under way at once.
    pub const DHT_PENDING: usize = 256;
    /// Peers given by name that are kept of one tracker reply.
    pub const PEER_NAMES: usize = 32;
    /// Datagrams that wait for the driver; more are lost, as on any network.
    pub const DATAGRAMS: usize = 1024;
    /// Names whose addresses are remembered.
    pub const NAMES_CACHED: usize = 256;
    /// Lookups that wait for a slot, and askers that wait for one lookup.
    pub const NAMES_WAITING: usize = 1024;
    /// Connections that the system keeps until they are accepted.
    pub const BACKLOG: i32 = 256;
    /// Connections accepted in one turn, so that a storm of them does not keep peers waiting.
    pub const ACCEPTS: usize = 64;

    /// Alerts that wait for an embedder who does not pull them; the oldest go first.
    pub const ALERTS: usize = 16 * 1024;

    /// Addresses remembered for one torrent.
    pub const SWARM: usize = 1000;
    /// Addresses of one network (IPv4 /24, IPv6 /48) that are remembered on hearsay and have never worked: on the
    /// internet, and on a local network.
    pub const HEARSAY: (usize, usize) = (16, 200);
    /// The same of one host.
    pub const HEARSAY_HOST: usize = 2;
    /// No peer on the internet listens below this port.
    pub const PORT_LEAST: u16 = 1024;
    /// Networks that are banned from one torrent; the first banned is forgotten first.
    pub const BANNED: usize = 4096;
    /// Connection attempts under way at once.
    pub const HALF_OPEN: usize = 16;

    // A file is at least `d 6:length i0e 4:path l 3:dir 4:name e e`, 9 tokens.
    const _: () = assert!(FILES * 9 <= BENCODE_TOKENS);
    const _: () = assert!(DHT_DATAGRAM_OUT < DHT_DATAGRAM_IN);
    const _: () = assert!(DHT_PEERS_TORRENT < DHT_PEERS && DHT_TORRENTS < DHT_PEERS);
    const _: () = assert!(FRAME >= crate::id::BLOCK_LEN + 9);
    const _: () = assert!(REQUESTS_IN <= REQUESTS_IN_TOTAL);
    const _: () = assert!(REJECTS as usize > REQUESTS_IN);
    const _: () = assert!(OUTBOX < OUTBOX_TOTAL);
    // A whole piece's digests fit, or its liars are never found.
    const _: () = assert!((PIECE_LEN / crate::id::BLOCK_LEN) as usize <= SUSPECTS);
    const _: () = assert!(TRACKER_STOP.as_secs() < TRACKER_TIMEOUT.as_secs());
    const _: () = assert!(URL < HTTP_HEAD);
    const _: () = assert!(HANDSHAKE_TIMEOUT.as_secs() < PEER_TIMEOUT.as_secs());
    const _: () = assert!(KEEP_ALIVE.as_secs() < PEER_TIMEOUT.as_secs());
}
