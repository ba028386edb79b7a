//! The messages of a schema, whatever it was written as: names resolved, ready to be read by.

use std::collections::HashMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use millstream_catalog::object::SchemaText;

use super::{descriptor, proto};

/// Messages and enums of a schema and of what it imports.
#[derive(Debug, Default)]
pub struct Schema {
    pub messages: Vec<Message>,
    pub enums: Vec<Enum>,
    /// The outermost messages of the schema itself, in its order.
    pub outermost: Vec<usize>,
}

/// A message.
#[derive(Debug)]
pub struct Message {
    /// With the package.
    pub name: String,
    pub fields: Vec<Field>,
    /// The messages within it, in its order.
    pub nested: Vec<usize>,
}

/// A field of a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub name: String,
    pub number: u32,
    pub kind: Kind,
    pub repeated: bool,
    /// Whether a field that is not there is told from one with the default value.
    pub presence: bool,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Scalar(Scalar),
    Message(usize),
    Enum(usize),
    Map(Scalar, Box<Kind>),
}

/// Types without a name of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    Double,
    Float,
    Int64,
    UInt64,
    Int32,
    Fixed64,
    Fixed32,
    Bool,
    String,
    Bytes,
    UInt32,
    SFixed32,
    SFixed64,
    SInt32,
    SInt64,
}

impl Scalar {
    /// The type of its word.
    pub fn of_word(word: &str) -> Option<Self> {
        Some(match word {
            "double" => Self::Double,
            "float" => Self::Float,
            "int64" => Self::Int64,
            "uint64" => Self::UInt64,
            "int32" => Self::Int32,
            "fixed64" => Self::Fixed64,
            "fixed32" => Self::Fixed32,
            "bool" => Self::Bool,
            "string" => Self::String,
            "bytes" => Self::Bytes,
            "uint32" => Self::UInt32,
            "sfixed32" => Self::SFixed32,
            "sfixed64" => Self::SFixed64,
            "sint32" => Self::SInt32,
            "sint64" => Self::SInt64,
            _ => return None,
        })
    }

    /// The word of its type.
    pub fn word(self) -> &'static str {
        match self {
            Self::Double => "double",
            Self::Float => "float",
            Self::Int64 => "int64",
            Self::UInt64 => "uint64",
            Self::Int32 => "int32",
            Self::Fixed64 => "fixed64",
            Self::Fixed32 => "fixed32",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::UInt32 => "uint32",
            Self::SFixed32 => "sfixed32",
            Self::SFixed64 => "sfixed64",
            Self::SInt32 => "sint32",
            Self::SInt64 => "sint64",
        }
    }
}

/// An enum: the names of its numbers.
#[derive(Debug)]
pub struct Enum {
    pub name: String,
    pub values: Vec<(i32, Box<str>)>,
}

/// A file before its names are resolved.
#[derive(Debug, Default)]
pub(super) struct RawFile {
    pub package: String,
    pub messages: Vec<RawMessage>,
    pub enums: Vec<RawEnum>,
}

#[derive(Debug, Default)]
pub(super) struct RawMessage {
    pub name: String,
    pub fields: Vec<RawField>,
    pub messages: Vec<RawMessage>,
    pub enums: Vec<RawEnum>,
    /// Whether it stands for the entries of a map.
    pub is_map_entry: bool,
}

#[derive(Debug, Default)]
pub(super) struct RawEnum {
    pub name: String,
    pub values: Vec<(i32, Box<str>)>,
}

#[derive(Debug)]
pub(super) struct RawField {
    pub name: String,
    pub number: u32,
    pub kind: RawKind,
    pub repeated: bool,
    pub presence: bool,
}

#[derive(Debug, Clone)]
pub(super) enum RawKind {
    Scalar(Scalar),
    /// As written: from the scope that it is in outwards, or from the root with a point before it.
    Named(String),
    Map(Scalar, Box<RawKind>),
}

/// What everybody may import without giving it.
const WELL_KNOWN: &str = r#"
syntax = "proto3";
package google.protobuf;
message Timestamp { int64 seconds = 1; int32 nanos = 2; }
message Duration { int64 seconds = 1; int32 nanos = 2; }
message DoubleValue { double value = 1; }
message FloatValue { float value = 1; }
message Int64Value { int64 value = 1; }
message UInt64Value { uint64 value = 1; }
message Int32Value { int32 value = 1; }
message UInt32Value { uint32 value = 1; }
message BoolValue { bool value = 1; }
message StringValue { string value = 1; }
message BytesValue { bytes value = 1; }
message Empty {}
message Any { string type_url = 1; bytes value = 2; }
message FieldMask { repeated string paths = 1; }
"#;

impl Schema {
    /// Reads a schema: the text of a `.proto` file, or a `FileDescriptorSet`, whose last file is meant.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &SchemaText) -> Result<Self, String> {
        let mut files = Vec::new();
        for (name, text) in &text.references {
            if !name.starts_with("google/protobuf/") {
                files.push(proto::parse(text).map_err(|e| format!("import \"{name}\": {e}"))?);
            }
        }
        if text.is_base64 {
            let bytes = BASE64_STANDARD.decode(&text.text).map_err(|e| e.to_string())?;
            files.extend(descriptor::parse(&bytes)?);
        } else {
            files.push(proto::parse(&text.text)?);
        }
        if !files.iter().any(|f| f.package == "google.protobuf" && f.messages.iter().any(|m| m.name == "Timestamp")) {
            files.insert(0, proto::parse(WELL_KNOWN)?);
        }
        let mut resolver = Resolver::default();
        for file in &files {
            resolver.schema.outermost = resolver.declare(&file.package, &file.messages, &file.enums)?;
        }
        for file in &files {
            resolver.resolve(&file.package, &file.messages)?;
        }
        Ok(resolver.schema)
    }

    /// The message of a full name, or of its last part if there is one alone of it; without a name the only outermost one.
    ///
    /// # Errors
    /// If there is none, or there are several.
    pub fn find(&self, name: Option<&str>) -> Result<usize, String> {
        let Some(name) = name else {
            return match self.outermost.as_slice() {
                [one] => Ok(*one),
                all => Err(format!("the schema has {} messages, and none is named", all.len())),
            };
        };
        let name = name.trim_start_matches('.');
        if let Some(at) = self.messages.iter().position(|m| m.name == name) {
            return Ok(at);
        }
        let last = |m: &Message| m.name.rsplit('.').next() == Some(name);
        let found: Vec<usize> = (0..self.messages.len()).filter(|i| last(&self.messages[*i])).collect();
        match found.as_slice() {
            [one] => Ok(*one),
            _ => Err(format!("the schema has no message \"{name}\"")),
        }
    }

    /// The message at a path: the position among the outermost ones, then of those within.
    pub fn at_path(&self, path: &[usize]) -> Option<usize> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(*self.outermost.get(*first)?, |at, i| self.messages[at].nested.get(*i).copied())
    }
}

#[derive(Default)]
struct Resolver {
    schema: Schema,
    by_name: HashMap<String, Kind>,
    /// Messages that stand for entries of maps: what they map to what.
    entries: HashMap<usize, (Scalar, RawKind, String)>,
}

fn join(scope: &str, name: &str) -> String {
    if scope.is_empty() { name.to_string() } else { format!("{scope}.{name}") }
}

impl Resolver {
    fn declare(&mut self, scope: &str, messages: &[RawMessage], enums: &[RawEnum]) -> Result<Vec<usize>, String> {
        for e in enums {
            let name = join(scope, &e.name);
            self.by_name.insert(name.clone(), Kind::Enum(self.schema.enums.len()));
            self.schema.enums.push(Enum { name, values: e.values.clone() });
        }
        let mut declared = Vec::new();
        for message in messages {
            let name = join(scope, &message.name);
            let at = self.schema.messages.len();
            self.schema.messages.push(Message { name: name.clone(), fields: Vec::new(), nested: Vec::new() });
            if self.by_name.insert(name.clone(), Kind::Message(at)).is_some() {
                return Err(format!("message \"{name}\" is defined twice"));
            }
            if message.is_map_entry
                && let [key, value] = message.fields.as_slice()
                && let RawKind::Scalar(scalar) = key.kind
            {
                self.entries.insert(at, (scalar, value.kind.clone(), name.clone()));
            }
            self.schema.messages[at].nested = self.declare(&name, &message.messages, &message.enums)?;
            declared.push(at);
        }
        Ok(declared)
    }

    fn resolve(&mut self, scope: &str, messages: &[RawMessage]) -> Result<(), String> {
        for message in messages {
            let name = join(scope, &message.name);
            let Some(Kind::Message(at)) = self.by_name.get(&name).cloned() else { continue };
            let mut fields = Vec::with_capacity(message.fields.len());
            for field in &message.fields {
                let located = |e| format!("field \"{}\" of message \"{name}\": {e}", field.name);
                let kind = self.kind(&field.kind, &name).map_err(located)?;
                let repeated = field.repeated && !matches!(kind, Kind::Map(..));
                let presence = field.presence || matches!(kind, Kind::Message(_));
                fields.push(Field { name: field.name.clone(), number: field.number, kind, repeated, presence });
            }
            self.schema.messages[at].fields = fields;
            self.resolve(&name, &message.messages)?;
        }
        Ok(())
    }

    fn kind(&self, kind: &RawKind, scope: &str) -> Result<Kind, String> {
        match kind {
            RawKind::Scalar(scalar) => Ok(Kind::Scalar(*scalar)),
            RawKind::Map(key, value) => Ok(Kind::Map(*key, Box::new(self.kind(value, scope)?))),
            RawKind::Named(name) => {
                let found = self.named(name, scope).ok_or_else(|| format!("type \"{name}\" is not defined"))?;
                match &found {
                    Kind::Message(at) => match self.entries.get(at) {
                        Some((key, value, scope)) => Ok(Kind::Map(*key, Box::new(self.kind(value, scope)?))),
                        None => Ok(found),
                    },
                    _ => Ok(found),
                }
            }
        }
    }

    /// The type of a name in a scope, looked for from there outwards.
    fn named(&self, name: &str, scope: &str) -> Option<Kind> {
        if let Some(full) = name.strip_prefix('.') {
            return self.by_name.get(full).cloned();
        }
        let mut scope = Some(scope);
        while let Some(within) = scope {
            if let Some(found) = self.by_name.get(&join(within, name)) {
                return Some(found.clone());
            }
            scope = match within.rsplit_once('.') {
                Some((outer, _)) => Some(outer),
                None if within.is_empty() => None,
                None => Some(""),
            };
        }
        None
    }
}
