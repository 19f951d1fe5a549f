//! SHA-1 over eight messages at once in vector registers: each 32-bit lane of a register belongs to another message.
//!
//! ```text
//!   register a  | a of m0 | a of m1 | ... | a of m7 |     one round of all eight: about ten instructions
//!   word i      | w of m0 | w of m1 | ... | w of m7 |     (AVX-512VL) or twenty (AVX2)
//! ```
//!
//! The SHA instructions work on one message each. Some processors start one of them every other cycle, and then
//! interleaving a few messages is best (see module `lanes`); others start one only when the last is nearly
//! done, and then eight messages in vectors take half of the time. `kernels` tells which ones this processor can
//! run; the caller measures them.
//!
//! What it does not do: choose, keep states, messages of different lengths.
//!
//! # Contract of the unsafe code
//!
//! - `kernels` gives out a function only when the processor has announced its features.
//! - Whoever calls one gives eight pointers to `blocks * 64` readable bytes each.
//!
//! The instructions of AVX-512VL are written as assembly, one by one, since the oldest compiler supported has no
//! other name for them. See FIPS 180-4.
#![allow(unsafe_code)]

/// Messages in one register.
pub(super) const WIDE: usize = 8;

/// Advances eight states by so many times 64 bytes, each from its own pointer.
///
/// # Safety
/// Each pointer must point to `blocks * 64` readable bytes.
pub(super) type Kernel = unsafe fn(states: &mut [[u32; 5]; WIDE], data: [*const u8; WIDE], blocks: usize);

/// The kernels that this processor can run, the better one first.
pub(super) fn kernels() -> Vec<Kernel> {
    #[allow(unused_mut)]
    let mut found: Vec<Kernel> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2");
        if avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
            found.push(x86::avx512vl);
        }
        if avx2 {
            found.push(x86::avx2);
        }
    }
    found
}

#[cfg(target_arch = "x86_64")]
#[allow(unused_unsafe)] // some of these intrinsics are safe functions in newer compilers
#[allow(unused_assignments)] // words that the last sixteen rounds would leave for later ones
mod x86 {
    use super::WIDE;
    use std::arch::asm;
    use std::arch::x86_64::*;

    const K: [u32; 4] = [0x5A82_7999, 0x6ED9_EBA1, 0x8F1B_BCDC, 0xCA62_C1D6];

    /// Eight registers of eight words each, rows made columns.
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn transpose(r: [__m256i; 8]) -> [__m256i; 8] {
        // SAFETY: nothing but registers; the feature is the caller's promise.
        unsafe {
            let pair = |i: usize| (_mm256_unpacklo_epi32(r[i], r[i + 1]), _mm256_unpackhi_epi32(r[i], r[i + 1]));
            let (p, q, s, t) = (pair(0), pair(2), pair(4), pair(6));
            let quad = |x: (__m256i, __m256i), y: (__m256i, __m256i)| {
                [
                    _mm256_unpacklo_epi64(x.0, y.0),
                    _mm256_unpackhi_epi64(x.0, y.0),
                    _mm256_unpacklo_epi64(x.1, y.1),
                    _mm256_unpackhi_epi64(x.1, y.1),
                ]
            };
            let (upper, lower) = (quad(p, q), quad(s, t));
            let mut out = r;
            for i in 0..4 {
                out[i] = _mm256_permute2x128_si256::<0x20>(upper[i], lower[i]);
                out[i + 4] = _mm256_permute2x128_si256::<0x31>(upper[i], lower[i]);
            }
            out
        }
    }

    macro_rules! kernel {
        ($name:ident, $rotate:ident, $choose:ident, $parity:ident, $majority:ident) => {
            /// See [`Kernel`](super::Kernel).
            ///
            /// # Safety
            /// The processor must have the features of this name; and see there.
            #[target_feature(enable = "avx2")]
            pub(super) unsafe fn $name(states: &mut [[u32; 5]; WIDE], data: [*const u8; WIDE], blocks: usize) {
                // SAFETY: features and lengths are the caller's promise; loads and stores are unaligned ones.
                unsafe {
                    let zero = _mm256_setzero_si256();
                    // The words are big-endian in the messages.
                    let (low, high) = (0x0405_0607_0001_0203, 0x0c0d_0e0f_0809_0a0b);
                    let swap = _mm256_set_epi64x(high, low, high, low);
                    let mut sum = [zero; 5];
                    for (j, s) in sum.iter_mut().enumerate() {
                        let words: [u32; WIDE] = std::array::from_fn(|l| states[l][j]);
                        *s = _mm256_loadu_si256(words.as_ptr().cast());
                    }
                    for block in 0..blocks {
                        let mut w = [zero; 16];
                        for half in 0..2 {
                            let mut rows = [zero; 8];
                            for (row, from) in rows.iter_mut().zip(data) {
                                let bytes = _mm256_loadu_si256(from.add(block * 64 + half * 32).cast());
                                *row = _mm256_shuffle_epi8(bytes, swap);
                            }
                            w[half * 8..half * 8 + 8].copy_from_slice(&transpose(rows));
                        }
                        let [mut a, mut b, mut c, mut d, mut e] = sum;
                        // Each word gives its place to the one sixteen rounds further on.
                        macro_rules! round {
                            ($f:ident $k:ident $i:expr) => {{
                                const I: usize = $i;
                                let word = w[I % 16];
                                let t = _mm256_add_epi32(_mm256_add_epi32(e, _mm256_add_epi32(word, $k)), $f!(b, c, d));
                                let t = _mm256_add_epi32(t, $rotate!(a, 5));
                                (e, d, c, b, a) = (d, c, $rotate!(b, 30), a, t);
                                if I < 64 {
                                    let x = $parity!(word, w[(I + 2) % 16], w[(I + 8) % 16]);
                                    let x = _mm256_xor_si256(x, w[(I + 13) % 16]);
                                    w[I % 16] = $rotate!(x, 1);
                                }
                            }};
                        }
                        macro_rules! five {
                            ($f:ident $k:ident $i:expr) => {
                                round!($f $k $i);
                                round!($f $k $i + 1);
                                round!($f $k $i + 2);
                                round!($f $k $i + 3);
                                round!($f $k $i + 4);
                            };
                        }
                        macro_rules! twenty {
                            ($f:ident $k:ident $i:expr) => {
                                five!($f $k $i);
                                five!($f $k $i + 5);
                                five!($f $k $i + 10);
                                five!($f $k $i + 15);
                            };
                        }
                        let [k0, k1, k2, k3] = K.map(|k| _mm256_set1_epi32(k as i32));
                        twenty!($choose k0 0);
                        twenty!($parity k1 20);
                        twenty!($majority k2 40);
                        twenty!($parity k3 60);
                        for (s, v) in sum.iter_mut().zip([a, b, c, d, e]) {
                            *s = _mm256_add_epi32(*s, v);
                        }
                    }
                    for (j, s) in sum.into_iter().enumerate() {
                        let mut words = [0u32; WIDE];
                        _mm256_storeu_si256(words.as_mut_ptr().cast(), s);
                        for (state, word) in states.iter_mut().zip(words) {
                            state[j] = word;
                        }
                    }
                }
            }
        };
    }

    macro_rules! rotate2 {
        ($x:expr, $n:literal) => {{
            let x = $x;
            _mm256_or_si256(_mm256_slli_epi32::<$n>(x), _mm256_srli_epi32::<{ 32 - $n }>(x))
        }};
    }
    macro_rules! choose2 {
        ($b:expr, $c:expr, $d:expr) => {
            _mm256_xor_si256($d, _mm256_and_si256($b, _mm256_xor_si256($c, $d)))
        };
    }
    macro_rules! parity2 {
        ($b:expr, $c:expr, $d:expr) => {
            _mm256_xor_si256($d, _mm256_xor_si256($b, $c))
        };
    }
    macro_rules! majority2 {
        ($b:expr, $c:expr, $d:expr) => {
            _mm256_or_si256(_mm256_and_si256($b, $c), _mm256_and_si256($d, _mm256_or_si256($b, $c)))
        };
    }
    kernel!(avx2, rotate2, choose2, parity2, majority2);

    macro_rules! rotate3 {
        ($x:expr, $n:literal) => {{
            let r: __m256i;
            asm!(concat!("vprold {}, {}, ", $n), lateout(ymm_reg) r, in(ymm_reg) $x,
                options(pure, nomem, nostack, preserves_flags));
            r
        }};
    }
    /// Any function of three bits: `$table` has its value for each of the eight inputs.
    macro_rules! ternary {
        ($b:expr, $c:expr, $d:expr, $table:literal) => {{
            let mut r: __m256i = $b;
            asm!(concat!("vpternlogd {}, {}, {}, ", $table), inout(ymm_reg) r, in(ymm_reg) $c, in(ymm_reg) $d,
                options(pure, nomem, nostack, preserves_flags));
            r
        }};
    }
    macro_rules! choose3 {
        ($b:expr, $c:expr, $d:expr) => {
            ternary!($b, $c, $d, "0xca")
        };
    }
    macro_rules! parity3 {
        ($b:expr, $c:expr, $d:expr) => {
            ternary!($b, $c, $d, "0x96")
        };
    }
    macro_rules! majority3 {
        ($b:expr, $c:expr, $d:expr) => {
            ternary!($b, $c, $d, "0xe8")
        };
    }
    kernel!(avx512vl, rotate3, choose3, parity3, majority3);
}
