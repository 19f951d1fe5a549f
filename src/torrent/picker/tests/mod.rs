//! The picker against a naive model, and by example.

mod model;
mod scenarios;

use super::*;
use crate::rng::seeded;

fn p(i: u32) -> PieceIndex {
    PieceIndex::new(i)
}

fn b(piece: u32, block: u32) -> BlockRef {
    BlockRef { piece: p(piece), block }
}

fn conn(i: u32) -> ConnKey {
    ConnKey::new(i, 1)
}

fn bits(len: u32, pieces: impl IntoIterator<Item = u32>) -> Bitfield {
    let mut bits = Bitfield::none(len);
    for i in pieces {
        assert!(bits.set(p(i)));
    }
    bits
}

/// A plain pick of a medium peer.
fn ask(conn: ConnKey, have: &Bitfield, count: usize) -> Pick<'_> {
    Pick { conn, have, count, speed: Speed::Medium, only: None, suggested: &[], endgame: false, mine: &|_| false }
}
