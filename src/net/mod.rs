//! (being written)

pub mod resolve;
