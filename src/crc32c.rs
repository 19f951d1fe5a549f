//! CRC-32C (Castagnoli), with which node ids are tied to addresses (BEP 42) and peers are ranked (BEP 40).
//!
//! Reflected polynomial 0x82F63B78, register and result inverted. By 4 bits at a time from a table of 64
//! bytes: inputs are a few bytes long and rare.

const TABLE: [u32; 16] = table();

const fn table() -> [u32; 16] {
    let mut table = [0; 16];
    let mut i = 0;
    while i < 16 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 4 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
}

/// The checksum of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let nibble = |crc: u32, n: u8| crc >> 4 ^ TABLE[(crc as u8 ^ n) as usize & 15];
    !bytes.iter().fold(!0, |crc, &b| nibble(nibble(crc, b), b >> 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        assert_eq!(crc32c(b""), 0);
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
        let up: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&up), 0x46DD_794E);
    }
}
