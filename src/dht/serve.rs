//! Answering: what others ask of us.
//!
//! An answer goes to where the question says it came from, which may be a lie. So it is at most 1.5 times as
//! long until that host has answered a query of ours or has shown a token; what does not fit is left out,
//! nodes first. A query may earn its sender a ping, and thereby a place in the table.

use std::net::SocketAddr;

use super::krpc::{self, Contact, Method, Query, Reply, Want, code};
use super::table::K;
use super::{Dht, store};
use crate::config::limits;
use crate::time::Instant;

/// Peers looked up for an answer.
const VALUES: usize = 100;
/// Contacts in an answer with which the token is not to be left out.
const _: () = assert!(store::TOKEN_LEN < 16);

impl Dht {
    pub(super) fn on_query(&mut self, now: Instant, from: SocketAddr, len: usize, tid: &[u8], q: &Query<'_>) {
        if self.config.read_only || from.port() == 0 || !self.guard.admits(now, from.ip()) {
            return;
        }
        let v6 = from.is_ipv6();
        let contact = Contact { id: q.id, addr: from };
        let mut verified = self.recent.contains(&from.ip()) || self.family(v6).table.knows(from);
        if let Method::AnnouncePeer { token, .. } = q.method {
            verified |= self.tokens.accepts(now, from.ip(), token);
        }
        let room = match verified {
            true => limits::DHT_DATAGRAM_OUT,
            false => (len * limits::DHT_UNVERIFIED / 2).min(limits::DHT_DATAGRAM_OUT),
        };
        if let Some(answer) = self.answer(now, from, room, tid, q) {
            if answer.len() <= room && self.budget.take_for_answer(now, answer.len()) {
                self.send(from, answer);
            }
        }
        if !q.read_only && self.family(v6).table.wants(now, &contact) {
            self.send_ping(now, from);
        }
    }

    fn answer(&mut self, now: Instant, to: SocketAddr, room: usize, tid: &[u8], q: &Query<'_>) -> Option<Vec<u8>> {
        let v6 = to.is_ipv6();
        let id = self.family(v6).id;
        let mut reply = Reply { id, to, tid, token: None, nodes: vec![], nodes6: vec![], values: vec![] };
        let mut token = [0; store::TOKEN_LEN];
        match q.method {
            Method::Ping => {}
            Method::FindNode { target } => self.name_nodes(now, &mut reply, &target, q.want.unwrap_or(Want::only(v6))),
            Method::GetPeers { info_hash } => {
                token = self.tokens.give(now, to.ip());
                reply.values = self.store.get(now, v6, &info_hash, VALUES, &mut self.rng);
                self.name_nodes(now, &mut reply, &info_hash.into(), q.want.unwrap_or(Want::only(v6)));
            }
            Method::AnnouncePeer { info_hash, port, token } => {
                if !self.tokens.accepts(now, to.ip(), token) {
                    return Some(krpc::encode_error(tid, code::PROTOCOL, "bad token"));
                }
                let peer = SocketAddr::new(to.ip(), port.unwrap_or(to.port()));
                self.store.put(now, &id, info_hash, peer);
            }
            Method::Unknown(_) => return Some(krpc::encode_error(tid, code::UNKNOWN, "unknown method")),
            Method::Bad(why) => return Some(krpc::encode_error(tid, code::PROTOCOL, why)),
        }
        if matches!(q.method, Method::GetPeers { .. }) {
            reply.token = Some(&token);
        }
        reply.encode(room)
    }

    fn name_nodes(&self, now: Instant, reply: &mut Reply<'_>, target: &super::NodeId, want: Want) {
        // The asker is of no use to itself.
        let others = |v6: bool| {
            let mut nodes = self.family(v6).table.closest(now, target, K + 1);
            nodes.retain(|c| c.addr != reply.to);
            nodes.truncate(K);
            nodes
        };
        if want.n4 {
            reply.nodes = others(false);
        }
        if want.n6 {
            reply.nodes6 = others(true);
        }
    }
}
