//! The body of a reply that a server has compressed (RFC 1952), whether or not it was asked to.
//!
//! ```text
//! 1f 8b 08 | flags 1 | time 4 | 2 | [2 + extra] [name 0] [comment 0] [crc 2] | DEFLATE | crc32 4 | length 4
//! ```
//!
//! Several members one after the other are one body; what else follows the first is ignored, as by
//! everybody. The checksum and the length of each member are compared: a body that was cut or damaged
//! is an error, not half a reply.
//!
//! Invariants: no more than `limit` bytes come out, however little went in, and no more than that is
//! allocated for them; besides, a decompressor of about 10 KiB exists while this runs. Nothing is
//! decompressed twice: gzip within gzip comes out as gzip.
//!
//! Not here: making gzip, and the other codings (`deflate`, `br`, `zstd`), which are refused by name.
//!
//! [RFC 1952](https://www.rfc-editor.org/rfc/rfc1952)

use std::fmt;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// What every member begins with: magic and the only method there is.
const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
/// Bytes of the fixed part of a member's head.
const HEAD: usize = 10;
/// First size of the output; it doubles from there.
const FIRST: usize = 16 << 10;

/// Why a body cannot be decompressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GzipError {
    /// It does not begin as gzip does.
    Magic,
    /// It ends within a member.
    Truncated,
    /// The compressed data is malformed.
    Data,
    /// The checksum or the length at a member's end is not that of what came out.
    Checksum,
    /// More comes out than is allowed.
    TooLong,
}

impl fmt::Display for GzipError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Magic => "no gzip",
            Self::Truncated => "ends early",
            Self::Data => "malformed data",
            Self::Checksum => "checksum or length does not match",
            Self::TooLong => "too long",
        })
    }
}

/// Decompresses a whole body to at most `limit` bytes.
///
/// # Errors
/// When it is not gzip, is damaged or cut, or more would come out.
pub fn decode(body: &[u8], limit: usize) -> Result<Vec<u8>, GzipError> {
    let mut out = Vec::new();
    let mut rest = body;
    loop {
        rest = member(rest, limit, &mut out)?;
        if !rest.starts_with(&MAGIC) {
            return Ok(out);
        }
    }
}

/// Appends what one member holds to `out`; what follows the member.
fn member<'a>(input: &'a [u8], limit: usize, out: &mut Vec<u8>) -> Result<&'a [u8], GzipError> {
    let data = behind_head(input)?;
    let start = out.len();
    let rest = inflate(data, limit, out)?;
    let (trailer, rest) = rest.split_first_chunk::<8>().ok_or(GzipError::Truncated)?;
    let word = |at: usize| u32::from_le_bytes([trailer[at], trailer[at + 1], trailer[at + 2], trailer[at + 3]]);
    let made = &out[start..];
    if word(0) != crc32(made) || word(4) != made.len() as u32 {
        return Err(GzipError::Checksum);
    }
    Ok(rest)
}

/// Steps over a member's head.
fn behind_head(input: &[u8]) -> Result<&[u8], GzipError> {
    let known = input.len().min(MAGIC.len());
    if input[..known] != MAGIC[..known] {
        return Err(GzipError::Magic);
    }
    let flags = *input.get(3).ok_or(GzipError::Truncated)?;
    let mut rest = input.get(HEAD..).ok_or(GzipError::Truncated)?;
    if flags & 4 != 0 {
        let (len, more) = rest.split_first_chunk::<2>().ok_or(GzipError::Truncated)?;
        rest = more.get(usize::from(u16::from_le_bytes(*len))..).ok_or(GzipError::Truncated)?;
    }
    // A name and a comment, each ended by a zero.
    for flag in [8, 16] {
        if flags & flag != 0 {
            let end = rest.iter().position(|&b| b == 0).ok_or(GzipError::Truncated)?;
            rest = &rest[end + 1..];
        }
    }
    if flags & 2 != 0 {
        rest = rest.get(2..).ok_or(GzipError::Truncated)?;
    }
    Ok(rest)
}

/// Appends what a DEFLATE stream holds to `out`; what follows the stream.
fn inflate<'a>(mut data: &'a [u8], limit: usize, out: &mut Vec<u8>) -> Result<&'a [u8], GzipError> {
    let mut machine = Box::<DecompressorOxide>::default();
    let mut at = out.len();
    // The decompressor reads what it has written: the whole of `out` is its window.
    out.resize((at + FIRST).min(limit), 0);
    loop {
        let (status, read, written) = decompress(&mut machine, data, out, at, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF);
        data = &data[read..];
        at += written;
        match status {
            TINFLStatus::Done => {
                out.truncate(at);
                return Ok(data);
            }
            TINFLStatus::HasMoreOutput if out.len() < limit => out.resize((out.len() * 2).clamp(1, limit), 0),
            TINFLStatus::HasMoreOutput => return Err(GzipError::TooLong),
            TINFLStatus::FailedCannotMakeProgress | TINFLStatus::NeedsMoreInput => return Err(GzipError::Truncated),
            _ => return Err(GzipError::Data),
        }
    }
}

/// The CRC-32 of RFC 1952, four bits at a time.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = {
        let mut table = [0; 16];
        let mut i = 0;
        while i < 16 {
            let mut c = i as u32;
            let mut bit = 0;
            while bit < 4 {
                c = if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 };
                bit += 1;
            }
            table[i] = c;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |mut c: u32, &b| {
        c ^= u32::from(b);
        c = TABLE[(c & 15) as usize] ^ (c >> 4);
        TABLE[(c & 15) as usize] ^ (c >> 4)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member around stored (not compressed) blocks.
    fn stored(text: &[u8]) -> Vec<u8> {
        let mut out = [&MAGIC[..], &[0; 7]].concat();
        let mut blocks = text.chunks(0xffff).peekable();
        if text.is_empty() {
            out.extend([1, 0, 0, 0xff, 0xff]);
        }
        while let Some(block) = blocks.next() {
            let len = block.len() as u16;
            out.push(u8::from(blocks.peek().is_none()));
            out.extend(len.to_le_bytes());
            out.extend((!len).to_le_bytes());
            out.extend(block);
        }
        out.extend(crc32(text).to_le_bytes());
        out.extend((text.len() as u32).to_le_bytes());
        out
    }

    /// As Python's `gzip.compress(b"d8:intervali1800e5:peers0:e" * 3, mtime=0)` makes it.
    const BY_PYTHON: &[u8] = include_bytes!("../../testdata/gzip/reply.gz");
    /// 2 MiB of zeros in 2,067 bytes, by the same.
    const BOMB: &[u8] = include_bytes!("../../testdata/gzip/zeros.gz");

    #[test]
    fn checksums_are_those_of_the_rfc() {
        assert_eq!((crc32(b""), crc32(b"123456789")), (0, 0xcbf4_3926));
    }

    #[test]
    fn what_others_compressed_is_read() {
        assert_eq!(decode(BY_PYTHON, 1000).unwrap(), b"d8:intervali1800e5:peers0:e".repeat(3));
        let long: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        for text in [&b""[..], b"x", &long] {
            assert_eq!(decode(&stored(text), 1 << 20).unwrap(), text);
        }
    }

    #[test]
    fn heads_with_everything_in_them() {
        let plain = stored(b"hello");
        let more = b"\x03\0abcname\0comment\0\x01\x02";
        let full = [&MAGIC[..], &[4 | 8 | 16 | 2], &plain[4..10], more, &plain[10..]].concat();
        assert_eq!(decode(&full, 100).unwrap(), b"hello");
        let until = full.len() - plain.len() + 10;
        for n in 3..until {
            assert_eq!(decode(&full[..n], 100), Err(GzipError::Truncated), "{n}");
        }
    }

    #[test]
    fn members_are_joined_and_other_bytes_behind_them_ignored() {
        let two = [stored(b"ab"), stored(b"c")].concat();
        assert_eq!(decode(&two, 3).unwrap(), b"abc");
        assert_eq!(decode(&two, 2), Err(GzipError::TooLong));
        assert_eq!(decode(&[two, b"\0\0junk".to_vec()].concat(), 9).unwrap(), b"abc");
    }

    #[test]
    fn gzip_within_gzip_comes_out_as_gzip() {
        assert_eq!(decode(&stored(BY_PYTHON), 1 << 20).unwrap(), BY_PYTHON);
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        assert_eq!(decode(BOMB, 1 << 20), Err(GzipError::TooLong));
        // A gibibyte in a mebibyte.
        assert_eq!(decode(&BOMB.repeat(512), 1 << 20), Err(GzipError::TooLong));
        // At the limit, and one below.
        let zeros = decode(BOMB, 2 << 20).unwrap();
        assert!(zeros.len() == 2 << 20 && zeros.iter().all(|b| *b == 0));
        assert_eq!(decode(BOMB, (2 << 20) - 1), Err(GzipError::TooLong));
        assert_eq!(decode(BY_PYTHON, 81).unwrap().len(), 81);
        assert_eq!(decode(BY_PYTHON, 80), Err(GzipError::TooLong));
        assert_eq!(decode(&stored(b""), 0).unwrap(), b"");
        assert_eq!(decode(&stored(b"x"), 0), Err(GzipError::TooLong));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let plain = decode(BY_PYTHON, 1000).unwrap();
        let mut noticed = 0;
        for n in 0..BY_PYTHON.len() {
            assert!(decode(&BY_PYTHON[..n], 1000).is_err(), "cut at {n}");
            for bit in 0..8 {
                let mut damaged = BY_PYTHON.to_vec();
                damaged[n] ^= 1 << bit;
                // The time in the head, and the bits that fill the last byte, say nothing.
                match decode(&damaged, 1000) {
                    Ok(got) => assert_eq!(got, plain, "bit {bit} of byte {n}"),
                    Err(_) => noticed += 1,
                }
            }
        }
        assert!(noticed >= 8 * (BY_PYTHON.len() - HEAD), "{noticed}");
        assert_eq!(decode(b"hello", 9), Err(GzipError::Magic));
        assert_eq!(decode(b"\x1f\x8b\x07", 9), Err(GzipError::Magic));
        assert_eq!(decode(b"", 9), Err(GzipError::Truncated));
    }
}
