//! Descriptors are shared out before they are used, because the last one is missed most by whoever
//! needs it for a file.

use crate::config::{Config, limits};
use crate::storage::StorageConfig;

/// Most descriptors this process may have.
pub(super) fn descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX)
}

/// Lowers what is configured to what so many descriptors allow: a reserve that no peer gets, a
/// quarter of the rest for files, and a quarter of what then remains for strangers. Connection attempts
/// count as peers here.
pub(super) fn share_out(limit: usize, session: &mut Config, storage: &mut StorageConfig) {
    let room = limit.saturating_sub(limits::FD_RESERVE);
    storage.max_open_files = storage.max_open_files.min((room / 4).max(2));
    let room = room.saturating_sub(storage.max_open_files);
    session.max_strangers = session.max_strangers.min((room / 4).max(1));
    let room = room.saturating_sub(session.max_strangers).max(1);
    session.max_peers = session.max_peers.min(room);
    session.max_peers_torrent = session.max_peers_torrent.min(room);
    session.half_open = session.half_open.min((room / 4).max(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_fits_and_the_reserve_stays() {
        for limit in [20, 32, 64, 256, 1024, 1 << 20, usize::MAX] {
            let (mut s, mut d) = (Config::default(), StorageConfig::default());
            share_out(limit, &mut s, &mut d);
            let used = s.max_peers + s.max_strangers + d.max_open_files;
            assert!(used <= limit - limits::FD_RESERVE, "{used} of {limit}");
            assert!(s.max_peers > 0 && s.max_strangers > 0 && s.half_open > 0 && s.half_open <= s.max_peers);
        }
        let (mut s, mut d) = (Config::default(), StorageConfig::default());
        share_out(64, &mut s, &mut d);
        assert_eq!((s.max_peers, s.max_strangers, s.half_open, d.max_open_files), (27, 9, 6, 12));
        let (mut s, mut d) = (Config::default(), StorageConfig::default());
        share_out(1024, &mut s, &mut d);
        let usual = Config::default();
        assert_eq!(
            (s.max_peers, s.max_strangers, s.half_open),
            (usual.max_peers, usual.max_strangers, usual.half_open)
        );
    }
}
