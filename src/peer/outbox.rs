//! What waits for a peer's socket: control bytes, and blocks by reference.
//!
//! Blocks are queued as coordinates and filled in by the pump when the socket can take them, so
//! payload is never held here. The order of the queue is the order on the wire; a block that has
//! begun to leave cannot be taken back, one that has not can ([`Outbox::withdraw`]).

use std::collections::VecDeque;

use crate::id::{Block, PieceIndex, TorrentKey};
use crate::lazy::Empty;
use crate::wire::{self, Message, PIECE_HEADER_LEN};

/// The next bytes to send, or where they rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// The payload of a block from `at` on.
    Block {
        /// Whose files.
        torrent: TorrentKey,
        /// The block.
        block: Block,
        /// Bytes of it that have been sent.
        at: u32,
    },
}

#[derive(Debug)]
enum Item {
    Bytes(u32),
    Block { block: Block, at: u32 },
}

/// One connection's send queue.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// Bytes of `bytes` that have been sent.
    head: usize,
    items: VecDeque<Item>,
    payload: u64,
}

/// What a write took from the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Payload bytes.
    pub payload: u64,
    /// Whole blocks that are gone.
    pub blocks: u32,
}

impl Empty for Outbox {
    fn empty() -> &'static Self {
        static EMPTY: Outbox = Outbox::new();
        &EMPTY
    }
    fn fresh() -> Self {
        Self::new()
    }
}

impl Outbox {
    const fn new() -> Self {
        Self { bytes: Vec::new(), head: 0, items: VecDeque::new(), payload: 0 }
    }

    /// Nothing is waiting.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Control bytes that are waiting.
    pub fn control_len(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// Payload bytes that are waiting.
    pub fn payload_len(&self) -> u64 {
        self.payload
    }

    /// Queues raw bytes.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        self.append(|out| out.extend_from_slice(bytes));
    }

    /// Queues a message.
    pub fn push(&mut self, message: &Message<'_>) {
        self.append(|out| wire::encode(message, out));
    }

    /// Queues a `piece` message for this block.
    pub fn push_block(&mut self, block: Block) {
        self.push_bytes(&wire::piece_header(&block));
        self.items.push_back(Item::Block { block, at: 0 });
        self.payload += u64::from(block.len);
    }

    /// Takes back the `piece` messages for blocks of this piece and returns the blocks.
    ///
    /// # Errors
    /// One of them has begun to leave, which nothing but closing the connection can end; nothing is taken back then.
    pub fn withdraw(&mut self, piece: PieceIndex) -> Result<Vec<Block>, Block> {
        const HEADER: u32 = PIECE_HEADER_LEN as u32;
        // Headers are the last bytes before their blocks, so only the first block can have begun.
        let mut left = 0;
        for item in &self.items {
            match *item {
                Item::Bytes(len) => left = len,
                Item::Block { block, .. } if block.piece == piece && left < HEADER => return Err(block),
                Item::Block { .. } => break,
            }
        }
        if !self.items.iter().any(|i| matches!(i, Item::Block { block, .. } if block.piece == piece)) {
            return Ok(Vec::new());
        }
        let (mut kept, mut gone, mut pos) = (Self::new(), Vec::new(), self.head);
        for item in &self.items {
            match *item {
                Item::Bytes(len) => {
                    kept.push_bytes(&self.bytes[pos..pos + len as usize]);
                    pos += len as usize;
                }
                Item::Block { block, .. } if block.piece == piece => {
                    kept.drop_last(HEADER);
                    gone.push(block);
                }
                Item::Block { block, at } => {
                    kept.items.push_back(Item::Block { block, at });
                    kept.payload += u64::from(block.len - at);
                }
            }
        }
        *self = kept;
        Ok(gone)
    }

    /// Takes the last `n` bytes back, of those that nothing was queued behind.
    fn drop_last(&mut self, n: u32) {
        self.bytes.truncate(self.bytes.len() - n as usize);
        if let Some(Item::Bytes(len)) = self.items.back_mut() {
            *len -= n;
            if *len == 0 {
                self.items.pop_back();
            }
        }
    }

    fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.head == self.bytes.len() {
            self.bytes.clear();
            self.head = 0;
        } else if self.head > 4096 && self.head * 2 > self.bytes.len() {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
        let before = self.bytes.len();
        write(&mut self.bytes);
        let n = u32::try_from(self.bytes.len() - before).expect("messages are far below 4 GiB");
        match self.items.back_mut() {
            _ if n == 0 => {}
            Some(Item::Bytes(len)) => *len += n,
            _ => self.items.push_back(Item::Bytes(n)),
        }
    }

    /// What to send, in order.
    pub fn chunks(&self, torrent: TorrentKey) -> impl Iterator<Item = Chunk<'_>> {
        let mut pos = self.head;
        self.items.iter().map(move |item| match *item {
            Item::Bytes(len) => {
                let at = pos;
                pos += len as usize;
                Chunk::Bytes(&self.bytes[at..pos])
            }
            Item::Block { block, at } => Chunk::Block { torrent, block, at },
        })
    }

    /// The socket took `n` bytes.
    pub fn sent(&mut self, mut n: usize) -> Sent {
        let mut done = Sent::default();
        while n > 0 {
            match self.items.front_mut().expect("the socket cannot take more than was offered") {
                Item::Bytes(len) => {
                    let take = n.min(*len as usize);
                    *len -= take as u32;
                    self.head += take;
                    n -= take;
                    if *len > 0 {
                        break;
                    }
                }
                Item::Block { block, at } => {
                    let take = n.min((block.len - *at) as usize);
                    *at += take as u32;
                    n -= take;
                    done.payload += take as u64;
                    if *at < block.len {
                        break;
                    }
                    done.blocks += 1;
                }
            }
            self.items.pop_front();
        }
        self.payload -= done.payload;
        if self.items.is_empty() && self.bytes.capacity() > 4096 {
            self.bytes = Vec::new();
            self.head = 0;
        }
        done
    }

    /// Heap bytes held.
    pub fn memory(&self) -> usize {
        self.bytes.capacity() + self.items.capacity() * size_of::<Item>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lens(o: &Outbox) -> Vec<usize> {
        o.chunks(TorrentKey::new(0, 0))
            .map(|c| match c {
                Chunk::Bytes(b) => b.len(),
                Chunk::Block { block, at, .. } => (block.len - at) as usize,
            })
            .collect()
    }

    #[test]
    fn partial_writes_are_accounted_exactly() {
        let mut o = Outbox::default();
        o.push(&Message::Unchoke);
        o.push_block(Block::new(1, 0, 100));
        o.push_block(Block::new(1, 100, 50));
        assert_eq!(lens(&o), [5 + 13, 100, 13, 50]);
        assert_eq!(o.sent(10), Sent::default());
        assert_eq!(o.sent(8 + 99), Sent { payload: 99, blocks: 0 });
        assert_eq!(o.sent(1 + 13 + 10), Sent { payload: 11, blocks: 1 });
        assert_eq!(lens(&o), [40]);
        assert_eq!(o.payload_len(), 40);
        assert_eq!(o.sent(40), Sent { payload: 40, blocks: 1 });
        assert!(o.is_empty() && o.control_len() == 0);
    }

    #[test]
    fn bytes_queued_while_others_are_half_sent_keep_their_order() {
        let mut o = Outbox::default();
        o.push_bytes(b"abcdef");
        o.sent(3);
        o.push_bytes(b"ghi");
        let all: Vec<u8> = o
            .chunks(TorrentKey::new(0, 0))
            .flat_map(|c| match c {
                Chunk::Bytes(b) => b.to_vec(),
                Chunk::Block { .. } => unreachable!(),
            })
            .collect();
        assert_eq!(all, b"defghi");
    }

    #[test]
    fn blocks_of_a_piece_are_taken_back_with_their_headers() {
        let piece = PieceIndex::new(1);
        let queue = || {
            let mut o = Outbox::default();
            o.push_block(Block::new(0, 0, 9));
            o.push(&Message::Unchoke);
            o.push_block(Block::new(1, 0, 100));
            o.push_block(Block::new(1, 100, 50));
            o.push(&Message::Choke);
            o.push_block(Block::new(2, 0, 7));
            o
        };
        let whole = |o: &Outbox| -> Vec<u8> {
            let bytes = |c| match c {
                Chunk::Bytes(b) => b.to_vec(),
                Chunk::Block { block, at, .. } => vec![b'0' + block.piece.get() as u8; (block.len - at) as usize],
            };
            o.chunks(TorrentKey::new(0, 0)).flat_map(bytes).collect()
        };
        let mut wanted = Outbox::default();
        wanted.push_block(Block::new(0, 0, 9));
        wanted.push(&Message::Unchoke);
        wanted.push(&Message::Choke);
        wanted.push_block(Block::new(2, 0, 7));
        let wanted = whole(&wanted);
        let left = 13 + 9 + 5;
        for n in 0..left {
            let mut o = queue();
            o.sent(n);
            assert_eq!(o.withdraw(piece), Ok(vec![Block::new(1, 0, 100), Block::new(1, 100, 50)]), "{n}");
            assert_eq!(
                (whole(&o), o.payload_len()),
                (wanted[n..].to_vec(), 7 + (9 - n.saturating_sub(13).min(9)) as u64)
            );
            assert_eq!(o.withdraw(piece), Ok(vec![]));
        }
        for n in left + 1..left + 13 + 100 {
            let mut o = queue();
            o.sent(n);
            let before = whole(&o);
            assert_eq!(o.withdraw(piece), Err(Block::new(1, 0, 100)), "{n}");
            assert_eq!(whole(&o), before);
        }
        // The first is gone, the second may go.
        let mut o = queue();
        o.sent(left + 13 + 100);
        assert_eq!(o.withdraw(piece), Ok(vec![Block::new(1, 100, 50)]));
        assert_eq!(whole(&o), wanted[left..]);
    }
}
