//! As much of XML as gateways write: elements and their text, in order; bounded.
//!
//! A document type, and with it every entity that is not built in, is refused: nothing is expanded, nothing is fetched.
//! Namespace prefixes are dropped, attributes skipped. What does not nest is an error. No input makes it allocate
//! more than its own length, or nest deeper than [`DEPTH`].
//!
//! [XML 1.0](https://www.w3.org/TR/xml/)

use std::borrow::Cow;

/// Deepest nesting.
pub const DEPTH: usize = 32;

/// What comes next in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// An element begins; its name without a prefix.
    Open(&'a str),
    /// The element that began last ends.
    Close(&'a str),
    /// Text between them, blanks around it dropped, entities resolved; never empty.
    Text(Cow<'a, str>),
}

/// Why a text is no document.
pub type XmlError = &'static str;

/// Reads one token after the other.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a str,
    open: Vec<&'a str>,
    /// An element without content has begun, and ends next.
    ending: bool,
}

impl<'a> Reader<'a> {
    /// From the beginning of a document.
    pub fn new(text: &'a str) -> Self {
        Self { rest: text.trim_start_matches('\u{feff}'), open: Vec::new(), ending: false }
    }

    /// The next token, `None` at the end.
    ///
    /// # Errors
    /// When the text is no document as far as it has been read.
    pub fn token(&mut self) -> Result<Option<Token<'a>>, XmlError> {
        if std::mem::take(&mut self.ending) {
            return Ok(self.open.pop().map(Token::Close));
        }
        loop {
            let (text, tag) = match self.rest.split_once('<') {
                Some((text, tag)) => (text, tag),
                None if self.rest.trim().is_empty() && self.open.is_empty() => return Ok(None),
                None => return Err("it ends early"),
            };
            if !text.trim().is_empty() {
                if self.open.is_empty() {
                    return Err("text outside of elements");
                }
                self.rest = &self.rest[text.len()..];
                return resolve(text.trim()).map(Token::Text).map(Some);
            }
            if let Some(comment) = tag.strip_prefix("!--") {
                self.rest = comment.split_once("-->").ok_or("a comment without an end")?.1;
            } else if let Some(data) = tag.strip_prefix("![CDATA[") {
                let (data, rest) = data.split_once("]]>").ok_or("character data without an end")?;
                self.rest = rest;
                if self.open.is_empty() {
                    return Err("text outside of elements");
                }
                if !data.trim().is_empty() {
                    return Ok(Some(Token::Text(Cow::Borrowed(data.trim()))));
                }
            } else if let Some(instruction) = tag.strip_prefix('?') {
                self.rest = instruction.split_once("?>").ok_or("an instruction without an end")?.1;
            } else if tag.starts_with('!') {
                return Err("a document type");
            } else {
                return self.element(tag).map(Some);
            }
        }
    }

    fn element(&mut self, tag: &'a str) -> Result<Token<'a>, XmlError> {
        let end = end_of_tag(tag).ok_or("an element without an end")?;
        let (inside, rest) = (&tag[..end], &tag[end + 1..]);
        self.rest = rest;
        if let Some(name) = inside.strip_prefix('/') {
            let name = local(name.trim_end())?;
            return match self.open.pop() {
                Some(open) if open == name => Ok(Token::Close(name)),
                _ => Err("elements that do not nest"),
            };
        }
        let (inside, empty) = match inside.strip_suffix('/') {
            Some(inside) => (inside, true),
            None => (inside, false),
        };
        let name = local(inside.split(|c: char| c.is_ascii_whitespace()).next().unwrap_or_default())?;
        if self.open.len() == DEPTH {
            return Err("elements nested too deep");
        }
        self.open.push(name);
        self.ending = empty;
        Ok(Token::Open(name))
    }
}

/// Where a tag's `>` is, one in quotes apart.
fn end_of_tag(tag: &str) -> Option<usize> {
    let mut quote = None;
    for (i, b) in tag.bytes().enumerate() {
        match (quote, b) {
            (Some(q), _) if q == b => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(b),
            (None, b'>') => return Some(i),
            (None, b'<') => return None,
            (None, _) => {}
        }
    }
    None
}

/// A name without its prefix.
fn local(name: &str) -> Result<&str, XmlError> {
    let name = name.rsplit(':').next().unwrap_or_default();
    let ok = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    if ok { Ok(name) } else { Err("a name that is none") }
}

/// Resolves the entities that every document has.
fn resolve(text: &str) -> Result<Cow<'_, str>, XmlError> {
    if !text.contains('&') {
        return Ok(Cow::Borrowed(text));
    }
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once('&') {
        let (name, behind) = after.split_once(';').ok_or("an entity without an end")?;
        out.push_str(before);
        out.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => {
                let code = match name.strip_prefix("#x") {
                    Some(hex) => u32::from_str_radix(hex, 16).ok(),
                    None => name.strip_prefix('#').and_then(|n| n.parse().ok()),
                };
                code.and_then(char::from_u32).ok_or("an entity that is not built in")?
            }
        });
        rest = behind;
    }
    out.push_str(rest);
    Ok(Cow::Owned(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Result<Vec<String>, XmlError> {
        let (mut r, mut out) = (Reader::new(text), Vec::new());
        while let Some(token) = r.token()? {
            out.push(match token {
                Token::Open(name) => format!("<{name}"),
                Token::Close(name) => format!("{name}>"),
                Token::Text(text) => text.into_owned(),
            });
        }
        Ok(out)
    }

    #[test]
    fn what_gateways_write() {
        let text = "\u{feff}<?xml version=\"1.0\"?>\n<!-- a <b> -->\n<s:root xmlns='urn:x' a=\"1>2\">\n <u:b/> <c> x \
                    &lt;&#65;&amp;&#x42; \
                    </c><![CDATA[ <y> ]]></s:root >\n";
        assert_eq!(all(text).unwrap(), ["<root", "<b", "b>", "<c", "x <A&B", "c>", "<y>", "root>"]);
        assert_eq!(all("").unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_refused() {
        for (text, why) in [
            ("<!DOCTYPE lolz [<!ENTITY lol \"lol\">]><a>&lol;</a>", "a document type"),
            ("<a>&lol;</a>", "an entity that is not built in"),
            ("<a>&#x110000;</a>", "an entity that is not built in"),
            ("<a>&amp</a>", "an entity without an end"),
            ("<a><b></a></b>", "elements that do not nest"),
            ("</a>", "elements that do not nest"),
            ("<a>", "it ends early"),
            ("<a", "an element without an end"),
            ("<a b=\"></a>", "an element without an end"),
            ("<a><!-- </a>", "a comment without an end"),
            ("<a><![CDATA[ </a>", "character data without an end"),
            ("hello", "it ends early"),
            ("hello <a/>", "text outside of elements"),
            ("<?xml", "an instruction without an end"),
            ("<>", "a name that is none"),
            ("<a\u{e9}/>", "a name that is none"),
            (&"<a>".repeat(33), "elements nested too deep"),
        ] {
            assert_eq!(all(text), Err(why), "{text}");
        }
    }
}
