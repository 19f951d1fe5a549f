//! What the programs in `src/bin` share and embed.

#[cfg(target_os = "linux")]
pub mod alone;
#[cfg(target_os = "linux")]
pub mod bad_disk;
#[cfg(feature = "tls")]
pub mod certificates;
pub mod dht_node;
pub mod fuzz;
pub mod local;
pub mod payload;
pub mod process;
pub mod tracker;
