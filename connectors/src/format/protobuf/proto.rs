//! The text of a `.proto` file: messages, enums and their fields; what says nothing of data (services, options, reserved
//! numbers, extensions) is passed over (Protocol Buffers language guide, proto2, proto3 and editions).
//!
//! The parser is our own because those there are bring features into crates that the rest of the server is built on.

use super::schema::{RawEnum, RawField, RawFile, RawKind, RawMessage, Scalar};

/// Messages within messages; deeper ones are an error rather than a stack overflow.
const DEPTH_MAX: usize = 64;

/// Parses a file.
///
/// # Errors
/// What is wrong and in which line.
pub(super) fn parse(text: &str) -> Result<RawFile, String> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, implicit: false, line: 1 };
    let mut file = RawFile::default();
    parser.file(&mut file).map_err(|e| format!("line {}: {e}", parser.line))?;
    Ok(file)
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A name, a number, or names with points between them.
    Word(String),
    Text(String),
    Sign(char),
}

fn tokens(text: &str) -> Result<Vec<(Token, usize)>, String> {
    let (mut out, mut line) = (Vec::new(), 1);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' => line += 1,
            _ if c.is_whitespace() || c == '\u{feff}' => {}
            '/' if chars.peek() == Some(&'/') => while chars.next_if(|c| *c != '\n').is_some() {},
            '/' if chars.peek() == Some(&'*') => {
                chars.next();
                let mut star = false;
                loop {
                    match chars.next() {
                        Some('/') if star => break,
                        Some(c) => {
                            star = c == '*';
                            line += usize::from(c == '\n');
                        }
                        None => return Err(format!("line {line}: a comment is not closed")),
                    }
                }
            }
            '"' | '\'' => {
                let mut value = String::new();
                loop {
                    match chars.next() {
                        Some(end) if end == c => break,
                        Some('\\') => {
                            value.push('\\');
                            value.extend(chars.next());
                        }
                        Some('\n') | None => return Err(format!("line {line}: a string is not closed")),
                        Some(other) => value.push(other),
                    }
                }
                out.push((Token::Text(value), line));
            }
            _ if c.is_ascii_alphanumeric() || c == '_' || c == '.' => {
                let mut word = String::from(c);
                while let Some(next) = chars.next_if(|n| n.is_ascii_alphanumeric() || matches!(n, '_' | '.')) {
                    word.push(next);
                }
                out.push((Token::Word(word), line));
            }
            other => out.push((Token::Sign(other), line)),
        }
    }
    Ok(out)
}

struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    /// Whether fields without a label are not told from fields with the default value: proto3.
    implicit: bool,
    line: usize,
}

impl Parser {
    fn file(&mut self, file: &mut RawFile) -> Result<(), String> {
        while let Some(token) = self.next() {
            match token {
                Token::Sign(';') => {}
                Token::Word(word) => match word.as_str() {
                    "syntax" => {
                        self.sign('=')?;
                        self.implicit = self.text()? == "proto3";
                        self.sign(';')?;
                    }
                    "edition" => {
                        self.implicit = false;
                        self.skip_statement()?;
                    }
                    "package" => {
                        file.package = self.word()?;
                        self.sign(';')?;
                    }
                    "message" => file.messages.push(self.message(0)?),
                    "enum" => file.enums.push(self.enumeration()?),
                    "import" | "option" => self.skip_statement()?,
                    "service" | "extend" => self.skip_block()?,
                    other => return Err(format!("\"{other}\" is not expected here")),
                },
                other => return Err(format!("{} is not expected here", describe(Some(&other)))),
            }
        }
        Ok(())
    }

    fn message(&mut self, depth: usize) -> Result<RawMessage, String> {
        if depth > DEPTH_MAX {
            return Err("messages nested too deeply".into());
        }
        let mut message = RawMessage { name: self.word()?, ..RawMessage::default() };
        self.sign('{')?;
        while !self.eat('}') {
            if self.eat(';') {
                continue;
            }
            self.member(&mut message, depth)?;
        }
        let mut numbers: Vec<u32> = message.fields.iter().map(|f| f.number).collect();
        numbers.sort_unstable();
        match numbers.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("message \"{}\" has two fields of number {}", message.name, pair[0])),
            None => Ok(message),
        }
    }

    fn member(&mut self, message: &mut RawMessage, depth: usize) -> Result<(), String> {
        // These are names of fields too, which a type stands before.
        let word = self.word()?;
        let is_statement = !matches!(self.peek(), Some(Token::Sign('=')));
        match word.as_str() {
            "message" if is_statement => message.messages.push(self.message(depth + 1)?),
            "enum" if is_statement => message.enums.push(self.enumeration()?),
            "option" | "reserved" | "extensions" if is_statement => self.skip_statement()?,
            "extend" => self.skip_block()?,
            "oneof" => {
                self.word()?;
                self.sign('{')?;
                while !self.eat('}') {
                    let word = self.word()?;
                    match word.as_str() {
                        "option" => self.skip_statement()?,
                        "group" => return Err("groups are not supported".into()),
                        _ => message.fields.push(self.field(&word, false, true)?),
                    }
                }
            }
            "repeated" | "optional" | "required" => {
                let inner = self.word()?;
                let repeated = word == "repeated";
                message.fields.push(self.field(&inner, repeated, !repeated)?);
            }
            _ => message.fields.push(self.field(&word, false, !self.implicit)?),
        }
        Ok(())
    }

    /// A field from behind its type on.
    fn field(&mut self, type_name: &str, repeated: bool, presence: bool) -> Result<RawField, String> {
        let kind = match (type_name, self.peek()) {
            ("group", _) => return Err("groups are not supported".into()),
            ("map", Some(Token::Sign('<'))) => {
                self.sign('<')?;
                let key = self.word()?;
                let key = Scalar::of_word(&key).ok_or_else(|| format!("\"{key}\" cannot be a map's key"))?;
                self.sign(',')?;
                let value = named_or_scalar(&self.word()?);
                self.sign('>')?;
                RawKind::Map(key, Box::new(value))
            }
            _ => named_or_scalar(type_name),
        };
        let name = self.word()?;
        self.sign('=')?;
        let number = self.number()?;
        let number = u32::try_from(number).ok().filter(|n| (1..1 << 29).contains(n));
        let number = number.ok_or_else(|| format!("the number of field \"{name}\" is out of range"))?;
        self.skip_statement()?;
        Ok(RawField { name, number, kind, repeated, presence })
    }

    fn enumeration(&mut self) -> Result<RawEnum, String> {
        let mut e = RawEnum { name: self.word()?, values: Vec::new() };
        self.sign('{')?;
        while !self.eat('}') {
            if self.eat(';') {
                continue;
            }
            let word = self.word()?;
            if matches!(word.as_str(), "option" | "reserved") && self.peek() != Some(&Token::Sign('=')) {
                self.skip_statement()?;
                continue;
            }
            self.sign('=')?;
            let number = self.number()?;
            let number = i32::try_from(number).map_err(|_| format!("the number of \"{word}\" is out of range"))?;
            e.values.push((number, word.into()));
            self.skip_statement()?;
        }
        Ok(e)
    }

    fn next(&mut self) -> Option<Token> {
        let (token, line) = self.tokens.get(self.at)?.clone();
        (self.at, self.line) = (self.at + 1, line);
        Some(token)
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    fn eat(&mut self, sign: char) -> bool {
        let hit = self.peek() == Some(&Token::Sign(sign));
        self.at += usize::from(hit);
        hit
    }

    fn sign(&mut self, sign: char) -> Result<(), String> {
        match self.next() {
            Some(Token::Sign(s)) if s == sign => Ok(()),
            other => Err(format!("'{sign}' is expected, found {}", describe(other.as_ref()))),
        }
    }

    fn word(&mut self) -> Result<String, String> {
        match self.next() {
            Some(Token::Word(word)) => Ok(word),
            other => Err(format!("a name is expected, found {}", describe(other.as_ref()))),
        }
    }

    fn text(&mut self) -> Result<String, String> {
        match self.next() {
            Some(Token::Text(text)) => Ok(text),
            other => Err(format!("a string is expected, found {}", describe(other.as_ref()))),
        }
    }

    fn number(&mut self) -> Result<i64, String> {
        let negative = self.eat('-');
        let word = self.word()?;
        let lower = word.to_ascii_lowercase();
        let value = match lower.strip_prefix("0x") {
            Some(hex) => i64::from_str_radix(hex, 16),
            None if lower.len() > 1 && lower.starts_with('0') => i64::from_str_radix(&lower[1..], 8),
            None => lower.parse(),
        };
        let value = value.map_err(|_| format!("\"{word}\" is no whole number"))?;
        Ok(if negative { -value } else { value })
    }

    /// Passes over what is left of a statement, options in brackets and braces too.
    fn skip_statement(&mut self) -> Result<(), String> {
        let mut depth = 0usize;
        loop {
            match self.next() {
                Some(Token::Sign('{' | '[' | '(')) => depth += 1,
                Some(Token::Sign('}' | ']' | ')')) => {
                    depth = depth.checked_sub(1).ok_or("';' is expected, found a closing bracket")?;
                }
                Some(Token::Sign(';')) if depth == 0 => return Ok(()),
                Some(_) => {}
                None => return Err("';' is expected, found the end".into()),
            }
        }
    }

    /// Passes over a statement that ends with a block in braces.
    fn skip_block(&mut self) -> Result<(), String> {
        let mut depth = 0usize;
        loop {
            match self.next() {
                Some(Token::Sign('{')) => depth += 1,
                Some(Token::Sign('}')) => {
                    depth = depth.checked_sub(1).ok_or("'{' is expected, found '}'")?;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                Some(_) => {}
                None => return Err("'}' is expected, found the end".into()),
            }
        }
    }
}

fn named_or_scalar(word: &str) -> RawKind {
    Scalar::of_word(word).map_or_else(|| RawKind::Named(word.to_string()), RawKind::Scalar)
}

fn describe(token: Option<&Token>) -> String {
    match token {
        None => "the end".into(),
        Some(Token::Word(word)) => format!("\"{word}\""),
        Some(Token::Text(text)) => format!("the string \"{text}\""),
        Some(Token::Sign(sign)) => format!("'{sign}'"),
    }
}
