//! What the programs in `src/bin` share and embed.

pub mod fuzz;
pub mod payload;
pub mod process;
pub mod tracker;
