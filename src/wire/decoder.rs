//! Messages out of a stream that arrives in any split; headers only.
//!
//! ```text
//!            header of a piece message (13 bytes): BlockStart
//!   Head ─────────────────────────────────────────────────────▶ Payload ──┐ filled(n) until the
//!   │ ▲ │                                                        ▲        │ block is complete
//!   │ │ └─ long message, not whole in the input ─▶ Long ─┐       │        │
//!   │ │ └─ unknown id, likewise ─────────────────▶ Skip ─┤   begin_block  │
//!   │ └───────────────── complete: Message ──────────────┘                │
//!   └◀────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A message that lies whole in the input is read where it lies. Otherwise its bytes are kept: up
//! to 17 inline, which is every message of a fixed length and the header of a block; the rest
//! (`bitfield`, `extended`) in a heap buffer that grows with what really came, never ahead of it,
//! and is gone once the message has been handed out. Unknown messages are counted, not kept.
//!
//! A block's bytes never come here: after [`Event::BlockStart`] the caller puts them where they
//! belong and says how many with [`Decoder::filled`].
//!
//! Invariants: a length is checked against its limit as soon as its 4 bytes are in, and against its
//! id with the fifth; `Payload` always has bytes to come; the state between two messages is the
//! same whatever the split was. After an error the stream has no next message: close it.
//!
//! Not here: what messages mean, whether a block was asked for.
//!
//! Link: [BEP 3](https://www.bittorrent.org/beps/bep_0003.html).

use super::message::{Kind, PIECE_HEADER_LEN, id, kind, parse};
use super::{Message, WireError};
use crate::config::limits;
use crate::id::{Block, PieceIndex};

/// The longest message that is kept inline: `request` and its kin, with the length field.
const INLINE: usize = 17;

/// How a `have` begins.
const HAVE: &[u8; 5] = &[0, 0, 0, 5, id::HAVE];

/// The first allocation for a long message.
const FIRST_HEAP: usize = 256;

/// What the decoder takes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// Bytes, by [`Decoder::feed`].
    Bytes,
    /// Bytes of this block from offset `at` within the block on, by [`Decoder::filled`].
    Payload {
        /// The block that is arriving.
        block: Block,
        /// How many of its bytes have landed; below `block.len`.
        at: u32,
    },
}

/// What [`Decoder::feed`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// A message, never [`Message::Piece`].
    Message(Message<'a>),
    /// The header of a `piece` message. If the block is not empty its bytes follow, and
    /// [`Decoder::want`] is [`Want::Payload`].
    BlockStart(Block),
}

#[derive(Debug)]
enum State {
    /// Between messages (`have` is 0), or `have` bytes of one that fits.
    Head { buf: [u8; INLINE], have: u8 },
    /// A long message's body so far, the id included; complete (`total` bytes) only between the
    /// call that hands it out and the next.
    Long { body: Vec<u8>, total: u32 },
    /// A message that is thrown away: `left` of its `len` bytes behind the id are to come.
    Skip { id: u8, len: u32, left: u32 },
    /// `at` bytes of a block have landed, fewer than it has.
    Payload { block: Block, at: u32 },
}

impl State {
    const BOUNDARY: Self = Self::Head { buf: [0; INLINE], have: 0 };
}

/// What the first bytes of a message say about reading the rest of it. Counts include the length
/// field.
enum Plan {
    /// Nothing yet: this many bytes are wanted first.
    Head(usize),
    /// It is this long and fits inline.
    Inline(usize),
    /// It has a body of this many bytes, of any number.
    Long(u32),
    /// It is not known and has this many bytes behind its id.
    Skip(u8, u32),
    /// It is a block's header.
    Piece,
}

/// What [`Decoder::collect`] came to; the message itself is in the decoder's buffers.
enum Step {
    /// All input is taken, the message is not complete.
    More,
    /// The message and its length field are the first bytes of the inline buffer.
    Inline(usize),
    /// The message is the heap buffer.
    Heap,
    /// The last byte of an unknown message was thrown away.
    Unknown(u8, u32),
    /// The header of a block is in.
    Block(Block),
}

/// Reads the messages of one connection.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// Largest length field of a `bitfield`; at least [`limits::FRAME`].
    bitfield: u32,
}

impl Decoder {
    /// A decoder between two messages, with the limits of a torrent that is not known.
    pub const fn new() -> Self {
        Self { state: State::BOUNDARY, bitfield: limits::FRAME }
    }

    /// Accepts bitfields of up to `bytes`, when that is more than [`limits::FRAME`] allows.
    pub fn set_bitfield_len(&mut self, bytes: usize) {
        self.bitfield = u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(1).max(limits::FRAME);
    }

    /// Whether bytes go to [`feed`](Self::feed) or to a block's place.
    pub const fn want(&self) -> Want {
        match self.state {
            State::Payload { block, at } => Want::Payload { block, at },
            _ => Want::Bytes,
        }
    }

    /// Takes at most one message from `input`: how many bytes were taken, and what they made.
    /// `None` means that all of `input` was taken and a message is incomplete, or that payload is
    /// wanted (nothing is taken then).
    ///
    /// A `piece` message without data gives an [`Event::BlockStart`] of length 0, and the next
    /// bytes are the next message.
    ///
    /// # Errors
    /// [`WireError::FrameTooLong`] and [`WireError::BadLength`], as early as they can be told.
    #[inline]
    pub fn feed<'a>(&'a mut self, input: &'a [u8]) -> Result<(usize, Option<Event<'a>>), WireError> {
        match self.state {
            State::Payload { .. } => return Ok((0, None)),
            State::Head { have: 0, .. } => {
                // The message that comes by the thousand, ahead of the general way.
                if let Some((head, rest)) = input.split_first_chunk::<5>() {
                    if let (HAVE, Some(piece)) = (head, rest.first_chunk()) {
                        let piece = PieceIndex::new(u32::from_be_bytes(*piece));
                        return Ok((9, Some(Event::Message(Message::Have(piece)))));
                    }
                }
                if let Some((taken, event)) = self.whole(input)? {
                    return Ok((taken, Some(event)));
                }
            }
            _ => self.trim(),
        }
        self.split(input)
    }

    /// Tells that `n` bytes of the block have landed; the block when that was all of it.
    ///
    /// # Panics
    /// When no payload is wanted, or less than `n`.
    #[inline]
    pub fn filled(&mut self, n: u32) -> Option<Block> {
        let State::Payload { block, at } = &mut self.state else { panic!("filled({n}) while no payload is wanted") };
        assert!(n <= block.len - *at, "filled({n}) at {at} of {block:?}");
        *at += n;
        if *at < block.len {
            return None;
        }
        let block = *block;
        self.state = State::BOUNDARY;
        Some(block)
    }

    /// Whether nothing partial is held: the next byte is the first of a message.
    pub fn at_boundary(&self) -> bool {
        match &self.state {
            State::Head { have, .. } => *have == 0,
            State::Long { body, total } => body.len() == *total as usize,
            State::Skip { .. } | State::Payload { .. } => false,
        }
    }

    /// The header of this block was seen elsewhere: the same state as after its
    /// [`Event::BlockStart`].
    ///
    /// # Panics
    /// When not [at a boundary](Self::at_boundary).
    pub fn begin_block(&mut self, block: Block) {
        assert!(self.at_boundary(), "a block cannot begin within a message");
        self.start(block);
    }

    /// Bytes held on the heap: 0 unless a long message is incomplete, or was handed out by the last
    /// call of [`feed`](Self::feed).
    pub fn memory(&self) -> usize {
        match &self.state {
            State::Long { body, .. } => body.capacity(),
            _ => 0,
        }
    }

    /// Gives back the buffer of a long message that has been handed out. The next
    /// [`feed`](Self::feed) does so too; this is for a connection that may say nothing for minutes.
    pub fn trim(&mut self) {
        if matches!(&self.state, State::Long { body, total } if body.len() == *total as usize) {
            self.state = State::BOUNDARY;
        }
    }

    fn start(&mut self, block: Block) {
        self.state = if block.len == 0 { State::BOUNDARY } else { State::Payload { block, at: 0 } };
    }

    /// Reads the first bytes of a message, however many there are.
    #[inline]
    fn plan(&self, bytes: &[u8]) -> Result<Plan, WireError> {
        let Some((head, rest)) = bytes.split_first_chunk::<4>() else { return Ok(Plan::Head(4)) };
        let len = u32::from_be_bytes(*head);
        if len > self.bitfield {
            return Err(WireError::FrameTooLong { len, limit: self.bitfield });
        }
        if len == 0 {
            return Ok(Plan::Inline(4));
        }
        let Some(&id) = rest.first() else { return Ok(Plan::Head(5)) };
        let limit = match id {
            id::BITFIELD => self.bitfield,
            id::EXTENDED => limits::EXTENDED_FRAME,
            _ => limits::FRAME,
        };
        if len > limit {
            return Err(WireError::FrameTooLong { len, limit });
        }
        Ok(match kind(id, len)? {
            Kind::Fixed => Plan::Inline(4 + len as usize),
            Kind::Variable => Plan::Long(len),
            Kind::Unknown => Plan::Skip(id, len - 1),
            Kind::Piece => Plan::Piece,
        })
    }

    /// Reads a message that lies whole at the start of `input`.
    #[inline]
    fn whole<'a>(&mut self, input: &'a [u8]) -> Result<Option<(usize, Event<'a>)>, WireError> {
        let end = match self.plan(input)? {
            Plan::Head(_) => return Ok(None),
            Plan::Piece => {
                let Some(header) = input.first_chunk() else { return Ok(None) };
                let block = block(header);
                self.start(block);
                return Ok(Some((PIECE_HEADER_LEN, Event::BlockStart(block))));
            }
            Plan::Inline(n) => n,
            Plan::Long(len) => 4 + len as usize,
            Plan::Skip(_, len) => 5 + len as usize,
        };
        let Some(body) = input.get(4..end) else { return Ok(None) };
        Ok(Some((end, Event::Message(parse(body)?))))
    }

    /// Reads on in a message that does not lie whole in the input.
    fn split<'a>(&'a mut self, input: &[u8]) -> Result<(usize, Option<Event<'a>>), WireError> {
        let (taken, step) = self.collect(input)?;
        let body = match (step, &self.state) {
            (Step::More, _) => return Ok((taken, None)),
            (Step::Block(block), _) => return Ok((taken, Some(Event::BlockStart(block)))),
            (Step::Unknown(id, len), _) => return Ok((taken, Some(Event::Message(Message::Unknown { id, len })))),
            (Step::Inline(n), State::Head { buf, .. }) => &buf[4..n],
            (Step::Heap, State::Long { body, .. }) => body.as_slice(),
            (Step::Inline(_) | Step::Heap, _) => unreachable!("a step names the state it was made in"),
        };
        Ok((taken, Some(Event::Message(parse(body)?))))
    }

    /// Keeps bytes of `input` until the message is complete: how many were taken.
    fn collect(&mut self, input: &[u8]) -> Result<(usize, Step), WireError> {
        let mut taken = 0;
        loop {
            let plan = match &self.state {
                State::Head { buf, have } => Some(self.plan(&buf[..usize::from(*have)])?),
                _ => None,
            };
            let rest = &input[taken..];
            match &mut self.state {
                State::Head { buf, have } => {
                    let goal = match plan {
                        Some(Plan::Head(n) | Plan::Inline(n)) => n,
                        Some(Plan::Piece) => PIECE_HEADER_LEN,
                        Some(Plan::Long(total)) => {
                            let mut body = Vec::with_capacity(FIRST_HEAP.min(total as usize));
                            body.push(buf[4]);
                            self.state = State::Long { body, total };
                            continue;
                        }
                        Some(Plan::Skip(id, len)) => {
                            self.state = State::Skip { id, len, left: len };
                            continue;
                        }
                        None => unreachable!("made above from the same state"),
                    };
                    let held = usize::from(*have);
                    let n = rest.len().min(goal - held);
                    buf[held..held + n].copy_from_slice(&rest[..n]);
                    *have += n as u8;
                    taken += n;
                    match plan {
                        _ if held + n < goal => return Ok((taken, Step::More)),
                        Some(Plan::Inline(n)) => {
                            *have = 0;
                            return Ok((taken, Step::Inline(n)));
                        }
                        Some(Plan::Piece) => {
                            let block = block(buf.first_chunk().expect("the buffer is longer than a block's header"));
                            self.start(block);
                            return Ok((taken, Step::Block(block)));
                        }
                        _ => {}
                    }
                }
                State::Long { body, total } => {
                    let n = rest.len().min(*total as usize - body.len());
                    append(body, &rest[..n], *total as usize);
                    let step = if body.len() == *total as usize { Step::Heap } else { Step::More };
                    return Ok((taken + n, step));
                }
                State::Skip { id, len, left } => {
                    let n = rest.len().min(*left as usize);
                    *left -= n as u32;
                    taken += n;
                    if *left > 0 {
                        return Ok((taken, Step::More));
                    }
                    let step = Step::Unknown(*id, *len);
                    self.state = State::BOUNDARY;
                    return Ok((taken, step));
                }
                State::Payload { .. } => unreachable!("payload never comes here"),
            }
        }
    }
}
impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

/// Appends to a message that will have `total` bytes, doubling the buffer until it has room for all.
fn append(body: &mut Vec<u8>, bytes: &[u8], total: usize) {
    let len = body.len() + bytes.len();
    if len > body.capacity() {
        body.reserve_exact(len.max(2 * body.capacity()).min(total) - body.len());
    }
    body.extend_from_slice(bytes);
}

/// The block a piece message's header names. Its length field was checked: 9 or more.
#[inline]
fn block(header: &[u8; PIECE_HEADER_LEN]) -> Block {
    let field = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    Block::new(field(5), field(9), field(0) - 9)
}

#[cfg(test)]
mod tests;
