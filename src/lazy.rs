//! State that most of its owners never need: nothing but a pointer until it is first written to.

use std::ops::{Deref, DerefMut};

/// A type whose value before anything was written to it is the same for all.
pub trait Empty: Sized + 'static {
    /// That value.
    fn empty() -> &'static Self;
    /// A value of one's own to begin with, equal to [`empty`](Self::empty).
    fn fresh() -> Self;
}

/// Reads as [`Empty::empty`] and costs a pointer until it is borrowed mutably, which allocates.
///
/// Whoever only wants to take something back looks first whether there is something ([`made`](Self::made)).
#[derive(Debug)]
pub struct Lazy<T>(Option<Box<T>>);

impl<T> Default for Lazy<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Lazy<T> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self(None)
    }

    /// What was written to, if anything was.
    pub fn made(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }

    /// Heap bytes of the value itself, without what it holds.
    pub fn held(&self) -> usize {
        if self.0.is_some() { size_of::<T>() } else { 0 }
    }
}

impl<T: Empty> Deref for Lazy<T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or_else(|| T::empty())
    }
}

impl<T: Empty> DerefMut for Lazy<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_with(|| Box::new(T::fresh()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Empty for Vec<u8> {
        fn empty() -> &'static Self {
            static EMPTY: Vec<u8> = Vec::new();
            &EMPTY
        }
        fn fresh() -> Self {
            Self::new()
        }
    }

    #[test]
    fn reading_allocates_nothing_and_writing_does() {
        let mut lazy = Lazy::<Vec<u8>>::new();
        assert!(lazy.is_empty() && lazy.iter().next().is_none());
        assert!(lazy.made().is_none() && lazy.held() == 0);
        lazy.push(1);
        assert_eq!(*lazy, [1]);
        assert_eq!(lazy.held(), size_of::<Vec<u8>>());
        assert!(lazy.made().is_some());
    }
}
