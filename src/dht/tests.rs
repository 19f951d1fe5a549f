//! The node in a world of a thousand nodes of which a tenth are liars.

mod world;
