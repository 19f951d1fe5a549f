//! A readable name for a peer id, for people: nothing may depend on it (BEP 20).

use crate::id::PeerId;

/// The client a peer id names, its version included; the escaped id when it is not known.
pub fn client_name(id: &PeerId) -> String {
    printable(id.as_bytes(), 64)
}

/// Text from a peer, fit for a terminal: control characters, invisible ones and those that turn the
/// direction of writing are escaped, bytes that are not UTF-8 replaced, at most `max` characters.
pub fn printable(bytes: &[u8], max: usize) -> String {
    String::from_utf8_lossy(bytes).escape_debug().take(max).collect()
}
