//! The node against hand-made datagrams, and in a world of a thousand nodes of which a tenth are liars.

mod dialogue;
mod world;
