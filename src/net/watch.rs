//! Tells when this machine's network has changed: its interfaces, their addresses, the routes.
//!
//! The kernel multicasts every change to those who ask for it (rtnetlink). What has changed is not read from that:
//! a second later, when the rest of the change has come too, everyone looks for themselves.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::time::{Duration, Instant};

const LINKS: u32 = 1;
const ADDRESSES: u32 = 0x10 | 0x100;
const ROUTES: u32 = 0x40;
/// Changes come in crowds.
const SETTLE: Duration = Duration::from_secs(1);
/// Messages read at a time.
const MOST: usize = 1024;

pub(super) struct Watch {
    socket: OwnedFd,
    due: Option<Instant>,
}

impl Watch {
    /// Begins; `routes` too, of IPv4.
    pub(super) fn open(registry: &Registry, token: usize, routes: bool) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        // Protocol 0 of this family is NETLINK_ROUTE.
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        let groups = LINKS | ADDRESSES | if routes { ROUTES } else { 0 };
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        registry.register(&mut SourceFd(&socket.as_raw_fd()), Token(token), Interest::READABLE)?;
        Ok(Self { socket, due: None })
    }

    /// The kernel has something to tell.
    pub(super) fn on_ready(&mut self, now: Instant) {
        self.due = self.due.or(Some(now + SETTLE));
    }

    /// As if something changed then.
    pub(super) fn again(&mut self, at: Instant) {
        self.due = self.due.or(Some(at));
    }

    /// When to take a turn.
    pub(super) fn timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Something has changed, and a little while has passed since.
    pub(super) fn turn(&mut self, now: Instant) -> bool {
        if self.due.is_none_or(|at| at > now) {
            return false;
        }
        self.due = None;
        // Room for what comes next. An overflow is a change like others.
        let mut buf = [0; 1024];
        let empty = |e| matches!(e, rustix::io::Errno::AGAIN);
        let read = || rustix::io::read(&self.socket, &mut buf);
        std::iter::repeat_with(read).take(MOST).take_while(|r| !r.is_err_and(empty)).for_each(drop);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_a_crowd_is_told_once_and_a_little_later() {
        let poll = mio::Poll::new().expect("a poll");
        let mut watch = Watch::open(poll.registry(), 0, true).expect("a socket needs no rights");
        let at = Instant::from_secs;
        assert_eq!((watch.timeout(), watch.turn(at(5))), (None, false));
        watch.on_ready(at(5));
        watch.on_ready(at(5) + Duration::from_millis(500));
        assert_eq!((watch.timeout(), watch.turn(at(5))), (Some(at(6)), false));
        assert!(watch.turn(at(6)));
        assert_eq!((watch.timeout(), watch.turn(at(7))), (None, false));
    }
}
