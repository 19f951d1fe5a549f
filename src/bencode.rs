//! Bencode (BEP 3): bytes to borrowed values with byte spans, and values to bytes.
//!
//! ```text
//! integer   i-42e                 no leading zeros, no -0, 64 bits
//! string    4:spam                any bytes
//! list      l4:spami-42ee
//! dictionary  d3:cow3:moo4:spam4:eggse
//! ```
//!
//! The parser runs over the input once, without recursion, and leaves a flat table of 8-byte
//! tokens in the order of the input. Nothing is copied: a [`Node`] is a place in that table, and
//! [`Node::raw`] gives the exact bytes of a value, which is what an info hash is made of. Decoding
//! and encoding again would change them wherever a creator was not canonical.
//!
//! ```text
//! input   d 1:a i7e 1:b l e e         a token: start of the value in the input,
//! tokens  0 1   2   3   4 5 6                  and for a container the token after its end,
//!         7                6                   for a string or an integer its end in the input
//! ```
//!
//! The kind of a token is its first input byte: `i`, `l`, `d`, a digit, or `e` for the end of a
//! container.
//!
//! Strict: integers, string lengths, string keys, nothing after the value ([`parse`]). Tolerant,
//! because real torrents need it: keys in any order, and a key twice (the first one counts).
//!
//! Limits: [`limits::BENCODE_DEPTH`], [`limits::BENCODE_TOKENS`] and 4 GiB of input, so that a
//! hostile input fails fast, whatever it nests, at a cost in memory of at most 8 bytes a token.

use crate::config::limits;
use nom::bytes::complete::tag;
use nom::character::complete::digit1;
use nom::combinator::opt;
use nom::{IResult, Parser};
use std::fmt;
use std::ops::Range;

/// Why an input is not bencode, or not bencode within the limits. `at` is an offset in the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The input ends where more was wanted.
    End {
        /// Where.
        at: usize,
        /// What should have come.
        wanted: &'static str,
    },
    /// A byte that cannot stand there.
    Byte {
        /// Where.
        at: usize,
        /// What should have come.
        wanted: &'static str,
        /// What came.
        got: u8,
    },
    /// A number that is written wrongly: a leading zero, `-0`, or more than 64 bits.
    Number {
        /// Where it starts.
        at: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A string that is longer than the input.
    Short {
        /// Where its bytes start.
        at: usize,
        /// Its length.
        wanted: u64,
        /// The bytes there are.
        got: usize,
    },
    /// Nested deeper than [`limits::BENCODE_DEPTH`].
    Depth {
        /// Where.
        at: usize,
    },
    /// More values than [`limits::BENCODE_TOKENS`].
    Tokens {
        /// Where.
        at: usize,
    },
    /// Bytes after the value.
    Trailing {
        /// Where the value ends.
        at: usize,
        /// How many bytes follow.
        got: usize,
    },
    /// An input of 4 GiB or more.
    Size {
        /// Its length.
        got: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::End { at, wanted } => write!(f, "bencode: at byte {at}: wanted {wanted}, but the input ends"),
            Self::Byte { at, wanted, got } => {
                write!(f, "bencode: at byte {at}: wanted {wanted}, got '{}'", got.escape_ascii())
            }
            Self::Number { at, why } => write!(f, "bencode: at byte {at}: {why}"),
            Self::Short { at, wanted, got } => {
                write!(f, "bencode: at byte {at}: a string of {wanted} bytes, but the input ends after {got}")
            }
            Self::Depth { at } => write!(f, "bencode: at byte {at}: nested deeper than {}", limits::BENCODE_DEPTH),
            Self::Tokens { at } => write!(f, "bencode: at byte {at}: more than {} values", limits::BENCODE_TOKENS),
            Self::Trailing { at, got } => write!(f, "bencode: {got} bytes after the end of the value at byte {at}"),
            Self::Size { got } => write!(f, "bencode: an input of {got} bytes is too long"),
        }
    }
}
impl std::error::Error for Error {}

/// Parses an input that is one value and nothing else.
pub fn parse(input: &[u8]) -> Result<Doc<'_>, Error> {
    let (doc, used) = parse_prefix(input)?;
    if used < input.len() {
        return Err(Error::Trailing { at: used, got: input.len() - used });
    }
    Ok(doc)
}

/// Parses one value at the start of the input and says how long it is (BEP 9: a dictionary that
/// raw bytes follow).
pub fn parse_prefix(input: &[u8]) -> Result<(Doc<'_>, usize), Error> {
    if u32::try_from(input.len()).is_err() {
        return Err(Error::Size { got: input.len() });
    }
    // A typical value takes 8 bytes and more; hostile ones cost a few reallocations.
    let tokens = Vec::with_capacity((input.len() / 8).clamp(8, 1 << 16));
    let mut t = Tokenizer { input, at: 0, tokens, open: [(0, Wants::Item); limits::BENCODE_DEPTH], depth: 0 };
    t.run()?;
    Ok((Doc { input, tokens: t.tokens }, t.at))
}

#[derive(Clone, Copy)]
struct Token {
    /// Offset of the value's first byte.
    start: u32,
    /// Containers: the index of the token after the end. Else: the offset after the value's last byte.
    end: u32,
}

/// What an open container takes next.
#[derive(Clone, Copy, PartialEq)]
enum Wants {
    Item,
    Key,
    Value,
}

struct Tokenizer<'a> {
    input: &'a [u8],
    at: usize,
    tokens: Vec<Token>,
    open: [(u32, Wants); limits::BENCODE_DEPTH],
    depth: usize,
}

impl Tokenizer<'_> {
    fn run(&mut self) -> Result<(), Error> {
        loop {
            self.step()?;
            if self.depth == 0 {
                return Ok(());
            }
        }
    }

    /// Takes one token: a scalar, the start of a container or its end.
    fn step(&mut self) -> Result<(), Error> {
        let at = self.at;
        let wants = self.depth.checked_sub(1).map(|top| self.open[top].1);
        let wanted = match wants {
            None | Some(Wants::Value) => "a value",
            Some(Wants::Item) => "a value or the list's end",
            Some(Wants::Key) => "a key or the dictionary's end",
        };
        let Some(&first) = self.input.get(at) else { return Err(Error::End { at, wanted }) };
        if self.tokens.len() == limits::BENCODE_TOKENS {
            return Err(Error::Tokens { at });
        }
        match first {
            b'0'..=b'9' => {
                self.at = string(self.input, at)?;
                self.push(at, self.at);
            }
            b'e' if matches!(wants, Some(Wants::Item | Wants::Key)) => {
                self.at += 1;
                self.depth -= 1;
                self.push(at, self.at);
                self.tokens[self.open[self.depth].0 as usize].end = self.tokens.len() as u32;
            }
            _ if wants == Some(Wants::Key) => return Err(Error::Byte { at, wanted, got: first }),
            b'i' => {
                self.at = integer(self.input, at)?.1;
                self.push(at, self.at);
            }
            b'l' | b'd' => {
                if self.depth == limits::BENCODE_DEPTH {
                    return Err(Error::Depth { at });
                }
                // The parent moves on before the child covers it.
                self.turn();
                let wants = if first == b'l' { Wants::Item } else { Wants::Key };
                self.open[self.depth] = (self.tokens.len() as u32, wants);
                self.depth += 1;
                self.at += 1;
                self.push(at, 0);
                return Ok(());
            }
            got => return Err(Error::Byte { at, wanted, got }),
        }
        if first != b'e' {
            self.turn();
        }
        Ok(())
    }

    fn push(&mut self, start: usize, end: usize) {
        if self.tokens.len() == self.tokens.capacity() {
            // By a half, not by doubling: this table is the largest thing a parse allocates.
            self.tokens.reserve_exact(self.tokens.len() / 2);
        }
        self.tokens.push(Token { start: start as u32, end: end as u32 });
    }

    /// A dictionary alternates between keys and values.
    fn turn(&mut self) {
        if let Some(top) = self.depth.checked_sub(1) {
            let wants = &mut self.open[top].1;
            *wants = match *wants {
                Wants::Item => Wants::Item,
                Wants::Key => Wants::Value,
                Wants::Value => Wants::Key,
            };
        }
    }
}

/// Turns what nom found into an error with its place in the whole input.
fn located<'a, T>(input: &[u8], wanted: &'static str, got: IResult<&'a [u8], T>) -> Result<(&'a [u8], T), Error> {
    got.map_err(|e| {
        let rest = match e {
            nom::Err::Error(e) | nom::Err::Failure(e) => e.input,
            nom::Err::Incomplete(_) => &[],
        };
        let at = input.len() - rest.len();
        rest.first().map_or(Error::End { at, wanted }, |&got| Error::Byte { at, wanted, got })
    })
}

/// The number that ASCII digits spell; `None` when it has a leading zero or more than 64 bits.
fn number(digits: &[u8], at: usize) -> Result<u64, Error> {
    if digits.len() > 1 && digits[0] == b'0' {
        return Err(Error::Number { at, why: "a leading zero" });
    }
    let add = |n: u64, d: &u8| n.checked_mul(10)?.checked_add(u64::from(d - b'0'));
    digits.iter().try_fold(0, add).ok_or(Error::Number { at, why: "a number of more than 64 bits" })
}

/// Reads the integer at `at`: its value and where it ends.
fn integer(input: &[u8], at: usize) -> Result<(i64, usize), Error> {
    let form = (tag(&b"i"[..]), opt(tag(&b"-"[..])), digit1, tag(&b"e"[..])).parse(&input[at..]);
    let (rest, (_, minus, digits, _)) = located(input, "an integer", form)?;
    let value = match (minus, number(digits, at)?) {
        (Some(_), 0) => return Err(Error::Number { at, why: "a negative zero" }),
        (Some(_), n) => 0i64.checked_sub_unsigned(n),
        (None, n) => i64::try_from(n).ok(),
    };
    let value = value.ok_or(Error::Number { at, why: "a number of more than 64 bits" })?;
    Ok((value, input.len() - rest.len()))
}

/// Reads the string at `at` and says where it ends.
fn string(input: &[u8], at: usize) -> Result<usize, Error> {
    let form = (digit1, tag(&b":"[..])).parse(&input[at..]);
    let (rest, (digits, _)) = located(input, "a string's length and ':'", form)?;
    let wanted = number(digits, at)?;
    match usize::try_from(wanted) {
        Ok(len) if len <= rest.len() => Ok(input.len() - rest.len() + len),
        _ => Err(Error::Short { at: input.len() - rest.len(), wanted, got: rest.len() }),
    }
}

/// A parsed value: the input and the table of its tokens.
#[derive(Clone)]
pub struct Doc<'a> {
    input: &'a [u8],
    tokens: Vec<Token>,
}

impl<'a> Doc<'a> {
    /// The outermost value.
    pub fn root(&self) -> Node<'a, '_> {
        Node { input: self.input, tokens: &self.tokens, index: 0 }
    }
}

impl fmt::Debug for Doc<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Doc({} bytes, {} tokens)", self.input.len(), self.tokens.len())
    }
}

/// One value of a [`Doc`]: `'a` is the input, `'t` the table of tokens.
///
/// Questions that do not fit the value's kind answer `None` or nothing, so that a chain of
/// questions needs no checks in between.
#[derive(Clone, Copy)]
pub struct Node<'a, 't> {
    input: &'a [u8],
    tokens: &'t [Token],
    index: usize,
}

impl fmt::Debug for Node<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({})", self.raw().escape_ascii())
    }
}

impl<'a, 't> Node<'a, 't> {
    fn first(self) -> u8 {
        self.input[self.tokens[self.index].start as usize]
    }

    fn at(self, index: usize) -> Self {
        Self { index, ..self }
    }

    /// The index of the token after this value.
    fn after(self) -> usize {
        match self.first() {
            b'l' | b'd' => self.tokens[self.index].end as usize,
            _ => self.index + 1,
        }
    }

    /// Where the value lies in the input.
    pub fn span(self) -> Range<usize> {
        let Token { start, end } = self.tokens[self.index];
        let end = match self.first() {
            b'l' | b'd' => self.tokens[end as usize - 1].end,
            _ => end,
        };
        start as usize..end as usize
    }

    /// The exact bytes of the value.
    pub fn raw(self) -> &'a [u8] {
        &self.input[self.span()]
    }

    /// The integer.
    pub fn as_int(self) -> Option<i64> {
        (self.first() == b'i').then(|| integer(self.input, self.span().start).map(|(value, _)| value).ok())?
    }

    /// The string's bytes.
    pub fn as_bytes(self) -> Option<&'a [u8]> {
        if !self.first().is_ascii_digit() {
            return None;
        }
        let raw = self.raw();
        let colon = raw.iter().position(|&b| b == b':')?;
        Some(&raw[colon + 1..])
    }

    /// The string, if it is UTF-8.
    pub fn as_str(self) -> Option<&'a str> {
        std::str::from_utf8(self.as_bytes()?).ok()
    }

    /// Whether this is a dictionary.
    pub fn is_dict(self) -> bool {
        self.first() == b'd'
    }

    /// Whether this is a list.
    pub fn is_list(self) -> bool {
        self.first() == b'l'
    }

    /// What kind of value this is, for messages.
    pub fn kind(self) -> &'static str {
        match self.first() {
            b'i' => "an integer",
            b'l' => "a list",
            b'd' => "a dictionary",
            _ => "a string",
        }
    }

    /// The value of a dictionary's key; the first one if the key comes twice. Linear in the
    /// dictionary's entries.
    pub fn get(self, key: &[u8]) -> Option<Self> {
        self.entries().find(|&(k, _)| k == key).map(|(_, value)| value)
    }

    /// A dictionary's keys and values, in the order of the input, keys that come twice included.
    pub fn entries(self) -> Entries<'a, 't> {
        let mut inside = self.children();
        inside.done |= !self.is_dict();
        Entries(inside)
    }

    /// A list's values.
    pub fn items(self) -> Items<'a, 't> {
        let mut inside = self.children();
        inside.done |= !self.is_list();
        inside
    }

    fn children(self) -> Items<'a, 't> {
        Items { next: self.at(self.index + 1), done: !matches!(self.first(), b'l' | b'd') }
    }
}

/// The values of a list, see [`Node::items`].
#[derive(Clone, Debug)]
pub struct Items<'a, 't> {
    /// The next value, or the container's end. Not looked at when `done`.
    next: Node<'a, 't>,
    done: bool,
}

impl<'a, 't> Iterator for Items<'a, 't> {
    type Item = Node<'a, 't>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.done || self.next.first() == b'e' {
            return None;
        }
        let node = self.next;
        self.next = node.at(node.after());
        Some(node)
    }
}

/// The keys and values of a dictionary, see [`Node::entries`].
#[derive(Clone, Debug)]
pub struct Entries<'a, 't>(Items<'a, 't>);

impl<'a, 't> Iterator for Entries<'a, 't> {
    type Item = (&'a [u8], Node<'a, 't>);
    fn next(&mut self) -> Option<Self::Item> {
        let key = self.0.next()?.as_bytes()?;
        Some((key, self.0.next()?))
    }
}

/// Writes bencode.
///
/// The caller gives a well-formed sequence of calls: every container is ended, in a dictionary
/// every value has its key, and keys come in ascending order of their bytes. Debug builds check.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
    open: Vec<Open>,
}

/// An open container of a [`Writer`], for its checks.
#[derive(Clone, Debug)]
enum Open {
    List,
    /// Where the last key lies in the output, and whether its value is still to come.
    Dict {
        last: Option<Range<usize>>,
        value: bool,
    },
}

impl Writer {
    /// An empty writer.
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes written.
    pub fn into_bytes(self) -> Vec<u8> {
        debug_assert!(self.open.is_empty(), "a container is not ended");
        self.out
    }

    /// Writes an integer.
    pub fn int(&mut self, value: i64) -> &mut Self {
        self.on_value();
        self.out.extend_from_slice(format!("i{value}e").as_bytes());
        self
    }

    /// Writes a string.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.on_value();
        self.string(value);
        self
    }

    /// Starts a dictionary.
    pub fn begin_dict(&mut self) -> &mut Self {
        self.on_value();
        self.out.push(b'd');
        self.open.push(Open::Dict { last: None, value: false });
        self
    }

    /// Writes a key of the innermost dictionary; its value is to follow.
    pub fn key(&mut self, key: &[u8]) -> &mut Self {
        let range = self.string(key);
        match self.open.last_mut() {
            Some(Open::Dict { last, value }) => {
                debug_assert!(!*value, "a key where a value should be");
                debug_assert!(last.clone().is_none_or(|l| self.out[l] < *key), "keys are not in order");
                *last = Some(range);
                *value = true;
            }
            _ => debug_assert!(false, "a key outside a dictionary"),
        }
        self
    }

    /// Starts a list.
    pub fn begin_list(&mut self) -> &mut Self {
        self.on_value();
        self.out.push(b'l');
        self.open.push(Open::List);
        self
    }

    /// Ends the innermost list or dictionary.
    pub fn end(&mut self) -> &mut Self {
        let open = self.open.pop();
        debug_assert!(matches!(open, Some(Open::List | Open::Dict { value: false, .. })), "nothing to end");
        self.out.push(b'e');
        self
    }

    /// Writes a value that is bencoded already, such as [`Node::raw`] gives it.
    pub fn raw(&mut self, value: &[u8]) -> &mut Self {
        self.on_value();
        self.out.extend_from_slice(value);
        self
    }

    fn string(&mut self, value: &[u8]) -> Range<usize> {
        self.out.extend_from_slice(format!("{}:", value.len()).as_bytes());
        let start = self.out.len();
        self.out.extend_from_slice(value);
        start..self.out.len()
    }

    fn on_value(&mut self) {
        if let Some(Open::Dict { value, .. }) = self.open.last_mut() {
            debug_assert!(*value, "a value without its key");
            *value = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Rng, seeded};

    fn fails(input: &[u8]) -> Error {
        parse(input).map(|doc| doc.root().raw().len()).expect_err("bad bencode was accepted")
    }

    #[test]
    fn values_read_as_what_they_are() {
        let input = b"d3:cow3:moo4:listli-1e0:dee3:numi42ee";
        let doc = parse(input).expect("bencode");
        let root = doc.root();
        assert!(root.is_dict() && !root.is_list());
        assert_eq!(root.get(b"cow").and_then(Node::as_str), Some("moo"));
        assert_eq!(root.get(b"num").and_then(Node::as_int), Some(42));
        assert_eq!(root.get(b"none").map(Node::raw), None);
        let list = root.get(b"list").expect("list");
        let kinds: Vec<_> = list.items().map(|n| (n.kind(), n.raw())).collect();
        assert_eq!(kinds, [("an integer", &b"i-1e"[..]), ("a string", b"0:"), ("a dictionary", b"de")]);
        assert_eq!(list.raw(), b"li-1e0:dee");
        assert_eq!((list.span(), root.span()), (17..27, 0..input.len()));
        let keys: Vec<_> = root.entries().map(|(k, _)| k).collect();
        assert_eq!(keys, [&b"cow"[..], b"list", b"num"]);
    }

    #[test]
    fn questions_that_do_not_fit_have_no_answer() {
        let doc = parse(b"l1:xi5ee").expect("bencode");
        let root = doc.root();
        assert!(root.as_int().is_none() && root.as_bytes().is_none() && root.get(b"x").is_none());
        assert_eq!(root.entries().count(), 0);
        let string = root.items().next().expect("x");
        assert_eq!((string.items().count(), string.as_int()), (0, None));
        assert_eq!(root.items().nth(1).and_then(Node::as_bytes), None);
        let bytes = parse(b"2:\xff\xfe").expect("bencode");
        assert_eq!((bytes.root().as_str(), bytes.root().as_bytes()), (None, Some(&b"\xff\xfe"[..])));
    }

    #[test]
    fn keys_may_be_unsorted_empty_and_twice_and_the_first_counts() {
        let doc = parse(b"d1:zi1e0:i2e1:ai3e1:zi4ee").expect("tolerated");
        assert_eq!(doc.root().get(b"z").and_then(Node::as_int), Some(1));
        assert_eq!(doc.root().get(b"").and_then(Node::as_int), Some(2));
        assert_eq!(doc.root().entries().count(), 4);
    }

    #[test]
    fn integers_are_strict() {
        for (text, value) in
            [("0", 0), ("-1", -1), ("9223372036854775807", i64::MAX), ("-9223372036854775808", i64::MIN)]
        {
            let input = format!("i{text}e");
            assert_eq!(parse(input.as_bytes()).expect(text).root().as_int(), Some(value));
        }
        let wide = Error::Number { at: 0, why: "a number of more than 64 bits" };
        assert_eq!(fails(b"i9223372036854775808e"), wide);
        assert_eq!(fails(b"i-9223372036854775809e"), wide);
        assert_eq!(fails(b"i99999999999999999999999e"), wide);
        assert_eq!(fails(b"i-0e"), Error::Number { at: 0, why: "a negative zero" });
        assert_eq!(fails(b"i03e"), Error::Number { at: 0, why: "a leading zero" });
        assert_eq!(fails(b"i-03e"), Error::Number { at: 0, why: "a leading zero" });
        assert_eq!(fails(b"li+1ee"), Error::Byte { at: 2, wanted: "an integer", got: b'+' });
        assert_eq!(fails(b"ie"), Error::Byte { at: 1, wanted: "an integer", got: b'e' });
        assert_eq!(fails(b"i1.5e"), Error::Byte { at: 2, wanted: "an integer", got: b'.' });
        assert_eq!(fails(b"i12"), Error::End { at: 3, wanted: "an integer" });
    }

    #[test]
    fn strings_are_as_long_as_they_say() {
        assert_eq!(fails(b"5:spam"), Error::Short { at: 2, wanted: 5, got: 4 });
        assert_eq!(fails(b"l99999999999:xe"), Error::Short { at: 13, wanted: 99_999_999_999, got: 2 });
        assert_eq!(fails(b"99999999999999999999:"), Error::Number { at: 0, why: "a number of more than 64 bits" });
        assert_eq!(fails(b"04:spam"), Error::Number { at: 0, why: "a leading zero" });
        assert_eq!(fails(b"-1:x"), Error::Byte { at: 0, wanted: "a value", got: b'-' });
        assert_eq!(fails(b"4spam"), Error::Byte { at: 1, wanted: "a string's length and ':'", got: b's' });
        assert_eq!(fails(b"4"), Error::End { at: 1, wanted: "a string's length and ':'" });
    }

    #[test]
    fn containers_are_closed_and_keys_have_values() {
        assert_eq!(fails(b""), Error::End { at: 0, wanted: "a value" });
        assert_eq!(fails(b"e"), Error::Byte { at: 0, wanted: "a value", got: b'e' });
        assert_eq!(fails(b"l"), Error::End { at: 1, wanted: "a value or the list's end" });
        assert_eq!(fails(b"d"), Error::End { at: 1, wanted: "a key or the dictionary's end" });
        assert_eq!(fails(b"d1:ae"), Error::Byte { at: 4, wanted: "a value", got: b'e' });
        assert_eq!(fails(b"di1ei2ee"), Error::Byte { at: 1, wanted: "a key or the dictionary's end", got: b'i' });
        assert_eq!(fails(b"dlei2ee"), Error::Byte { at: 1, wanted: "a key or the dictionary's end", got: b'l' });
        assert_eq!(fails(b"d1:alee2:xx"), Error::Trailing { at: 7, got: 4 });
        assert_eq!(fails(b"x").to_string(), "bencode: at byte 0: wanted a value, got 'x'");
        assert_eq!(fails(b"l\x1be").to_string(), "bencode: at byte 1: wanted a value or the list's end, got '\\x1b'");
    }

    #[test]
    fn a_prefix_leaves_the_rest() {
        let (doc, used) = parse_prefix(b"d8:msg_typei1eeRAW").expect("a value and bytes");
        assert_eq!((used, doc.root().span()), (15, 0..15));
        assert_eq!(parse_prefix(b"i1ei2e").expect("two").1, 3);
    }

    #[test]
    fn nesting_has_a_limit() {
        let nest = |n: usize| [b"l".repeat(n), b"e".repeat(n)].concat();
        assert_eq!(parse(&nest(limits::BENCODE_DEPTH)).expect("at the limit").root().span().len(), 64);
        assert_eq!(fails(&nest(limits::BENCODE_DEPTH + 1)), Error::Depth { at: limits::BENCODE_DEPTH });
        assert_eq!(fails(&b"l".repeat(1 << 20)), Error::Depth { at: limits::BENCODE_DEPTH });
        assert_eq!(fails(&b"d1:a".repeat(1 << 18)), Error::Depth { at: 4 * limits::BENCODE_DEPTH });
        let text = fails(&nest(limits::BENCODE_DEPTH + 1)).to_string();
        assert_eq!(text, "bencode: at byte 32: nested deeper than 32");
    }

    #[test]
    fn the_number_of_values_has_a_limit() {
        let list = |n: usize| [b"l".to_vec(), b"0:".repeat(n), b"e".to_vec()].concat();
        let most = list(limits::BENCODE_TOKENS - 2);
        let doc = parse(&most).expect("at the limit");
        assert_eq!(doc.root().items().count(), limits::BENCODE_TOKENS - 2);
        assert!(doc.tokens.capacity() * size_of::<Token>() <= 4 * (10 << 20), "four times the largest torrent");
        let more = list(limits::BENCODE_TOKENS - 1);
        assert!(fails(&more).to_string().ends_with(&format!(": more than {} values", limits::BENCODE_TOKENS)));
        assert_eq!(fails(&more), Error::Tokens { at: more.len() - 1 });
    }

    /// A value to compare with, held the slow way.
    #[derive(Debug, PartialEq)]
    enum Value {
        Int(i64),
        Bytes(Vec<u8>),
        List(Vec<Value>),
        Dict(std::collections::BTreeMap<Vec<u8>, Value>),
    }

    fn random(rng: &mut Rng, depth: u32) -> Value {
        let bytes = |rng: &mut Rng| -> Vec<u8> { (0..rng.usize(..20)).map(|_| rng.u8(..)).collect() };
        match rng.u32(..if depth == 0 { 2 } else { 4 }) {
            0 => Value::Int(rng.i64(..) >> rng.u32(..64)),
            1 => Value::Bytes(bytes(rng)),
            2 => Value::List((0..rng.u32(..6)).map(|_| random(rng, depth - 1)).collect()),
            _ => Value::Dict((0..rng.u32(..6)).map(|_| (bytes(rng), random(rng, depth - 1))).collect()),
        }
    }

    fn write(w: &mut Writer, value: &Value) {
        match value {
            Value::Int(i) => _ = w.int(*i),
            Value::Bytes(b) => _ = w.bytes(b),
            Value::List(items) => {
                w.begin_list();
                items.iter().for_each(|v| write(w, v));
                w.end();
            }
            Value::Dict(entries) => {
                w.begin_dict();
                for (k, v) in entries {
                    w.key(k);
                    write(w, v);
                }
                w.end();
            }
        }
    }

    fn read(node: Node<'_, '_>) -> Value {
        assert_eq!(parse(node.raw()).expect("a value stands alone").root().span(), 0..node.span().len());
        match (node.as_int(), node.as_bytes()) {
            (Some(i), None) => Value::Int(i),
            (None, Some(b)) => Value::Bytes(b.to_vec()),
            _ if node.is_list() => Value::List(node.items().map(read).collect()),
            _ => Value::Dict(node.entries().map(|(k, v)| (k.to_vec(), read(v))).collect()),
        }
    }

    #[test]
    fn what_is_written_is_read_and_damage_is_an_error_or_a_value() {
        let mut rng = seeded(3);
        for _ in 0..2000 {
            let value = random(&mut rng, 5);
            let mut w = Writer::new();
            write(&mut w, &value);
            let mut bytes = w.into_bytes();
            assert_eq!(read(parse(&bytes).expect("written by the writer").root()), value);
            let cut = rng.usize(..bytes.len());
            assert!(parse(&bytes[..cut]).is_err());
            let at = rng.usize(..bytes.len());
            bytes[at] = rng.u8(..);
            if let Ok(doc) = parse(&bytes) {
                read(doc.root());
            }
        }
    }

    #[test]
    #[cfg(debug_assertions)]
    fn the_writer_checks_its_caller() {
        let panics = |f: fn(&mut Writer)| std::panic::catch_unwind(|| f(&mut Writer::new())).is_err();
        assert!(!panics(|w| _ = w.begin_dict().key(b"a").int(1).key(b"b").raw(b"le").end()));
        assert!(panics(|w| _ = w.begin_dict().key(b"b").int(1).key(b"a")));
        assert!(panics(|w| _ = w.begin_dict().key(b"a").int(1).key(b"a")));
        assert!(panics(|w| _ = w.begin_dict().int(1)));
        assert!(panics(|w| _ = w.begin_dict().key(b"a").end()));
        assert!(panics(|w| _ = w.begin_list().key(b"a")));
        assert!(panics(|w| _ = w.end()));
    }
}
