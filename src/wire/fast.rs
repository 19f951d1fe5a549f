//! The allowed-fast set (BEP 6): a few pieces a peer may ask for even while it is choked.
//!
//! The set follows from the peer's address and the torrent alone, so that a peer that comes back
//! gets the same pieces and nobody collects a torrent by reconnecting:
//!
//! ```text
//! x = SHA-1(address with its last byte 0 | info hash);  each 4 bytes of x modulo the piece count
//! is a member;  x = SHA-1(x);  and so on until there are k different ones
//! ```
//!
//! BEP 6 defines it for IPv4 only. Peers with IPv6 addresses get no set.
//!
//! Link: [BEP 6](https://www.bittorrent.org/beps/bep_0006.html).

use crate::id::{InfoHash, PieceIndex};
use sha1::{Digest, Sha1};
use std::net::Ipv4Addr;

/// The `k` pieces the peer at `ip` is served while choked, in the order BEP 6 finds them; all of
/// them when the torrent has no more than `k`. Meant for small `k` (see
/// [`limits::ALLOWED_FAST`](crate::config::limits::ALLOWED_FAST)).
pub fn allowed_fast_set(info_hash: InfoHash, ip: Ipv4Addr, pieces: u32, k: usize) -> Vec<PieceIndex> {
    if pieces as usize <= k {
        return (0..pieces).map(PieceIndex::new).collect();
    }
    let [a, b, c, _] = ip.octets();
    let mut x = Sha1::new().chain_update([a, b, c, 0]).chain_update(info_hash.as_bytes()).finalize();
    let mut set = Vec::with_capacity(k);
    while set.len() < k {
        for word in x.chunks_exact(4) {
            let piece = PieceIndex::new(u32::from_be_bytes([word[0], word[1], word[2], word[3]]) % pieces);
            if set.len() < k && !set.contains(&piece) {
                set.push(piece);
            }
        }
        x = Sha1::digest(x);
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ip: [u8; 4], pieces: u32, k: usize) -> Vec<u32> {
        let set = allowed_fast_set(InfoHash::new([0xAA; 20]), ip.into(), pieces, k);
        set.into_iter().map(PieceIndex::get).collect()
    }

    #[test]
    fn the_vectors_of_bep_6() {
        assert_eq!(set([80, 4, 4, 200], 1313, 7), [1059, 431, 808, 1217, 287, 376, 1188]);
        assert_eq!(set([80, 4, 4, 200], 1313, 9), [1059, 431, 808, 1217, 287, 376, 1188, 353, 508]);
        // Beyond the BEP: the word after the ninth member repeats none.
        assert_eq!(set([80, 4, 4, 200], 1313, 10)[9], 1246);
    }

    #[test]
    fn neighbours_share_a_set() {
        assert_eq!(set([80, 4, 4, 1], 1313, 7), set([80, 4, 4, 200], 1313, 7));
        assert_ne!(set([80, 4, 5, 200], 1313, 7), set([80, 4, 4, 200], 1313, 7));
    }

    #[test]
    fn small_torrents_end() {
        assert_eq!(set([1, 2, 3, 4], 0, 5), [0; 0]);
        assert_eq!(set([1, 2, 3, 4], 5, 5), [0, 1, 2, 3, 4]);
        let mut six = set([1, 2, 3, 4], 6, 5);
        six.sort_unstable();
        six.dedup();
        assert_eq!(six.len(), 5, "five different ones of six");
    }
}
