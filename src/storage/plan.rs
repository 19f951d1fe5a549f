//! A plan for one vectored read or write: where the next bytes of a stream rest, by name.
//!
//! The pump builds it part by part: the rest of a block ([`Storage::place`](super::Storage::place)), room for the
//! next message header ([`PlaceList::push_slot`]), the next block, and so on; or for sending, a header
//! ([`PlaceList::push_bytes`]) and a block ([`Storage::lend`](super::Storage::lend)). Then
//! [`Storage::regions`](super::Storage::regions) turns the whole into addresses for one system call.
//!
//! ```text
//!   receive:  [rest of block a][slot 0: 13][block b][slot 1: 13][block c]   one readv
//!   send:     [13 bytes][block a][13 bytes][block b][13 bytes][block c]     one sendmsg
//! ```
//!
//! A plan holds no addresses: parts are names (buffer, generation, range), looked up when the call
//! is made. A buffer that a plan names is not evicted while the plan is being built, because `place`
//! and `lend` look at the plan they add to. A plan is good for one call, made before storage is asked
//! for anything else; a stale name is left out together with all that would follow it.

use super::iov::{IoVecs, MAX_REGIONS};

/// Most parts in a plan: a caller can still push a few regions of its own behind them.
pub const MAX_PARTS: usize = MAX_REGIONS - 4;

/// Bytes a plan holds itself: slots, headers and what was read for sending.
pub(super) const MAX_OWN: usize = 1 << 20;

/// Where one part's bytes rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// In the plan's own bytes.
    Own { at: u32, len: u32 },
    /// In a buffer of the storage.
    Heap { slot: u32, generation: u32, from: u32, len: u32 },
    /// In a mapped window of the storage.
    Map { slot: u32, generation: u32, from: u32, len: u32 },
    /// Zeros that exist nowhere: a pad file (BEP 47). Only for sending.
    Zeros { len: u32 },
}

impl Part {
    pub(super) const fn len(self) -> u32 {
        match self {
            Self::Own { len, .. } | Self::Heap { len, .. } | Self::Map { len, .. } | Self::Zeros { len } => len,
        }
    }
}

/// A plan under construction. Keep one and reuse it: it allocates only until it has grown.
#[derive(Default, Debug)]
pub struct PlaceList {
    pub(super) parts: Vec<Part>,
    slots: Vec<(u32, u32)>,
    own: Vec<u8>,
    used: usize,
    total: usize,
}

impl PlaceList {
    /// An empty plan.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts over. The bytes of the last plan are gone.
    pub fn begin(&mut self) {
        self.parts.clear();
        self.slots.clear();
        self.used = 0;
        self.total = 0;
    }

    /// Bytes of all parts together.
    pub const fn total(&self) -> usize {
        self.total
    }
    /// Whether nothing was added yet.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
    /// Parts that can still be added. A block can take several (it may cross files).
    pub fn room(&self) -> usize {
        MAX_PARTS - self.parts.len()
    }

    /// Adds `len` bytes of room for a header, to be read by [`Self::slot`] after the call. Returns the
    /// slot's number, counted from 0, or `None` when the plan is full.
    pub fn push_slot(&mut self, len: u32) -> Option<usize> {
        let at = self.reserve(len)?;
        self.slots.push((at, len));
        Some(self.slots.len() - 1)
    }

    /// What landed in a slot (all of its room; whether it was reached follows from the bytes read).
    pub fn slot(&self, i: usize) -> &[u8] {
        let (at, len) = self.slots[i];
        &self.own[at as usize..(at + len) as usize]
    }

    /// Adds a copy of `bytes` to be sent. False when the plan is full.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> bool {
        let Some(at) = u32::try_from(bytes.len()).ok().and_then(|len| self.reserve(len)) else { return false };
        self.own[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        true
    }

    /// Room of `len` own bytes as the next part; where it begins.
    fn reserve(&mut self, len: u32) -> Option<u32> {
        if self.room() == 0 || len as usize > MAX_OWN - self.used {
            return None;
        }
        let at = self.used;
        self.used += len as usize;
        if self.own.len() < self.used {
            self.own.resize(self.used.next_power_of_two(), 0);
        }
        // `used` is at most MAX_OWN, so it fits.
        let at = at as u32;
        self.push(Part::Own { at, len });
        Some(at)
    }

    /// Own bytes for the storage to fill, at most `max`; it takes back what it could not fill.
    pub(super) fn reserve_lent(&mut self, max: u32) -> Option<&mut [u8]> {
        let len = max.min((MAX_OWN - self.used) as u32);
        if len == 0 {
            return None;
        }
        let at = self.reserve(len)? as usize;
        Some(&mut self.own[at..at + len as usize])
    }

    /// Takes back the part added last.
    pub(super) fn pop(&mut self) {
        if let Some(part) = self.parts.pop() {
            self.total -= part.len() as usize;
            if let Part::Own { len, .. } = part {
                self.used -= len as usize;
            }
        }
    }

    /// Adds a part; the caller has looked at [`Self::room`].
    pub(crate) fn push(&mut self, part: Part) {
        debug_assert!(self.parts.len() < MAX_PARTS, "room() was not asked");
        self.total += part.len() as usize;
        self.parts.push(part);
    }

    pub(super) fn uses_heap(&self, slot: u32) -> bool {
        self.parts.iter().any(|p| matches!(p, Part::Heap { slot: s, .. } if *s == slot))
    }
    pub(super) fn uses_map(&self, slot: u32) -> bool {
        self.parts.iter().any(|p| matches!(p, Part::Map { slot: s, .. } if *s == slot))
    }

    /// The parts and the own bytes, for whoever resolves them.
    pub(super) fn split(&mut self) -> (&[Part], &mut [u8]) {
        (&self.parts, &mut self.own)
    }

    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        self.own.capacity() + self.parts.capacity() * size_of::<Part>() + self.slots.capacity() * 8
    }
}

/// Turns a plan's parts into regions. `heap` and `map` push a named region, or answer false when
/// there is no such thing (any more).
pub(crate) fn resolve<'a>(
    plan: &'a mut PlaceList,
    io: &mut IoVecs<'a>,
    mut other: impl FnMut(Part, &mut IoVecs<'a>) -> bool,
) {
    static ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];
    let (parts, mut own) = plan.split();
    let mut own_at = 0;
    for &part in parts {
        let ok = match part {
            Part::Own { at, len } => {
                // Own parts were given out in rising order, so the bytes before this one are done with.
                let rest = std::mem::take(&mut own).split_at_mut((at - own_at) as usize).1;
                let (mine, rest) = rest.split_at_mut(len as usize);
                own = rest;
                own_at = at + len;
                io.push_mut(mine)
            }
            Part::Zeros { len } => {
                let (mut left, mut ok) = (len as usize, true);
                while left > 0 && ok {
                    let n = left.min(ZEROS.len());
                    ok = io.push_slice(&ZEROS[..n]);
                    left -= n;
                }
                ok
            }
            part => other(part, io),
        };
        if !ok {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_and_bytes_land_in_order() {
        let mut plan = PlaceList::new();
        for round in 0..2u8 {
            plan.begin();
            assert_eq!(plan.push_slot(3), Some(0));
            assert!(plan.push_bytes(&[7, 8]));
            assert_eq!(plan.push_slot(4), Some(1));
            assert_eq!(plan.total(), 9);
            let mut io = IoVecs::new();
            resolve(&mut plan, &mut io, |_, _| false);
            let mut before = [0; 9];
            io.copy_to(&mut before).unwrap();
            assert_eq!(before[3..5], [7, 8]);
            io.copy_from(&[round, 1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
            assert_eq!((plan.slot(0), plan.slot(1)), (&[round, 1, 2][..], &[5, 6, 7, 8][..]));
        }
    }

    #[test]
    fn a_full_plan_says_so() {
        let mut plan = PlaceList::new();
        assert!((0..MAX_PARTS).all(|_| plan.push_slot(1).is_some()));
        assert_eq!((plan.push_slot(1), plan.room()), (None, 0));
        plan.begin();
        assert!(!plan.push_bytes(&vec![0; MAX_OWN + 1]));
        assert!(plan.is_empty());
    }

    #[test]
    fn a_stale_name_ends_the_list() {
        let mut plan = PlaceList::new();
        plan.push_slot(2);
        plan.push(Part::Heap { slot: 0, generation: 0, from: 0, len: 5 });
        plan.push_slot(2);
        let mut io = IoVecs::new();
        resolve(&mut plan, &mut io, |_, _| false);
        assert_eq!(io.total(), 2);
    }
}
