//! (being written)

pub mod choker;
pub mod picker;
