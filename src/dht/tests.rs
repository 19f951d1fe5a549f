//! The node among others: what it answers, and a world of a thousand nodes of which a tenth are liars.

mod answers;
mod world;
