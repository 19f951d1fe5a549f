//! SHA-256 over several messages at once, on one core: the leaves of a version 2 torrent (BEP 52) are blocks of 16 KiB,
//! all of one length and all at hand.
//!
//! As in [`lanes`](super::lanes), independent messages are interleaved instruction by instruction where the
//! processor has SHA instructions, and go to the `sha2` crate one after the other where it has none.
//!
//! What it does not do: messages that come in parts, trees, threads.
//!
//! # Contract of the unsafe code
//!
//! - The functions with target features run only when [`Lanes256::new`] has seen the processor announce these
//!   features; a `Lanes256` that is not portable cannot be made otherwise.
//! - They read `blocks * 64` bytes from each pointer; the one caller takes pointers from slices of at least that
//!   length.
//!
//! See FIPS 180-4.
#![allow(unsafe_code)]

use super::lanes::{INTERLEAVED, native};
use sha2::Digest;

const START: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const K: [u32; 64] = [
    0x428a_2f98,
    0x7137_4491,
    0xb5c0_fbcf,
    0xe9b5_dba5,
    0x3956_c25b,
    0x59f1_11f1,
    0x923f_82a4,
    0xab1c_5ed5,
    0xd807_aa98,
    0x1283_5b01,
    0x2431_85be,
    0x550c_7dc3,
    0x72be_5d74,
    0x80de_b1fe,
    0x9bdc_06a7,
    0xc19b_f174,
    0xe49b_69c1,
    0xefbe_4786,
    0x0fc1_9dc6,
    0x240c_a1cc,
    0x2de9_2c6f,
    0x4a74_84aa,
    0x5cb0_a9dc,
    0x76f9_88da,
    0x983e_5152,
    0xa831_c66d,
    0xb003_27c8,
    0xbf59_7fc7,
    0xc6e0_0bf3,
    0xd5a7_9147,
    0x06ca_6351,
    0x1429_2967,
    0x27b7_0a85,
    0x2e1b_2138,
    0x4d2c_6dfc,
    0x5338_0d13,
    0x650a_7354,
    0x766a_0abb,
    0x81c2_c92e,
    0x9272_2c85,
    0xa2bf_e8a1,
    0xa81a_664b,
    0xc24b_8b70,
    0xc76c_51a3,
    0xd192_e819,
    0xd699_0624,
    0xf40e_3585,
    0x106a_a070,
    0x19a4_c116,
    0x1e37_6c08,
    0x2748_774c,
    0x34b0_bcb5,
    0x391c_0cb3,
    0x4ed8_aa4a,
    0x5b9c_ca4f,
    0x682e_6ff3,
    0x748f_82ee,
    0x78a5_636f,
    0x84c8_7814,
    0x8cc7_0208,
    0x90be_fffa,
    0xa450_6ceb,
    0xbef9_a3f7,
    0xc671_78f2,
];

/// What this processor can hash at once.
#[derive(Clone, Copy, Debug)]
pub struct Lanes256 {
    native: bool,
    width: usize,
}

impl Lanes256 {
    /// Looks at the processor. `width` is the most messages to interleave, 1 to four.
    pub fn new(width: usize) -> Self {
        Self { native: native(), width: width.clamp(1, INTERLEAVED) }
    }

    /// One message after the other, whatever the processor can.
    pub const fn portable() -> Self {
        Self { native: false, width: 1 }
    }

    /// The hashes of whole messages, of any lengths.
    pub fn digest_many(&self, messages: &[&[u8]]) -> Vec<[u8; 32]> {
        if !self.native {
            return messages.iter().map(|m| sha2::Sha256::digest(m).into()).collect();
        }
        let mut states = vec![START; messages.len()];
        let mut left: Vec<&[u8]> = messages.to_vec();
        loop {
            // The first messages that still have a whole 64 bytes, as many as there are lanes.
            let mut active = [0; INTERLEAVED];
            let (mut n, mut blocks) = (0, usize::MAX);
            for (i, data) in left.iter().enumerate().filter(|(_, d)| d.len() >= 64).take(self.width) {
                active[n] = i;
                blocks = blocks.min(data.len() / 64);
                n += 1;
            }
            match n {
                0 => break,
                1 => advance::<1>(&mut states, &mut left, &active, blocks),
                2 => advance::<2>(&mut states, &mut left, &active, blocks),
                3 => advance::<3>(&mut states, &mut left, &active, blocks),
                _ => advance::<4>(&mut states, &mut left, &active, blocks),
            }
        }
        let ends = left.iter().zip(messages);
        states.iter_mut().zip(ends).map(|(h, (rest, message))| finish(h, rest, message.len() as u64)).collect()
    }
}

/// Advances the messages `active[..N]` by `blocks` times 64 bytes.
fn advance<const N: usize>(states: &mut [[u32; 8]], left: &mut [&[u8]], active: &[usize; INTERLEAVED], blocks: usize) {
    let (mut h, mut at) = ([START; N], [std::ptr::null(); N]);
    for l in 0..N {
        let (now, later) = left[active[l]].split_at(blocks * 64);
        (h[l], at[l], left[active[l]]) = (states[active[l]], now.as_ptr(), later);
    }
    // SAFETY: `at` points to blocks * 64 bytes each (split_at above); this is reached only where Lanes256::new has
    // seen the processor's features.
    unsafe { compress::<N>(&mut h, at, blocks) };
    for l in 0..N {
        states[active[l]] = h[l];
    }
}

/// Pads a message of `len` bytes, of which the last `rest` are not in its state yet.
fn finish(h: &mut [u32; 8], rest: &[u8], len: u64) -> [u8; 32] {
    let mut tail = [0; 128];
    tail[..rest.len()].copy_from_slice(rest);
    tail[rest.len()] = 0x80;
    let end = if rest.len() < 56 { 64 } else { 128 };
    tail[end - 8..end].copy_from_slice(&(len * 8).to_be_bytes());
    let mut one = [*h];
    // SAFETY: `tail` has `end` bytes; this is reached only where Lanes256::new has seen the processor's features.
    unsafe { compress::<1>(&mut one, [tail.as_ptr()], end / 64) };
    let mut out = [0; 32];
    for (o, v) in out.chunks_exact_mut(4).zip(one[0]) {
        o.copy_from_slice(&v.to_be_bytes());
    }
    out
}

/// Advances `N` states by `blocks` times 64 bytes each.
///
/// # Safety
/// The processor must have the SHA extensions, and each of `data` must point to `blocks * 64` readable bytes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
#[allow(unused_unsafe)] // some of these intrinsics are safe functions in newer compilers
unsafe fn compress<const N: usize>(states: &mut [[u32; 8]; N], data: [*const u8; N], blocks: usize) {
    use std::arch::x86_64::*;
    // SAFETY: features and lengths are the caller's promise; loads and stores are unaligned ones.
    unsafe {
        let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
        let zero = _mm_setzero_si128();
        // The instructions want the words a, b, e, f in one register and c, d, g, h in the other.
        let (mut abef, mut cdgh) = ([zero; N], [zero; N]);
        for l in 0..N {
            let low = _mm_shuffle_epi32(_mm_loadu_si128(states[l].as_ptr().cast()), 0xb1);
            let high = _mm_shuffle_epi32(_mm_loadu_si128(states[l][4..].as_ptr().cast()), 0x1b);
            abef[l] = _mm_alignr_epi8(low, high, 8);
            cdgh[l] = _mm_blend_epi16(high, low, 0xf0);
        }
        for block in 0..blocks {
            let (abef_in, cdgh_in) = (abef, cdgh);
            let mut w = [[zero; N]; 4];
            for (i, w) in w.iter_mut().enumerate() {
                for l in 0..N {
                    w[l] = _mm_shuffle_epi8(_mm_loadu_si128(data[l].add(block * 64 + i * 16).cast()), swap);
                }
            }
            // Four rounds; then the words of sixteen rounds further on take the place of those just used.
            macro_rules! rounds {
                ($($i:literal)*) => {$(
                    let k = _mm_loadu_si128(K[$i * 4..].as_ptr().cast());
                    for l in 0..N {
                        let words = w[$i % 4][l];
                        let sum = _mm_add_epi32(words, k);
                        cdgh[l] = _mm_sha256rnds2_epu32(cdgh[l], abef[l], sum);
                        abef[l] = _mm_sha256rnds2_epu32(abef[l], cdgh[l], _mm_shuffle_epi32(sum, 0x0e));
                        if $i < 12 {
                            let last = w[($i + 3) % 4][l];
                            let x = _mm_sha256msg1_epu32(words, w[($i + 1) % 4][l]);
                            let x = _mm_add_epi32(x, _mm_alignr_epi8(last, w[($i + 2) % 4][l], 4));
                            w[$i % 4][l] = _mm_sha256msg2_epu32(x, last);
                        }
                    }
                )*};
            }
            rounds!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
            for l in 0..N {
                abef[l] = _mm_add_epi32(abef[l], abef_in[l]);
                cdgh[l] = _mm_add_epi32(cdgh[l], cdgh_in[l]);
            }
        }
        for l in 0..N {
            let low = _mm_shuffle_epi32(abef[l], 0x1b);
            let high = _mm_shuffle_epi32(cdgh[l], 0xb1);
            _mm_storeu_si128(states[l].as_mut_ptr().cast(), _mm_blend_epi16(low, high, 0xf0));
            _mm_storeu_si128(states[l][4..].as_mut_ptr().cast(), _mm_alignr_epi8(high, low, 8));
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
unsafe fn compress<const N: usize>(states: &mut [[u32; 8]; N], data: [*const u8; N], blocks: usize) {
    use std::arch::aarch64::*;
    // SAFETY: features and lengths are the caller's promise; loads and stores are unaligned ones.
    unsafe {
        let (mut abcd, mut efgh) = ([vdupq_n_u32(0); N], [vdupq_n_u32(0); N]);
        for l in 0..N {
            abcd[l] = vld1q_u32(states[l].as_ptr());
            efgh[l] = vld1q_u32(states[l][4..].as_ptr());
        }
        for block in 0..blocks {
            let (abcd_in, efgh_in) = (abcd, efgh);
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
                    let k = vld1q_u32(K[$i * 4..].as_ptr());
                    for l in 0..N {
                        let sum = vaddq_u32(w[$i % 4][l], k);
                        let before = abcd[l];
                        abcd[l] = vsha256hq_u32(abcd[l], efgh[l], sum);
                        efgh[l] = vsha256h2q_u32(efgh[l], before, sum);
                        if $i < 12 {
                            let x = vsha256su0q_u32(w[$i % 4][l], w[($i + 1) % 4][l]);
                            w[$i % 4][l] = vsha256su1q_u32(x, w[($i + 2) % 4][l], w[($i + 3) % 4][l]);
                        }
                    }
                )*};
            }
            rounds!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
            for l in 0..N {
                abcd[l] = vaddq_u32(abcd[l], abcd_in[l]);
                efgh[l] = vaddq_u32(efgh[l], efgh_in[l]);
            }
        }
        for l in 0..N {
            vst1q_u32(states[l].as_mut_ptr(), abcd[l]);
            vst1q_u32(states[l][4..].as_mut_ptr(), efgh[l]);
        }
    }
}

/// Never called: without SHA instructions the crate does it.
///
/// # Safety
/// None is needed.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn compress<const N: usize>(_: &mut [[u32; 8]; N], _: [*const u8; N], _: usize) {
    unreachable!("interleaved hashing without SHA instructions")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Lanes256> {
        (1..=INTERLEAVED).map(Lanes256::new).chain([Lanes256::portable()])
    }

    fn noise(n: usize) -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(9);
        (0..n).map(|_| rng.u8(..)).collect()
    }

    fn reference(messages: &[&[u8]]) -> Vec<[u8; 32]> {
        messages.iter().map(|m| sha2::Sha256::digest(m).into()).collect()
    }

    #[test]
    fn standard_vectors() {
        let million = vec![b'a'; 1_000_000];
        let vectors: [(&[u8], &str); 4] = [
            (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            ),
            (&million, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
        ];
        for lanes in all() {
            let got = lanes.digest_many(&vectors.map(|v| v.0));
            let got: Vec<String> = got.iter().map(|h| h.iter().map(|b| format!("{b:02x}")).collect()).collect();
            assert_eq!(got, vectors.map(|v| v.1), "{lanes:?}");
        }
    }

    #[test]
    fn every_length_and_alignment_agrees_with_the_crate() {
        let data = noise(700);
        for lanes in all() {
            for from in 0..16 {
                let messages: Vec<&[u8]> = (0..=300).map(|n| &data[from..from + n]).collect();
                assert_eq!(lanes.digest_many(&messages), reference(&messages), "{lanes:?} from {from}");
            }
        }
    }

    #[test]
    fn leaves_of_a_piece_with_a_short_last_one() {
        let data = noise(9 * 16384 + 1000);
        let leaves: Vec<&[u8]> = data.chunks(16384).collect();
        for lanes in all() {
            assert_eq!(lanes.digest_many(&leaves), reference(&leaves), "{lanes:?}");
        }
    }
}
