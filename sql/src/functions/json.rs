//! Functions that build JSON: `json_build_object`, `json_build_array` and their `jsonb` forms.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringViewArray, StringViewBuilder};
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
    ]
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
