//! btmio: a BitTorrent client and library in which one thread and one poll loop do everything.

pub mod api;
pub mod bencode;
pub mod bitfield;
pub mod cli;
pub mod config;
pub mod error;
pub mod http;
pub mod id;
pub mod metainfo;
pub mod net;
pub mod peer;
pub mod pump;
pub mod rate;
pub mod rng;
pub mod session;
#[cfg(feature = "sim")]
pub mod sim;
pub mod slots;
pub mod storage;
pub mod time;
pub mod torrent;
pub mod tracker;
pub mod wire;
