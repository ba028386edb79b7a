//! Bytes as text and text as bytes: `convert_from` and `convert_to`, in UTF-8, which is the one encoding there is.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryBuilder, StringViewArray, StringViewBuilder};
use arrow::datatypes::DataType;
use datafusion_expr::ScalarUDF;

use super::define::{Call, Constants, Typing, define};
use crate::error::{Result, SqlError};

/// The functions of this module.
pub(crate) fn all() -> Vec<Arc<ScalarUDF>> {
    vec![define("convert_from", &[], from_type, from), define("convert_to", &[], to_type, to)]
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null)
}

fn from_type(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    use DataType as D;
    match types {
        [D::Binary | D::LargeBinary | D::BinaryView | D::Null, name] if is_text(name) => {
            Typing::new(vec![D::Binary, D::Utf8View], D::Utf8View)
        }
        _ => None,
    }
}

fn to_type(types: &[DataType], _: Constants<'_>) -> Option<Typing> {
    match types {
        [text, name] if is_text(text) && is_text(name) => {
            Typing::new(vec![DataType::Utf8View, DataType::Utf8View], DataType::Binary)
        }
        _ => None,
    }
}

/// `convert_from(bytes, encoding)`.
fn from(call: &Call<'_>) -> Result<ArrayRef> {
    let (bytes, names) = (call.arguments[0].as_binary::<i32>(), call.arguments[1].as_string_view());
    let mut out = StringViewBuilder::with_capacity(call.rows);
    for row in 0..call.rows {
        let text = match (bytes.is_valid(row) && is_known(names, row)?).then(|| std::str::from_utf8(bytes.value(row))) {
            Some(Ok(text)) if !text.contains('\0') => Some(text),
            Some(_) => return Err(SqlError::new("22021", "invalid byte sequence for encoding \"UTF8\"")),
            None => None,
        };
        out.append_option(text);
    }
    Ok(Arc::new(out.finish()))
}

/// `convert_to(text, encoding)`.
fn to(call: &Call<'_>) -> Result<ArrayRef> {
    let (texts, names) = (call.arguments[0].as_string_view(), call.arguments[1].as_string_view());
    let mut out = BinaryBuilder::new();
    for row in 0..call.rows {
        let is_there = texts.is_valid(row) && is_known(names, row)?;
        out.append_option(is_there.then(|| texts.value(row).as_bytes()));
    }
    Ok(Arc::new(out.finish()))
}

/// Whether the encoding is UTF-8; false for NULL.
///
/// # Errors
/// 22023 for what is no encoding that there is.
fn is_known(names: &StringViewArray, row: usize) -> Result<bool> {
    if names.is_null(row) {
        return Ok(false);
    }
    let name = names.value(row);
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    match plain.eq_ignore_ascii_case("utf8") || plain.eq_ignore_ascii_case("unicode") {
        true => Ok(true),
        false => {
            Err(SqlError::new("22023", format!("invalid encoding name \"{name}\"")).with_hint("the encoding is UTF8"))
        }
    }
}
