//! What the programs in `src/bin` share and embed.

#[cfg(feature = "tls")]
pub mod certificates;
pub mod fuzz;
pub mod payload;
pub mod process;
pub mod tracker;
