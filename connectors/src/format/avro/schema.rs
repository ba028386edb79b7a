//! A schema of Avro's, parsed from its JSON (Avro specification 1.12, "Schema Declaration").
//!
//! The parser is our own because those there are bring features into crates that the rest of the server is built on.

use std::collections::HashMap;
use std::sync::Arc;

use millstream_catalog::object::SchemaText;
use serde_json::Value;

/// A parsed schema: a type, and the named types that it is made of.
#[derive(Debug, Clone)]
pub struct Schema {
    pub root: Type,
    pub names: Arc<[Named]>,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    Null,
    Boolean,
    Int(Option<Logical>),
    Long(Option<Logical>),
    Float,
    Double,
    Bytes(Option<Decimal>),
    String {
        uuid: bool,
    },
    Array(Box<Type>),
    Map(Box<Type>),
    Union(Vec<Type>),
    /// Position in [`Schema::names`].
    Named(usize),
}

/// What a whole number stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logical {
    Date,
    /// Units in a second, of the day.
    Time(i64),
    /// Units in a second, since 1970; with whether it is a moment or the face of a clock.
    Timestamp {
        per_second: i64,
        local: bool,
    },
}

/// Digits of a decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decimal {
    pub precision: u32,
    pub scale: u32,
}

/// A type with a name.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// With the namespace.
    pub name: String,
    pub aliases: Vec<String>,
    pub kind: NamedKind,
}

/// What has a name.
#[derive(Debug, Clone, PartialEq)]
pub enum NamedKind {
    Record(Vec<Field>),
    Enum {
        symbols: Vec<Box<str>>,
        default: Option<usize>,
    },
    Fixed {
        size: usize,
        decimal: Option<Decimal>,
        uuid: bool,
    },
    /// Only while it is being parsed.
    Open,
}

/// A field of a record.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub name: String,
    pub aliases: Vec<String>,
    pub field_type: Type,
    pub default: Option<Value>,
}

/// Types within types; deeper ones are an error rather than a stack overflow.
const DEPTH_MAX: usize = 64;

impl Schema {
    /// Parses a schema and those that it refers to.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &SchemaText) -> Result<Self, String> {
        let mut parser = Parser::default();
        if text.is_base64 {
            return Err("it is no text".into());
        }
        for (name, text) in &text.references {
            parser.text(text).map_err(|e| format!("reference \"{name}\": {e}"))?;
        }
        let root = parser.text(&text.text)?;
        Ok(Self { root, names: parser.names.into() })
    }

    /// Parses a schema alone.
    ///
    /// # Errors
    /// As [`Schema::parse`].
    #[cfg(test)]
    pub fn of(text: &str) -> Result<Self, String> {
        Self::parse(&SchemaText { text: text.into(), ..SchemaText::default() })
    }

    /// The fields of a type that is a record.
    pub fn fields(&self, t: &Type) -> Option<&[Field]> {
        match t {
            Type::Named(i) => match &self.names[*i].kind {
                NamedKind::Record(fields) => Some(fields),
                _ => None,
            },
            _ => None,
        }
    }

    /// The type of a union with null, without the null; any other as it is. With whether null was there.
    pub fn without_null<'a>(&self, t: &'a Type) -> (&'a Type, bool) {
        match t {
            Type::Union(branches) => match branches.as_slice() {
                [Type::Null, other] | [other, Type::Null] if *other != Type::Null => (other, true),
                [one] => (one, *one == Type::Null),
                _ => (t, branches.contains(&Type::Null)),
            },
            _ => (t, *t == Type::Null),
        }
    }

    /// What errors call a type.
    pub fn describe(&self, t: &Type) -> String {
        match t {
            Type::Null => "null".into(),
            Type::Boolean => "boolean".into(),
            Type::Int(None) => "int".into(),
            Type::Long(None) => "long".into(),
            Type::Int(Some(logical)) | Type::Long(Some(logical)) => match logical {
                Logical::Date => "date".into(),
                Logical::Time(_) => "time".into(),
                Logical::Timestamp { .. } => "timestamp".into(),
            },
            Type::Float => "float".into(),
            Type::Double => "double".into(),
            Type::Bytes(None) => "bytes".into(),
            Type::Bytes(Some(d)) => format!("decimal({},{})", d.precision, d.scale),
            Type::String { uuid: false } => "string".into(),
            Type::String { uuid: true } => "uuid".into(),
            Type::Array(item) => format!("array of {}", self.describe(item)),
            Type::Map(value) => format!("map of {}", self.describe(value)),
            Type::Union(branches) => {
                let branches: Vec<_> = branches.iter().map(|b| self.describe(b)).collect();
                format!("union of {}", branches.join(", "))
            }
            Type::Named(i) => {
                let named = &self.names[*i];
                let kind = match &named.kind {
                    NamedKind::Record(_) | NamedKind::Open => "record",
                    NamedKind::Enum { .. } => "enum",
                    NamedKind::Fixed { .. } => "fixed",
                };
                format!("{kind} {}", named.name)
            }
        }
    }
}

#[derive(Default)]
struct Parser {
    names: Vec<Named>,
    by_name: HashMap<String, usize>,
}

impl Parser {
    fn text(&mut self, text: &str) -> Result<Type, String> {
        // A schema that is the name of a type alone may come without quotes.
        let value = match serde_json::from_str(text) {
            Ok(value) => value,
            Err(_) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._".contains(&b)) => {
                Value::String(text.into())
            }
            Err(e) => return Err(format!("the schema is not valid JSON: {e}")),
        };
        self.parse(&value, "", 0)
    }

    fn parse(&mut self, value: &Value, namespace: &str, depth: usize) -> Result<Type, String> {
        if depth > DEPTH_MAX {
            return Err(format!("the schema is nested more than {DEPTH_MAX} deep"));
        }
        match value {
            Value::String(name) => self.reference(name, namespace),
            Value::Array(branches) => {
                let branches: Vec<Type> =
                    branches.iter().map(|b| self.parse(b, namespace, depth + 1)).collect::<Result<_, _>>()?;
                match branches.iter().any(|b| matches!(b, Type::Union(_))) {
                    true => Err("a union is in a union".into()),
                    false => Ok(Type::Union(branches)),
                }
            }
            Value::Object(object) => {
                let inner = object.get("type").ok_or("a schema has no \"type\"")?;
                match inner.as_str() {
                    Some("record" | "error" | "enum" | "fixed") => self.named(value, namespace, depth),
                    Some("array") => {
                        let items = object.get("items").ok_or("an array has no \"items\"")?;
                        Ok(Type::Array(Box::new(self.parse(items, namespace, depth + 1)?)))
                    }
                    Some("map") => {
                        let values = object.get("values").ok_or("a map has no \"values\"")?;
                        Ok(Type::Map(Box::new(self.parse(values, namespace, depth + 1)?)))
                    }
                    _ => Ok(logical(self.parse(inner, namespace, depth + 1)?, value)),
                }
            }
            _ => Err(format!("{value} is no schema")),
        }
    }

    fn reference(&self, name: &str, namespace: &str) -> Result<Type, String> {
        Ok(match name {
            "null" => Type::Null,
            "boolean" => Type::Boolean,
            "int" => Type::Int(None),
            "long" => Type::Long(None),
            "float" => Type::Float,
            "double" => Type::Double,
            "bytes" => Type::Bytes(None),
            "string" => Type::String { uuid: false },
            _ => {
                let full = full_name(name, namespace);
                let found = self.by_name.get(&full).or_else(|| self.by_name.get(name));
                Type::Named(*found.ok_or_else(|| format!("type \"{name}\" is not defined"))?)
            }
        })
    }

    fn named(&mut self, value: &Value, namespace: &str, depth: usize) -> Result<Type, String> {
        let kind = value["type"].as_str().unwrap_or_default();
        let name = value["name"].as_str().ok_or_else(|| format!("a {kind} has no \"name\""))?;
        let own = value["namespace"].as_str().unwrap_or(namespace);
        let full = full_name(name, own);
        let namespace = full.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_string();
        let aliases = strings(&value["aliases"]).map(|a| full_name(a, &namespace)).collect();
        if self.by_name.contains_key(&full) {
            return Err(format!("type \"{full}\" is defined twice"));
        }
        let at = self.names.len();
        self.by_name.insert(full.clone(), at);
        self.names.push(Named { name: full.clone(), aliases, kind: NamedKind::Open });
        let kind = match kind {
            "enum" => {
                let symbols: Vec<Box<str>> = strings(&value["symbols"]).map(Into::into).collect();
                if symbols.is_empty() {
                    return Err(format!("enum \"{full}\" has no symbols"));
                }
                let default = value["default"].as_str().and_then(|d| symbols.iter().position(|s| **s == *d));
                NamedKind::Enum { symbols, default }
            }
            "fixed" => {
                let size = value["size"].as_u64().and_then(|n| usize::try_from(n).ok());
                let size =
                    size.filter(|n| *n <= 1 << 24).ok_or_else(|| format!("fixed \"{full}\" has no valid size"))?;
                let uuid = size == 16 && value["logicalType"] == "uuid";
                NamedKind::Fixed { size, decimal: decimal(value), uuid }
            }
            _ => {
                let fields = value["fields"].as_array().ok_or_else(|| format!("record \"{full}\" has no fields"))?;
                let mut all: Vec<Field> = Vec::with_capacity(fields.len());
                for field in fields {
                    let name = field["name"].as_str().ok_or_else(|| format!("a field of \"{full}\" has no name"))?;
                    if all.iter().any(|f| f.name == name) {
                        return Err(format!("field \"{name}\" of \"{full}\" is there twice"));
                    }
                    let inner =
                        field.get("type").ok_or_else(|| format!("field \"{name}\" of \"{full}\" has no type"))?;
                    let field_type = self
                        .parse(inner, &namespace, depth + 1)
                        .map_err(|e| format!("field \"{name}\" of \"{full}\": {e}"))?;
                    // Some write what a type stands for beside it and not in it.
                    let field_type = if inner.is_string() { logical(field_type, field) } else { field_type };
                    all.push(Field {
                        name: name.to_string(),
                        aliases: strings(&field["aliases"]).map(str::to_string).collect(),
                        field_type,
                        default: field.get("default").cloned(),
                    });
                }
                NamedKind::Record(all)
            }
        };
        self.names[at].kind = kind;
        Ok(Type::Named(at))
    }
}

fn strings(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn full_name(name: &str, namespace: &str) -> String {
    match name.contains('.') || namespace.is_empty() {
        true => name.trim_start_matches('.').to_string(),
        false => format!("{namespace}.{name}"),
    }
}

/// The type with what its annotations say that it stands for: Avro's logical types, and those that Kafka Connect and
/// Debezium give by name. What is not known is left out, as the specification asks for.
fn logical(plain: Type, annotations: &Value) -> Type {
    let timestamp = |per_second: i64, local: bool| Some(Logical::Timestamp { per_second, local });
    let name = annotations["logicalType"].as_str().or(annotations["connect.name"].as_str()).unwrap_or("");
    match (&plain, name) {
        (Type::Int(_), "date" | "io.debezium.time.Date" | "org.apache.kafka.connect.data.Date") => {
            Type::Int(Some(Logical::Date))
        }
        (Type::Int(_), "time-millis" | "io.debezium.time.Time" | "org.apache.kafka.connect.data.Time") => {
            Type::Int(Some(Logical::Time(1_000)))
        }
        (Type::Long(_), "time-micros" | "io.debezium.time.MicroTime") => Type::Long(Some(Logical::Time(1_000_000))),
        (Type::Long(_), "io.debezium.time.NanoTime") => Type::Long(Some(Logical::Time(1_000_000_000))),
        (Type::Long(_), "timestamp-millis" | "org.apache.kafka.connect.data.Timestamp") => {
            Type::Long(timestamp(1_000, false))
        }
        (Type::Long(_), "timestamp-micros") => Type::Long(timestamp(1_000_000, false)),
        (Type::Long(_), "timestamp-nanos") => Type::Long(timestamp(1_000_000_000, false)),
        (Type::Long(_), "local-timestamp-millis" | "io.debezium.time.Timestamp") => Type::Long(timestamp(1_000, true)),
        (Type::Long(_), "local-timestamp-micros" | "io.debezium.time.MicroTimestamp") => {
            Type::Long(timestamp(1_000_000, true))
        }
        (Type::Long(_), "local-timestamp-nanos" | "io.debezium.time.NanoTimestamp") => {
            Type::Long(timestamp(1_000_000_000, true))
        }
        (Type::Bytes(_), "decimal") => match decimal(annotations) {
            Some(decimal) => Type::Bytes(Some(decimal)),
            None => plain,
        },
        (Type::String { .. }, "uuid" | "io.debezium.data.Uuid") => Type::String { uuid: true },
        _ => plain,
    }
}

fn decimal(value: &Value) -> Option<Decimal> {
    if value["logicalType"] != "decimal" {
        return None;
    }
    let precision = value["precision"].as_u64().and_then(|n| u32::try_from(n).ok())?;
    let scale = value.get("scale").map_or(Some(0), |s| s.as_u64().and_then(|n| u32::try_from(n).ok()))?;
    (precision > 0 && scale <= precision).then_some(Decimal { precision, scale })
}
