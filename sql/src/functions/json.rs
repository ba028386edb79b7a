//! Functions that build and look at JSON: `json_build_object`, `json_build_array`, `to_json`, `json_typeof`, `json_array_length`
//! and their `jsonb` forms, `jsonb ||`, and what `json_agg` makes of a list.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, StringViewArray, StringViewBuilder, new_null_array};
use arrow::datatypes::{DataType, Field};
use datafusion_expr::{ScalarUDF, Volatility};
use millstream_catalog::{SqlType, jsonb};

use super::define::{Call, Constants, Definition, Kernel, Typing, build, define};
use crate::error::{Result, SqlError};
use crate::types::to_text;

/// The functions of this module.
pub(crate) fn all() -> Vec<Arc<ScalarUDF>> {
    let builder = |name, result: SqlType, kernel: Kernel| {
        build(Definition {
            name,
            aliases: &[],
            // A timestamptz is printed in the session's zone.
            volatility: Volatility::Stable,
            strict: false,
            result: Some(result),
            typing: any,
            kernel,
        })
    };
    vec![
        builder("json_build_object", SqlType::Json, object),
        builder("json_build_array", SqlType::Json, list),
        builder("jsonb_build_object", SqlType::Jsonb, |c| as_jsonb(object(c)?)),
        builder("jsonb_build_array", SqlType::Jsonb, |c| as_jsonb(list(c)?)),
        builder("to_json", SqlType::Json, document),
        builder("to_jsonb", SqlType::Jsonb, |c| as_jsonb(document(c)?)),
        builder(LIST, SqlType::Json, items),
        builder(LIST_B, SqlType::Jsonb, |c| as_jsonb(items(c)?)),
        define(
            "json_typeof",
            &["jsonb_typeof"],
            |t, _| of_document(t, DataType::Utf8View),
            |c| {
                let kind = |text: &str| Ok(kind_of(text)?.to_string());
                Ok(Arc::new(each_document(c, kind)?.into_iter().collect::<StringViewArray>()))
            },
        ),
        define(
            "json_array_length",
            &["jsonb_array_length"],
            |t, _| of_document(t, DataType::Int32),
            |c| Ok(Arc::new(each_document(c, array_length)?.into_iter().collect::<Int32Array>())),
        ),
        concat(),
    ]
}

/// What `json_agg` and `jsonb_agg` call on the list of their values.
pub(crate) const LIST: &str = "json_list";
pub(crate) const LIST_B: &str = "jsonb_list";

/// `jsonb || jsonb`: two objects become one, anything else a list of what both sides hold.
pub(crate) fn concat() -> Arc<ScalarUDF> {
    let typing: super::define::Type = |types, _| {
        let [_, _] = types else { return None };
        Typing::new(vec![DataType::Utf8View; 2], DataType::Utf8View)
    };
    build(Definition {
        name: "jsonb_concat",
        aliases: &[],
        volatility: Volatility::Immutable,
        strict: true,
        result: Some(SqlType::Jsonb),
        typing,
        kernel: |c| {
            let (left, right) = (c.arguments[0].as_string_view(), c.arguments[1].as_string_view());
            let joined = left.iter().zip(right.iter()).map(|pair| match pair {
                (Some(left), Some(right)) => Some(joined(left, right)),
                _ => None,
            });
            as_jsonb(Arc::new(joined.collect::<StringViewArray>()))
        },
    })
}

fn joined(left: &str, right: &str) -> String {
    let (left, right) = (left.trim(), right.trim());
    let inner = |text: &str| text[1..text.len() - 1].trim().to_string();
    let comma = |l: &str, r: &str| if l.is_empty() || r.is_empty() { "" } else { "," };
    if left.starts_with('{') && right.starts_with('{') {
        let (l, r) = (inner(left), inner(right));
        return format!("{{{l}{}{r}}}", comma(&l, &r));
    }
    let items = |text: &str| if text.starts_with('[') { inner(text) } else { text.to_string() };
    let (l, r) = (items(left), items(right));
    format!("[{l}{}{r}]", comma(&l, &r))
}

fn of_document(types: &[DataType], result: DataType) -> Option<Typing> {
    matches!(types, [DataType::Utf8View | DataType::Utf8 | DataType::Null])
        .then(|| Typing { arguments: vec![DataType::Utf8View], result })
}

fn each_document<T>(call: &Call<'_>, f: impl Fn(&str) -> Result<T>) -> Result<Vec<Option<T>>> {
    call.arguments[0].as_string_view().iter().map(|text| text.map(&f).transpose()).collect()
}

fn kind_of(text: &str) -> Result<&'static str> {
    serde_json::from_str::<serde::de::IgnoredAny>(text)
        .map_err(|e| SqlError::new("22P02", "invalid input syntax for type json").with_detail(e.to_string()))?;
    Ok(match text.trim_start().as_bytes().first() {
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "boolean",
        Some(b'n') => "null",
        _ => "number",
    })
}

fn array_length(text: &str) -> Result<i32> {
    let refused = |what: &str| Err(SqlError::new("22023", format!("cannot get array length of a {what}")));
    match kind_of(text)? {
        "array" => {
            let items: Vec<serde::de::IgnoredAny> = serde_json::from_str(text).unwrap_or_default();
            Ok(items.len() as i32)
        }
        "object" => refused("non-array"),
        _ => refused("scalar"),
    }
}

/// One value as a document; NULL stays NULL.
fn document(call: &Call<'_>) -> Result<ArrayRef> {
    let ([value], [field]) = (call.arguments, call.fields) else {
        return Err(SqlError::new("42883", "to_json takes one argument"));
    };
    let texts = documents(value, field, call)?;
    let texts = texts.into_iter().enumerate().map(|(row, text)| value.is_valid(row).then_some(text));
    Ok(Arc::new(texts.collect::<StringViewArray>()))
}

/// A list of values as a JSON array with blanks behind its commas; NULL stays NULL.
fn items(call: &Call<'_>) -> Result<ArrayRef> {
    let ([lists], [field]) = (call.arguments, call.fields) else {
        return Err(SqlError::internal("a list of JSON is made of one argument"));
    };
    let Some(SqlType::Array(item)) = SqlType::of(field) else {
        return Ok(new_null_array(call.result, call.rows));
    };
    let (lists, field) = (lists.as_list::<i32>(), item.field("item", true));
    let mut out = StringViewBuilder::with_capacity(call.rows);
    for row in 0..call.rows {
        match lists.is_null(row) {
            true => out.append_null(),
            false => out.append_value(format!("[{}]", documents(&lists.value(row), &field, call)?.join(", "))),
        }
    }
    Ok(Arc::new(out.finish()))
}

/// A text that is the same for documents that `=` holds equal.
pub(crate) fn comparison_key() -> Arc<ScalarUDF> {
    define("jsonb_comparison_key", &[], text_to_text, |c| {
        let documents = c.arguments[0].as_string_view();
        let key = |text: &str| {
            jsonb::comparison_key(text).map_err(|e| SqlError::internal(format!("a jsonb that is none: {e}")))
        };
        Ok(Arc::new(documents.iter().map(|text| text.map(key).transpose()).collect::<Result<StringViewArray>>()?))
    })
}

fn text_to_text(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    matches!(types, [DataType::Utf8View]).then(|| Typing { arguments: types.to_vec(), result: DataType::Utf8View })
}

/// Arguments of any type; untyped literals are text.
pub(super) fn any(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    let own = |t: &DataType| match t {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Null => DataType::Utf8View,
        other => SqlType::from_arrow(other).map_or_else(
            || other.clone(),
            |t| match (other, t) {
                (DataType::List(_) | DataType::Struct(_), _) => other.clone(),
                (_, t) => t.arrow_type(),
            },
        ),
    };
    Typing::new(types.iter().map(own).collect(), DataType::Utf8View)
}

fn object(call: &Call<'_>) -> Result<ArrayRef> {
    if !call.arguments.len().is_multiple_of(2) {
        return Err(SqlError::new("22023", "argument list must have even number of elements")
            .with_hint("the arguments are keys and values by turns"));
    }
    let values = call.arguments.iter().zip(call.fields).skip(1).step_by(2);
    let values = values.map(|(a, f)| documents(a, f, call)).collect::<Result<Vec<_>>>()?;
    let keys = call.arguments.iter().zip(call.fields).step_by(2);
    let keys = keys.map(|(a, f)| to_text(a, f, call.zone)).collect::<Result<Vec<_>>>()?;
    let mut out = StringViewBuilder::with_capacity(call.rows);
    for row in 0..call.rows {
        let mut pairs: Vec<(&str, &str)> = Vec::with_capacity(keys.len());
        for (i, (key, value)) in keys.iter().zip(&values).enumerate() {
            if key.is_null(row) {
                return Err(SqlError::new("22023", format!("argument {}: key must not be null", 2 * i + 1)));
            }
            pairs.push((key.value(row), &value[row]));
        }
        let pairs: Vec<String> = pairs.iter().map(|(key, value)| format!("{} : {value}", quoted(key))).collect();
        out.append_value(format!("{{{}}}", pairs.join(", ")));
    }
    Ok(Arc::new(out.finish()))
}

fn list(call: &Call<'_>) -> Result<ArrayRef> {
    let columns = call.arguments.iter().zip(call.fields);
    let columns = columns.map(|(a, f)| documents(a, f, call)).collect::<Result<Vec<_>>>()?;
    let mut out = StringViewBuilder::with_capacity(call.rows);
    for row in 0..call.rows {
        let items: Vec<&str> = columns.iter().map(|column| column[row].as_str()).collect();
        out.append_value(format!("[{}]", items.join(", ")));
    }
    Ok(Arc::new(out.finish()))
}

fn as_jsonb(documents: ArrayRef) -> Result<ArrayRef> {
    let canonical = |text: &str| jsonb::canonical(text).map_err(|e| SqlError::new("22P02", format!("no jsonb: {e}")));
    let documents = documents.as_string_view().iter().map(|text| text.map(canonical).transpose());
    Ok(Arc::new(documents.collect::<Result<StringViewArray>>()?))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Each value as a JSON document.
fn documents(array: &ArrayRef, field: &Field, call: &Call<'_>) -> Result<Vec<String>> {
    let sql_type = SqlType::of(field)
        .ok_or_else(|| SqlError::unsupported(format!("a value of type {} in JSON", field.data_type())))?;
    if let SqlType::Array(item) = &sql_type {
        let lists = array.as_list::<i32>();
        let item = item.field("item", true);
        return (0..array.len())
            .map(|row| match lists.is_null(row) {
                true => Ok("null".into()),
                false => Ok(format!("[{}]", documents(&lists.value(row), &item, call)?.join(","))),
            })
            .collect();
    }
    if let SqlType::Record(_) = sql_type {
        return Err(SqlError::unsupported("a record in JSON is not supported"));
    }
    let texts = to_text(array, field, call.zone)?;
    let document = |text: &str| match &sql_type {
        SqlType::Json | SqlType::Jsonb => text.to_string(),
        SqlType::Bool => text.to_string(),
        t if t.is_numeric() && text.bytes().any(|b| b.is_ascii_digit()) => text.to_string(),
        SqlType::Timestamp => quoted(&text.replacen(' ', "T", 1)),
        SqlType::Timestamptz => {
            let text = text.replacen(' ', "T", 1);
            // The offset has its minutes here.
            let has_minutes = text.rsplit(['+', '-']).next().is_some_and(|offset| offset.contains(':'));
            quoted(&if has_minutes || text.ends_with("BC") { text } else { text + ":00" })
        }
        _ => quoted(text),
    };
    Ok(texts.iter().map(|text| text.map_or_else(|| "null".to_string(), document)).collect())
}
