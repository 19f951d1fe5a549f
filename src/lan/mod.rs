//! What passes between hosts of one local network.

pub mod lsd;
