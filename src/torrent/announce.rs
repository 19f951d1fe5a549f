//! A torrent's side of its trackers: making announces and scrapes, and taking their answers.
//!
//! When to ask whom is decided by [`Tiers`](crate::tracker::tiers::Tiers); how a question travels, by
//! `session::trackers`. Each address family of a tracker is told the events in its own order (BEP 7):
//! one that has not taken a `started` gets that, whatever the other has been told, and only those
//! that took one are told `stopped`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Cx, Torrent, lookup_id};
use crate::api::{Action, Alert, TrackerOutcome};
use crate::peer::{Conn, TrackerConn};
use crate::time::Duration;
use crate::torrent::swarm::Source;
use crate::tracker::tiers::TrackerIdx;
use crate::tracker::{Announce, Ask, Event, Reply, TrackerError};

/// An announce, name lookup and redirects included, is given up after this long.
const ANNOUNCE_TIMEOUT: Duration = crate::config::limits::TRACKER_TIMEOUT;
/// The last announce is given up sooner: somebody is waiting for us to leave.
const STOPPED_TIMEOUT: Duration = Duration::from_secs(3);

/// Which trackers have taken a `started`, over IPv6 (true) and IPv4.
#[derive(Debug, Default)]
pub(crate) struct Known(BTreeSet<(TrackerIdx, bool)>);

impl Known {
    /// The event for one family, given that for the tracker; `None` when there is nothing to say.
    pub(crate) fn event(&self, tracker: TrackerIdx, v6: bool, event: Event) -> Option<Event> {
        match (self.0.contains(&(tracker, v6)), event) {
            (true, event) => Some(event),
            (false, Event::Stopped) => None,
            (false, _) => Some(Event::Started),
        }
    }

    fn told(&mut self, tracker: TrackerIdx, v6: bool, event: Event) {
        if event == Event::Stopped {
            self.0.remove(&(tracker, v6));
        } else {
            self.0.insert((tracker, v6));
        }
    }
}

impl Torrent {
    /// Starts the announces that are due.
    pub(crate) fn announce_due(&mut self, cx: &mut Cx<'_>) {
        while let Some(due) = self.tiers.poll(cx.now) {
            let stopping = due.event == Event::Stopped;
            let announce = Announce {
                info_hash: self.info_hash,
                peer_id: cx.me.id,
                port: cx.me.port,
                uploaded: self.uploaded - self.announced_base.0,
                downloaded: self.downloaded - self.announced_base.1,
                left: self.left(),
                event: due.event,
                numwant: if stopping { 0 } else { due.numwant },
                key: cx.me.key,
                tracker_id: due.tracker_id,
            };
            let deadline = cx.now + if stopping { STOPPED_TIMEOUT } else { ANNOUNCE_TIMEOUT };
            match TrackerConn::new(self.key, due.tracker, due.url, Ask::Announce(announce), deadline) {
                Ok(conn) => set_out(cx, conn),
                Err(e) => self.tracker_failed(cx, due.tracker, &e),
            }
        }
    }

    /// Asks every tracker how many peers there are. Those asked already are left alone.
    pub(crate) fn scrape(&mut self, cx: &mut Cx<'_>) {
        for (tracker, url) in self.tiers.begin_scrape() {
            let deadline = cx.now + ANNOUNCE_TIMEOUT;
            match TrackerConn::new(self.key, tracker, url, Ask::Scrape(self.info_hash), deadline) {
                Ok(conn) => set_out(cx, conn),
                Err(e) => self.scraped(cx, tracker, Err(&e)),
            }
        }
    }

    /// A scrape ended.
    pub(crate) fn scraped(&mut self, cx: &mut Cx<'_>, tracker: TrackerIdx, result: Result<&Reply, &TrackerError>) {
        self.tiers.on_scrape(tracker, result);
        let url = self.tracker_url(tracker);
        let outcome = match result {
            Ok(r) => TrackerOutcome::Scrape { seeders: r.seeders, leechers: r.leechers, downloaded: r.downloaded },
            Err(e) => TrackerOutcome::ScrapeError(e.to_string()),
        };
        log::debug!("scrape of {url}: {outcome:?}");
        cx.alerts.push_back(Alert::Tracker { torrent: self.key, url, outcome });
    }

    fn tracker_url(&self, tracker: TrackerIdx) -> String {
        self.tiers.status().find(|s| s.tracker == tracker).map(|s| s.url).unwrap_or_default()
    }

    /// One family of a tracker has taken an event.
    pub(crate) fn tracker_knows(&mut self, tracker: TrackerIdx, v6: bool, event: Event) {
        self.known.told(tracker, v6, event);
    }

    pub(crate) fn tracker_failed(&mut self, cx: &mut Cx<'_>, tracker: TrackerIdx, error: &TrackerError) {
        let news = self.tiers.on_error(cx.now, tracker, error, cx.rng);
        let url = self.tracker_url(tracker);
        log::debug!("tracker {url}: {error}");
        if news {
            let outcome = TrackerOutcome::Error(error.to_string());
            cx.alerts.push_back(Alert::Tracker { torrent: self.key, url, outcome });
        }
    }

    /// A tracker at this address answered.
    pub(crate) fn tracker_replied(
        &mut self,
        cx: &mut Cx<'_>,
        tracker: TrackerIdx,
        reply: &Reply,
        from: Option<IpAddr>,
    ) {
        self.tiers.on_reply(cx.now, tracker, reply);
        let named = self.peers_named(cx, reply, from);
        let outcome = TrackerOutcome::Reply {
            peers: named,
            seeders: reply.seeders,
            leechers: reply.leechers,
            interval: reply.interval.unwrap_or_default(),
            warning: reply.warning.clone(),
        };
        let url = self.tracker_url(tracker);
        log::debug!("tracker {url}: {named} peers");
        cx.alerts.push_back(Alert::Tracker { torrent: self.key, url, outcome });
    }

    /// Takes the peers of a reply into the swarm; how many it named.
    pub(crate) fn peers_named(&mut self, cx: &mut Cx<'_>, reply: &Reply, from: Option<IpAddr>) -> usize {
        let mut named = 0;
        for addr in &reply.peers {
            named += 1;
            self.hear(cx, *addr, Source::Tracker, from);
        }
        named
    }
}

/// Begins with the name lookup.
fn set_out(cx: &mut Cx<'_>, conn: TrackerConn) {
    let host = conn.transport.host().0.to_owned();
    let conn = cx.conns.insert(Conn::Tracker(Box::new(conn)));
    cx.actions.push_back(Action::Resolve { id: lookup_id(conn), host });
    cx.touched.push(conn);
}
