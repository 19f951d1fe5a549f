//! Announces on their way: name lookup, connection, answer. One connection tries the addresses of
//! its tracker in turn, and a redirect begins again with the new host.

use std::net::{IpAddr, SocketAddr};

use super::{Action, CloseReason, Session, cx};
use crate::config::limits;
use crate::id::ConnKey;
use crate::peer::{Conn, Outbox};
use crate::time::Instant;
use crate::torrent::lookup_id;
use crate::tracker::http::Progress;
use crate::tracker::{Reply, TrackerError};

impl Session {
    /// The tracker's host name has been looked up.
    pub(super) fn on_resolved(&mut self, now: Instant, conn: ConnKey, result: Result<Vec<IpAddr>, String>) {
        let Some(Conn::Tracker(t)) = self.conns.get_mut(conn) else { return };
        match result {
            Ok(ips) => {
                let (_, port) = t.transaction.host();
                t.addrs = ips.into_iter().map(|ip| SocketAddr::new(ip, port)).rev().collect();
                t.last_error = None;
                self.try_next_address(now, conn);
            }
            Err(e) => self.end_announce(now, conn, Err(TrackerError::Resolve(e))),
        }
    }

    fn try_next_address(&mut self, now: Instant, conn: ConnKey) {
        let Some(Conn::Tracker(t)) = self.conns.get_mut(conn) else { return };
        match t.addrs.pop() {
            Some(addr) => {
                if let Err(e) = t.transaction.may_connect(addr.ip()) {
                    return self.end_announce(now, conn, Err(e));
                }
                t.addr = Some(addr);
                t.outbox = Outbox::default();
                t.patience = now + limits::CONNECT_TIMEOUT;
                self.actions.push_back(Action::Connect { conn, addr });
                self.arm_conn(now, conn);
            }
            None => {
                let why = t.last_error.take().unwrap_or_else(|| "the name has no address".to_owned());
                self.end_announce(now, conn, Err(TrackerError::Connect(why)));
            }
        }
    }

    /// The stream to a tracker failed or ended.
    pub(super) fn on_tracker_closed(&mut self, now: Instant, conn: ConnKey, why: CloseReason) {
        let Some(Conn::Tracker(t)) = self.conns.get_mut(conn) else { return };
        if why == CloseReason::Eof {
            let progress = t.transaction.eof();
            return self.on_progress(now, conn, progress);
        }
        t.last_error = Some(why.to_string());
        self.try_next_address(now, conn);
    }

    /// Bytes came from a tracker.
    pub(super) fn feed_tracker(&mut self, now: Instant, conn: ConnKey, input: &[u8]) {
        let Some(Conn::Tracker(t)) = self.conns.get_mut(conn) else { return };
        let progress = t.transaction.feed(input);
        self.on_progress(now, conn, progress);
    }

    fn on_progress(&mut self, now: Instant, conn: ConnKey, progress: Progress) {
        let Some(Conn::Tracker(t)) = self.conns.get_mut(conn) else { return };
        match progress {
            Progress::More => {}
            Progress::Redirected => {
                let host = t.transaction.host().0.to_owned();
                t.outbox = Outbox::default();
                self.actions.push_back(Action::Close { conn, why: CloseReason::Done });
                self.actions.push_back(Action::Resolve { id: lookup_id(conn), host });
            }
            Progress::Done(result) => self.end_announce(now, conn, result),
        }
    }

    pub(super) fn on_tracker_timer(&mut self, now: Instant, conn: ConnKey) {
        let Some(Conn::Tracker(t)) = self.conns.get_mut(conn) else { return };
        if t.deadline <= now {
            self.end_announce(now, conn, Err(TrackerError::Timeout));
        } else if t.patience <= now && !t.addrs.is_empty() {
            t.last_error = Some(CloseReason::ConnectTimeout.to_string());
            self.actions.push_back(Action::Close { conn, why: CloseReason::ConnectTimeout });
            self.try_next_address(now, conn);
        }
    }

    fn end_announce(&mut self, now: Instant, conn: ConnKey, result: Result<Reply, TrackerError>) {
        let Some(Conn::Tracker(t)) = self.conns.remove(conn) else { return };
        self.actions.push_back(Action::Close { conn, why: CloseReason::Done });
        let Some(torrent) = self.torrents.get_mut(t.torrent) else { return };
        let mut cx = cx!(self, now);
        match result {
            Ok(reply) => {
                let local = t.addr.is_some_and(|a| a.ip().to_canonical().is_loopback());
                torrent.tracker_replied(&mut cx, t.tracker, &reply, local);
            }
            Err(e) => torrent.tracker_failed(&mut cx, t.tracker, &e),
        }
        torrent.announce_due(&mut cx);
        let key = torrent.key;
        self.arm(now, key);
    }
}
