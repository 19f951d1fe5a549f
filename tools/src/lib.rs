//! What the programs in `src/bin` share and embed.

pub mod tracker;
