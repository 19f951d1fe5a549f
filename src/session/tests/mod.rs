//! Dialogues with a session alone: peers and trackers are played by the test, time is a number, payload rests in
//! memory. No sockets, no files, no clock.
//!
//! `rig` is the driver the tests use; each of the other files is about one side of the protocol. What a session says
//! is written down in words, a message each: `request 0.1` is block 1 of piece 0, `piece 0.1` the same block with the
//! right content, `piece 0.1 (wrong)` with any other.

mod clock;
mod dht;
mod disk;
mod edges;
mod gossip;
mod hostile;
mod idle;
mod joining;
mod life;
mod limits;
mod lsd;
mod magnet;
mod pieces;
mod predicted;
mod rig;
mod serving;
mod trackers;
mod trading;
