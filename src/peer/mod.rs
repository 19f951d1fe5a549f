//! One connection's protocol state: who is at the other end, what it has, what each side owes the other.
//!
//! A [`Peer`] is a state machine: `Connecting` (we dialled) or `Handshake`, then `Live`. It holds
//! the decoder for what comes in, the [`Outbox`] for what goes out, the requests we wait for and
//! the requests we have yet to serve. It decides how many requests to keep outstanding; which
//! blocks those are is the torrent's business (`torrent::exchange`), since only the torrent sees
//! all peers. It owns no socket and no payload.
//!
//! Two rates are kept. `received` counts every payload byte and sizes the pipeline. `earned`
//! counts only bytes whose piece passed its hash, and decides who is unchoked: junk earns nothing.
//!
//! Specified by BEP 3, BEP 6 (fast extension), BEP 10 (extension protocol), BEP 21 (upload only).

mod early;
mod outbox;
pub(crate) mod priority;
mod tracker;

use std::collections::VecDeque;
use std::net::SocketAddr;

pub use early::Early;
pub use outbox::{Chunk, Outbox, Sent};
pub use tracker::{Other, TrackerConn, Transport};

use crate::bitfield::Bitfield;
use crate::config::{Config, limits};
use crate::id::{BLOCK_LEN, Block, PeerId, PeerTag, PieceIndex, TorrentKey};
use crate::lazy::{Empty, Lazy};
use crate::rate::Rate;
use crate::time::{Duration, Instant};
use crate::wire::{Decoder, ExtMap, HandshakeReader};

/// Requests that are outstanding at a peer whose rate is not known yet.
const QUEUE_START: u32 = 16;

/// What a connection is for.
#[derive(Debug)]
pub enum Conn {
    /// A BitTorrent peer.
    Peer(Box<Peer>),
    /// A question to a tracker.
    Tracker(Box<TrackerConn>),
}

impl Conn {
    /// The peer, if it is one.
    pub fn peer(&self) -> Option<&Peer> {
        match self {
            Self::Peer(p) => Some(p),
            Self::Tracker(_) => None,
        }
    }
    /// The peer, if it is one.
    pub fn peer_mut(&mut self) -> Option<&mut Peer> {
        match self {
            Self::Peer(p) => Some(p),
            Self::Tracker(_) => None,
        }
    }
}

/// How far a peer connection has come.
#[derive(Debug)]
pub enum Phase {
    /// We dialled and wait for the stream.
    Connecting,
    /// The stream is open; the other side's handshake is not complete.
    Handshake(Box<HandshakeReader>),
    /// Messages flow.
    Live,
}

/// A request we sent.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The block.
    pub block: Block,
    /// When.
    pub at: Instant,
}

/// One peer.
#[derive(Debug)]
pub struct Peer {
    /// Its torrent; unknown until an incoming handshake names it.
    pub torrent: Option<TorrentKey>,
    /// Its address.
    pub addr: SocketAddr,
    /// How the torrent's swarm knows that address.
    pub tag: Option<PeerTag>,
    /// It dialled us.
    pub incoming: bool,
    /// How far the connection has come.
    pub phase: Phase,
    /// Its id, once known.
    pub id: Option<PeerId>,
    /// Cuts what comes in into messages.
    pub decoder: Decoder,
    /// What waits for its socket.
    pub outbox: Lazy<Outbox>,
    /// Pieces it has.
    pub have: Bitfield,
    /// What it has said of its pieces while the torrent does not trade yet.
    pub early: Option<Box<Early>>,
    /// It has told us what it has (bitfield, have-all or have-none), or missed its chance to.
    pub have_known: bool,
    /// Both sides speak BEP 6.
    pub fast: bool,
    /// Both sides speak BEP 10.
    pub extended: bool,
    /// It only uploads (BEP 21).
    pub upload_only: bool,
    /// We choke it.
    pub choking: bool,
    /// We are interested in it.
    pub interested: bool,
    /// It chokes us.
    pub choked: bool,
    /// It is interested in us.
    pub wants_us: bool,
    /// It owes us blocks and has sent none for too long.
    pub snubbed: bool,
    /// It is the optimistic unchoke.
    pub optimistic: bool,
    /// Pieces it has that we want: interest is `> 0`.
    pub wanted_pieces: u32,
    /// Its limit on outstanding requests (BEP 10 `reqq`).
    pub reqq: u32,
    /// Blocks one receive call should cover; 0 is the scratch path.
    pub stride: usize,
    /// Its ids for our extended messages (BEP 10).
    pub ext: ExtMap,
    /// What it and we tell each other of other peers.
    pub pex: PexState,
    /// Bytes of the info dictionary, as it says (BEP 9).
    pub info_size: Option<u32>,
    /// When the connection was made or dialled.
    pub since: Instant,
    /// When it last sent anything.
    pub last_in: Instant,
    /// When it last sent payload, or was first asked for some.
    pub last_block: Instant,
    /// When we last sent anything.
    pub last_out: Instant,
    /// A `Wake` for this peer is among the actions that wait for the driver.
    pub woken: bool,
    /// The timer that is armed for it.
    pub timer: Instant,
    /// What only trading needs.
    pub trade: Lazy<Trade>,
}

/// What a connection needs once blocks are asked for, on either side: an idle one does without.
#[derive(Debug)]
pub struct Trade {
    /// Requests we wait for, oldest first.
    pub asked: VecDeque<Asked>,
    /// The block whose payload is arriving, and whether it is being dropped.
    pub receiving: Option<Receiving>,
    /// Requests withdrawn without an answer yet: so many unexpected blocks are no offence.
    pub withdrawn: u32,
    /// Blocks that nobody asked for.
    pub unasked: u32,
    /// Requests it waits for.
    pub serving: VecDeque<Block>,
    /// How many requests to keep outstanding.
    pub queue_target: u32,
    /// The queue still grows by one a block.
    slow_start: bool,
    slow_start_mark: (Instant, u64),
    /// Pieces it lets us have while choking us (BEP 6).
    pub allowed: Vec<PieceIndex>,
    /// Pieces we let it have while choking it (BEP 6), with what it has taken of them in blocks.
    pub granted: Vec<PieceIndex>,
    /// Blocks served from the allowed-fast set.
    pub granted_blocks: u32,
    /// Requests of it that were not served because we choke it, since we last unchoked it.
    pub rejects: u32,
    /// Pieces it suggests (BEP 6).
    pub suggested: Vec<PieceIndex>,
    /// Pieces of the info dictionary it waits for (BEP 9).
    pub info_wanted: VecDeque<u32>,
    /// Pieces of the info dictionary it has been given.
    pub info_given: u32,
    /// Payload received, verified or not.
    pub received: Rate,
    /// Payload that passed its hash.
    pub earned: Rate,
    /// Payload its socket took.
    pub given: Rate,
    /// When we last unchoked it.
    pub unchoked_at: Instant,
    /// Payload sent since then.
    pub given_since_unchoke: u64,
    /// Nothing is asked of it before then: it has just refused something.
    pub hold_until: Instant,
}

/// What a peer has been told of other peers, and what it has told (BEP 11).
#[derive(Debug)]
pub struct PexState {
    /// The first change that is new to it; `None` before it was told anything.
    pub seen: Option<u64>,
    /// When it is told next; `FAR` when there is nothing to tell.
    pub due: Instant,
    /// It is told nothing before then.
    pub after: Instant,
    /// When its last message was read.
    pub heard: Option<Instant>,
    /// How many it has sent.
    pub count: u32,
}

impl Default for PexState {
    fn default() -> Self {
        Self { seen: None, due: Instant::FAR, after: Instant::ZERO, heard: None, count: 0 }
    }
}

/// The block whose payload is arriving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receiving {
    /// The block as its header named it.
    pub block: Block,
    /// Its payload is dropped: not asked for, or here already.
    pub dropped: bool,
    /// When its header came.
    pub since: Instant,
}

// Ten thousand of them are held on a small machine.
const _: () = assert!(size_of::<Peer>() <= 400);

impl Trade {
    const EMPTY: Self = Self {
        asked: VecDeque::new(),
        receiving: None,
        withdrawn: 0,
        unasked: 0,
        serving: VecDeque::new(),
        queue_target: QUEUE_START,
        slow_start: true,
        slow_start_mark: (Instant::ZERO, 0),
        allowed: Vec::new(),
        granted: Vec::new(),
        granted_blocks: 0,
        rejects: 0,
        suggested: Vec::new(),
        info_wanted: VecDeque::new(),
        info_given: 0,
        received: Rate::new(Duration::from_secs(3)),
        earned: Rate::new(Duration::from_secs(20)),
        given: Rate::new(Duration::from_secs(20)),
        unchoked_at: Instant::ZERO,
        given_since_unchoke: 0,
        hold_until: Instant::ZERO,
    };
}

impl Empty for Trade {
    fn empty() -> &'static Self {
        static EMPTY: Trade = Trade::EMPTY;
        &EMPTY
    }
    fn fresh() -> Self {
        Self::EMPTY
    }
}

impl Peer {
    /// A peer we dial, or one that dialled us.
    pub fn new(
        now: Instant,
        addr: SocketAddr,
        incoming: bool,
        torrent: Option<TorrentKey>,
        tag: Option<PeerTag>,
    ) -> Self {
        Self {
            torrent,
            addr,
            tag,
            incoming,
            phase: if incoming { Phase::Handshake(Box::default()) } else { Phase::Connecting },
            id: None,
            decoder: Decoder::new(),
            outbox: Lazy::new(),
            have: Bitfield::none(0),
            early: None,
            have_known: false,
            fast: false,
            extended: false,
            upload_only: false,
            choking: true,
            interested: false,
            choked: true,
            wants_us: false,
            snubbed: false,
            optimistic: false,
            wanted_pieces: 0,
            reqq: limits::REQUESTS_OUT_DEFAULT as u32,
            stride: 0,
            ext: ExtMap::default(),
            pex: PexState::default(),
            info_size: None,
            since: now,
            last_in: now,
            last_block: now,
            last_out: now,
            woken: false,
            timer: Instant::FAR,
            trade: Lazy::new(),
        }
    }

    /// Messages flow.
    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live)
    }

    /// Gives back what nothing waits in: for a connection on which little happens.
    pub fn trim(&mut self) {
        if self.outbox.is_empty() {
            self.outbox = Lazy::new();
        }
    }

    /// More waits for its socket, blocks apart, than a peer that reads would let pile up.
    pub fn is_stuck(&self) -> bool {
        self.outbox.control_len() > limits::OUTBOX
    }

    /// It dialled us and has not said who it is.
    pub fn is_stranger(&self) -> bool {
        self.incoming && !self.is_live()
    }

    /// It has all pieces.
    pub fn is_seed(&self) -> bool {
        self.have.is_all() && self.have.len() > 0
    }

    /// We may ask it for blocks of some piece now.
    pub fn may_ask(&self) -> bool {
        self.is_live() && self.interested && (!self.choked || !self.trade.allowed.is_empty())
    }

    /// How many requests to keep outstanding: bandwidth times delay, within what it allows.
    ///
    /// The queue doubles each round trip while that makes the peer faster, then follows its rate
    /// times [`Config::queue_time`]. A snubbed peer gets one.
    pub fn target(&self) -> usize {
        if self.snubbed { 1 } else { self.trade.queue_target.min(self.reqq).max(1) as usize }
    }

    /// Payload arrived: the pipeline follows.
    pub fn on_payload(&mut self, now: Instant, bytes: u64, blocks: u32, config: &Config) {
        self.trade.received.add(now, bytes);
        self.last_block = now;
        if blocks == 0 {
            return;
        }
        self.snubbed = false;
        let cap = config.requests_out.clamp(4, limits::REQUESTS_OUT) as u32;
        if self.trade.slow_start {
            self.trade.queue_target = (self.trade.queue_target + blocks).min(cap);
            let (since, rate) = self.trade.slow_start_mark;
            if now - since >= Duration::from_secs(1) {
                let fresh = self.trade.received.get(now);
                self.trade.slow_start = fresh > rate + rate / 10;
                self.trade.slow_start_mark = (now, fresh);
            }
        } else {
            let ahead = self.trade.received.get(now).saturating_mul(config.queue_time.as_millis() as u64) / 1000;
            self.trade.queue_target = u32::try_from(ahead / u64::from(BLOCK_LEN)).unwrap_or(cap).clamp(4, cap);
        }
    }

    /// It choked us: the pipeline starts small again, or flapping would cost us a full one each time.
    pub fn on_choke(&mut self, now: Instant) {
        self.choked = true;
        self.trade.queue_target = QUEUE_START;
        self.trade.slow_start = true;
        self.trade.slow_start_mark = (now, 0);
    }

    /// What its next deadline is: a timeout of its phase, a keep-alive, or a snub. What is not urgent is due at whole
    /// seconds: of idle peers there may be thousands, and one wake-up serves all of them.
    pub fn deadline(&self, config: &Config) -> Instant {
        match self.phase {
            Phase::Connecting => (self.since + limits::CONNECT_TIMEOUT).ceil_second(),
            Phase::Handshake(_) => (self.since + limits::HANDSHAKE_TIMEOUT).ceil_second(),
            Phase::Live => {
                let mut at = (self.last_in + limits::PEER_TIMEOUT).min(self.pex.due).ceil_second();
                at = at.min(self.keep_alive_at());
                if !self.trade.asked.is_empty() && !self.snubbed {
                    at = at.min(self.last_block + config.snub_timeout);
                }
                if self.trade.hold_until != Instant::ZERO {
                    at = at.min(self.trade.hold_until);
                }
                at
            }
        }
    }

    /// When it is sent a keep-alive, unless something else goes out before.
    pub fn keep_alive_at(&self) -> Instant {
        (self.last_out + limits::KEEP_ALIVE).floor_second()
    }

    /// Takes the request for `block` off the list; usually it is the oldest.
    pub fn take_asked(&mut self, block: &Block) -> Option<Asked> {
        let at = self.trade.asked.iter().position(|a| a.block == *block)?;
        self.trade.asked.remove(at)
    }

    /// It is waiting for this block.
    pub fn has_asked(&self, block: &Block) -> bool {
        self.trade.asked.iter().any(|a| a.block == *block)
    }

    /// Bytes that are kept for it because it does not read, or has not finished a message.
    pub fn waiting(&self) -> usize {
        self.outbox.control_len() + self.decoder.memory()
    }

    /// Heap and inline bytes this peer costs.
    pub fn memory(&self) -> usize {
        size_of::<Self>()
            + self.decoder.memory()
            + self.outbox.held()
            + self.outbox.memory()
            + self.trade.held()
            + self.have.memory()
            + self.early.as_ref().map_or(0, |e| e.memory())
            + self.trade.info_wanted.capacity() * size_of::<u32>()
            + self.trade.asked.capacity() * size_of::<Asked>()
            + self.trade.serving.capacity() * size_of::<Block>()
            + (self.trade.allowed.capacity() + self.trade.granted.capacity() + self.trade.suggested.capacity())
                * size_of::<PieceIndex>()
    }
}
