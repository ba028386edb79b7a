//! A cursor over the text of one JSON value: strict RFC 8259 grammar, no allocation unless a string has escapes.

/// How deep values may be nested; deeper ones are an error rather than a stack overflow.
const DEPTH_MAX: u32 = 128;

pub(in crate::format) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

/// A string as it stands between its quotes.
#[derive(Clone, Copy)]
pub(in crate::format) struct RawString<'a> {
    pub raw: &'a str,
    pub escaped: bool,
}

impl<'a> Cursor<'a> {
    /// Checks that the bytes are UTF-8, which the rest relies on.
    pub fn new(bytes: &'a [u8]) -> Result<Self, String> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Self { text, at: 0 }),
            Err(e) => Err(format!("invalid UTF-8 at byte {}", e.valid_up_to())),
        }
    }

    #[cold]
    pub fn error<T>(&self, expected: &str) -> Result<T, String> {
        Err(match self.text[self.at.min(self.text.len())..].chars().next() {
            Some(c) => format!("invalid JSON at byte {}: expected {expected}, found {c:?}", self.at),
            None => format!("invalid JSON at byte {}: expected {expected}, found the end", self.at),
        })
    }

    #[inline]
    pub fn skip_space(&mut self) {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(self.at) {
            self.at += 1;
        }
    }

    /// Next byte without taking it.
    #[inline]
    pub fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Takes `b` if it is next.
    #[inline]
    pub fn eat(&mut self, b: u8) -> bool {
        let hit = self.peek() == Some(b);
        self.at += usize::from(hit);
        hit
    }

    /// Takes `word` (`true`, `false`, `null`).
    pub fn word(&mut self, word: &'static str) -> Result<(), String> {
        if self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(());
        }
        self.error(word)
    }

    pub fn at_end(&self) -> bool {
        self.at == self.text.len()
    }

    /// Where the cursor is, for [`Cursor::since`].
    pub fn mark(&self) -> usize {
        self.at
    }

    /// The text from a mark to here.
    pub fn since(&self, mark: usize) -> &'a str {
        &self.text[mark..self.at]
    }

    /// Takes a string whose opening quote is next.
    #[inline]
    pub fn string(&mut self) -> Result<RawString<'a>, String> {
        if !self.eat(b'"') {
            return self.error("a string");
        }
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at = plain_end(self.text.as_bytes(), self.at);
            match self.peek() {
                Some(b'"') => {
                    let raw = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(RawString { raw, escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.at += 1;
                    self.escape()?;
                }
                _ => return self.error("a closing quote"),
            }
        }
    }

    /// Checks what follows a backslash.
    fn escape(&mut self) -> Result<(), String> {
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                Ok(())
            }
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|b| b.is_ascii_hexdigit()) {
                        return self.error("a hexadecimal digit");
                    }
                    self.at += 1;
                }
                Ok(())
            }
            _ => self.error("an escape"),
        }
    }

    /// Takes a number; its text.
    #[inline]
    pub fn number(&mut self) -> Result<&'a [u8], String> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        self.eat(b'-');
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return self.error("a digit"),
        }
        if self.eat(b'.') {
            if !self.peek().is_some_and(|b| b.is_ascii_digit()) {
                return self.error("a digit");
            }
            self.digits();
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            let _sign = self.eat(b'+') || self.eat(b'-');
            if !self.peek().is_some_and(|b| b.is_ascii_digit()) {
                return self.error("a digit");
            }
            self.digits();
        }
        Ok(&bytes[start..self.at])
    }

    #[inline]
    fn digits(&mut self) {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }

    /// Takes any value, checking it.
    pub fn skip_value(&mut self) -> Result<(), String> {
        self.skip_nested(0)
    }

    fn skip_nested(&mut self, depth: u32) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err(format!("JSON nested more than {DEPTH_MAX} deep"));
        }
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'{') => {
                self.at += 1;
                self.members(|c| {
                    c.string()?;
                    c.colon()?;
                    c.skip_nested(depth + 1)
                })
            }
            Some(b'[') => {
                self.at += 1;
                self.elements(|c| c.skip_nested(depth + 1))
            }
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            Some(b'-' | b'0'..=b'9') => self.number().map(|_| ()),
            _ => self.error("a value"),
        }
    }

    /// Takes any value, checking it; its text.
    pub fn value_text(&mut self) -> Result<&'a str, String> {
        let mark = self.mark();
        self.skip_value()?;
        Ok(self.since(mark))
    }

    /// Takes a text that is one object; `member` takes each value, told its name as it stands there.
    pub fn object(&mut self, mut member: impl FnMut(&mut Self, &'a str) -> Result<(), String>) -> Result<(), String> {
        self.skip_space();
        if !self.eat(b'{') {
            return self.error("'{'");
        }
        self.members(|c| {
            let name = c.string()?;
            c.colon()?;
            member(c, name.raw)
        })?;
        self.skip_space();
        if self.at_end() { Ok(()) } else { self.error("the end") }
    }

    /// Of a text `{"schema": …, "payload": …}`, the payload; `None` of any other.
    pub fn payload_of_envelope(&mut self) -> Option<&'a str> {
        let mut payload = None;
        let outcome = self.object(|c, name| {
            let value = match name {
                "schema" | "payload" => c.value_text()?,
                _ => return Err(String::new()),
            };
            if name == "payload" {
                payload = Some(value);
            }
            Ok(())
        });
        payload.filter(|_| outcome.is_ok())
    }

    /// Takes the members of an object after its brace; `member` takes each from its name on.
    #[inline]
    pub fn members(&mut self, member: impl FnMut(&mut Self) -> Result<(), String>) -> Result<(), String> {
        self.separated(b'}', "',' or '}'", member)
    }

    /// Takes the elements of an array after its bracket.
    pub fn elements(&mut self, element: impl FnMut(&mut Self) -> Result<(), String>) -> Result<(), String> {
        self.separated(b']', "',' or ']'", element)
    }

    #[inline]
    fn separated(
        &mut self,
        close: u8,
        expected: &'static str,
        mut one: impl FnMut(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        self.skip_space();
        if self.eat(close) {
            return Ok(());
        }
        loop {
            self.skip_space();
            one(self)?;
            self.skip_space();
            if self.eat(b',') {
                continue;
            }
            if self.eat(close) {
                return Ok(());
            }
            return self.error(expected);
        }
    }

    /// Takes the colon after a name and the space around it.
    #[inline]
    pub fn colon(&mut self) -> Result<(), String> {
        if !self.eat(b':') {
            self.skip_space();
            if !self.eat(b':') {
                return self.error("':'");
            }
        }
        self.skip_space();
        Ok(())
    }
}

/// Position of the first byte from `at` on that is a quote, a backslash or a control character, or the end. Eight bytes
/// at a time: in each word the lowest byte that matches sets its high bit, and borrows only disturb bytes above it.
#[inline]
fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    while let Some(chunk) = bytes.get(at..at + 8) {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        let word = u64::from_le_bytes(word);
        let quote = word ^ (LOW * b'"' as u64);
        let backslash = word ^ (LOW * b'\\' as u64);
        let hit = (quote.wrapping_sub(LOW) & !quote)
            | (backslash.wrapping_sub(LOW) & !backslash)
            | (word.wrapping_sub(LOW * 0x20) & !word);
        let hit = hit & HIGH;
        if hit != 0 {
            return at + hit.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while let Some(b) = bytes.get(at) {
        if matches!(b, b'"' | b'\\' | 0..=0x1f) {
            break;
        }
        at += 1;
    }
    at
}

/// Resolves the escapes of a string into `out`, which is cleared first.
pub(super) fn unescape<'o>(string: RawString<'_>, out: &'o mut String) -> Result<&'o str, String> {
    out.clear();
    let mut rest = string.raw;
    while let Some(i) = rest.find('\\') {
        out.push_str(&rest[..i]);
        let kind = rest.as_bytes()[i + 1];
        rest = &rest[i + 2..];
        match kind {
            b'b' => out.push('\u{8}'),
            b'f' => out.push('\u{c}'),
            b'n' => out.push('\n'),
            b'r' => out.push('\r'),
            b't' => out.push('\t'),
            b'u' => {
                let high = hex4(rest);
                rest = &rest[4..];
                let code = match high {
                    0xd800..=0xdbff => {
                        let low = rest.strip_prefix("\\u").map(hex4).filter(|low| (0xdc00..=0xdfff).contains(low));
                        let Some(low) = low else { return Err(lone_surrogate(high)) };
                        rest = &rest[6..];
                        0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)
                    }
                    other => other,
                };
                out.push(char::from_u32(code).ok_or_else(|| lone_surrogate(code))?);
            }
            other => out.push(other as char),
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The four digits that [`Cursor::string`] has checked.
fn hex4(text: &str) -> u32 {
    text.bytes().take(4).fold(0, |code, b| code << 4 | (b as char).to_digit(16).unwrap_or(0))
}

fn lone_surrogate(code: u32) -> String {
    format!("\\u{code:04x} is half of a surrogate pair")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(text: &str) -> Result<(), String> {
        let mut cursor = Cursor::new(text.as_bytes())?;
        cursor.skip_value()?;
        if cursor.at_end() { Ok(()) } else { cursor.error("the end") }
    }

    #[test]
    fn the_grammar_is_strict() {
        for text in [
            "{}",
            "[]",
            "[1, -0, 0.5, 1e9, 1E-9, -12.5e+3]",
            r#"{"a": {"b": [true, false, null, "\u00e9\n\"\\\/"]}, "": ""}"#,
            " 1".trim(),
            "\"0123456789abcdef é 漢字 🦀\"",
        ] {
            assert_eq!(skip(text), Ok(()), "{text}");
        }
        for text in [
            "",
            "{",
            "{\"a\"}",
            "{\"a\":1,}",
            "{\"a\":1 \"b\":2}",
            "{a:1}",
            "[1,]",
            "[1 2]",
            "01",
            "1.",
            ".5",
            "+1",
            "1e",
            "-",
            "tru",
            "nulL",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"abc",
            "\"tab\there and more text\"",
            "1 2",
            "NaN",
        ] {
            assert!(skip(text).is_err(), "{text}");
        }
        assert!(skip(&"[".repeat(1_000_000)).unwrap_err().contains("nested"));
    }

    #[test]
    fn strings_end_at_the_first_quote_wherever_it_is() {
        for n in 0..40 {
            for special in ['"', '\\', '\u{1f}', '\n'] {
                let text = format!("{}{special}{}", "é".repeat(n / 2) + &"a".repeat(n % 2), "b\"".repeat(9));
                let expected = text.bytes().position(|b| b == special as u8).unwrap();
                assert_eq!(plain_end(text.as_bytes(), 0), expected, "{text:?}");
            }
        }
        assert_eq!(plain_end(&[0x7f, 0x80, 0xff, 0x20, 0x21, 0x23, 0x5b, 0x5d, 0xa2, 0xdc], 0), 10);
    }

    #[test]
    fn escapes() {
        let mut out = String::new();
        let raw = |raw| RawString { raw, escaped: true };
        assert_eq!(unescape(raw(r#"a\"\\\/\b\f\n\r\tz"#), &mut out).unwrap(), "a\"\\/\u{8}\u{c}\n\r\tz");
        assert_eq!(unescape(raw(r"\u00e9\uD83E\uDD80!"), &mut out).unwrap(), "é🦀!");
        assert!(unescape(raw(r"\uD83E"), &mut out).is_err());
        assert!(unescape(raw(r"\uD83E\u0041"), &mut out).is_err());
        assert!(unescape(raw(r"\uDD80"), &mut out).is_err());
    }
}
