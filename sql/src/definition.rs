//! The text of a definition as it is to be read now: under the names of today, its secrets masked.
//!
//! A statement is kept as it was written. What it names may have been renamed or moved since, so its names are put right by
//! edits in place, which leave the rest of the text, comments and line breaks too, as its author wrote it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{
    self, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, ObjectNamePart, Query, TableFactor,
    Visit, Visitor,
};
use datafusion_sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};
use millstream_catalog::object::{Argument, Function, Index, IndexColumn, Schedule, Table, Task, Volatility};
use millstream_catalog::{Catalog, Column, DEFAULT_SCHEMA, Object, ObjectId, ObjectKind};

use crate::parser::text::Text;
use crate::parser::{parse, parse_query, tokenize, word_of};
use crate::planner::{SECRET_OPTION, table_reference, written, written_call};
use crate::statement::{SinkInput, Statement};
use crate::types::quote_ident;

/// What stands in the place of a secret.
pub const MASK: &str = "***";

/// The options of a secret that say what it is for and are no secrets themselves.
pub const SHOWN_OF_SECRETS: [&str; 6] = ["type", "scope", "region", "endpoint", "url_style", "allow_http"];

/// Whether the value of this option of a WITH clause must not be shown.
pub fn is_secret(option: &str) -> bool {
    const SIGNS: [&str; 8] =
        ["password", "passwd", "secret", "token", "credential", "private_key", "key.pem", "oauthbearer.config"];
    let option = option.to_lowercase();
    SIGNS.iter().any(|sign| option.contains(sign))
}

/// A statement with the values of its secret options masked; a text that is no SQL comes back as it is.
pub fn masked(sql: &str) -> String {
    match Edits::new(sql) {
        Some(mut edits) => {
            edits.mask();
            edits.apply()
        }
        None => sql.to_string(),
    }
}

/// A CREATE statement with other values of some options of its `WITH (…)`, and those that it does not have yet added.
pub fn with_options(definition: &str, options: &BTreeMap<String, String>) -> String {
    match Edits::new(definition) {
        Some(mut edits) => {
            edits.options(options);
            edits.apply()
        }
        None => definition.to_string(),
    }
}

/// The statement that would make the object as it is now: its name with the schema, the names of today in its query,
/// secrets masked.
pub fn current_definition(object: &Object, catalog: &Catalog) -> String {
    if let ObjectKind::Function(function) = &object.kind {
        return function_definition(object, function, catalog);
    }
    if let ObjectKind::Task(task) = &object.kind {
        return task_definition(object, task, catalog);
    }
    if let ObjectKind::Index(index) = &object.kind {
        return index_definition(object, index, catalog);
    }
    let text = &object.definition;
    let (Some(mut edits), Ok(statements)) = (Edits::new(text), parse(text)) else { return masked(text) };
    if let Some(statement) = statements.first() {
        edits.statement(&statement.statement, object, catalog);
    }
    edits.mask();
    edits.apply()
}

/// A view's query with the names of today.
pub fn current_query(query: &str, references: &BTreeMap<String, ObjectId>, catalog: &Catalog) -> String {
    let (Some(mut edits), Ok(parsed)) = (Edits::new(query), parse_query(query)) else { return query.to_string() };
    edits.query(&parsed, references, catalog);
    edits.apply()
}

/// The statement that makes an empty table with these columns, for tables that were made from a query.
pub fn table_definition(schema: &str, name: &str, table: &Table) -> String {
    let columns: Vec<String> = table
        .columns
        .iter()
        .map(|c| {
            let null = if c.nullable { "" } else { " NOT NULL" };
            format!("{} {}{null}", quote_ident(&c.name), c.sql_type)
        })
        .collect();
    let append_only = if table.append_only { " APPEND ONLY" } else { "" };
    format!("CREATE TABLE {}.{} ({}){append_only}", quote_ident(schema), quote_ident(name), columns.join(", "))
}

/// The statement that makes a function, for its body is a text within a text.
fn function_definition(object: &Object, function: &Function, catalog: &Catalog) -> String {
    let body = current_body(object, function, catalog);
    let quote = unused_tag(&body);
    let volatility = match function.volatility {
        Volatility::Immutable => " IMMUTABLE",
        Volatility::Stable => " STABLE",
        Volatility::Volatile => "",
    };
    format!(
        "CREATE FUNCTION {}({}) RETURNS {} LANGUAGE sql{volatility}{} AS {quote}{body}{quote}",
        qualified(object, catalog),
        function_arguments(object, function, catalog, true),
        function.returns,
        if function.strict { " STRICT" } else { "" },
    )
}

/// The statement that makes a task, its secrets masked. The names in its body are as they were written, for its runs look
/// them up so.
pub fn task_definition(object: &Object, task: &Task, catalog: &Catalog) -> String {
    let schedule = match &task.schedule {
        Some(Schedule::Cron { expression, time_zone }) => {
            format!(" SCHEDULE CRON {} AT TIME ZONE {}", quote_text(expression), quote_text(time_zone))
        }
        Some(Schedule::Every { interval, .. }) => format!(" SCHEDULE EVERY INTERVAL {}", quote_text(interval)),
        None => String::new(),
    };
    let before = task.after.iter().filter_map(|id| Some(qualified(catalog.get(*id)?, catalog)));
    let after = before.collect::<Vec<_>>().join(", ");
    let after = if after.is_empty() { after } else { format!(" AFTER {after}") };
    let shown = |name: &str, value: &str| if is_secret(name) { MASK.to_string() } else { value.to_string() };
    let options: Vec<String> =
        task.options.iter().map(|(name, value)| format!("{name} = {}", quote_text(&shown(name, value)))).collect();
    let with = if options.is_empty() { String::new() } else { format!(" WITH ({})", options.join(", ")) };
    let statements: Vec<String> = task.statements.iter().map(|statement| masked(statement)).collect();
    let body = match statements.as_slice() {
        [one] => one.clone(),
        several => {
            let body = several.join(";\n");
            let tag = unused_tag(&body);
            format!("{tag}\n{body};\n{tag}")
        }
    };
    format!("CREATE TASK {}{schedule}{after}{with} AS {body}", qualified(object, catalog))
}

/// The statement that makes an index, as PostgreSQL prints it.
pub fn index_definition(object: &Object, index: &Index, catalog: &Catalog) -> String {
    let relation = catalog.get(index.of);
    let columns: Vec<String> =
        index.columns.iter().filter_map(|column| Some(index_column(column, relation?.columns()))).collect();
    let unique = if index.unique { "UNIQUE " } else { "" };
    let of = relation.map(|relation| qualified(relation, catalog)).unwrap_or_default();
    format!("CREATE {unique}INDEX {} ON {of} USING btree ({})", quote_ident(&object.name), columns.join(", "))
}

/// A column of an index with its order, where that is not the usual one.
fn index_column(column: &IndexColumn, columns: &[Column]) -> String {
    let name = columns.get(column.column).map(|c| quote_ident(&c.name)).unwrap_or_default();
    let order = match (column.descending, column.nulls_first) {
        (false, false) => "",
        (false, true) => " NULLS FIRST",
        (true, true) => " DESC",
        (true, false) => " DESC NULLS LAST",
    };
    name + order
}

/// A dollar quote that a text does not hold.
fn unused_tag(text: &str) -> String {
    let tags = std::iter::once("$$".to_string()).chain((1..).map(|n| format!("$body{n}$")));
    tags.into_iter().find(|tag| !text.contains(tag.as_str())).unwrap_or_default()
}

/// A function's body with the names of today, in which arguments may be qualified by that of the function.
fn current_body(object: &Object, function: &Function, catalog: &Catalog) -> String {
    let body = &function.body;
    let (Some(mut edits), Ok(query)) = (Edits::new(body), parse_query(body)) else { return body.clone() };
    edits.query(&query, &object.references, catalog);
    let _ = ast::visit_expressions(&query, |expr| {
        if let Expr::CompoundIdentifier(parts) = expr {
            edits.replace(parts[0].span.start, parts[0].span.end, quote_ident(&object.name));
        }
        ControlFlow::<()>::Continue(())
    });
    edits.apply()
}

/// A function's arguments as they are declared, with their defaults or without.
pub fn function_arguments(object: &Object, function: &Function, catalog: &Catalog, defaults: bool) -> String {
    let argument = |a: &Argument| {
        let name = a.name.as_deref().map(|name| quote_ident(name) + " ").unwrap_or_default();
        let select = |default: &String| current_query(&format!("SELECT {default}"), &object.references, catalog);
        let default = a.default.as_ref().filter(|_| defaults).map(select);
        let default = default.as_ref().map(|d| d.replacen("SELECT", " DEFAULT", 1)).unwrap_or_default();
        format!("{name}{}{default}", a.sql_type)
    };
    function.arguments.iter().map(argument).collect::<Vec<_>>().join(", ")
}

/// An object's name with its schema, quoted where needed.
fn qualified(object: &Object, catalog: &Catalog) -> String {
    format!("{}.{}", quote_ident(catalog.schema_name(object)), quote_ident(&object.name))
}

/// A text and what is to be put into it.
struct Edits<'a> {
    sql: &'a str,
    text: Text<'a>,
    tokens: Vec<TokenWithSpan>,
    /// Byte where a piece starts -> byte where it ends, and what comes in its place.
    edits: BTreeMap<usize, (usize, String)>,
}

impl<'a> Edits<'a> {
    /// `None` if the text cannot be cut into tokens.
    fn new(sql: &'a str) -> Option<Self> {
        let text = Text::new(sql);
        let tokens = tokenize(&text, sql).ok()?;
        Some(Self { sql, text, tokens, edits: BTreeMap::new() })
    }

    fn replace(&mut self, start: Location, end: Location, by: impl Into<String>) {
        self.edits.insert(self.text.byte(start), (self.text.byte(end), by.into()));
    }

    fn apply(self) -> String {
        let mut out = String::with_capacity(self.sql.len());
        let mut done = 0;
        for (start, (end, by)) in &self.edits {
            out.push_str(&self.sql[done..*start]);
            out.push_str(by);
            done = *end;
        }
        out + &self.sql[done..]
    }

    /// Masks the secrets in `WITH (…)`, `SET (…)`, `OPTIONS (…)` and `ENCODE … (…)`. Of a `CREATE SECRET` that is every value
    /// but those that say what it is for. In other statements an option `secret` is the name of one. Also in the body of a
    /// CREATE TASK. Of a role it is the password.
    fn mask(&mut self) {
        let word = |i: usize| self.tokens.get(i).and_then(word_of);
        let makes_secret = |first: usize| {
            let words: Vec<_> = (first..first + 4).map_while(word).collect();
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            matches!(words.as_slice(), ["CREATE", "SECRET", ..] | ["CREATE", "OR", "REPLACE", "SECRET"])
        };
        let about_role = |first: usize| {
            matches!(word(first).as_deref(), Some("CREATE" | "ALTER"))
                && matches!(word(first + 1).as_deref(), Some("ROLE" | "USER" | "GROUP"))
        };
        let (mut of_secret, mut of_role) = (false, false);
        let is_hidden = |key: &str, of_secret: bool| {
            let key = key.trim_end_matches('.').trim_matches(['"', '\'']).to_lowercase();
            match of_secret {
                true => !SHOWN_OF_SECRETS.contains(&key.as_str()),
                false => key != SECRET_OPTION && is_secret(&key),
            }
        };
        let mut secrets = Vec::new();
        if let Some(last) = self.tokens.last()
            && let Token::DollarQuotedString(body) = &last.token
            && (0..4).any(|i| word(i).as_deref() == Some("TASK"))
        {
            let tag = body.tag.as_deref().unwrap_or_default();
            let shown = format!("${tag}${}${tag}$", masked(&body.value));
            self.edits.insert(self.text.byte(last.span.start), (self.text.byte(last.span.end), shown));
        }
        let mut in_options = false;
        let mut key = String::new();
        for (i, token) in self.tokens.iter().enumerate() {
            let is_create = matches!(&token.token, Token::Word(w) if w.value.eq_ignore_ascii_case("CREATE"));
            of_secret |= is_create && !in_options && makes_secret(i);
            of_role |= !in_options && about_role(i);
            if of_role && i.checked_sub(1).and_then(word).as_deref() == Some("PASSWORD") && word(i).is_none() {
                secrets.push((token.span.start, token.span.end));
            }
            match &token.token {
                Token::LParen => {
                    let before = i.checked_sub(1).and_then(word);
                    let encode = i.checked_sub(2).and_then(word);
                    in_options = matches!(before.as_deref(), Some("WITH" | "OPTIONS" | "SET"))
                        || encode.as_deref() == Some("ENCODE");
                    key.clear();
                }
                Token::RParen => in_options = false,
                Token::SemiColon => (of_secret, of_role) = (false, false),
                Token::Comma => key.clear(),
                Token::Eq | Token::Period | Token::Minus => {}
                _ if !in_options => {}
                part => {
                    let goes_on = i.checked_sub(1).is_some_and(|b| self.tokens[b].token == Token::Period);
                    if key.is_empty() || goes_on {
                        key.push_str(&part.to_string());
                        key.push('.');
                    } else if is_hidden(&key, of_secret) {
                        secrets.push((token.span.start, token.span.end));
                    }
                }
            }
        }
        for (start, end) in secrets {
            self.replace(start, end, format!("'{MASK}'"));
        }
    }

    /// Puts values of options into the last `WITH (…)` that is in no parentheses.
    fn options(&mut self, options: &BTreeMap<String, String>) {
        let mut depth = 0usize;
        let mut open = None;
        for (i, token) in self.tokens.iter().enumerate() {
            match token.token {
                Token::LParen => {
                    if depth == 0 && i.checked_sub(1).and_then(|b| word_of(&self.tokens[b])).as_deref() == Some("WITH")
                    {
                        open = Some(i);
                    }
                    depth += 1;
                }
                Token::RParen => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        let Some(open) = open else { return };
        let mut left: BTreeMap<&str, &String> = options.iter().map(|(name, value)| (name.as_str(), value)).collect();
        let mut edits = Vec::new();
        let mut key = String::new();
        let mut close = None;
        for i in open + 1..self.tokens.len() {
            let token = &self.tokens[i];
            let goes_on = self.tokens[i - 1].token == Token::Period;
            match &token.token {
                Token::RParen => {
                    close = Some(token.span.start);
                    break;
                }
                Token::Comma => key.clear(),
                Token::Eq | Token::Minus => {}
                Token::Period => key.push('.'),
                part if key.is_empty() || goes_on => key.push_str(&match part {
                    Token::Word(word) if word.quote_style.is_none() => word.value.to_lowercase(),
                    Token::Word(word) => word.value.clone(),
                    Token::SingleQuotedString(text) => text.clone(),
                    other => other.to_string(),
                }),
                _ => {
                    if let Some(value) = left.remove(key.as_str()) {
                        // A sign before it is of the old value.
                        let signed = self.tokens[i - 1].token == Token::Minus;
                        let start = if signed { self.tokens[i - 1].span.start } else { token.span.start };
                        edits.push((start, token.span.end, quote_text(value)));
                    }
                }
            }
        }
        for (start, end, by) in edits {
            self.replace(start, end, by);
        }
        if let (Some(close), false) = (close, left.is_empty()) {
            let more: String = left.iter().map(|(name, value)| format!(", {name} = {}", quote_text(value))).collect();
            self.replace(close, close, more);
        }
    }

    /// Puts the object's own name and those in its query right.
    fn statement(&mut self, statement: &Statement, object: &Object, catalog: &Catalog) {
        let (name, query) = match statement {
            Statement::CreateTable(s) => (&s.name, None),
            Statement::CreateTableAs(s) => (&s.name, None),
            Statement::CreateSource(s) => (&s.name, None),
            Statement::CreateExternalTable(s) => (&s.name, None),
            Statement::CreateView(s) => (&s.name, Some(&s.query)),
            Statement::CreateMaterializedView(s) => (&s.name, Some(&s.query)),
            Statement::CreateSink(s) => match &s.input {
                SinkInput::Query(query, _) => (&s.name, Some(query)),
                SinkInput::Relation(input) => {
                    let now = Names::new(&object.references, catalog).current(input);
                    if let (Some(now), Some((start, end))) = (now, span(input)) {
                        self.replace(start, end, now.name);
                    }
                    (&s.name, None)
                }
            },
            Statement::CreateSchema(s) => {
                self.replace(s.name.span.start, s.name.span.end, quote_ident(&object.name));
                return;
            }
            _ => return,
        };
        if let Some((start, end)) = span(name) {
            self.replace(start, end, qualified(object, catalog));
        }
        if let Some(query) = query {
            self.query(query, &object.references, catalog);
        }
    }

    fn query(&mut self, query: &Query, references: &BTreeMap<String, ObjectId>, catalog: &Catalog) {
        let mut names = Names::new(references, catalog);
        let _ = query.visit(&mut names);
        for found in names.found {
            match found {
                Found::Name { start, end, by, alias, in_call } => {
                    if let Some(alias) = alias {
                        let behind = self.end_of_relation(end, in_call);
                        let at = self.text.byte(behind);
                        if behind == end {
                            self.replace(start, end, format!("{by} AS {alias}"));
                            continue;
                        }
                        self.edits.insert(at, (at, format!(" AS {alias}")));
                    }
                    self.replace(start, end, by);
                }
                Found::Qualifier { start, end, by } => self.replace(start, end, by),
            }
        }
    }

    /// Where an alias can stand: behind the call that a name is an argument of, or behind `FOR SYSTEM_TIME AS OF …`.
    fn end_of_relation(&self, end: Location, in_call: bool) -> Location {
        let next = self.tokens.iter().position(|t| t.span.start >= end).unwrap_or(self.tokens.len());
        let word = |i: usize| self.tokens.get(i).and_then(word_of);
        let versioned = word(next).as_deref() == Some("FOR") && word(next + 1).as_deref() == Some("SYSTEM_TIME");
        if !in_call && !versioned {
            return end;
        }
        // FOR SYSTEM_TIME AS OF, then a call, or the one word that is one without parentheses.
        if versioned
            && let Some(moment) = self.tokens.get(next + 4)
            && self.tokens.get(next + 5).is_none_or(|t| t.token != Token::LParen)
        {
            return moment.span.end;
        }
        let mut depth = usize::from(in_call);
        for token in &self.tokens[next..] {
            match token.token {
                Token::LParen => depth += 1,
                Token::RParen => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return token.span.end;
                    }
                }
                _ => {}
            }
        }
        end
    }
}

/// A place in a query that must be written otherwise now.
enum Found {
    Name {
        start: Location,
        end: Location,
        by: String,
        alias: Option<String>,
        in_call: bool,
    },
    /// The relation's name before a column: it has an alias now.
    Qualifier {
        start: Location,
        end: Location,
        by: String,
    },
}

/// How a relation is written now.
struct Current {
    name: String,
    /// What columns are qualified by, where the name alone would not do any more.
    alias: Option<String>,
}

/// Finds the names of relations in a query, apart from those of common table expressions.
struct Names<'a> {
    references: &'a BTreeMap<String, ObjectId>,
    catalog: &'a Catalog,
    scopes: Vec<Scope>,
    found: Vec<Found>,
}

/// The common table expressions of a query.
struct Scope {
    names: Vec<String>,
    bodies: Vec<*const Query>,
    /// How many of them can be seen where the walk is.
    visible: usize,
    recursive: bool,
}

impl<'a> Names<'a> {
    fn new(references: &'a BTreeMap<String, ObjectId>, catalog: &'a Catalog) -> Self {
        Self { references, catalog, scopes: Vec::new(), found: Vec::new() }
    }

    /// How the relation behind a written name must be written, if not as it is.
    fn current(&self, name: &ObjectName) -> Option<Current> {
        let reference = table_reference(name).ok()?;
        let hidden = |s: &Scope| s.names[..s.visible].iter().any(|n| n == reference.table());
        if reference.schema().is_none() && self.scopes.iter().any(hidden) {
            return None;
        }
        let object = self.catalog.get(*self.references.get(&written(&reference))?)?;
        let found = self.catalog.resolve(reference.schema(), reference.table(), &[DEFAULT_SCHEMA.to_string()]);
        if found.is_ok_and(|o| o.id == object.id) {
            return None;
        }
        let same = reference.schema().is_some() && object.name == reference.table();
        Some(Current { name: qualified(object, self.catalog), alias: (!same).then(|| quote_ident(reference.table())) })
    }

    /// How the function of a call must be named, if not as it is.
    fn current_call(&self, call: &ast::Function) -> Option<String> {
        let FunctionArguments::List(list) = &call.args else { return None };
        let reference = table_reference(&call.name).ok()?;
        let object = self.catalog.get(*self.references.get(&written_call(&reference, list.args.len()))?)?;
        let schema = reference.schema().unwrap_or(DEFAULT_SCHEMA);
        let is_same = object.name == reference.table() && self.catalog.schema_name(object) == schema;
        (!is_same).then(|| qualified(object, self.catalog))
    }

    fn relation(&mut self, name: &ObjectName, has_alias: bool, in_call: bool) {
        if let (Some(now), Some((start, end))) = (self.current(name), span(name)) {
            let alias = now.alias.filter(|_| !has_alias);
            self.found.push(Found::Name { start, end, by: now.name, alias, in_call });
        }
    }
}

impl Visitor for Names<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if let Some(outer) = self.scopes.last_mut()
            && let Some(i) = outer.bodies.iter().position(|b| std::ptr::eq(*b, query))
        {
            outer.visible = if outer.recursive { outer.names.len() } else { i };
        }
        let ctes = query.with.iter().flat_map(|w| &w.cte_tables);
        let (names, bodies): (Vec<_>, Vec<_>) =
            ctes.map(|c| (crate::types::normalize(&c.alias.name), std::ptr::from_ref(c.query.as_ref()))).unzip();
        let recursive = query.with.as_ref().is_some_and(|w| w.recursive);
        self.scopes.push(Scope { visible: names.len(), names, bodies, recursive });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.scopes.pop();
        if let Some(outer) = self.scopes.last_mut()
            && outer.bodies.iter().any(|b| std::ptr::eq(*b, query))
        {
            outer.visible = outer.names.len();
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        let (args, alias) = match factor {
            TableFactor::Table { name, args: None, alias, .. } => {
                self.relation(name, alias.is_some(), false);
                return ControlFlow::Continue(());
            }
            TableFactor::Table { args: Some(args), alias, .. } => (&args.args, alias),
            TableFactor::Function { args, alias, .. } => (args, alias),
            _ => return ControlFlow::Continue(()),
        };
        // The relation of TUMBLE and its kin is their first argument.
        let parts = match args.first() {
            Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Identifier(ident)))) => std::slice::from_ref(ident),
            Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::CompoundIdentifier(parts)))) => parts.as_slice(),
            _ => return ControlFlow::Continue(()),
        };
        self.relation(&object_name(parts), alias.is_some(), true);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(call) = expr
            && let (Some(by), Some((start, end))) = (self.current_call(call), span(&call.name))
        {
            self.found.push(Found::Name { start, end, by, alias: None, in_call: true });
        }
        if let Expr::CompoundIdentifier(parts) = expr
            && let [schema, table, _, ..] = parts.as_slice()
            && let Some(Current { alias: Some(by), .. }) = self.current(&object_name(&parts[..2]))
        {
            self.found.push(Found::Qualifier { start: schema.span.start, end: table.span.end, by });
        }
        ControlFlow::Continue(())
    }
}

/// A text as SQL writes it.
fn quote_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn object_name(parts: &[Ident]) -> ObjectName {
    ObjectName(parts.iter().cloned().map(ObjectNamePart::Identifier).collect())
}

/// From where to where a name is written.
fn span(name: &ObjectName) -> Option<(Location, Location)> {
    let ident = |part: Option<&ObjectNamePart>| part.and_then(ObjectNamePart::as_ident).map(|i| i.span);
    Some((ident(name.0.first())?.start, ident(name.0.last())?.end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_catalog::object::View;
    use millstream_catalog::{Draft, SqlType};

    fn object(draft: &mut Draft, schema: ObjectId, name: &str, definition: &str, kind: ObjectKind) -> Object {
        Object { definition: definition.into(), ..Object::named(draft.new_id(), schema, name, kind) }
    }

    /// A view over table `t`, shown after `t` was renamed to `New t` in schema public.
    fn after_rename(definition: &str) -> String {
        let mut draft = Draft::new(&Catalog::new());
        let table = Table {
            columns: vec![Column::new("a", SqlType::Int4, true)],
            primary_key: vec![],
            append_only: false,
            watermark: None,
            checks: vec![],
        };
        let t = object(&mut draft, ObjectId::PUBLIC, "New t", "CREATE TABLE t (a INT)", ObjectKind::Table(table));
        let id = t.id;
        draft.create(t).unwrap();
        let kind = ObjectKind::View(View { columns: vec![], query: String::new() });
        let mut v = object(&mut draft, ObjectId::PUBLIC, "v2", definition, kind);
        v.references = BTreeMap::from([("t".to_string(), id), ("public.t".to_string(), id)]);
        current_definition(&v, draft.catalog())
    }

    #[test]
    fn names_are_those_of_today() {
        let shown = after_rename("create view v as\n  select t.a, x.a -- why\n  from t join Public.T x on t.a = x.a");
        assert_eq!(
            shown,
            "create view public.v2 as\n  select t.a, x.a -- why\n  from public.\"New t\" AS t join public.\"New t\" x on \
             t.a = x.a"
        );
        let shown = after_rename("CREATE VIEW IF NOT EXISTS v AS SELECT public.t.a FROM public.t WHERE public.t.a > 1");
        assert_eq!(shown, "CREATE VIEW IF NOT EXISTS public.v2 AS SELECT t.a FROM public.\"New t\" AS t WHERE t.a > 1");
        let shown =
            after_rename("CREATE MATERIALIZED VIEW v AS SELECT t.a FROM TUMBLE(t, ts, INTERVAL '1 hour') WHERE 1 = 1");
        assert_eq!(
            shown,
            "CREATE MATERIALIZED VIEW public.v2 AS SELECT t.a FROM TUMBLE(public.\"New t\", ts, INTERVAL '1 hour') AS t \
             WHERE 1 = 1"
        );
        let shown = after_rename("CREATE SINK v FROM t WITH (connector = 'blackhole')");
        assert_eq!(shown, "CREATE SINK public.v2 FROM public.\"New t\" WITH (connector = 'blackhole')");
    }

    #[test]
    fn common_table_expressions_keep_their_names() {
        let shown = after_rename("CREATE VIEW v AS WITH t AS (SELECT * FROM t) SELECT (SELECT max(a) FROM t) FROM t");
        assert_eq!(
            shown,
            "CREATE VIEW public.v2 AS WITH t AS (SELECT * FROM public.\"New t\" AS t) SELECT (SELECT max(a) FROM t) FROM t"
        );
    }

    #[test]
    fn options_are_replaced_and_added() {
        let before = "CREATE SOURCE s (a INT) WITH (connector = 'kafka', properties.bootstrap.server 'a:1', n = -5) FORMAT \
                      PLAIN ENCODE JSON (x = 'y')";
        let options = [("properties.bootstrap.server", "b:1"), ("n", "it's"), ("x", "z")];
        let options = options.map(|(k, v)| (k.to_string(), v.to_string())).into();
        assert_eq!(
            with_options(before, &options),
            "CREATE SOURCE s (a INT) WITH (connector = 'kafka', properties.bootstrap.server 'b:1', n = 'it''s', x = 'z') \
             FORMAT PLAIN ENCODE JSON (x = 'y')"
        );
    }

    #[test]
    fn secrets_are_masked_in_options_alone() {
        let shown = masked(
            "CREATE SOURCE s (token TEXT) WITH (connector = 'kafka', properties.sasl.password = 'it''s', \
             \"properties.ssl.key.password\" = $$x$$, properties.sasl.username = 'u') FORMAT PLAIN ENCODE JSON (auth.secret 'y')",
        );
        assert_eq!(
            shown,
            "CREATE SOURCE s (token TEXT) WITH (connector = 'kafka', properties.sasl.password = '***', \
             \"properties.ssl.key.password\" = '***', properties.sasl.username = 'u') FORMAT PLAIN ENCODE JSON (auth.secret '***')"
        );
        let shown = masked("ALTER SOURCE s SET (properties.sasl.password = 'x', on_error = 'skip')");
        assert_eq!(shown, "ALTER SOURCE s SET (properties.sasl.password = '***', on_error = 'skip')");
        let query = "CREATE VIEW v AS SELECT * FROM t WHERE token = 'x' AND a IN ('password')";
        assert_eq!(masked(query), query);
        let task = "CREATE TASK t AS $x$ CREATE SINK k FROM v WITH (properties.sasl.password = 'x'); SELECT 1 $x$";
        assert_eq!(masked(task), task.replace("'x'", "'***'"));
        assert_eq!(masked("not 'sql"), "not 'sql");
        let shown =
            masked("create or replace secret s with (type = 's3', KEY_ID = 'a', \"secret\" 'b', region = 'c', x = d)");
        assert_eq!(
            shown,
            "create or replace secret s with (type = 's3', KEY_ID = '***', \"secret\" '***', region = 'c', x = '***')"
        );
        let named = "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 's3://b/' WITH (secret = 's')";
        assert_eq!(masked(named), named);
    }
}
