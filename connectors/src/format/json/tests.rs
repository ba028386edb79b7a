//! Records to rows and rows to messages, case by case.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use millstream_catalog::object::{Format, Include};
use millstream_catalog::{Column, SqlType};

use crate::format::{Header, Record, RecordFormat, RowFormat};

fn format(name: &str) -> Format {
    Format { format: name.into(), encode: "json".into(), options: BTreeMap::new(), ..Format::default() }
}

fn column(name: &str, t: SqlType) -> Column {
    Column::new(name, t, true)
}

fn included(name: &str, t: SqlType, include: Include) -> Column {
    Column { include: Some(include), ..Column::new(name, t, true) }
}

fn payload(text: &str) -> Record<'_> {
    Record { payload: Some(text.as_bytes()), ..Record::default() }
}

/// Decodes `{"a": value}` into a column of one type: the value as Arrow prints it, or the error.
fn decode(t: &SqlType, value: &str) -> Result<String, String> {
    let format = RecordFormat::of_columns(&[column("a", t.clone())], &format("plain")).unwrap();
    let mut decoder = format.decoder(&[0]).unwrap();
    decoder.append(&payload(&format!("{{\"a\": {value}}}"))).map_err(|e| e.to_string())?;
    let batch = decoder.finish().unwrap().batch;
    assert_eq!(batch.schema(), *decoder.schema());
    Ok(print(batch.column(0), 0))
}

fn print(array: &ArrayRef, row: usize) -> String {
    let options = FormatOptions::default().with_null("NULL");
    // Printing a named zone needs a time zone database, which this crate does without.
    let array: ArrayRef = match array.data_type() {
        DataType::Timestamp(_, Some(zone)) => {
            assert_eq!(zone.as_ref(), "UTC");
            std::sync::Arc::new(array.as_primitive::<TimestampMicrosecondType>().clone().with_timezone("+00:00"))
        }
        _ => array.clone(),
    };
    ArrayFormatter::try_new(&array, &options).unwrap().value(row).to_string()
}

#[test]
fn every_type_reads_its_json_forms() {
    use SqlType::*;
    let int_array = Array(Box::new(Int4));
    let record = Record(vec![("x".into(), Int4), ("y".into(), Text)]);
    let cases: &[(SqlType, &str, &str)] = &[
        (Bool, "true", "true"),
        (Bool, "\"false\"", "false"),
        (Bool, "null", "NULL"),
        (Int2, "-32768", "-32768"),
        (Int4, "2147483647", "2147483647"),
        (Int4, "1.0", "1"),
        (Int8, "\"9007199254740993\"", "9007199254740993"),
        (Int8, "9223372036854775807", "9223372036854775807"),
        (Oid, "4294967295", "4294967295"),
        (Float8, "1e308", "1e308"),
        (Float8, "\"-Infinity\"", "-inf"),
        (Float8, "\"NaN\"", "NaN"),
        (Float4, "0.1", "0.1"),
        (Numeric(Some((12, 2))), "12.34", "12.34"),
        (Numeric(Some((12, 2))), "\"-9999999999.99\"", "-9999999999.99"),
        (Numeric(Some((12, 2))), "1e3", "1000.00"),
        (Numeric(None), "0.1", "0.100000000000000000"),
        (Text, r#""tab\there é \ud83e\udd80""#, "tab\there é 🦀"),
        (Text, "\"longer than the twelve bytes of a view\"", "longer than the twelve bytes of a view"),
        (Text, "12.50", "12.50"),
        (Text, "true", "true"),
        (Text, "{\"x\": [1, 2]}", "{\"x\": [1, 2]}"),
        (Varchar(Some(3)), "\"aé漢\"", "aé漢"),
        (Varchar(Some(3)), "\"abc  \"", "abc"),
        (Char(5), "\"ab\"", "ab   "),
        (Char(3), "\"é\"", "é  "),
        (Json, " {\"b\" : [1, \"x\"] } ", "{\"b\" : [1, \"x\"] }"),
        (Jsonb, "\"text\"", "\"text\""),
        (Jsonb, "{\"b\":1.50,\"a\":[1,2]}", "{\"a\": [1, 2], \"b\": 1.50}"),
        (Jsonb, "null", "NULL"),
        (Bytea, "\"aGVsbG8=\"", "68656c6c6f"),
        (Bytea, "\"aGVsbG8\"", "68656c6c6f"),
        (Bytea, r#""\\x00ff""#, "00ff"),
        (Date, "\"2026-01-31\"", "2026-01-31"),
        (Date, "20484", "2026-01-31"),
        (Time, "\"23:59:59.5\"", "23:59:59.500"),
        (Timestamp, "\"2026-01-31T23:59:59.123456\"", "2026-01-31T23:59:59.123456"),
        (Timestamp, "\"2026-01-31 23:59:59+01:00\"", "2026-01-31T22:59:59"),
        (Timestamp, "1769903999000", "2026-01-31T23:59:59"),
        (Timestamptz, "\"2026-01-31T23:59:59Z\"", "2026-01-31T23:59:59Z"),
        (Timestamptz, "1769903999001", "2026-01-31T23:59:59.001Z"),
        (Timestamptz, "-1", "1969-12-31T23:59:59.999Z"),
        (Uuid, "\"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11\"", "a0eebc999c0b4ef8bb6d6bb9bd380a11"),
        (Uuid, "\"a0eebc999c0b4ef8bb6d6bb9bd380a11\"", "a0eebc999c0b4ef8bb6d6bb9bd380a11"),
        (int_array.clone(), "[1, null, 3]", "[1, NULL, 3]"),
        (int_array, "[]", "[]"),
        (record.clone(), "{\"y\": \"z\", \"x\": 1, \"other\": {}}", "{x: 1, y: z}"),
        (record.clone(), "{}", "{x: NULL, y: NULL}"),
        (Array(Box::new(record)), "[{\"x\": 1}, {\"y\": \"b\"}]", "[{x: 1, y: NULL}, {x: NULL, y: b}]"),
    ];
    for (t, value, expected) in cases {
        assert_eq!(decode(t, value).as_deref(), Ok(*expected), "{value} as {t}");
    }
}

#[test]
fn what_a_type_does_not_hold_is_an_error_that_names_the_column() {
    use SqlType::*;
    let cases: &[(SqlType, &str, &str)] = &[
        (Bool, "1", "1 is a number"),
        (Bool, "\"yes\"", "not a valid boolean"),
        (Int2, "32768", "32768 as smallint: out of range"),
        (Int4, "1.5", "1.5 as integer: a digit after the decimal point would be lost"),
        (Int8, "9223372036854775808", "out of range"),
        (Int8, "true", "true is not a value of the column's type"),
        (Int8, "\"\"", "not a number"),
        (Float8, "1e999", "1e999 as double precision: out of range"),
        (Float8, "\"infinit\"", "not a number"),
        (Float4, "1e39", "1e39 as real: out of range"),
        (Numeric(Some((12, 2))), "12.345", "12.345 as numeric(12,2): a digit after the decimal point would be lost"),
        (Numeric(Some((4, 2))), "100", "100 as numeric(4,2): out of range"),
        (Numeric(Some((4, 2))), "\"NaN\"", "not a number"),
        (Text, r#""\u0000""#, "text cannot hold the character \\u0000"),
        (Text, r#""\ud800""#, "half of a surrogate pair"),
        (Varchar(Some(3)), "\"abcd\"", "abcd is too long for type character varying(3)"),
        (Bytea, "\"***\"", "not a valid bytea"),
        (Bytea, r#""\\x0""#, "not a valid bytea"),
        (Date, "\"2026-02-30\"", "not a valid date"),
        (Time, "\"25:00\"", "not a valid time"),
        (Timestamp, "\"yesterday\"", "not a valid timestamp"),
        (Timestamp, "1.5", "a digit after the decimal point would be lost"),
        (Timestamp, "9223372036854775807", "out of range"),
        (Timestamp, "true", "not a value of the column's type"),
        (Uuid, "\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1\"", "not a valid uuid"),
        (Uuid, "\"a0eebc999c0b4ef8bb6d6bb9bd380a1122\"", "not a valid uuid"),
        (Array(Box::new(Int4)), "{}", "{} is not a value of the column's type"),
        (Array(Box::new(Int4)), "[1, \"x\"]", "x as integer: not a number"),
        (Record(vec![("x".into(), Int4)]), "[]", "[] is not a value of the column's type"),
        (Record(vec![("x".into(), Int4)]), "{\"x\": \"y\"}", "column \"x\": y as integer: not a number"),
    ];
    for (t, value, expected) in cases {
        let error = decode(t, value).unwrap_err();
        assert!(error.starts_with("column \"a\": ") && error.contains(expected), "{value} as {t}: {error}");
    }
}

#[test]
fn text_that_is_no_json_object_is_an_error_that_says_where() {
    for (text, expected) in [
        ("", "invalid JSON at byte 0: expected '{', found the end"),
        ("null", "invalid JSON at byte 0: expected '{', found 'n'"),
        ("[1]", "invalid JSON at byte 0: expected '{', found '['"),
        ("{\"a\": 1", "invalid JSON at byte 7: expected ',' or '}', found the end"),
        ("{\"a\": 1} {\"a\": 2}", "invalid JSON at byte 9: expected the end, found '{'"),
        ("{\"a\": 01}", "invalid JSON at byte 7: expected ',' or '}', found '1'"),
        ("{\"unread\": tru}", "invalid JSON at byte 11: expected true, found 't'"),
        ("{\"unread\": [1, {\"x\": }]}", "invalid JSON at byte 21: expected a value, found '}'"),
    ] {
        let format = RecordFormat::of_columns(&[column("a", SqlType::Int4)], &format("plain")).unwrap();
        let mut decoder = format.decoder(&[0]).unwrap();
        assert_eq!(decoder.append(&payload(text)), Err(expected.into()), "{text}");
    }
    let format = RecordFormat::of_columns(&[column("a", SqlType::Text)], &format("plain")).unwrap();
    let mut decoder = format.decoder(&[0]).unwrap();
    let record = Record { payload: Some(b"{\"a\": \"\xff\"}"), ..Record::default() };
    assert_eq!(decoder.append(&record), Err("invalid UTF-8 at byte 7".into()));
}

#[test]
fn a_record_that_fails_leaves_no_trace_in_any_column() {
    use SqlType::*;
    let columns = vec![
        column("t", Text),
        column("b", Bytea),
        column("l", Array(Box::new(Text))),
        column("r", Record(vec![("x".into(), Array(Box::new(Int4))), ("y".into(), Bool)])),
        column("u", Uuid),
        column("f", Bool),
        column("n", Numeric(Some((10, 2)))),
        column("bad", Int4),
    ];
    let good = |i: i32| {
        format!(
            r#"{{"t": "a text of more than twelve bytes {i}", "b": "aGVsbG8=", "l": ["x", "{i}"], "r": {{"x": [{i}], "y": true}},
                "u": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "f": true, "n": {i}.25, "bad": {i}}}"#
        )
    };
    let format = RecordFormat::of_columns(&columns, &format("plain")).unwrap();
    let all: Vec<_> = (0..columns.len()).collect();
    let (mut mixed, mut clean) = (format.decoder(&all).unwrap(), format.decoder(&all).unwrap());
    for i in 0..20 {
        let text = good(i);
        // A value that does not fit, in the middle of a list, and a text that ends too early at every byte.
        assert!(mixed.append(&payload(&text.replace(&format!("\"bad\": {i}"), "\"bad\": \"x\""))).is_err());
        assert!(mixed.append(&payload(&text.replace(&format!("[{i}]"), "[1, 2, true]"))).is_err());
        for end in 0..text.len() {
            assert!(mixed.append(&payload(&text[..end])).is_err());
        }
        assert_eq!(mixed.append(&payload(&text)), Ok(()));
        assert_eq!(clean.append(&payload(&text)), Ok(()));
    }
    assert_eq!(mixed.rows(), 20);
    assert_eq!(mixed.finish().unwrap(), clean.finish().unwrap());
    // The decoder is as new after a batch.
    assert_eq!(mixed.append(&payload(&good(1))), Ok(()));
    assert_eq!(mixed.finish().unwrap().batch.num_rows(), 1);
}

#[test]
fn fields_are_found_in_any_order_and_the_last_of_a_name_counts() {
    let columns = [column("a", SqlType::Int4), column("B", SqlType::Text), column("c", SqlType::Int4)];
    let format = RecordFormat::of_columns(&columns, &format("plain")).unwrap();
    let mut decoder = format.decoder(&[2, 0, 1]).unwrap();
    let rows = [
        (r#"{"a": 1, "B": "x", "c": 3}"#, ["3", "1", "x"]),
        (r#"{"c": 3, "a": 1, "extra": {"a": 9}, "B": "x"}"#, ["3", "1", "x"]),
        (r#"{"a": 1, "a": 2, "B": "x", "B": null, "c": 3}"#, ["3", "2", "NULL"]),
        (r#"{"A": 1, "b": "x", "C": 3}"#, ["NULL", "NULL", "NULL"]),
        (r#"{"\u0061": 7}"#, ["NULL", "7", "NULL"]),
        (r#"{}"#, ["NULL", "NULL", "NULL"]),
        (r#"{"a": 1, "B": "x", "c": 3}"#, ["3", "1", "x"]),
    ];
    for (text, _) in rows {
        assert_eq!(decoder.append(&payload(text)), Ok(()), "{text}");
    }
    let batch = decoder.finish().unwrap().batch;
    for (row, (text, expected)) in rows.iter().enumerate() {
        let values: Vec<_> = batch.columns().iter().map(|c| print(c, row)).collect();
        assert_eq!(values, expected, "{text}");
    }
}

#[test]
fn not_null_columns_refuse_null_and_missing() {
    let columns = [Column::new("a", SqlType::Int4, false), column("b", SqlType::Int4)];
    let format = RecordFormat::of_columns(&columns, &format("plain")).unwrap();
    let mut decoder = format.decoder(&[0, 1]).unwrap();
    for text in ["{\"b\": 1}", "{\"a\": null}"] {
        let error = decoder.append(&payload(text)).unwrap_err().to_string();
        assert_eq!(error, "column \"a\": null or missing, but the column is NOT NULL");
    }
    assert_eq!(decoder.append(&payload("{\"a\": 1}")), Ok(()));
    // Also where the column is not read.
    let mut pruned = format.decoder(&[1]).unwrap();
    assert!(pruned.append(&payload("{\"b\": 1}")).is_err());
    assert_eq!(pruned.append(&payload("{\"a\": 1, \"b\": 1}")), Ok(()));
    assert!(decoder.append(&Record::default()).unwrap_err().to_string().contains("tombstone"));
}

#[test]
fn included_columns_come_from_the_message() {
    use Include::*;
    let headers_type = SqlType::Array(Box::new(SqlType::Record(vec![
        ("key".into(), SqlType::Text),
        ("value".into(), SqlType::Bytea),
    ])));
    let columns = [
        included("k", SqlType::Bytea, Key),
        included("kt", SqlType::Text, Key),
        included("p", SqlType::Int4, Partition),
        included("o", SqlType::Int8, Offset),
        included("ts", SqlType::Timestamptz, Timestamp),
        included("h", SqlType::Jsonb, Headers),
        included("hl", headers_type, Headers),
        column("a", SqlType::Int4),
    ];
    let format = RecordFormat::of_columns(&columns, &format("plain")).unwrap();
    let mut decoder = format.decoder(&[0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
    assert!(decoder.wants_headers());
    let headers: &[Header<'_>] = &[("trace", Some(b"ab\"c")), ("raw", Some(b"\xff")), ("none", None)];
    let record = Record {
        payload: Some(b"{\"a\": 1, \"k\": 2, \"p\": 77}"),
        key: Some(b"key"),
        partition: 3,
        offset: 42,
        timestamp_ms: Some(1_769_903_999_001),
        headers,
    };
    assert_eq!(decoder.append(&record), Ok(()));
    assert_eq!(
        decoder.append(&Record { key: Some(b"\xff"), ..record }),
        Err("key of the record: not valid UTF-8".into())
    );
    assert_eq!(decoder.append(&payload("{}")), Ok(()));
    let batch = decoder.finish().unwrap().batch;
    let printed = |row| batch.columns().iter().map(|c| print(c, row)).collect::<Vec<_>>();
    assert_eq!(
        printed(0),
        [
            "6b6579",
            "key",
            "3",
            "42",
            "2026-01-31T23:59:59.001Z",
            r#"[{"key": "trace", "value": "ab\"c"}, {"key": "raw", "base64": "/w=="}, {"key": "none", "value": null}]"#,
            "[{key: trace, value: 61622263}, {key: raw, value: ff}, {key: none, value: NULL}]",
            "1",
        ]
    );
    assert_eq!(printed(1), ["NULL", "NULL", "0", "0", "NULL", "[]", "[]", "NULL"]);
    assert!(RecordFormat::of_columns(&[included("p", SqlType::Text, Partition)], &self::format("plain")).is_err());
    assert!(!format.decoder(&[0, 7]).unwrap().wants_headers());
}

#[test]
fn no_columns_still_count_rows_and_check_them() {
    let format = RecordFormat::of_columns(&[column("a", SqlType::Int4)], &format("plain")).unwrap();
    let mut decoder = format.decoder(&[]).unwrap();
    assert_eq!(decoder.append(&payload("{\"a\": 1}")), Ok(()));
    assert!(decoder.append(&payload("{\"a\": }")).is_err());
    assert!(decoder.append(&payload("{\"a\": \"x\"}")).is_err());
    assert_eq!(decoder.append(&payload("{}")), Ok(()));
    assert_eq!(decoder.finish().unwrap().batch.num_rows(), 2);
    assert_eq!(decoder.finish().unwrap().batch.num_rows(), 0);
}

#[test]
fn a_record_is_judged_the_same_whatever_is_read() {
    use SqlType::*;
    let columns = [
        Column::new("id", Int8, false),
        column("n", Numeric(Some((6, 2)))),
        column("name", Text),
        column("code", Varchar(Some(3))),
        column("ts", Timestamp),
        column("doc", Jsonb),
        column("tags", Array(Box::new(Int4))),
        column("at", Record(vec![("x".into(), Int4), ("y".into(), Text)])),
        column("raw", Bytea),
        included("key", Text, Include::Key),
        included("seen", Timestamptz, Include::Timestamp),
    ];
    let format = RecordFormat::of_columns(&columns, &format("plain")).unwrap();
    let whole = r#"{"id": 1, "n": 2.5, "name": "a name longer than twelve bytes", "code": "abc", "ts": 0,
        "doc": {"a": [1]}, "tags": [1, 2], "at": {"x": 1, "y": "z"}, "raw": "aGVsbG8=", "other": null}"#;
    let with = |from: &str, to: &str| {
        assert!(whole.contains(from));
        whole.replacen(from, to, 1).into_bytes()
    };
    let mut records: Vec<Option<Vec<u8>>> = vec![
        // Good ones.
        Some(whole.into()),
        Some(b"{\"id\": 1}".to_vec()),
        Some(with("\"n\": 2.5", "\"n\": null")),
        Some(with("\"n\": 2.5", "\"name\": 7, \"doc\": 7")),
        Some(with("a name", "\\u0041 n\\name")),
        // Bad syntax: cut off, a comma too many, two values, an array, a number, nothing, not UTF-8.
        Some(b"{\"id\": 1".to_vec()),
        Some(b"{\"id\": 1,}".to_vec()),
        Some(b"{\"id\": 1} {}".to_vec()),
        Some(b"[{\"id\": 1}]".to_vec()),
        Some(b"12".to_vec()),
        Some(Vec::new()),
        Some(b"{\"id\": 1, \"name\": \"\xff\"}".to_vec()),
        // A tombstone.
        None,
        // Values that do not fit their column.
        Some(with("\"id\": 1", "\"id\": \"one\"")),
        Some(with("\"id\": 1", "\"id\": 9223372036854775808")),
        Some(with("\"id\": 1", "\"id\": null")),
        Some(b"{\"n\": 1}".to_vec()),
        Some(with("2.5", "2.555")),
        Some(with("2.5", "12345.5")),
        Some(with("a name", "\\u0000 name")),
        Some(with("a name", "\\ud800 name")),
        Some(with("abc", "abcd")),
        Some(with("\"ts\": 0", "\"ts\": \"noon\"")),
        Some(with("[1, 2]", "[1, \"x\"]")),
        Some(with("[1, 2]", "{}")),
        Some(with("\"x\": 1", "\"x\": 1.5")),
        Some(with("aGVsbG8=", "***")),
        // Two errors: the first of the text counts.
        Some(with("2.5, \"name\": \"a", "true, \"name\": \"\\u0000")),
    ];
    // Again, after errors.
    records.extend(records.clone());
    let keys: [Option<&[u8]>; 3] = [None, Some(b"key"), Some(b"\xff")];
    let subsets: Vec<Vec<usize>> = (0..columns.len())
        .flat_map(|i| [vec![i], (0..columns.len()).filter(|c| *c != i).rev().collect()])
        .chain([Vec::new(), (0..columns.len()).collect()])
        .collect();
    let verdicts = |subset: &[usize]| {
        let mut decoder = format.decoder(subset).unwrap();
        let mut verdicts = Vec::new();
        for payload in &records {
            for key in keys {
                let record = crate::format::Record {
                    payload: payload.as_deref(),
                    key,
                    timestamp_ms: Some(5),
                    ..crate::format::Record::default()
                };
                verdicts.push(decoder.append(&record));
            }
        }
        let late = crate::format::Record {
            payload: Some(b"{\"id\": 1}"),
            timestamp_ms: Some(i64::MAX),
            ..crate::format::Record::default()
        };
        verdicts.push(decoder.append(&late));
        let good = verdicts.iter().filter(|v| v.is_ok()).count();
        assert_eq!(decoder.finish().unwrap().batch.num_rows(), good);
        verdicts
    };
    let expected = verdicts(&(0..columns.len()).collect::<Vec<_>>());
    assert_eq!(expected.iter().filter(|v| v.is_ok()).count(), 5 * 2 * 2);
    for subset in subsets {
        assert_eq!(verdicts(&subset), expected, "columns {subset:?}");
    }
}

#[test]
fn rows_written_read_back_the_same() {
    use SqlType::*;
    let columns: Vec<_> = [
        Bool,
        Int2,
        Int4,
        Int8,
        Oid,
        Float4,
        Float8,
        Numeric(Some((12, 2))),
        Numeric(None),
        Text,
        Jsonb,
        Bytea,
        Date,
        Time,
        Timestamp,
        Timestamptz,
        Uuid,
        Array(Box::new(Timestamp)),
        Record(vec![("x".into(), Int4), ("y \"q\"".into(), Text)]),
    ]
    .into_iter()
    .enumerate()
    .map(|(i, t)| column(&format!("c{i}"), t))
    .collect();
    let all: Vec<_> = (0..columns.len()).collect();
    let source = RecordFormat::of_columns(&columns, &format("plain")).unwrap();
    let mut decoder = source.decoder(&all).unwrap();
    let texts = [
        r#"{"c0": true, "c1": -1, "c2": 2, "c3": 9007199254740993, "c4": 7, "c5": 0.1, "c6": 1e300, "c7": -0.05, "c8": 1.5,
            "c9": "q\" \\ \n \u0001 é", "c10": {"k": [1, 2]}, "c11": "AP8=", "c12": "2026-01-31", "c13": "01:02:03.000004",
            "c14": "2026-01-31 01:02:03.4", "c15": "2026-01-31T01:02:03+02:00", "c16": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "c17": ["1969-12-31 23:59:59.5", null], "c18": {"x": 1, "y \"q\"": "z"}}"#,
        "{}",
    ];
    for text in texts {
        assert_eq!(decoder.append(&payload(text)), Ok(()));
    }
    let batch = decoder.finish().unwrap().batch;
    let sink = RowFormat::new(&columns, &[], &format("plain"), "t").unwrap();
    let messages = sink.encode(&batch, None, None).unwrap();
    for message in &messages {
        let text = std::str::from_utf8(message.payload.as_deref().unwrap()).unwrap();
        serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(decoder.append(&payload(text)), Ok(()), "{text}");
    }
    assert_eq!(decoder.finish().unwrap().batch, batch);
    let first = String::from_utf8(messages[0].payload.clone().unwrap()).unwrap();
    assert_eq!(
        first,
        r#"{"c0":true,"c1":-1,"c2":2,"c3":9007199254740993,"c4":7,"c5":0.1,"c6":1e300,"c7":-0.05,"c8":1.5,"#
            .to_string()
            + r#""c9":"q\" \\ \n \u0001 é","c10":{"k": [1, 2]},"c11":"AP8=","c12":"2026-01-31","c13":"01:02:03.000004","#
            + r#""c14":"2026-01-31T01:02:03.4","c15":"2026-01-30T23:02:03Z","c16":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11","#
            + r#""c17":["1969-12-31T23:59:59.5",null],"c18":{"x":1,"y \"q\"":"z"}}"#
    );
}

#[test]
fn floats_that_json_has_not_are_null() {
    let format = RowFormat::new(&[column("f", SqlType::Float8)], &[], &format("plain"), "t").unwrap();
    let values: ArrayRef = std::sync::Arc::new(arrow::array::Float64Array::from(vec![f64::NAN, f64::INFINITY, -0.0]));
    let batch = RecordBatch::try_from_iter([("f", values)]).unwrap();
    let texts: Vec<_> = format.encode(&batch, None, None).unwrap().into_iter().map(|m| m.payload.unwrap()).collect();
    assert_eq!(texts, [b"{\"f\":null}".to_vec(), b"{\"f\":null}".to_vec(), b"{\"f\":-0.0}".to_vec()]);
}

#[test]
fn upserts_have_keys_and_tombstones() {
    let columns = [column("id", SqlType::Int8), column("name", SqlType::Text)];
    let ids: ArrayRef = std::sync::Arc::new(Int64Array::from(vec![1, 2]));
    let names: ArrayRef = std::sync::Arc::new(StringViewArray::from(vec![Some("a"), None]));
    let batch = RecordBatch::try_from_iter([("id", ids), ("name", names)]).unwrap();
    let deletes = BooleanArray::from(vec![false, true]);
    let upsert = RowFormat::new(&columns, &[0], &format("upsert"), "t").unwrap();
    assert!(upsert.takes_deletes());
    let messages = upsert.encode(&batch, Some(&deletes), None).unwrap();
    assert_eq!(messages[0].key.as_deref(), Some(&b"{\"id\":1}"[..]));
    assert_eq!(messages[0].payload.as_deref(), Some(&b"{\"id\":1,\"name\":\"a\"}"[..]));
    assert_eq!((messages[1].key.as_deref(), messages[1].payload.as_deref()), (Some(&b"{\"id\":2}"[..]), None));
    let by_name = RowFormat::new(&columns, &[1], &format("upsert"), "t").unwrap();
    assert_eq!(
        by_name.encode(&batch, None, None).unwrap_err().message(),
        "NULL in key column \"name\" of a sink of FORMAT UPSERT"
    );
    let plain = RowFormat::new(&columns, &[], &format("plain"), "t").unwrap();
    assert!(!plain.takes_deletes() && plain.encode(&batch, Some(&deletes), None).is_err());
    assert_eq!(plain.encode(&batch, None, None).unwrap()[0].key, None);
    assert!(batch.column(1).as_string_view().is_null(1));
}
