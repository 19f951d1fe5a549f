//! What the programs in `src/bin` share and embed.

pub mod dht_node;
pub mod fuzz;
pub mod payload;
pub mod process;
pub mod tracker;
