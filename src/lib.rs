//! btmio: a BitTorrent client and library in which one thread and one poll loop do everything.
//!
//! # Use it
//!
//! A [`net::Loop`] owns the sockets, the files and a [`session::Session`]. Give it torrents, let it
//! turn, and pull what happened:
//!
//! ```
//! use std::time::Duration;
//! use btmio::api::{Add, Alert};
//! use btmio::metainfo::Metainfo;
//! use btmio::net::{Loop, LoopConfig, PortChoice};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A torrent of one empty file, which is complete as soon as it is there. Read yours from disk.
//! let torrent = b"d4:infod6:lengthi0e4:name9:empty.txt12:piece lengthi16384e6:pieces0:ee";
//! let dir = std::env::temp_dir().join(format!("btmio-example-{}", std::process::id()));
//!
//! let mut config = LoopConfig { port: PortChoice::Exact(0), ..LoopConfig::default() };
//! config.session.down_limit = Some(5 << 20); // bytes per second
//! let mut bt = Loop::new(config)?;
//! let mut add = Add::new(Metainfo::parse(torrent)?, &dir);
//! add.seed_ratio = Some(1.0);
//! let key = bt.add(add)?;
//!
//! 'run: loop {
//!     bt.turn(Some(Duration::from_secs(1)))?; // waits for events, at most so long
//!     while let Some(alert) = bt.poll_alert() {
//!         match alert {
//!             Alert::Finished { .. } => break 'run,
//!             Alert::Error { error, .. } => return Err(error.into()),
//!             other => println!("{other:?}"),
//!         }
//!     }
//! }
//! let status = bt.session().status(bt.now(), key).expect("it was added");
//! assert_eq!(status.have, status.wanted);
//!
//! bt.shutdown(); // saves, tells trackers, closes peers
//! while !bt.stopped() {
//!     bt.turn(None)?;
//! }
//! # std::fs::remove_dir_all(&dir)?;
//! # Ok(())
//! # }
//! ```
//!
//! Commands are methods of [`session::Session`], reached through [`net::Loop::command`]: pause,
//! resume, remove with or without data, select files, set limits, add peers and trackers. Settings
//! are [`config::Config`], [`storage::StorageConfig`] and [`net::LoopConfig`].
//!
//! **Inside another event loop**, watch the loop's descriptor (`AsRawFd`) for reading, and call
//! `turn(Some(Duration::ZERO))` when it is readable or when [`net::Loop::timeout`] has passed. While
//! `turn` answers [`net::Turn::More`], call it again without waiting: mio is edge-triggered, so an
//! outer poller is not told a second time.
//!
//! **With sockets and files of your own**, drive a [`session::Session`] yourself. It touches
//! nothing outside: you tell it the time and what happened, it says what to do. Its module's head
//! has the four rules.
//!
//! # The house, in the order to read it
//!
//! | tier | modules | what they are |
//! |---|---|---|
//! | 0 | [`id`] [`time`] [`rng`] [`slots`] [`bitfield`] [`rate`] [`crc32c`] [`config`] | vocabulary: shared values |
//! | 1 | [`bencode`] [`metainfo`] [`wire`] [`http`] | formats: bytes to values and back; no state, no time |
//! | 2 | [`peer`] [`torrent`] [`tracker`] [`dht`] [`api`] [`error`] | machines: (now, event) to change and actions |
//! | 3 | [`session`] | the whole: owns the slabs, dispatches |
//! | 4 | [`pump`] [`storage`] [`state`] | the seam: sockets, plans and files meet |
//! | 5 | [`net`] | the driver: mio, sockets, names |
//! | 6 | [`cli`] | the face: the `btmio` command |
//!
//! A tier uses only those above it in this list; `tests/tidy.rs` sees to it.
//!
//! # The walk of a block
//!
//! [`net::Loop::turn`] finds a stream readable → [`pump::recv`] asks where its bytes belong
//! ([`session::Session::want`]), lets one `readv` put them there, and reports →
//! [`session::Session::filled`] checks each header against the prediction → [`wire::Decoder`] counts
//! the block complete → `Torrent::on_block` settles requests and leases → [`torrent::picker::Picker::on_block`]
//! marks it received, and knows when the piece is. No queue, channel or lock on the way, and the
//! payload has not been touched: it lies in a buffer that is hashed while hot and written with one
//! call.

pub mod api;
pub mod bencode;
pub mod bitfield;
pub mod blocklist;
pub mod cli;
pub mod config;
pub mod crc32c;
pub mod dht;
pub mod error;
pub mod http;
pub mod id;
pub mod lan;
pub mod lazy;
pub mod metainfo;
pub mod net;
pub mod peer;
pub mod portmap;
pub mod pump;
pub mod rate;
pub mod rng;
pub mod session;
#[cfg(feature = "sim")]
pub mod sim;
pub mod slots;
pub mod state;
pub mod storage;
pub mod time;
pub mod torrent;
pub mod tracker;
pub mod wire;
