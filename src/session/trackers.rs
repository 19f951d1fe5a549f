//! Questions to trackers on their way: name lookup, connection or datagrams, answer.
//!
//! ```text
//! Resolve -> addresses of one family -> one leg: its addresses are tried in turn
//!         -> of both -> two legs at once (BEP 7), which end as one:
//!              the first good answer is told to the torrent; `stopped` waits for both, a scrape for no other
//! ```
//!
//! So a family that leads nowhere from here delays nothing. A redirect begins again with the new host, and stays within
//! its leg's family.

use std::net::{IpAddr, SocketAddr};

use super::{Action, CloseReason, Session, cx};
use crate::config::limits;
use crate::id::ConnKey;
use crate::peer::{Conn, Other, Outbox, TrackerConn, Transport};
use crate::time::Instant;
use crate::torrent::lookup_id;
use crate::tracker::http::Progress;
use crate::tracker::{Ask, Event, Reply, TrackerError};

/// A tracker that has further addresses gets so many datagrams at one of them.
const PATIENCE: u32 = 2;

/// One family's part of a question.
struct Leg {
    v6: bool,
    /// Of an announce.
    event: Option<Event>,
    addrs: Vec<SocketAddr>,
}

impl Session {
    fn tracker(&mut self, conn: ConnKey) -> Option<&mut TrackerConn> {
        match self.conns.get_mut(conn) {
            Some(Conn::Tracker(t)) => Some(t),
            _ => None,
        }
    }

    // ---------------------------------------------------------------- addresses

    /// The tracker's host name has been looked up.
    pub(super) fn on_resolved(&mut self, now: Instant, conn: ConnKey, result: Result<Vec<IpAddr>, String>) {
        let Some(t) = self.tracker(conn) else { return };
        let (_, port) = t.transport.host();
        let mut addrs: Vec<_> = match result {
            Ok(ips) => ips.into_iter().map(|ip| SocketAddr::new(ip.to_canonical(), port)).rev().collect(),
            Err(e) => return self.end(now, conn, Err(TrackerError::Resolve(e))),
        };
        t.last_error = None;
        if t.addr.is_none() && t.family.is_none() {
            return self.set_legs(now, conn, addrs);
        }
        if let Some(v6) = t.family {
            addrs.retain(|a| a.is_ipv6() == v6);
        }
        t.addrs = addrs;
        self.try_next_address(now, conn);
    }

    /// Makes one leg of a question, or two.
    fn set_legs(&mut self, now: Instant, conn: ConnKey, addrs: Vec<SocketAddr>) {
        let Some(Conn::Tracker(t)) = self.conns.get(conn) else { return };
        let both = addrs.iter().any(SocketAddr::is_ipv4) && addrs.iter().any(SocketAddr::is_ipv6);
        let torrent = self.torrents.get(t.torrent);
        let event = t.event();
        // The event of a leg; no leg where there is nothing to say.
        let event_of = |v6| match (torrent, event) {
            (Some(torrent), Some(event)) => torrent.known.event(t.tracker, v6, event).map(Some),
            // A scrape, or it has been removed since, and takes leave.
            _ => Some(event),
        };
        let leg = |v6: bool, event: Option<Event>| Leg {
            v6,
            event,
            addrs: addrs.iter().copied().filter(|a| a.is_ipv6() == v6).collect(),
        };
        let mut legs: Vec<_> = [false, true]
            .into_iter()
            .filter_map(|v6| event_of(v6).map(|e| leg(v6, e)))
            .filter(|l| !l.addrs.is_empty())
            .collect();
        if legs.is_empty() {
            // Its addresses have changed family since it was told of us: tell it at least once.
            legs.extend(addrs.last().map(|a| leg(a.is_ipv6(), event)));
        }
        let mut twins = Vec::new();
        for _ in 1..legs.len() {
            let twin = TrackerConn::new(t.torrent, t.tracker, t.url.clone(), t.ask.clone(), t.deadline);
            twins.extend(twin.map(Box::new));
        }
        let mut keys = vec![conn];
        keys.extend(twins.into_iter().map(|twin| self.conns.insert(Conn::Tracker(twin))));
        // Both are complete before either is begun: beginning may be the end of one.
        for (i, (&key, leg)) in keys.iter().zip(legs).enumerate() {
            let Some(t) = self.tracker(key) else { continue };
            if let (Ask::Announce(a), Some(event)) = (&mut t.ask, leg.event) {
                a.event = event;
            }
            if leg.event != event {
                if let Ok(transport) = Transport::new(&t.url, &t.ask) {
                    t.transport = transport;
                }
            }
            t.addrs = leg.addrs;
            t.family = both.then_some(leg.v6);
            t.sibling = keys.iter().copied().find(|k| keys[i] != *k);
        }
        for key in keys {
            self.arm_conn(now, key);
            self.try_next_address(now, key);
        }
    }

    fn try_next_address(&mut self, now: Instant, conn: ConnKey) {
        let Some(Conn::Tracker(t)) = self.conns.get_mut(conn) else { return };
        let Some(addr) = t.addrs.pop() else {
            let why = t.last_error.take().unwrap_or_else(|| "the name has no address".to_owned());
            return self.end(now, conn, Err(TrackerError::Connect(why)));
        };
        t.addr = Some(addr);
        let allowed = match &mut t.transport {
            Transport::Http(http) => http.may_connect(addr.ip()),
            Transport::Udp(udp) => udp.may_connect(addr.ip()),
        };
        if let Err(e) = allowed {
            return self.end(now, conn, Err(e));
        }
        match &mut t.transport {
            Transport::Http(http) => {
                t.outbox = Outbox::default();
                t.patience = now + limits::CONNECT_TIMEOUT;
                let tls = http.tls_host().map(str::to_owned);
                self.actions.push_back(Action::Connect { conn, addr, tls });
                self.arm_conn(now, conn);
            }
            Transport::Udp(udp) => {
                self.transactions.remove(&udp.transaction());
                let mut id = self.rng.u32(..);
                while self.transactions.contains_key(&id) {
                    id = self.rng.u32(..);
                }
                self.transactions.insert(id, conn);
                udp.start(now, addr, id, &self.ids);
                self.send_datagram(now, conn);
            }
        }
    }

    // ---------------------------------------------------------------- datagrams

    /// Sends what a UDP transaction has to send now.
    fn send_datagram(&mut self, now: Instant, conn: ConnKey) {
        let Some(Conn::Tracker(t)) = self.conns.get_mut(conn) else { return };
        let Transport::Udp(udp) = &mut t.transport else { return };
        let mut data = Vec::new();
        if udp.poll(now, &mut self.ids, &mut data) && self.datagrams.len() < limits::DATAGRAMS {
            self.datagrams.push_back((udp.to(), data));
        }
        self.arm_conn(now, conn);
    }

    /// The next datagram to send: put into `data`, and where to. Drain it as
    /// [`poll_action`](Session::poll_action).
    pub fn poll_datagram(&mut self, data: &mut Vec<u8>) -> Option<SocketAddr> {
        let (to, bytes) = self.datagrams.pop_front()?;
        *data = bytes;
        Some(to)
    }

    /// A datagram came. What nobody waits for is ignored.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, data: &[u8]) {
        if self.dht_datagram(now, from, data) {
            return;
        }
        let Some(id) = data.get(4..8) else { return };
        let id = u32::from_be_bytes(id.try_into().expect("four bytes were taken"));
        let Some(&conn) = self.transactions.get(&id) else { return };
        let Some(Conn::Tracker(t)) = self.conns.get_mut(conn) else { return };
        let Transport::Udp(udp) = &mut t.transport else { return };
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        match udp.handle(now, from, data, &mut self.ids) {
            Progress::Done(result) => self.end(now, conn, result),
            _ => self.send_datagram(now, conn),
        }
        self.arm_touched(now);
    }

    /// A datagram could not be sent.
    pub(super) fn on_unsent(&mut self, now: Instant, to: SocketAddr, error: &str) {
        for conn in self.transactions.values().copied().collect::<Vec<_>>() {
            let Some(t) = self.tracker(conn) else { continue };
            if matches!(&t.transport, Transport::Udp(udp) if udp.to() == to) {
                t.last_error = Some(error.to_owned());
                self.try_next_address(now, conn);
            }
        }
    }

    // ---------------------------------------------------------------- streams

    /// The stream to a tracker is open.
    pub(super) fn on_tracker_connected(&mut self, conn: ConnKey) {
        let Some(t) = self.tracker(conn) else { return };
        t.patience = Instant::FAR;
        if let Transport::Http(http) = &t.transport {
            let request = http.request();
            t.outbox.push_bytes(&request);
            self.actions.push_back(Action::Wake { conn });
        }
    }

    /// The stream to a tracker failed or ended.
    pub(super) fn on_tracker_closed(&mut self, now: Instant, conn: ConnKey, why: CloseReason) {
        let Some(t) = self.tracker(conn) else { return };
        if let (CloseReason::Eof, Transport::Http(http)) = (&why, &mut t.transport) {
            let progress = http.eof();
            return self.on_progress(now, conn, progress);
        }
        t.last_error = Some(why.to_string());
        self.try_next_address(now, conn);
    }

    /// Bytes came from a tracker.
    pub(super) fn feed_tracker(&mut self, now: Instant, conn: ConnKey, input: &[u8]) {
        let Some(t) = self.tracker(conn) else { return };
        let Transport::Http(http) = &mut t.transport else { return };
        let progress = http.feed(input);
        self.on_progress(now, conn, progress);
    }

    fn on_progress(&mut self, now: Instant, conn: ConnKey, progress: Progress) {
        let Some(t) = self.tracker(conn) else { return };
        match progress {
            Progress::More => {}
            Progress::Redirected => {
                let host = t.transport.host().0.to_owned();
                t.outbox = Outbox::default();
                self.actions.push_back(Action::Close { conn, why: CloseReason::Done });
                self.actions.push_back(Action::Resolve { id: lookup_id(conn), host });
            }
            Progress::Done(result) => self.end(now, conn, result),
        }
    }

    // ---------------------------------------------------------------- ends

    pub(super) fn on_tracker_timer(&mut self, now: Instant, conn: ConnKey) {
        let Some(t) = self.tracker(conn) else { return };
        if t.deadline <= now {
            return self.end(now, conn, Err(TrackerError::Timeout));
        }
        let Transport::Udp(udp) = &t.transport else {
            if t.patience <= now && !t.addrs.is_empty() {
                t.last_error = Some(CloseReason::ConnectTimeout.to_string());
                self.actions.push_back(Action::Close { conn, why: CloseReason::ConnectTimeout });
                self.try_next_address(now, conn);
            }
            return;
        };
        if udp.deadline() > now {
            return;
        }
        if udp.unanswered() >= PATIENCE && !t.addrs.is_empty() {
            t.last_error = Some("no answer".to_owned());
            self.try_next_address(now, conn);
        } else {
            self.send_datagram(now, conn);
        }
    }

    /// A question, or one leg of it, is over.
    fn end(&mut self, now: Instant, conn: ConnKey, result: Result<Reply, TrackerError>) {
        if self.tracker(conn).is_none() {
            return;
        }
        let Some(Conn::Tracker(t)) = self.conns.remove(conn) else { return };
        match &t.transport {
            Transport::Http(_) => self.actions.push_back(Action::Close { conn, why: CloseReason::Done }),
            Transport::Udp(udp) => drop(self.transactions.remove(&udp.transaction())),
        }
        if let (Ok(Reply { external_ip: Some(ip), .. }), Some(tracker)) = (&result, t.addr) {
            self.external.vote(tracker.ip(), *ip);
        }
        let from = t.addr.map(|a| a.ip());
        let v6 = t.addr.is_some_and(|a| a.is_ipv6());
        if let (Some(event), Some(torrent)) = (t.event(), self.torrents.get_mut(t.torrent)) {
            // Leaving is said once, heard or not.
            if result.is_ok() || event == Event::Stopped {
                torrent.tracker_knows(t.tracker, v6, event);
            }
        }
        let (tracker, key, sibling) = (t.tracker, t.torrent, t.sibling);
        let scrape = t.event().is_none();
        let (verdict, more) = self.join_legs(*t, result);
        if let (true, Some(Ok(_)), Some(sibling)) = (scrape, &verdict, sibling) {
            self.end(now, sibling, Err(TrackerError::Timeout));
        }
        let Some(torrent) = self.torrents.get_mut(key) else { return };
        let mut cx = cx!(self, now);
        if let Some(reply) = more {
            torrent.peers_named(&mut cx, &reply, from);
        }
        match verdict {
            Some(result) if scrape => torrent.scraped(&mut cx, tracker, result.as_ref()),
            Some(Ok(reply)) => torrent.tracker_replied(&mut cx, tracker, &reply, from),
            Some(Err(e)) => torrent.tracker_failed(&mut cx, tracker, &e),
            None => {}
        }
        torrent.announce_due(&mut cx);
        self.arm(now, key);
    }

    /// What follows from the end of one leg: the tracker's answer, if this decides it, and a reply of
    /// which nothing but the peers counts.
    fn join_legs(
        &mut self,
        t: TrackerConn,
        result: Result<Reply, TrackerError>,
    ) -> (Option<Result<Reply, TrackerError>>, Option<Reply>) {
        let leaving = t.event() == Some(Event::Stopped);
        let sibling = t.sibling.and_then(|s| self.tracker(s));
        match (result, t.other, sibling) {
            (Ok(reply), Other::Told, _) => (None, Some(reply)),
            (Ok(_), _, Some(sibling)) if leaving => {
                sibling.other = Other::Good;
                (None, None)
            }
            (Ok(reply), _, sibling) => {
                if let Some(sibling) = sibling {
                    sibling.other = Other::Told;
                }
                (Some(Ok(reply)), None)
            }
            (Err(_), Other::Told, _) => (None, None),
            (Err(_), Other::Good, _) => (Some(Ok(Reply::default())), None),
            (Err(e), _, Some(sibling)) => {
                sibling.other = Other::Bad(e);
                (None, None)
            }
            // A tracker's own words say more than that the other family does not get there.
            (Err(e), Other::Bad(first), None) => {
                let words = matches!(e, TrackerError::Failure { .. });
                (Some(Err(if words { e } else { first })), None)
            }
            (Err(e), Other::Open, None) => (Some(Err(e)), None),
        }
    }
}

#[cfg(test)]
mod tests;
