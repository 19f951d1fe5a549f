//! The picker by example.

use super::*;

struct Rig {
    picker: Picker,
    rng: Rng,
}

impl Rig {
    /// Pieces of four blocks, the last of one.
    fn new(pieces: u32) -> Self {
        let mut rng = seeded(11);
        Self { picker: Picker::new(4, pieces, 1, &mut rng), rng }
    }

    /// As `new`, with pieces `100 ..` of 104 here already: past the lottery of the first four.
    fn past_the_first() -> Self {
        let mut rig = Self::new(104);
        (100..104).for_each(|i| rig.picker.set_have(p(i)));
        rig
    }

    fn pick(&mut self, req: Pick<'_>) -> Vec<BlockRef> {
        let mut out = Vec::new();
        self.picker.pick(req, &mut self.rng, &mut out);
        self.picker.invariants();
        out
    }

    fn pieces(&mut self, req: Pick<'_>) -> Vec<u32> {
        let mut pieces: Vec<_> = self.pick(req).iter().map(|b| b.piece.get()).collect();
        pieces.dedup();
        pieces
    }

    fn receive(&mut self, b: BlockRef, conn: ConnKey) -> Taken {
        let taken = self.picker.on_block(b, conn, PeerTag::new(conn.index() as u32 + 70));
        self.picker.invariants();
        taken
    }
}

#[test]
fn a_piece_that_was_half_done_or_being_checked_can_be_forgotten() {
    let mut rig = Rig::new(8);
    let everything = Bitfield::all(8);
    rig.picker.on_peer_bitfield(&everything);
    let got = rig.pick(ask(conn(1), &everything, 6));
    for b in &got {
        let _ = rig.receive(*b, conn(1));
    }
    for piece in got.iter().map(|b| b.piece) {
        rig.picker.forget(piece);
        rig.picker.invariants();
        assert!(rig.picker.wants(piece) && rig.picker.contributors(piece).is_empty());
    }
    assert_eq!(rig.pick(ask(conn(2), &everything, 64)).len(), 4 * 7 + 1, "all are to be had again");
}

#[test]
fn the_rarest_come_first_and_equals_by_lot() {
    let mut rig = Rig::past_the_first();
    let everything = Bitfield::all(104);
    rig.picker.on_peer_bitfield(&everything);
    rig.picker.on_peer_bitfield(&bits(104, (0..100).filter(|i| i % 10 != 3)));
    rig.picker.on_peer_bitfield(&bits(104, (0..100).filter(|i| i % 10 != 3 && i % 10 != 7)));
    let got = rig.pieces(ask(conn(1), &everything, 4 * 30));
    let (rarest, rest) = got.split_at(10);
    assert!(rarest.iter().all(|i| i % 10 == 3), "{rarest:?}");
    assert!(rest[..10].iter().all(|i| i % 10 == 7), "{rest:?}");
    assert!(!rarest.is_sorted() && !rest[10..].is_sorted(), "no order among equals");
    // A peer that lacks them is given what it has, rarest first.
    rig.picker.on_peer_have(p(20));
    let partial = bits(104, [3, 7, 20, 21, 22]);
    rig.picker.on_peer_lost(p(22));
    let left: Vec<_> = [22, 21, 20].into_iter().filter(|i| !got.contains(i)).collect();
    assert!(left.len() > 1);
    assert_eq!(rig.pieces(ask(conn(2), &partial, 99)), left);
}

#[test]
fn the_first_four_pieces_are_any() {
    let seed = Bitfield::all(1000);
    let mut begun = Vec::new();
    for s in 0..40 {
        let mut rig = Rig { picker: Picker::new(1, 1000, 1, &mut seeded(s)), rng: seeded(s) };
        rig.picker.on_peer_bitfield(&seed);
        rig.picker.on_peer_bitfield(&bits(1000, 1..1000));
        begun.extend(rig.pieces(ask(conn(1), &seed, 1)));
        (990..994).for_each(|i| rig.picker.set_have(p(i)));
        assert_eq!(rig.pieces(ask(conn(1), &seed, 1)), [0], "the rarest from the fifth on");
    }
    begun.sort_unstable();
    begun.dedup();
    assert!(begun.len() > 30 && begun[0] < 200 && *begun.last().unwrap() > 800, "{begun:?}");
}

#[test]
fn priorities_before_rarity_and_nothing_skipped() {
    let mut rig = Rig::past_the_first();
    let seed = Bitfield::all(104);
    rig.picker.on_peer_bitfield(&seed);
    rig.picker.on_peer_bitfield(&bits(104, [5, 6]));
    (10..104).for_each(|i| rig.picker.set_priority(p(i), Priority::Skip));
    rig.picker.set_priority(p(5), Priority::High);
    rig.picker.set_priority(p(1), Priority::Low);
    assert_eq!(rig.picker.wanted_left(), 10);
    assert!(!rig.picker.wants_any(&bits(104, [10, 50])) && rig.picker.wants_any(&bits(104, [10, 9])));
    let got = rig.pieces(ask(conn(1), &seed, 1000));
    assert_eq!((got[0], got[8], got[9], got.len()), (5, 6, 1, 10));
    assert!(rig.picker.in_endgame());
    rig.picker.set_priority(p(12), Priority::High);
    assert!(!rig.picker.in_endgame());
    assert_eq!(rig.pick(ask(conn(1), &seed, 2)), [b(12, 0), b(12, 1)]);
    // Skipping a begun piece keeps what is under way and gives out no more of it.
    rig.picker.set_priority(p(12), Priority::Skip);
    assert!(rig.pick(ask(conn(2), &seed, 9)).is_empty());
    assert!(!rig.picker.missing(b(12, 0)), "not wanted any more");
    assert_eq!(rig.receive(b(12, 0), conn(1)), Taken::Block);
    rig.picker.set_priority(p(12), Priority::Low);
    assert_eq!(rig.pick(ask(conn(2), &seed, 9)), [b(12, 2), b(12, 3)]);
}

#[test]
fn in_order_when_asked_for() {
    let mut rig = Rig::new(50);
    let seed = Bitfield::all(50);
    rig.picker.on_peer_bitfield(&seed);
    rig.picker.on_peer_bitfield(&bits(50, 0..20));
    rig.picker.set_sequential(true);
    rig.picker.set_priority(p(30), Priority::High);
    assert_eq!(rig.pieces(ask(conn(1), &seed, 4 * 4)), [30, 0, 1, 2]);
    assert_eq!(rig.pieces(ask(conn(2), &bits(50, [2, 8, 5]), 99)), [5, 8]);
    rig.picker.set_have(p(3));
    rig.picker.lose(p(3));
    assert_eq!(rig.pieces(ask(conn(1), &seed, 5)), [3, 4]);
}

#[test]
fn one_connection_gets_the_blocks_of_a_piece_in_order() {
    let mut rig = Rig::past_the_first();
    let seed = Bitfield::all(104);
    rig.picker.on_peer_bitfield(&seed);
    let first = rig.pick(ask(conn(1), &seed, 3));
    let i = first[0].piece.get();
    assert_eq!(first, [b(i, 0), b(i, 1), b(i, 2)]);
    let second = rig.pick(ask(conn(1), &seed, 3));
    let j = second[1].piece.get();
    assert_eq!(second, [b(i, 3), b(j, 0), b(j, 1)], "the piece it works on, then a new one");
    assert_eq!(rig.pick(ask(conn(2), &seed, 2)), [b(j, 2), b(j, 3)], "begun before new");
    // Its own piece before one that is nearer to its end.
    let own = rig.pick(ask(conn(3), &seed, 1))[0].piece.get();
    let other = (0..100).find(|&k| k != i && k != j && k != own).unwrap();
    (0..3).for_each(|block| assert!(!rig.picker.mark_block_have(p(other), block)));
    assert_eq!(rig.pick(ask(conn(3), &seed, 4)), [b(own, 1), b(own, 2), b(own, 3), b(other, 3)]);
}

#[test]
fn a_fast_peer_has_its_pieces_to_itself() {
    let mut rig = Rig::past_the_first();
    let seed = Bitfield::all(104);
    rig.picker.on_peer_bitfield(&seed);
    let of = |conn, speed, count| Pick { speed, ..ask(conn, &seed, count) };
    let mine = rig.pick(of(conn(1), Speed::Fast, 2))[0].piece;
    let other = rig.pick(of(conn(2), Speed::Medium, 2))[0].piece;
    assert_ne!(mine, other, "left to the fast one");
    let third = rig.pick(of(conn(3), Speed::Fast, 3));
    assert_eq!(third[..2], [b(other.get(), 2), b(other.get(), 3)], "a fast one helps where none works");
    assert_ne!(third[2].piece, mine);
    let slow = rig.pick(of(conn(4), Speed::Slow, 1));
    assert_eq!(slow, [b(mine.get(), 2)], "a slow one helps with the piece that has the fewest free blocks");
    // When the fast one gives up, its piece is for all.
    rig.picker.withdraw(b(mine.get(), 0), conn(1));
    assert_eq!(rig.receive(b(mine.get(), 1), conn(1)), Taken::Block);
    assert_eq!(rig.pick(of(conn(2), Speed::Medium, 2)), [b(mine.get(), 0), b(mine.get(), 3)]);
}

#[test]
fn when_too_many_pieces_are_begun_these_come_first() {
    let mut rig = Rig::past_the_first();
    let seed = Bitfield::all(104);
    rig.picker.on_peer_bitfield(&seed);
    for i in 0..2 {
        let got = rig.pick(Pick { speed: Speed::Fast, ..ask(conn(i), &bits(104, [i]), 1) });
        assert_eq!(got, [b(i, 0)]);
    }
    let fresh = rig.pick(Pick { speed: Speed::Fast, ..ask(conn(9), &seed, 1) });
    assert!(fresh[0].piece.get() > 1, "two pieces of two peers are not many");
    for i in 5..9 {
        rig.picker.mark_block_have(p(i), 0);
    }
    let got = rig.pieces(Pick { speed: Speed::Fast, ..ask(conn(8), &seed, 7 * 3) });
    assert_eq!(got.len(), 7, "seven of three peers are: {got:?}");
    assert!(got.contains(&0) && got.contains(&1) && got.contains(&fresh[0].piece.get()));
}

#[test]
fn suggested_and_allowed_fast_pieces() {
    let mut rig = Rig::past_the_first();
    let seed = Bitfield::all(104);
    rig.picker.on_peer_bitfield(&seed);
    let suggested = [p(100), p(40), p(4000), p(17)];
    let got = rig.pieces(Pick { suggested: &suggested, ..ask(conn(1), &seed, 9) });
    assert_eq!(got[..2], [40, 17], "in the order they were suggested, but those that are wanted");
    let only = [p(101), p(17), p(60), p(61)];
    let have = bits(104, [60, 17, 80]);
    let got = rig.pick(Pick { only: Some(&only), ..ask(conn(2), &have, 99) });
    assert_eq!(got.iter().map(|b| b.piece.get()).collect::<Vec<_>>(), [60; 4], "no other, though free ones are left");
    let again = rig.pick(Pick { only: Some(&only), endgame: true, ..ask(conn(3), &bits(104, [17, 99]), 2) });
    assert_eq!(again, [b(17, 0), b(17, 1)], "allowed to be requested twice");
}

#[test]
fn endgame_requests_twice_and_cancels_the_rest() {
    let mut rig = Rig::new(7);
    let seed = Bitfield::all(7);
    rig.picker.on_peer_bitfield(&seed);
    let of = |conn, count| Pick { endgame: true, ..ask(conn, &seed, count) };
    assert!(!rig.picker.in_endgame());
    let all = rig.pick(ask(conn(1), &seed, 99));
    assert_eq!(all.len(), 25);
    assert!(rig.picker.in_endgame());
    assert!(rig.pick(ask(conn(2), &seed, 9)).is_empty(), "not unless it is allowed");
    assert!(rig.pick(of(conn(1), 9)).is_empty(), "not again where it is out");
    assert!(rig.pick(Pick { mine: &|_| true, ..of(conn(2), 9) }).is_empty(), "nor where the caller says so");
    assert_eq!(rig.pick(of(conn(2), 99)).len(), 25);
    assert!(rig.pick(of(conn(3), 99)).is_empty(), "two are enough while 25 are missing");
    for b in &all[..6] {
        assert!(rig.picker.others(*b));
        assert_ne!(rig.receive(*b, conn(2)), Taken::Duplicate);
        assert!(rig.picker.others(*b), "still out at the first");
        rig.picker.withdraw(*b, conn(1));
        assert!(!rig.picker.others(*b));
        assert_eq!(rig.receive(*b, conn(1)), Taken::Duplicate, "if the cancel came too late");
    }
    let third = rig.pick(of(conn(3), 99));
    assert_eq!(third.len(), 19, "three, of the last few");
    assert!(rig.pick(of(conn(4), 99)).is_empty());
    // One that is free again goes before all duplicates.
    for c in [1, 2, 3] {
        rig.picker.withdraw(third[7], conn(c));
    }
    assert!(!rig.picker.in_endgame());
    assert_eq!(rig.pick(of(conn(4), 99)), [third[7]]);
}

#[test]
fn pieces_that_nobody_has_do_not_hold_up_the_endgame() {
    let mut rig = Rig::new(7);
    let most = bits(7, 0..5);
    rig.picker.on_peer_bitfield(&most);
    rig.picker.mark_block_have(p(5), 0);
    assert_eq!(rig.pick(ask(conn(1), &most, 99)).len(), 20);
    assert!(rig.picker.in_endgame());
    rig.picker.on_peer_have(p(5));
    assert!(!rig.picker.in_endgame());
}

#[test]
fn a_failed_piece_is_missing_again_and_its_senders_are_known() {
    let mut rig = Rig::past_the_first();
    let seed = Bitfield::all(104);
    rig.picker.on_peer_bitfield(&seed);
    let mine = rig.pick(ask(conn(2), &seed, 2));
    let i = mine[0].piece.get();
    assert_eq!(rig.pick(Pick { suggested: &[p(i)], ..ask(conn(1), &seed, 2) }), [b(i, 2), b(i, 3)]);
    for (block, from, taken) in [(3, 1, Taken::Block), (0, 2, Taken::Block), (1, 2, Taken::Block)] {
        assert_eq!(rig.receive(b(i, block), conn(from)), taken);
    }
    assert_eq!(rig.picker.partials().collect::<Vec<_>>(), [(p(i), vec![0b1101_0000])]);
    assert_eq!(rig.receive(b(i, 2), conn(1)), Taken::PieceDone);
    assert!(!rig.picker.missing(b(i, 2)) && rig.picker.wants(p(i)) && !rig.picker.lease(b(i, 2), conn(1)));
    assert!(!rig.pieces(ask(conn(3), &seed, 8)).contains(&i), "not picked while it is checked");
    assert_eq!(rig.picker.contributors(p(i)), [PeerTag::new(71), PeerTag::new(72)]);
    assert_eq!(rig.picker.contributor(b(i, 3)), Some(PeerTag::new(71)));
    rig.picker.on_piece_bad(p(i));
    assert!(rig.picker.contributors(p(i)).is_empty() && rig.picker.missing(b(i, 2)));
    let again = rig.pick(Pick { suggested: &[p(i)], ..ask(conn(4), &seed, 4) });
    assert_eq!(again, [b(i, 0), b(i, 1), b(i, 2), b(i, 3)]);
    again.iter().for_each(|b| assert_ne!(rig.receive(*b, conn(4)), Taken::Duplicate));
    rig.picker.on_piece_ok(p(i));
    assert!(rig.picker.have().get(p(i)) && !rig.picker.wants(p(i)));
    rig.picker.lose(p(i));
    assert!(rig.picker.wants(p(i)) && rig.picker.left_pieces() == 100);
}

#[test]
fn a_block_is_received_by_the_one_that_leased_it() {
    let mut rig = Rig::new(3);
    let seed = Bitfield::all(3);
    rig.picker.on_peer_bitfield(&seed);
    let all = rig.pick(ask(conn(1), &seed, 99));
    rig.pick(Pick { endgame: true, ..ask(conn(2), &seed, 99) });
    let first = all[0];
    assert!(rig.picker.lease(first, conn(1)) && rig.picker.lease(first, conn(1)));
    assert!(!rig.picker.lease(first, conn(2)));
    assert_eq!(rig.picker.lease_of(first), Some(conn(1)));
    assert_eq!(rig.receive(first, conn(2)), Taken::Duplicate, "it came second, whatever came of it");
    assert!(rig.picker.missing(first));
    rig.picker.unlease(first, conn(2));
    assert_eq!(rig.picker.lease_of(first), Some(conn(1)), "not another's to give back");
    // The holder leaves half way: the block is free again, not lost.
    rig.picker.unlease(first, conn(1));
    all.iter().for_each(|b| rig.picker.withdraw(*b, conn(1)));
    assert_eq!(rig.pick(ask(conn(3), &seed, 99)), [first]);
    assert!(rig.picker.lease(first, conn(3)));
    assert_ne!(rig.receive(first, conn(3)), Taken::Duplicate);
    assert!(!rig.picker.lease(first, conn(1)), "a received block has no lease");
}

#[test]
fn a_late_block_does_not_take_another_connections_request() {
    let mut rig = Rig::new(2);
    let seed = Bitfield::all(2);
    rig.picker.on_peer_bitfield(&seed);
    rig.picker.set_priority(p(1), Priority::Skip);
    rig.pick(ask(conn(1), &seed, 2));
    rig.picker.withdraw(b(0, 0), conn(1));
    assert_eq!(rig.pick(ask(conn(2), &seed, 1)), [b(0, 0)]);
    assert_eq!(rig.receive(b(0, 0), conn(1)), Taken::Block, "timed out, but it came after all");
    assert!(rig.picker.others(b(0, 0)), "to be cancelled at the second");
    rig.picker.withdraw(b(0, 0), conn(2));
    rig.picker.withdraw(b(0, 1), conn(1));
    rig.picker.withdraw(b(0, 1), conn(1));
    assert_eq!(rig.pick(ask(conn(3), &seed, 9)), [b(0, 1), b(0, 2), b(0, 3)]);
}

#[test]
fn padding_is_never_asked_for_and_begins_nothing() {
    let mut rig = Rig::new(4);
    let seed = Bitfield::all(4);
    rig.picker.on_peer_bitfield(&seed);
    assert!(!rig.picker.mark_pad(p(0), 2..3) && !rig.picker.mark_pad(p(0), 3..9) && !rig.picker.mark_pad(p(9), 0..1));
    assert_eq!(rig.picker.partials().count(), 0);
    assert!(!rig.picker.missing(b(0, 3)) && rig.picker.missing(b(0, 1)));
    assert!(rig.picker.mark_pad(p(1), 0..4), "nothing but padding: check it");
    let got = rig.pick(ask(conn(1), &seed, 99));
    assert_eq!(got.len(), 2 + 4 + 1);
    assert_eq!(rig.picker.partials().count(), 0, "nothing has come yet");
    rig.receive(b(0, 1), conn(1));
    assert_eq!(rig.picker.partials().collect::<Vec<_>>(), [(p(0), vec![0b0111_0000])]);
    assert_eq!(rig.receive(b(0, 0), conn(1)), Taken::PieceDone);
    rig.picker.on_piece_bad(p(0));
    assert_eq!(rig.pick(ask(conn(1), &seed, 99)), [b(0, 0), b(0, 1)], "still padding");
    rig.picker.on_piece_bad(p(1));
    assert_eq!(rig.pick(ask(conn(1), &seed, 99)).len(), 4, "it was not: ask for all of it");
}

#[test]
fn resumed_blocks_are_not_asked_for() {
    let mut rig = Rig::past_the_first();
    let seed = Bitfield::all(104);
    rig.picker.on_peer_bitfield(&seed);
    for block in [0, 2, 3] {
        assert!(!rig.picker.mark_block_have(p(33), block));
    }
    assert_eq!(rig.pick(ask(conn(1), &seed, 1)), [b(33, 1)], "what is nearly done comes first");
    assert_eq!(rig.receive(b(33, 1), conn(1)), Taken::PieceDone);
    assert!(!rig.picker.mark_block_have(p(34), 0) && !rig.picker.mark_block_have(p(34), 0));
    assert!(!rig.picker.mark_block_have(p(34), 1) && !rig.picker.mark_block_have(p(34), 2));
    assert!(rig.picker.mark_block_have(p(34), 3), "complete: check it");
}

#[test]
fn a_seed_counted_piece_by_piece_leaves_like_any_other() {
    let mut rig = Rig::new(5);
    rig.picker.on_peer_bitfield(&Bitfield::none(5));
    (0..5).for_each(|i| rig.picker.on_peer_have(p(i)));
    rig.picker.on_peer_bitfield(&bits(5, [1]));
    rig.picker.on_peer_gone(&Bitfield::all(5));
    assert_eq!((0..5).map(|i| rig.picker.availability(p(i))).collect::<Vec<_>>(), [0, 1, 0, 0, 0]);
    rig.picker.on_peer_gone(&Bitfield::all(5));
    rig.picker.on_peer_lost(p(4));
    assert_eq!(rig.picker.availability(p(1)), 0, "what was never counted does not go below nothing");
    rig.picker.invariants();
}

#[test]
fn a_million_pieces_are_sorted_only_when_need_be() {
    let pieces = 1 << 20;
    let mut rng = seeded(1);
    let mut picker = Picker::new(64, pieces, 64, &mut rng);
    let (seed, mut have) = (Bitfield::all(pieces), Bitfield::none(pieces));
    picker.on_peer_bitfield(&seed);
    (0..4).for_each(|i| picker.set_have(p(i)));
    have.set(p(777_777));
    picker.on_peer_bitfield(&have);
    let mut out = Vec::new();
    picker.pick(ask(conn(1), &have, 99), &mut rng, &mut out);
    assert_eq!((out.len(), out[0]), (64, b(777_777, 0)));
    for i in 0..300 {
        picker.on_peer_bitfield(&seed);
        picker.on_peer_have(p(i * 7 + 99));
    }
    picker.invariants();
}

#[test]
fn what_is_out_of_range_is_ignored() {
    let mut rig = Rig::new(2);
    for bad in [b(2, 0), b(0, 4), b(1, 1), b(u32::MAX, u32::MAX)] {
        assert!(!rig.picker.missing(bad) && !rig.picker.lease(bad, conn(1)) && !rig.picker.others(bad));
        assert_eq!(rig.receive(bad, conn(1)), Taken::Duplicate);
        rig.picker.withdraw(bad, conn(1));
        rig.picker.unlease(bad, conn(1));
        assert!(!rig.picker.mark_block_have(bad.piece, bad.block));
    }
    rig.picker.on_peer_have(p(2));
    rig.picker.on_peer_bitfield(&Bitfield::from_wire(&[0b1111_1110], 8).unwrap());
    rig.picker.set_have(p(2));
    rig.picker.set_priority(p(2), Priority::High);
    rig.picker.invariants();
    assert_eq!((rig.picker.wanted_left(), rig.picker.availability(p(0))), (2, 1));
}
