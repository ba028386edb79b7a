//! DataFusion's text of expressions as a user would write them: `count(*)` for `count(Int64(1))`, `'x'` for `Utf8("x")`.
//!
//! Such text is also in the names of computed columns, so it is the text that is rewritten and not the expression. What is
//! not known stays as it is.

use chrono::DateTime;

/// How DataFusion names types, and how SQL does.
const TYPES: &[(&str, &str)] = &[
    ("Boolean", "boolean"),
    ("Int16", "smallint"),
    ("Int32", "integer"),
    ("Int64", "bigint"),
    ("UInt32", "oid"),
    ("Float32", "real"),
    ("Float64", "double precision"),
    ("Utf8", "text"),
    ("LargeUtf8", "text"),
    ("Utf8View", "text"),
    ("Date32", "date"),
    ("Decimal128", "numeric"),
    ("IntervalMonthDayNano", "interval"),
    ("TimestampMicrosecond", "timestamp"),
];

/// The same text with SQL's literals and types.
pub fn readable(text: &str) -> String {
    let text = text.replace("count(Int64(1))", "count(*)");
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        out.push_str(&rest[..start]);
        let word = &rest[start..];
        let length = word.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(word.len());
        let (word, after) = word.split_at(length);
        let value = TYPES.iter().find(|(name, _)| *name == word).and_then(|(name, sql)| {
            let Some(inside) = after.strip_prefix('(') else {
                return Some(((*sql).to_string(), after));
            };
            let end = closing(inside)?;
            Some((literal(name, sql, &inside[..end])?, &inside[end + 1..]))
        });
        match value {
            Some((value, after)) => {
                out.push_str(&value);
                rest = after;
            }
            None => {
                out.push_str(word);
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// Where the bracket closes that was opened before the text.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted && depth == 0 => return Some(at),
            ')' if !quoted => depth -= 1,
            _ => {}
        }
    }
    None
}

/// A literal of a type, or the type with its parameters.
fn literal(name: &str, sql: &str, inside: &str) -> Option<String> {
    if inside == "NULL" || inside.starts_with("NULL,") || inside.starts_with("None,") {
        return Some("NULL".into());
    }
    let quoted = || inside.strip_prefix('"')?.strip_suffix('"');
    match name {
        "Utf8" | "LargeUtf8" | "Utf8View" => {
            Some(format!("'{}'", quoted()?.replace("\\\"", "\"").replace("\\\\", "\\").replace('\'', "''")))
        }
        "Date32" => Some(format!("'{}'", quoted()?)),
        "Decimal128" => match inside.split(',').collect::<Vec<_>>().as_slice() {
            [value, _, scale] => match value.strip_prefix("Some(").and_then(|v| v.strip_suffix(')')) {
                Some(digits) => decimal(digits, scale.trim().parse().ok()?),
                None => Some((*value).to_string()),
            },
            _ => Some(format!("{sql}({})", inside.replace(' ', ""))),
        },
        "IntervalMonthDayNano" => interval(quoted()?),
        "TimestampMicrosecond" => {
            let us = inside.split(',').next()?.trim().parse().ok()?;
            Some(format!("'{}'", DateTime::from_timestamp_micros(us)?.naive_utc()))
        }
        _ => Some(inside.to_string()),
    }
}

/// `12.50` from 1250 and a scale of 2.
fn decimal(digits: &str, scale: usize) -> Option<String> {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let digits = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at_checked(digits.len() - scale)?;
    Some(if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") })
}

/// From `IntervalMonthDayNano { months: 0, days: 1, nanoseconds: 0 }`.
fn interval(text: &str) -> Option<String> {
    let number = |name: &str| -> Option<i64> {
        let (_, after) = text.split_once(&format!("{name}: "))?;
        after[..after.find([',', ' ', '}']).unwrap_or(after.len())].parse().ok()
    };
    let (months, days, nanoseconds) = (number("months")?, number("days")?, number("nanoseconds")?);
    let seconds = nanoseconds as f64 / 1e9;
    let parts = [(months != 0, format!("{months} months")), (days != 0, format!("{days} days"))];
    let mut parts: Vec<String> = parts.into_iter().filter(|(there, _)| *there).map(|(_, part)| part).collect();
    if nanoseconds != 0 || parts.is_empty() {
        parts.push(format!("{seconds} seconds"));
    }
    Some(format!("INTERVAL '{}'", parts.join(" ")))
}

#[cfg(test)]
mod tests {
    use datafusion::common::ScalarValue;
    use datafusion::logical_expr::{cast, col, lit};

    use super::*;

    #[test]
    fn literals_and_types_are_those_of_sql() {
        let shown = |expr: datafusion::logical_expr::Expr| readable(&expr.to_string());
        assert_eq!(shown(col("t.a").gt(lit(5_i64))), "t.a > 5");
        assert_eq!(shown(col("a").eq(lit("it's (\"x\")"))), "a = 'it''s (\"x\")'");
        assert_eq!(shown(lit(ScalarValue::Utf8View(Some("x".into())))), "'x'");
        assert_eq!(shown(lit(ScalarValue::Decimal128(Some(-1250), 12, 2))), "-12.50");
        assert_eq!(shown(lit(ScalarValue::Decimal128(Some(5), 12, 2))), "0.05");
        assert_eq!(shown(lit(ScalarValue::Decimal128(None, 12, 2))), "NULL");
        assert_eq!(shown(lit(ScalarValue::Int64(None))), "NULL");
        assert_eq!(shown(lit(true).and(lit(1.5_f64).gt(lit(2_i32)))), "true AND 1.5 > 2");
        assert_eq!(shown(lit(ScalarValue::new_interval_mdn(0, 1, 60_000_000_000))), "INTERVAL '1 days 60 seconds'");
        let noon = ScalarValue::TimestampMicrosecond(Some(1_714_564_800_000_000), None);
        assert_eq!(shown(lit(noon)), "'2024-05-01 12:00:00'");
        let numeric = arrow::datatypes::DataType::Decimal128(20, 0);
        assert_eq!(shown(cast(col("a"), numeric)), "CAST(a AS numeric(20,0))");
        assert_eq!(
            readable("Project: c.home, count(Int64(1)), Int64_like(x)"),
            "Project: c.home, count(*), Int64_like(x)"
        );
    }
}
