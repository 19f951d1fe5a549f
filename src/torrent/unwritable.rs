//! A volume that can be read and not written: it is full, or mounted read-only. What there is of the torrent is served
//! meanwhile, and nothing is asked for.
//!
//! ```text
//!   trades ──a write fails──▶ waits: requests are taken back, peers told ──it is time──▶ on trial: Action::Wanted
//!      ▲                        ▲                                                           │
//!      │                        └──────────────── it fails, by then or at a write ◀─────────┤
//!      └────────────────────────────────────────────────────── it does not ◀────────────────┘
//! ```
//!
//! With nothing to serve there is nothing to stay for: the torrent stops, as it does when its files cannot be read, or
//! when it is not known which pieces were lost. Records are not made meanwhile: that would write.
//! When it tries again is for [`retry`](super::retry) to say.
//!
//! Invariants: while it waits, nothing is asked for and we are interested in nobody.

use super::*;
use crate::wire::Message;

/// It is on trial for so long: whoever makes room for files has said by then that there is none.
const TRIAL: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Unwritable {
    error: (String, ErrorKind),
    /// It is tried again until then.
    trial: Option<Instant>,
}

impl Torrent {
    /// Files failed: this torrent waits or stops, the others go on. It tries again by itself.
    pub(crate) fn on_disk_failed(&mut self, cx: &mut Cx<'_>, error: String, kind: ErrorKind) {
        let serves = match self.life {
            Life::Opening | Life::Checking(_) => true,
            Life::Active => self.picker.have().count() > 0,
            Life::Fetching(_) | Life::Stopped(_) => false,
        };
        if std::mem::take(&mut self.unsure) || !serves || !kind.concerns_writing() {
            return self.fail(cx, error, kind);
        }
        if self.unwritable.as_ref().is_some_and(|u| u.trial.is_none()) {
            return; // what was on its way fails too
        }
        self.tell_failed(cx, &error, kind);
        self.unwritable = Some(Unwritable { error: (error, kind), trial: None });
        if self.is_active() {
            self.take_requests_back(cx);
        }
    }

    /// Why nothing is asked for, when the torrent waits.
    pub(super) fn why_unwritable(&self) -> Option<&str> {
        self.unwritable.as_ref().map(|u| &u.error.0[..])
    }

    /// All is known of what there is. True when that is nothing, and it stops.
    pub(super) fn has_nothing_to_serve(&mut self, cx: &mut Cx<'_>) -> bool {
        if self.picker.have().count() > 0 {
            return false;
        }
        let Some(u) = self.unwritable.take() else { return false };
        self.stop(cx, Some(u.error), CloseReason::TorrentStopped);
        true
    }

    fn take_requests_back(&mut self, cx: &mut Cx<'_>) {
        for i in 0..self.peers.len() {
            let conn = self.peers[i];
            if let Some(trade) = cx.peer(conn).and_then(|p| p.trade.made()) {
                let asked = std::mem::take(&mut trade.asked);
                trade.withdrawn += asked.len() as u32;
                let arriving = trade.receiving.as_mut().filter(|r| !r.dropped);
                let arriving = arriving.map(|r| {
                    r.dropped = true;
                    r.block
                });
                for a in asked {
                    if Some(a.block) != arriving {
                        cx.send(conn, &Message::Cancel(a.block));
                    }
                    self.withdraw(conn, &a.block);
                }
                if let Some(r) = arriving.and_then(|block| self.block_ref(&block)) {
                    self.picker.unlease(r, conn);
                }
            }
            self.update_interest(cx, conn);
        }
        self.tell_upload_only(cx, true);
    }

    /// When it tries next: at once when its user has said that it shall go on.
    pub(super) fn tries_at(&self) -> Option<Instant> {
        self.unwritable.as_ref().map(|u| u.trial.or(self.retry.at()).unwrap_or(Instant::ZERO))
    }

    /// Tries whether the volume can be written again, when it is time.
    pub(super) fn try_writing(&mut self, cx: &mut Cx<'_>) {
        if self.tries_at().is_none_or(|at| at > cx.now) {
            return;
        }
        let Some(u) = self.unwritable.as_mut().filter(|u| u.trial.is_none()) else { return self.write_again(cx) };
        u.trial = Some(cx.now + TRIAL);
        self.retry.disarm();
        cx.actions.push_back(Action::Wanted { torrent: self.key, wanted: self.wanted_files() });
    }

    fn write_again(&mut self, cx: &mut Cx<'_>) {
        self.unwritable = None;
        if !self.is_active() || self.is_complete() {
            return;
        }
        for i in 0..self.peers.len() {
            self.update_interest(cx, self.peers[i]);
        }
        self.tell_upload_only(cx, false);
        self.kick = true;
        self.kick_idle(cx);
    }
}
