//! SHA-1 over several messages at once, on one core.
//!
//! The SHA instructions of x86-64 and aarch64 have long latencies: one message alone can leave the unit idle more
//! than half of the time. Two to four independent messages, interleaved instruction by instruction, fill it. Where
//! a processor starts these instructions too seldom for that, or has none, eight messages in vector registers
//! (module `wide`) are faster: which way is the faster one for how many messages is measured once in a
//! process, in a fraction of a millisecond. Where there is neither, the `sha1` crate hashes one message after the
//! other.
//!
//! ```text
//!   message a  |64|64|64|64|64|..            states advance together by the length of the
//!   message b  |64|64|64|64|64|64|64|..      shortest; a message that ends leaves its lane to
//!   message c  |64|64|64|..                  the next one
//! ```
//!
//! [`Sha1`] is the state of one message, to be fed in pieces of any length; [`Lanes`] advances one or several of
//! them. A state may be fed through any `Lanes`: all ways give the same.
//!
//! What it does not do: SHA-256 (see [`lanes256`](super::lanes256)), threads, reading files.
//!
//! # Contract of the unsafe code
//!
//! - The functions with target features run only when the processor has announced these features: `native` asks it,
//!   `Lanes` keeps the answer, and cannot be made otherwise.
//! - They read `blocks * 64` bytes from each pointer; the callers take pointers from slices of at least that
//!   length.
//!
//! See FIPS 180-4.
#![allow(unsafe_code)]

use super::wide::{self, Kernel, WIDE};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Most messages advanced together.
pub const MAX_LANES: usize = WIDE;
/// Most messages interleaved in SHA instructions.
pub(super) const INTERLEAVED: usize = 4;

const START: [u32; 5] = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476, 0xC3D2_E1F0];

/// The state of one message being hashed: chaining value, bytes so far, and what does not fill 64 bytes yet.
#[derive(Clone)]
pub struct Sha1 {
    h: [u32; 5],
    len: u64,
    rest: [u8; 64],
}

impl std::fmt::Debug for Sha1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sha1 after {} bytes", self.len)
    }
}

/// Whether the processor has SHA instructions.
pub(super) fn native() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("sha") && is_x86_feature_detected!("ssse3") && is_x86_feature_detected!("sse4.1");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("sha2");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

/// A kernel in vectors, and the fewest messages for which it is the faster way.
#[derive(Clone, Copy, Debug)]
struct Wide {
    kernel: Kernel,
    from: usize,
}

impl Wide {
    /// The fastest kernel of this processor, unless the SHA instructions always win. Measured at the first call.
    fn measured() -> Option<Self> {
        static FOUND: OnceLock<Option<Wide>> = OnceLock::new();
        *FOUND.get_or_init(|| {
            let data = [[0; 1024]; WIDE];
            let one_by_one =
                shortest(|| drop(Lanes::narrow(INTERLEAVED).digest_many(&data.each_ref().map(|d| &d[..]))));
            let timed = wide::kernels().into_iter().map(|kernel| {
                let wide = Lanes { wide: Some(Self { kernel, from: 1 }), ..Lanes::narrow(1) };
                (shortest(|| drop(wide.digest_many(&data.each_ref().map(|d| &d[..])))), kernel)
            });
            let (time, kernel) = timed.min_by_key(|t| t.0)?;
            // Eight messages took `one_by_one`: how many of them take longer than all eight in vectors?
            let from = WIDE as u128 * time.as_nanos() / one_by_one.as_nanos().max(1) + 1;
            (from <= WIDE as u128).then_some(Self { kernel, from: from as usize })
        })
    }
}

/// The time that it takes when nothing comes between.
fn shortest(mut work: impl FnMut()) -> Duration {
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..8).map(time).min().unwrap_or_default()
}

/// What this processor can hash at once.
#[derive(Clone, Copy, Debug)]
pub struct Lanes {
    native: bool,
    interleaved: usize,
    wide: Option<Wide>,
}

impl Lanes {
    /// Looks at the processor. `width` is the most messages to advance together, 1 to [`MAX_LANES`]; vectors come in
    /// only where all of them may.
    pub fn new(width: usize) -> Self {
        Self { wide: if width >= WIDE { Wide::measured() } else { None }, ..Self::narrow(width) }
    }

    /// SHA instructions where there are some, no vectors.
    fn narrow(width: usize) -> Self {
        let native = native();
        Self { native, interleaved: if native { width.clamp(1, INTERLEAVED) } else { 1 }, wide: None }
    }

    /// One message after the other with the `sha1` crate, whatever the processor can.
    pub const fn portable() -> Self {
        Self { native: false, interleaved: 1, wide: None }
    }

    /// Messages that are worth having at once: 1 where there is nothing to interleave.
    pub const fn width(&self) -> usize {
        if self.wide.is_some() { WIDE } else { self.interleaved }
    }

    /// A message's state before its first byte.
    pub const fn start(&self) -> Sha1 {
        Sha1 { h: START, len: 0, rest: [0; 64] }
    }

    /// Feeds each state the bytes beside it. Any number of messages of any lengths.
    pub fn update(&self, items: &mut [(&mut Sha1, &[u8])]) {
        for (state, data) in items.iter_mut() {
            *data = state.fill_rest(data);
        }
        loop {
            // The first messages that still have a whole 64 bytes, as many as there are lanes.
            let mut active = [0; MAX_LANES];
            let mut n = 0;
            for (i, _) in items.iter().enumerate().filter(|(_, (_, data))| data.len() >= 64).take(self.width()) {
                active[n] = i;
                n += 1;
            }
            match (self.wide, n) {
                (_, 0) => break,
                (Some(wide), _) if n >= wide.from => Self::advance_wide(wide.kernel, items, &active[..n]),
                _ if !self.native => advance_portable(&mut items[active[0]]),
                _ => match n.min(self.interleaved) {
                    1 => Self::advance::<1>(items, &active),
                    2 => Self::advance::<2>(items, &active),
                    3 => Self::advance::<3>(items, &active),
                    _ => Self::advance::<INTERLEAVED>(items, &active),
                },
            }
        }
        for (state, data) in items.iter_mut() {
            debug_assert!(data.len() < 64 && (data.is_empty() || state.len % 64 == 0));
            state.rest[..data.len()].copy_from_slice(data);
            state.len += data.len() as u64;
            *data = &[];
        }
    }

    /// Advances the messages `active[..N]` by as many times 64 bytes as the shortest has.
    fn advance<const N: usize>(items: &mut [(&mut Sha1, &[u8])], active: &[usize]) {
        let (mut h, mut at) = ([START; N], [std::ptr::null(); N]);
        let blocks = take(items, &active[..N], &mut h, &mut at);
        // SAFETY: `at` points to blocks * 64 bytes each; called only where the processor has the features.
        unsafe { compress::<N>(&mut h, at, blocks) };
        for (l, h) in h.into_iter().enumerate() {
            items[active[l]].0.h = h;
        }
    }

    /// Advances the messages `active`, eight at most, by as many times 64 bytes as the shortest has.
    fn advance_wide(kernel: Kernel, items: &mut [(&mut Sha1, &[u8])], active: &[usize]) {
        let (mut h, mut at) = ([START; WIDE], [std::ptr::null(); WIDE]);
        let blocks = take(items, active, &mut h, &mut at);
        // Idle lanes read along with the first one; nobody looks at what becomes of them.
        let first = at[0];
        at[active.len()..].fill(first);
        // SAFETY: `at` points to blocks * 64 bytes each; `wide::kernels` has seen the processor's features.
        unsafe { kernel(&mut h, at, blocks) };
        for (&i, h) in active.iter().zip(h) {
            items[i].0.h = h;
        }
    }

    /// The hashes of whole messages.
    pub fn digest_many(&self, messages: &[&[u8]]) -> Vec<[u8; 20]> {
        let mut states = vec![self.start(); messages.len()];
        let mut items: Vec<_> = states.iter_mut().zip(messages.iter().copied()).collect();
        self.update(&mut items);
        states.into_iter().map(Sha1::finish).collect()
    }
}

/// Takes from each of the messages `active` as many times 64 bytes as the shortest has: how many that is. Their
/// states and where the bytes are go to `h` and `at`.
fn take(items: &mut [(&mut Sha1, &[u8])], active: &[usize], h: &mut [[u32; 5]], at: &mut [*const u8]) -> usize {
    let blocks = active.iter().map(|&i| items[i].1.len() / 64).min().unwrap_or(0);
    for (l, &i) in active.iter().enumerate() {
        let (state, data) = &mut items[i];
        let (now, later) = data.split_at(blocks * 64);
        (h[l], at[l]) = (state.h, now.as_ptr());
        state.len += now.len() as u64;
        *data = later;
    }
    blocks
}

/// Advances one message by all its times 64 bytes, with the crate.
fn advance_portable((state, data): &mut (&mut Sha1, &[u8])) {
    let (now, later) = data.split_at(data.len() / 64 * 64);
    for block in now.chunks_exact(64) {
        compress_portable(&mut state.h, block);
    }
    state.len += now.len() as u64;
    *data = later;
}

fn compress_portable(h: &mut [u32; 5], block: &[u8]) {
    sha1::compress(h, std::slice::from_ref(sha1::digest::generic_array::GenericArray::from_slice(block)));
}

impl Sha1 {
    /// Completes what an earlier feed left over; returns what is still to be hashed.
    fn fill_rest<'d>(&mut self, data: &'d [u8]) -> &'d [u8] {
        let held = (self.len % 64) as usize;
        if held == 0 {
            return data;
        }
        let (now, later) = data.split_at(data.len().min(64 - held));
        self.rest[held..held + now.len()].copy_from_slice(now);
        self.len += now.len() as u64;
        if self.len % 64 == 0 && !now.is_empty() {
            compress_one(&mut self.h, &self.rest);
        }
        later
    }

    /// Feeds this message alone.
    pub fn update(&mut self, data: &[u8]) {
        Lanes::narrow(1).update(&mut [(self, data)]);
    }

    /// The hash of everything fed.
    pub fn finish(self) -> [u8; 20] {
        let Self { mut h, len, mut rest } = self;
        let held = (len % 64) as usize;
        rest[held] = 0x80;
        rest[held + 1..].fill(0);
        if held >= 56 {
            compress_one(&mut h, &rest);
            rest = [0; 64];
        }
        rest[56..].copy_from_slice(&(len * 8).to_be_bytes());
        compress_one(&mut h, &rest);
        let mut out = [0; 20];
        for (o, v) in out.chunks_exact_mut(4).zip(h) {
            o.copy_from_slice(&v.to_be_bytes());
        }
        out
    }
}

fn compress_one(h: &mut [u32; 5], block: &[u8; 64]) {
    if !native() {
        return compress_portable(h, block);
    }
    let mut states = [*h];
    // SAFETY: 64 bytes; the processor has the features.
    unsafe { compress::<1>(&mut states, [block.as_ptr()], 1) };
    *h = states[0];
}

/// Advances `N` states by `blocks` times 64 bytes each.
///
/// # Safety
/// The processor must have the SHA extensions, and each of `data` must point to `blocks * 64` readable bytes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
#[allow(unused_unsafe)] // some of these intrinsics are safe functions in newer compilers
unsafe fn compress<const N: usize>(states: &mut [[u32; 5]; N], data: [*const u8; N], blocks: usize) {
    use std::arch::x86_64::*;
    // SAFETY: features and lengths are the caller's promise; loads and stores are unaligned ones.
    unsafe {
        let swap = _mm_set_epi64x(0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f);
        let zero = _mm_setzero_si128();
        let (mut a, mut e) = ([zero; N], [zero; N]);
        for l in 0..N {
            a[l] = _mm_shuffle_epi32(_mm_loadu_si128(states[l].as_ptr().cast()), 0x1b);
            e[l] = _mm_set_epi32(states[l][4] as i32, 0, 0, 0);
        }
        for block in 0..blocks {
            let (a_in, e_in) = (a, e);
            let mut w = [[zero; N]; 4];
            for (i, w) in w.iter_mut().enumerate() {
                for l in 0..N {
                    w[l] = _mm_shuffle_epi8(_mm_loadu_si128(data[l].add(block * 64 + i * 16).cast()), swap);
                }
            }
            // Four rounds; then the words of four rounds further on take the place of those just used.
            macro_rules! rounds {
                ($($i:literal)*) => {$(
                    for l in 0..N {
                        let words = w[$i % 4][l];
                        let sum = if $i == 0 { _mm_add_epi32(e[l], words) } else { _mm_sha1nexte_epu32(e[l], words) };
                        e[l] = a[l];
                        a[l] = _mm_sha1rnds4_epu32::<{ $i / 5 }>(a[l], sum);
                        if $i < 16 {
                            let x = _mm_sha1msg1_epu32(words, w[($i + 1) % 4][l]);
                            let x = _mm_xor_si128(x, w[($i + 2) % 4][l]);
                            w[$i % 4][l] = _mm_sha1msg2_epu32(x, w[($i + 3) % 4][l]);
                        }
                    }
                )*};
            }
            rounds!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19);
            for l in 0..N {
                e[l] = _mm_sha1nexte_epu32(e[l], e_in[l]);
                a[l] = _mm_add_epi32(a[l], a_in[l]);
            }
        }
        for l in 0..N {
            _mm_storeu_si128(states[l].as_mut_ptr().cast(), _mm_shuffle_epi32(a[l], 0x1b));
            states[l][4] = _mm_extract_epi32(e[l], 3) as u32;
        }
    }
}

/// Advances `N` states by `blocks` times 64 bytes each.
///
/// # Safety
/// The processor must have the cryptography extension, and each of `data` must point to `blocks * 64` readable bytes.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,sha2")]
#[allow(unused_unsafe)] // some of these intrinsics are safe functions in newer compilers
unsafe fn compress<const N: usize>(states: &mut [[u32; 5]; N], data: [*const u8; N], blocks: usize) {
    use std::arch::aarch64::*;
    const K: [u32; 4] = [0x5A82_7999, 0x6ED9_EBA1, 0x8F1B_BCDC, 0xCA62_C1D6];
    // SAFETY: features and lengths are the caller's promise; loads and stores are unaligned ones.
    unsafe {
        let (mut a, mut e) = ([vdupq_n_u32(0); N], [0u32; N]);
        for l in 0..N {
            a[l] = vld1q_u32(states[l].as_ptr());
            e[l] = states[l][4];
        }
        for block in 0..blocks {
            let (a_in, e_in) = (a, e);
            let mut w = [[vdupq_n_u32(0); N]; 4];
            for (i, w) in w.iter_mut().enumerate() {
                for l in 0..N {
                    let bytes = vld1q_u8(data[l].add(block * 64 + i * 16));
                    // Words are big-endian in the message: swap on little-endian machines only.
                    w[l] = vreinterpretq_u32_u8(if cfg!(target_endian = "little") { vrev32q_u8(bytes) } else { bytes });
                }
            }
            macro_rules! rounds {
                ($($i:literal)*) => {$(
                    for l in 0..N {
                        let sum = vaddq_u32(w[$i % 4][l], vdupq_n_u32(K[$i / 5]));
                        let next = vsha1h_u32(vgetq_lane_u32::<0>(a[l]));
                        a[l] = match $i / 5 {
                            0 => vsha1cq_u32(a[l], e[l], sum),
                            2 => vsha1mq_u32(a[l], e[l], sum),
                            _ => vsha1pq_u32(a[l], e[l], sum),
                        };
                        e[l] = next;
                        if $i < 16 {
                            let x = vsha1su0q_u32(w[$i % 4][l], w[($i + 1) % 4][l], w[($i + 2) % 4][l]);
                            w[$i % 4][l] = vsha1su1q_u32(x, w[($i + 3) % 4][l]);
                        }
                    }
                )*};
            }
            rounds!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19);
            for l in 0..N {
                a[l] = vaddq_u32(a[l], a_in[l]);
                e[l] = e[l].wrapping_add(e_in[l]);
            }
        }
        for l in 0..N {
            vst1q_u32(states[l].as_mut_ptr(), a[l]);
            states[l][4] = e[l];
        }
    }
}

/// Never called: `native` is false here.
///
/// # Safety
/// None is needed.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn compress<const N: usize>(_: &mut [[u32; 5]; N], _: [*const u8; N], _: usize) {
    unreachable!("interleaved hashing without SHA instructions")
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha1::Digest;

    fn reference(data: &[u8]) -> [u8; 20] {
        sha1::Sha1::digest(data).into()
    }

    fn noise(n: usize) -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(7);
        (0..n).map(|_| rng.u8(..)).collect()
    }

    fn hex(h: &[u8; 20]) -> String {
        h.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Every way that this processor has.
    fn all() -> impl Iterator<Item = Lanes> {
        let wide =
            |kernel| [1, 3].map(|from| Lanes { wide: Some(Wide { kernel, from }), ..Lanes::narrow(INTERLEAVED) });
        (1..=MAX_LANES).map(Lanes::new).chain([Lanes::portable()]).chain(wide::kernels().into_iter().flat_map(wide))
    }

    #[test]
    fn standard_vectors() {
        let million = vec![b'a'; 1_000_000];
        let vectors: [(&[u8], &str); 4] = [
            (b"", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
            (b"abc", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "84983e441c3bd26ebaae4aa1f95129e5e54670f1"),
            (&million, "34aa973cd4c4daa4f61eeb2bdbad27316534016f"),
        ];
        for lanes in all() {
            let got = lanes.digest_many(&vectors.map(|v| v.0));
            assert_eq!(got.iter().map(hex).collect::<Vec<_>>(), vectors.map(|v| v.1), "{lanes:?}");
        }
    }

    #[test]
    fn every_length_and_alignment_agrees_with_the_crate() {
        let data = noise(700);
        for lanes in all() {
            for from in [0, 1, 3, 13] {
                let messages: Vec<&[u8]> = (0..=300).map(|n| &data[from..from + n]).collect();
                let want: Vec<_> = messages.iter().map(|m| reference(m)).collect();
                assert_eq!(lanes.digest_many(&messages), want, "{lanes:?}");
            }
        }
    }

    #[test]
    fn long_messages_of_different_lengths() {
        let data = noise(1 << 20);
        let messages: [&[u8]; 6] =
            [&data[..], &data[1..300_000], &data[7..8], &data[5..1 << 19], &[], &data[63..65_536 + 63]];
        for lanes in all() {
            let want: Vec<_> = messages.iter().map(|m| reference(m)).collect();
            assert_eq!(lanes.digest_many(&messages), want, "{lanes:?}");
        }
    }

    #[test]
    fn fed_in_any_cuts() {
        let data = noise(5000);
        let mut rng = fastrand::Rng::with_seed(1);
        for lanes in all() {
            for _ in 0..50 {
                let mut states = [lanes.start(), lanes.start(), lanes.start()];
                let mut at = [0; 3];
                while at.iter().any(|&a| a < data.len()) {
                    let cuts: Vec<usize> = at.iter().map(|&a| rng.usize(a..=data.len().min(a + 400))).collect();
                    let mut items: Vec<_> =
                        states.iter_mut().zip(at.iter().zip(&cuts).map(|(&a, &c)| &data[a..c])).collect();
                    lanes.update(&mut items);
                    at.copy_from_slice(&cuts);
                }
                for s in states {
                    assert_eq!(s.finish(), reference(&data));
                }
            }
        }
    }

    #[test]
    fn a_state_fed_alone_can_go_on_in_company() {
        let data = noise(1000);
        for lanes in all() {
            let (mut a, mut b) = (lanes.start(), lanes.start());
            a.update(&data[..100]);
            lanes.update(&mut [(&mut a, &data[100..]), (&mut b, &data[..77])]);
            b.update(&data[77..]);
            assert_eq!([a.finish(), b.finish()], [reference(&data); 2]);
        }
    }
}
