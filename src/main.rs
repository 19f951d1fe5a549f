//! The `btmio` command.
fn main() {}
