//! Slots that are found by key: a slab whose keys carry a generation.
//!
//! A key kept after its slot was reused finds nothing instead of a stranger. Iteration is in slot
//! order, so it is the same in every run.

use crate::id::{ConnKey, TorrentKey};

/// A key into [`Slots`].
pub trait Key: Copy + PartialEq {
    /// A key from its parts.
    fn from_parts(index: u32, generation: u32) -> Self;
    /// The slot.
    fn slot(self) -> usize;
    /// The slot's generation when the key was made.
    fn stamp(self) -> u32;
}

macro_rules! key {
    ($t:ty) => {
        impl Key for $t {
            fn from_parts(index: u32, generation: u32) -> Self {
                Self::new(index, generation)
            }
            fn slot(self) -> usize {
                self.index()
            }
            fn stamp(self) -> u32 {
                self.generation()
            }
        }
    };
}
key!(ConnKey);
key!(TorrentKey);

/// A slab with generations.
#[derive(Debug)]
pub struct Slots<K, T> {
    slab: slab::Slab<(u32, T)>,
    generations: Vec<u32>,
    key: std::marker::PhantomData<K>,
}

impl<K: Key, T> Slots<K, T> {
    /// No slots, no heap.
    pub const fn new() -> Self {
        Self { slab: slab::Slab::new(), generations: Vec::new(), key: std::marker::PhantomData }
    }

    /// Puts in what `make` returns for the key it will have.
    pub fn insert_with(&mut self, make: impl FnOnce(K) -> T) -> K {
        let entry = self.slab.vacant_entry();
        let index = entry.key();
        if index == self.generations.len() {
            self.generations.push(0);
        }
        let generation = self.generations[index];
        let key = K::from_parts(u32::try_from(index).expect("fewer than 2^32 slots"), generation);
        entry.insert((generation, make(key)));
        key
    }

    /// Puts `value` in.
    pub fn insert(&mut self, value: T) -> K {
        self.insert_with(|_| value)
    }

    /// What the key names, if it is still there.
    pub fn get(&self, key: K) -> Option<&T> {
        self.slab.get(key.slot()).and_then(|(g, v)| (*g == key.stamp()).then_some(v))
    }

    /// What the key names, if it is still there.
    pub fn get_mut(&mut self, key: K) -> Option<&mut T> {
        self.slab.get_mut(key.slot()).and_then(|(g, v)| (*g == key.stamp()).then_some(v))
    }

    /// Takes out what the key names.
    pub fn remove(&mut self, key: K) -> Option<T> {
        self.get(key)?;
        let slot = key.slot();
        self.generations[slot] = self.generations[slot].wrapping_add(1);
        Some(self.slab.remove(slot).1)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// Keys in slot order.
    pub fn keys(&self) -> impl Iterator<Item = K> + '_ {
        self.iter().map(|(k, _)| k)
    }

    /// Keys and values in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (K, &T)> + '_ {
        self.slab.iter().map(|(i, (g, v))| (K::from_parts(u32::try_from(i).expect("fewer than 2^32 slots"), *g), v))
    }
}

impl<K: Key, T> Default for Slots<K, T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut s: Slots<ConnKey, &str> = Slots::new();
        let a = s.insert("a");
        assert_eq!(s.remove(a), Some("a"));
        let b = s.insert("b");
        assert_eq!(a.index(), b.index(), "the slot is reused");
        assert_eq!(s.get(a), None);
        assert_eq!(s.get(b), Some(&"b"));
        assert_eq!(s.remove(a), None);
        assert_eq!(s.len(), 1);
    }
}
