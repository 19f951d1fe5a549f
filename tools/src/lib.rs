//! What the programs in `src/bin` share and embed.

#[cfg(feature = "tls")]
pub mod certificates;
pub mod dht_node;
pub mod fuzz;
pub mod payload;
pub mod process;
pub mod tracker;
