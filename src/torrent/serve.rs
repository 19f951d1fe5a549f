//! Serving peers: whom we unchoke, what they ask for, what their sockets took.
//!
//! [`choker`](super::choker) decides; this carries it out. With the fast extension every request
//! gets exactly one piece or one reject (BEP 6); without it a choke forgets them (BEP 3).

use super::choker::Candidate;
use super::exchange::{Verdict, breach};
use super::*;
use crate::config::limits;
use crate::wire::Message;

impl Torrent {
    pub(super) fn on_request(&mut self, cx: &mut Cx<'_>, conn: ConnKey, block: Block) -> Verdict {
        if block.len == 0 || block.len > limits::BLOCK_SERVED || !self.layout.contains(&block) {
            return Err(breach(format!("request of {block:?}")));
        }
        let have = self.picker.have().get(block.piece);
        let per_piece = self.layout.blocks_in(block.piece);
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        let granted = peer.trade.granted.contains(&block.piece);
        let waiting = peer.trade.serving.len();
        let mut serve = have && (!peer.choking || granted) && waiting < limits::REQUESTS_IN;
        if serve && cx.stats.requests_in >= cx.config.requests_in_total {
            cx.stats.requests_over += 1;
            serve = false;
        }
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        if serve && peer.choking {
            // Allowed-fast pieces are given once or twice, not for ever.
            peer.trade.granted_blocks += 1;
            serve = peer.trade.granted_blocks <= 2 * per_piece * limits::ALLOWED_FAST as u32;
        }
        if !serve && peer.choking {
            peer.trade.rejects += 1;
            if peer.trade.rejects > limits::REJECTS {
                return Err(breach(format!("{} requests while choked", limits::REJECTS)));
            }
        }
        if serve {
            peer.trade.serving.push_back(block);
            cx.stats.requests_in += 1;
            cx.wake(conn);
        } else if peer.fast {
            cx.send(conn, &Message::Reject(block));
        } else if waiting >= limits::REQUESTS_IN {
            return Err(breach(format!("more than {} requests waiting", limits::REQUESTS_IN)));
        }
        Ok(())
    }

    pub(super) fn on_cancel(&mut self, cx: &mut Cx<'_>, conn: ConnKey, block: Block) -> Verdict {
        let Some(peer) = cx.peer(conn) else { return Ok(()) };
        let Some(i) = peer.trade.serving.iter().position(|b| *b == block) else { return Ok(()) };
        peer.trade.serving.remove(i);
        let fast = peer.fast;
        cx.stats.requests_in -= 1;
        if fast {
            cx.send(conn, &Message::Reject(block));
        }
        Ok(())
    }

    pub(super) fn unchoked(&self, cx: &Cx<'_>) -> usize {
        let unchoked = |c: &&ConnKey| cx.conns.get(**c).and_then(Conn::peer).is_some_and(|p| !p.choking);
        self.peers.iter().filter(unchoked).count()
    }

    pub(super) fn rechoke(&mut self, cx: &mut Cx<'_>) {
        let (now, seeding) = (cx.now, self.is_complete() || self.unwritable.is_some());
        let candidate = |&conn: &ConnKey| {
            let p = cx.conns.get(conn).and_then(Conn::peer)?;
            Some(Candidate {
                conn,
                interested: p.wants_us,
                unchoked: !p.choking,
                snubbed: p.snubbed,
                rate: if seeding { p.trade.given.get(now) } else { p.trade.earned.get(now) },
                connected_at: p.since,
                unchoked_at: p.trade.unchoked_at,
                optimistic: p.optimistic,
                uploaded_since_unchoke: p.trade.given_since_unchoke,
                upload_only: p.upload_only || p.is_seed(),
            })
        };
        let mut peers: Vec<_> = self.peers.iter().filter_map(candidate).collect();
        let stuck = |c: &Candidate| cx.conns.get(c.conn).and_then(Conn::peer).is_some_and(Peer::is_stuck);
        let stuck: Vec<_> = peers.iter().filter(|c| stuck(c)).map(|c| c.conn).collect();
        for conn in stuck {
            peers.retain(|c| c.conn != conn);
            self.close(cx, conn, CloseReason::Stuck);
        }
        let decisions = self.choker.rechoke(now, seeding, cx.config.unchoke_slots, &mut peers, cx.rng);
        for d in decisions {
            if let Some(p) = cx.peer(d.conn) {
                p.optimistic = d.optimistic;
                match (d.unchoke, p.choking) {
                    (true, true) => self.unchoke(cx, d.conn, d.optimistic),
                    (false, false) => self.choke(cx, d.conn),
                    _ => {}
                }
            }
        }
    }

    pub(super) fn unchoke(&mut self, cx: &mut Cx<'_>, conn: ConnKey, optimistic: bool) {
        let now = cx.now;
        if let Some(p) = cx.peer(conn) {
            p.choking = false;
            p.optimistic = optimistic;
            p.trade.unchoked_at = now;
            p.trade.given_since_unchoke = 0;
            p.trade.rejects = 0;
            cx.send(conn, &Message::Unchoke);
        }
    }

    /// Chokes it; requests that are not from its allowed-fast set are rejected (BEP 6) or, without
    /// the fast extension, forgotten (BEP 3).
    pub(super) fn choke(&mut self, cx: &mut Cx<'_>, conn: ConnKey) {
        let Some(p) = cx.peer(conn) else { return };
        p.choking = true;
        p.optimistic = false;
        p.outbox.push(&Message::Choke);
        let waiting = p.trade.made().map(|t| std::mem::take(&mut t.serving)).unwrap_or_default();
        let before = waiting.len();
        if p.fast {
            for block in waiting {
                if p.trade.granted.contains(&block.piece) {
                    p.trade.serving.push_back(block);
                } else {
                    p.outbox.push(&Message::Reject(block));
                }
            }
        }
        let gone = before - p.trade.serving.len();
        cx.stats.requests_in -= gone;
        cx.wake(conn);
    }

    /// The socket took payload.
    pub(crate) fn on_sent(&mut self, cx: &mut Cx<'_>, conn: ConnKey, payload: u64) {
        let now = cx.now;
        self.uploaded += payload;
        self.rate_up.add(now, payload);
        if let Some(p) = cx.peer(conn) {
            p.trade.given.add(now, payload);
            p.trade.given_since_unchoke += payload;
        }
        if let (Some(goal), true) = (self.seed_ratio, self.seeding_since.is_some()) {
            let base = if self.downloaded > 0 { self.downloaded } else { self.layout.total() };
            if self.uploaded as f64 >= goal * base as f64 {
                self.check_goal(cx);
            }
        }
    }
}
