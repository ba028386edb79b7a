//! A position in one statement's tokens: sqlparser's `Parser` with the words of our own statements on top.

use std::collections::BTreeMap;

use datafusion_sql::sqlparser::ast::{self, Ident, ObjectName};
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::dialect::MillstreamDialect;
use super::text::Text;
use crate::error::{Result, SqlError};
use crate::types::is_reserved;

/// Deepest nesting of expressions and queries; a text beyond it is refused rather than overflow the stack.
const NESTING_MAX: usize = 128;

static DIALECT: MillstreamDialect = MillstreamDialect;

/// Reads one statement from front to end.
pub(crate) struct Cursor<'a> {
    pub(crate) parser: Parser<'static>,
    pub(crate) text: &'a Text<'a>,
    tokens: Vec<TokenWithSpan>,
}

impl<'a> Cursor<'a> {
    /// `tokens` are one statement's, without white space.
    pub(crate) fn new(text: &'a Text<'a>, tokens: Vec<TokenWithSpan>) -> Self {
        let parser = Parser::new(&DIALECT).with_recursion_limit(NESTING_MAX).with_tokens_with_locations(tokens.clone());
        Self { parser, text, tokens }
    }

    /// The tokens from the current one on.
    pub(crate) fn rest(&self) -> &[TokenWithSpan] {
        self.tokens.get(self.parser.index()..).unwrap_or_default()
    }

    /// Runs one of sqlparser's own parsing functions.
    pub(crate) fn run<T>(&mut self, f: impl FnOnce(&mut Parser<'static>) -> Result<T, ParserError>) -> Result<T> {
        f(&mut self.parser).map_err(|e| self.parser_error(&e))
    }

    /// The unquoted word `n` tokens ahead, in upper case.
    pub(crate) fn word(&self, n: usize) -> Option<String> {
        word_of(self.rest().get(n)?)
    }

    /// Whether these words come next.
    pub(crate) fn at(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(i, w)| self.word(i).as_deref() == Some(*w))
    }

    /// Takes these words if they come next.
    pub(crate) fn eat(&mut self, words: &[&str]) -> bool {
        let found = self.at(words);
        if found {
            for _ in words {
                self.parser.next_token();
            }
        }
        found
    }

    /// Takes these words.
    pub(crate) fn expect(&mut self, words: &[&str]) -> Result<()> {
        for word in words {
            if !self.eat(&[word]) {
                return Err(self.unexpected());
            }
        }
        Ok(())
    }

    pub(crate) fn eat_token(&mut self, token: &Token) -> bool {
        self.parser.consume_token(token)
    }

    pub(crate) fn expect_token(&mut self, token: &Token) -> Result<()> {
        if self.eat_token(token) { Ok(()) } else { Err(self.unexpected()) }
    }

    /// A syntax error at the current token.
    pub(crate) fn unexpected(&self) -> SqlError {
        self.text.syntax_error(self.parser.peek_token_ref())
    }

    /// 0A000 at the current token.
    pub(crate) fn unsupported(&self, message: impl Into<String>) -> SqlError {
        SqlError::unsupported(message).with_position(self.text.position(self.parser.peek_token_ref().span.start))
    }

    /// An error unless all tokens are used.
    pub(crate) fn end(&self) -> Result<()> {
        if self.rest().is_empty() { Ok(()) } else { Err(self.unexpected()) }
    }

    pub(crate) fn ident(&mut self) -> Result<Ident> {
        self.run(Parser::parse_identifier)
    }

    /// A name of an object, with or without its schema.
    ///
    /// # Errors
    /// 42601 also for a reserved word without quotes: it could not be written in a query.
    pub(crate) fn object_name(&mut self) -> Result<ObjectName> {
        let name = self.run(|p| p.parse_object_name(false))?;
        let mut parts = name.0.iter().filter_map(|part| part.as_ident());
        match parts.find(|i| i.quote_style.is_none() && is_reserved(&i.value.to_lowercase())) {
            None => Ok(name),
            Some(word) => Err(SqlError::syntax(format!("syntax error at or near \"{}\"", word.value))
                .with_hint("the word is reserved; as a name it needs double quotes")
                .with_position(self.text.position(word.span.start))),
        }
    }

    pub(crate) fn expr(&mut self) -> Result<ast::Expr> {
        self.run(Parser::parse_expr)
    }

    pub(crate) fn string(&mut self) -> Result<String> {
        if let Token::DollarQuotedString(text) = self.parser.peek_token_ref().token.clone() {
            self.parser.next_token();
            return Ok(text.value);
        }
        self.run(Parser::parse_literal_string)
    }

    /// `(a, b, …)`.
    pub(crate) fn ident_list(&mut self) -> Result<Vec<Ident>> {
        self.expect_token(&Token::LParen)?;
        let mut idents = vec![self.ident()?];
        while self.eat_token(&Token::Comma) {
            idents.push(self.ident()?);
        }
        self.expect_token(&Token::RParen)?;
        Ok(idents)
    }

    /// `IF NOT EXISTS`.
    pub(crate) fn if_not_exists(&mut self) -> bool {
        self.eat(&["IF", "NOT", "EXISTS"])
    }

    /// `IF EXISTS`.
    pub(crate) fn if_exists(&mut self) -> bool {
        self.eat(&["IF", "EXISTS"])
    }

    /// All remaining tokens as one query, and its text.
    pub(crate) fn query_to_end(&mut self) -> Result<(Box<ast::Query>, String)> {
        let text = self.text.of(self.rest()).to_string();
        let query = self.run(Parser::parse_query)?;
        self.end()?;
        Ok((query, text))
    }

    /// `(key = value, …)`; keys may have dots and be quoted, the sign between key and value may be missing. Keys come back
    /// in lower case unless quoted.
    pub(crate) fn options(&mut self) -> Result<BTreeMap<String, String>> {
        self.expect_token(&Token::LParen)?;
        let mut options = BTreeMap::new();
        if self.eat_token(&Token::RParen) {
            return Ok(options);
        }
        loop {
            let at = self.parser.peek_token();
            let key = self.option_key()?;
            self.eat_token(&Token::Eq);
            let value = self.option_value()?;
            if options.insert(key.clone(), value).is_some() {
                return Err(SqlError::syntax(format!("option \"{key}\" given more than once"))
                    .with_position(self.text.position(at.span.start)));
            }
            if !self.eat_token(&Token::Comma) {
                break;
            }
        }
        self.expect_token(&Token::RParen)?;
        Ok(options)
    }

    fn option_key(&mut self) -> Result<String> {
        let mut key = String::new();
        loop {
            match self.parser.peek_token().token {
                Token::Word(w) if w.quote_style.is_none() => key.push_str(&w.value.to_lowercase()),
                Token::Word(w) => key.push_str(&w.value),
                Token::SingleQuotedString(s) => key.push_str(&s),
                _ => return Err(self.unexpected()),
            }
            self.parser.next_token();
            if !self.eat_token(&Token::Period) {
                return Ok(key);
            }
            key.push('.');
        }
    }

    fn option_value(&mut self) -> Result<String> {
        let negative = self.eat_token(&Token::Minus);
        let value = match self.parser.peek_token().token {
            Token::Number(n, _) => n,
            _ if negative => return Err(self.unexpected()),
            Token::SingleQuotedString(s) => s,
            Token::EscapedStringLiteral(s) => s,
            Token::DollarQuotedString(s) => s.value,
            Token::Word(w) if w.quote_style.is_none() => w.value.to_lowercase(),
            Token::Word(w) => w.value,
            _ => return Err(self.unexpected()),
        };
        self.parser.next_token();
        Ok(if negative { format!("-{value}") } else { value })
    }

    /// sqlparser's error in PostgreSQL's words. It says where only inside its message.
    fn parser_error(&self, error: &ParserError) -> SqlError {
        let message = match error {
            ParserError::ParserError(m) | ParserError::TokenizerError(m) => m,
            ParserError::RecursionLimitExceeded => {
                return SqlError::new("54001", "statement is nested too deeply")
                    .with_hint(format!("at most {NESTING_MAX} levels of nesting are allowed"));
            }
        };
        if let Some((line, column)) = location_in(message) {
            let found = self.tokens.iter().find(|t| (t.span.start.line, t.span.start.column) == (line, column));
            if let Some(token) = found {
                return self.text.syntax_error(token).with_detail(detail(message));
            }
        }
        if message.contains("found: EOF") {
            return self.text.syntax_error(&TokenWithSpan::wrap(Token::EOF)).with_detail(detail(message));
        }
        self.unexpected().with_detail(detail(message))
    }
}

/// The unquoted word that a token is, in upper case.
pub(crate) fn word_of(token: &TokenWithSpan) -> Option<String> {
    match &token.token {
        Token::Word(w) if w.quote_style.is_none() => Some(w.value.to_uppercase()),
        _ => None,
    }
}

fn location_in(message: &str) -> Option<(u64, u64)> {
    let (_, at) = message.rsplit_once(" at Line: ")?;
    let (line, column) = at.split_once(", Column: ")?;
    Some((line.parse().ok()?, column.parse().ok()?))
}

fn detail(message: &str) -> String {
    let message = message.rsplit_once(" at Line: ").map_or(message, |(m, _)| m);
    message.trim_start_matches("sql parser error: ").replacen("Expected: ", "expected ", 1)
}
