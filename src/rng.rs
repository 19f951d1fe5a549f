//! The core's dice: one generator seeded by the driver, forked for each subsystem.
//!
//! Same seed, same run. Nothing secret is drawn here: peer ids and tracker keys come from bytes the
//! driver took from the operating system and put into the seed.

/// A small seeded generator (`fastrand`'s wyrand); not for secrets.
pub type Rng = fastrand::Rng;

/// A generator from a seed.
pub fn seeded(seed: u64) -> Rng {
    Rng::with_seed(seed)
}
