//! Clauses, CSV, bytes, and the records of keyed formats, case by case.

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringViewArray, StructArray, UInt32Array,
};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use millstream_catalog::object::{Format, Include};
use millstream_catalog::{Column, SqlType};

use super::{Record, RecordDecoder, RecordFormat, RowFormat, Rows};

/// `FORMAT … ENCODE …` with options.
pub(super) fn clause(format: &str, encode: &str, options: &[(&str, &str)]) -> Format {
    Format {
        format: format.into(),
        encode: encode.into(),
        options: options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        ..Format::default()
    }
}

pub(super) fn column(name: &str, t: SqlType) -> Column {
    Column::new(name, t, true)
}

pub(super) fn key_column(name: &str, t: SqlType) -> Column {
    Column::new(name, t, false)
}

pub(super) fn record<'a>(key: Option<&'a [u8]>, payload: Option<&'a [u8]>) -> Record<'a> {
    Record { key, payload, ..Record::default() }
}

/// Rows as text, one a line: `-` before one that is gone, values with `|` between them.
pub(super) fn lines(rows: &Rows) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let print = |column: &ArrayRef, row: usize| {
        let column: ArrayRef = match column.data_type() {
            DataType::Timestamp(_, Some(_)) => {
                std::sync::Arc::new(column.as_primitive::<TimestampMicrosecondType>().clone().with_timezone("+00:00"))
            }
            _ => column.clone(),
        };
        ArrayFormatter::try_new(&column, &options).unwrap().value(row).to_string()
    };
    let line = |row: usize| {
        let gone = rows.deletes.as_ref().is_some_and(|d| d.value(row));
        let values: Vec<String> = rows.batch.columns().iter().map(|c| print(c, row)).collect();
        format!("{}{}", if gone { "-" } else { "" }, values.join("|"))
    };
    (0..rows.batch.num_rows()).map(line).collect()
}

/// What became of the records so far.
pub(super) fn taken(decoder: &mut RecordDecoder) -> Vec<String> {
    let rows = decoder.finish().unwrap();
    assert!(rows.deletes.as_ref().is_none_or(|d| d.len() == rows.batch.num_rows() && d.true_count() > 0));
    lines(&rows)
}

/// What rows were before: rows of a batch, `None` for a row that had no before.
pub(super) fn images(batch: &RecordBatch, rows: &[Option<u32>]) -> StructArray {
    let rows = UInt32Array::from(rows.to_vec());
    let columns = batch.columns().iter().map(|c| arrow::compute::take(c, &rows, None).unwrap()).collect();
    let fields: Vec<_> = batch.schema().fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
    StructArray::new(fields.into(), columns, rows.nulls().cloned())
}

fn error_of(columns: &[Column], key: &[usize], format: &Format) -> (String, String, String) {
    let e = RecordFormat::keyed(columns, key, format).unwrap_err();
    (e.sqlstate().into(), e.message().into(), e.hint().unwrap_or_default().into())
}

#[test]
fn what_a_clause_does_not_know_is_named() {
    let columns = [column("a", SqlType::Int4)];
    let error = |f: &str, e: &str, options: &[(&str, &str)]| error_of(&columns, &[], &clause(f, e, options));
    assert_eq!(error("plain", "xml", &[]).1, "unknown encoding \"xml\" of a source");
    assert!(error("plain", "xml", &[]).2.contains("FORMAT PLAIN ENCODE JSON | CSV | BYTES | AVRO | PROTOBUF"));
    assert_eq!(error("maxwell", "json", &[]).1, "unknown format \"maxwell\" of a source");
    let refused = error("debezium", "csv", &[]);
    assert_eq!(
        (refused.0.as_str(), refused.1.as_str()),
        ("0A000", "FORMAT DEBEZIUM ENCODE CSV of a source is not supported")
    );
    let unknown = error("plain", "json", &[("colour", "red")]);
    assert_eq!(unknown.0, "22023");
    assert_eq!(unknown.1, "unknown option \"colour\" of FORMAT PLAIN ENCODE JSON");
    assert_eq!(unknown.2, "known options: timestamp.handling.mode");
    assert_eq!(error("plain", "bytes", &[("a", "b")]).2, "it has no options");
    assert_eq!(error("upsert", "json", &[]).1, "FORMAT UPSERT of a source needs a PRIMARY KEY");
    assert!(
        error("plain", "avro", &[]).1.starts_with("option \"schema.registry\" of FORMAT PLAIN ENCODE AVRO is missing")
    );
    for (options, expected) in [
        (&[("schema.registry", "localhost")][..], "option \"schema.registry\" is no address: \"localhost\""),
        (&[("schema.registry", "http://u:p@h")], "option \"schema.registry\" is no address"),
        (&[("schema.registry.password", "x")], "needs \"schema.registry\""),
        (&[("schema.registry", "http://h"), ("schema.registry.password", "x")], "\"schema.registry.username\" of"),
        (&[("schema.registry", "http://h"), ("schema.location", "/x")], "exclude each other"),
        (&[("schema.location", "s3://b/x.avsc")], "cannot be \"s3://b/x.avsc\""),
        (&[("schema.location", "/no/such/file.avsc")], "schema file \"/no/such/file.avsc\" cannot be read"),
        (&[("schema.registry", "http://h"), ("schema.registry.name.strategy", "best")], "cannot be \"best\""),
        (
            &[("schema.registry", "http://h"), ("schema.registry.name.strategy", "record_name_strategy")],
            "\"message\" of",
        ),
    ] {
        let e = error("plain", "avro", options).1;
        assert!(e.contains(expected), "{options:?}: {e}");
    }
    let keyed =
        |key: &[usize], f: &Format| error_of(&[key_column("a", SqlType::Int4), column("b", SqlType::Int4)], key, f).1;
    assert!(keyed(&[0], &clause("plain", "json", &[])).contains("FORMAT PLAIN has no primary key"));
    assert!(keyed(&[0, 1], &clause("upsert", "json", &[("key.encode", "text")])).contains("keys that are objects"));
    assert!(keyed(&[0], &clause("upsert", "json", &[("key.encode", "avro")])).contains("key.encode = 'avro'"));
    let interval = error_of(&[column("a", SqlType::Interval)], &[], &clause("plain", "csv", &[])).1;
    assert_eq!(interval, "column \"a\" of type interval cannot be read from CSV");
    let sink = |f: &str, e: &str| RowFormat::new(&columns, &[], &clause(f, e, &[]), "t").unwrap_err();
    assert_eq!(sink("upsert", "json").message(), "FORMAT UPSERT needs a key");
    assert_eq!(sink("debezium", "json").message(), "FORMAT DEBEZIUM needs a key");
    assert_eq!(sink("plain", "csv").sqlstate(), "0A000");
    assert!(sink("plain", "avro").message().starts_with("option \"schema.registry\" of"));
}

#[test]
fn csv_fields_go_to_the_columns_in_order() {
    use SqlType::*;
    let columns = [
        column("id", Int8),
        column("name", Text),
        Column { include: Some(Include::Partition), ..column("p", Int4) },
        column("amount", Numeric(Some((8, 2)))),
        column("at", Timestamp),
        column("ok", Bool),
    ];
    let format = RecordFormat::of_columns(&columns, &clause("plain", "csv", &[])).unwrap();
    let mut decoder = format.decoder(&[0, 1, 3, 4, 5]).unwrap();
    let mut pruned = format.decoder(&[3]).unwrap();
    for (line, expected) in [
        ("1,Ann,2.50,2026-01-31 01:02:03,true", Ok("1|Ann|2.50|2026-01-31T01:02:03|true")),
        ("2,,,,", Ok("2|NULL|NULL|NULL|NULL")),
        ("3,\"\",1,,f", Ok("3||1.00|NULL|false")),
        ("4,\"a \"\"quoted\"\", é\nname\",0,,t\r\n", Ok("4|a \"quoted\", é\nname|0.00|NULL|true")),
        ("5,x,1,,", Ok("5|x|1.00|NULL|NULL")),
        (" 6 , x ,1,,", Ok("6| x |1.00|NULL|NULL")),
        ("7,x", Err("invalid CSV: 2 fields for 5 columns")),
        ("7,x,1,,,", Err("invalid CSV: more fields for 5 columns")),
        ("", Err("invalid CSV: 1 fields for 5 columns")),
        ("7,\"x,1,,", Err("invalid CSV at byte 2: the quote is not closed")),
        ("7,\"x\"y,1,,", Err("invalid CSV at byte 5: text behind a closing quote")),
        ("7,x\"y,1,,", Err("invalid CSV at byte 3: a quote within a field that does not begin with one")),
        ("7,x,1,,\n8,x,1,,", Err("invalid CSV at byte 7: a line break outside of quotes")),
        ("seven,x,1,,", Err("column \"id\": seven as bigint: not a number")),
        ("9223372036854775808,x,1,,", Err("column \"id\": 9223372036854775808 as bigint: out of range")),
        ("7,x,1.555,,", Err("column \"amount\": 1.555 as numeric(8,2): a digit after the decimal point would be lost")),
        ("7,x,1,noon,", Err("column \"at\": \"noon\" is not a valid timestamp")),
        ("7,x,1,,maybe", Err("column \"ok\": \"maybe\" is not a valid boolean")),
    ] {
        let outcome = decoder.append(&record(None, Some(line.as_bytes())));
        assert_eq!(pruned.append(&record(None, Some(line.as_bytes()))), outcome, "{line}");
        match expected {
            Ok(row) => assert_eq!((outcome, taken(&mut decoder)), (Ok(()), vec![row.to_string()]), "{line}"),
            Err(error) => assert_eq!(outcome, Err(error.into()), "{line}"),
        }
    }
    assert_eq!(decoder.append(&record(None, Some(b"7,\xff,1,,"))), Err("invalid UTF-8 at byte 2".into()));
    assert!(decoder.append(&record(None, None)).is_err());
    assert_eq!(taken(&mut decoder), Vec::<String>::new());
}

#[test]
fn csv_has_other_delimiters_quotes_and_nulls() {
    let columns = [column("a", SqlType::Text), column("b", SqlType::Text)];
    let options = [("delimiter", "\\t"), ("quote", "'"), ("null", "\\N"), ("without_header", "true")];
    let format = RecordFormat::of_columns(&columns, &clause("plain", "csv", &options)).unwrap();
    let mut decoder = format.decoder(&[0, 1]).unwrap();
    decoder.append(&record(None, Some(b"\\N\t'it''s'"))).unwrap();
    decoder.append(&record(None, Some(b"'\\N'\t"))).unwrap();
    assert_eq!(taken(&mut decoder), ["NULL|it's", "\\N|"]);
    for (options, expected) in [
        (("delimiter", "::"), "is not one character"),
        (("delimiter", "\n"), "is a line break"),
        (("quote", ","), "are the same"),
        (("without_header", "false"), "a header of ENCODE CSV is not supported"),
    ] {
        let e = error_of(&columns, &[], &clause("plain", "csv", &[options]));
        assert!(e.1.contains(expected), "{e:?}");
    }
    let list = error_of(&[column("a", SqlType::Array(Box::new(SqlType::Int4)))], &[], &clause("plain", "csv", &[]));
    assert_eq!(list.1, "column \"a\" of type integer[] cannot be read from CSV");
}

#[test]
fn bytes_are_taken_as_they_are() {
    let format = RecordFormat::of_columns(&[column("a", SqlType::Bytea)], &clause("plain", "bytes", &[])).unwrap();
    let mut decoder = format.decoder(&[0]).unwrap();
    for payload in [&b"\x00\xff"[..], b"", b"text"] {
        decoder.append(&record(None, Some(payload))).unwrap();
    }
    assert_eq!(taken(&mut decoder), ["00ff", "", "74657874"]);
    let text = RecordFormat::of_columns(&[column("a", SqlType::Text)], &clause("plain", "bytes", &[])).unwrap();
    let error = text.decoder(&[]).unwrap().append(&record(None, Some(b"\xff")));
    assert_eq!(error, Err("column \"a\": not valid UTF-8".into()));
    let two = [column("a", SqlType::Bytea), column("b", SqlType::Bytea)];
    assert!(error_of(&two, &[], &clause("plain", "bytes", &[])).1.contains("fills one column, and the source has 2"));
    assert!(error_of(&[column("a", SqlType::Int4)], &[], &clause("plain", "bytes", &[])).1.contains("type integer"));
}

#[test]
fn upserts_take_the_key_from_the_records_key() {
    let columns = [
        key_column("id", SqlType::Int8),
        Column::new("name", SqlType::Text, false),
        Column { include: Some(Include::Offset), ..column("o", SqlType::Int8) },
    ];
    let format = RecordFormat::keyed(&columns, &[0], &clause("upsert", "json", &[])).unwrap();
    assert!(format.is_keyed());
    let mut decoder = format.decoder(&[0, 1, 2]).unwrap();
    let mut pruned = format.decoder(&[1]).unwrap();
    for (key, payload, expected) in [
        (Some("{\"id\": 1}"), Some("{\"id\": 1, \"name\": \"a\"}"), Ok("1|a|0")),
        (Some("2"), Some("{\"name\": \"b\"}"), Ok("2|b|0")),
        // The key says which row it is, whatever the payload says.
        (Some(" 3 "), Some("{\"id\": 4, \"name\": \"c\"}"), Ok("3|c|0")),
        (Some("\"5\""), None, Ok("-5|NULL|NULL")),
        (Some("{\"other\": 0, \"id\": 6}"), None, Ok("-6|NULL|NULL")),
        (None, Some("{\"id\": 1, \"name\": \"a\"}"), Err("the record has no key, which FORMAT UPSERT needs")),
        (None, None, Err("the record has no key, which FORMAT UPSERT needs")),
        (Some("seven"), None, Err("key of the record: invalid JSON at byte 0: expected a value, found 's'")),
        (Some("\"seven\""), None, Err("key of the record: column \"id\": seven as bigint: not a number")),
        (Some(""), None, Err("key of the record: invalid JSON at byte 0: expected a value, found the end")),
        (Some("{}"), None, Err("column \"id\" of the key: null or missing")),
        (Some("null"), None, Err("column \"id\" of the key: null or missing")),
        (
            Some("{}"),
            Some("{\"id\": 1, \"name\": \"a\"}"),
            Err("column \"id\": null or missing, but the column is NOT NULL"),
        ),
        (Some("1"), Some("{\"id\": 1}"), Err("column \"name\": null or missing, but the column is NOT NULL")),
        (Some("1"), Some("{\"name\": "), Err("invalid JSON at byte 9: expected a value, found the end")),
        (Some("8"), Some("{\"name\": \"h\"}"), Ok("8|h|0")),
    ] {
        let record = record(key.map(str::as_bytes), payload.map(str::as_bytes));
        let outcome = decoder.append(&record);
        assert_eq!(pruned.append(&record), outcome, "{key:?} {payload:?}");
        match expected {
            Ok(row) => {
                assert_eq!((outcome, taken(&mut decoder)), (Ok(()), vec![row.to_string()]), "{key:?} {payload:?}")
            }
            Err(error) => assert_eq!(outcome, Err(error.into()), "{key:?} {payload:?}"),
        }
    }
    assert_eq!(taken(&mut pruned), ["a", "b", "c", "-NULL", "-NULL", "h"]);
    // Rows before and behind one that is gone, in one batch.
    for (key, payload) in [("1", Some("{\"name\": \"a\"}")), ("1", None), ("1", Some("{\"name\": \"b\"}"))] {
        decoder.append(&record(Some(key.as_bytes()), payload.map(str::as_bytes))).unwrap();
    }
    assert_eq!(taken(&mut decoder), ["1|a|0", "-1|NULL|NULL", "1|b|0"]);
}

#[test]
fn keys_come_as_text_and_bytes_too() {
    let text = [key_column("k", SqlType::Text), column("v", SqlType::Int4)];
    let format = RecordFormat::keyed(&text, &[0], &clause("upsert", "json", &[("key.encode", "text")])).unwrap();
    let mut decoder = format.decoder(&[0, 1]).unwrap();
    decoder.append(&record(Some(b"a b"), Some(b"{\"v\": 1}"))).unwrap();
    decoder.append(&record(Some(b"a b"), None)).unwrap();
    assert!(decoder.append(&record(Some(b"\xff"), None)).unwrap_err().to_string().contains("not valid UTF-8"));
    assert_eq!(taken(&mut decoder), ["a b|1", "-a b|NULL"]);
    // The included key is the key, as bytes.
    let included =
        [column("v", SqlType::Int4), Column { include: Some(Include::Key), ..key_column("k", SqlType::Bytea) }];
    let format = RecordFormat::keyed(&included, &[1], &clause("upsert", "json", &[])).unwrap();
    let mut decoder = format.decoder(&[0, 1]).unwrap();
    decoder.append(&record(Some(b"\x01"), Some(b"{\"v\": 1}"))).unwrap();
    decoder.append(&record(Some(b"\x01"), None)).unwrap();
    assert_eq!(taken(&mut decoder), ["1|01", "-NULL|01"]);
    // A line's key, and bytes beside one.
    let csv = [key_column("id", SqlType::Int4), column("name", SqlType::Text)];
    let mut decoder = RecordFormat::keyed(&csv, &[0], &clause("upsert", "csv", &[])).unwrap().decoder(&[0, 1]).unwrap();
    decoder.append(&record(Some(b"7"), Some(b"7,x"))).unwrap();
    decoder.append(&record(Some(b"7"), None)).unwrap();
    assert_eq!(taken(&mut decoder), ["7|x", "-7|NULL"]);
    let bytes = [key_column("id", SqlType::Int4), column("data", SqlType::Bytea)];
    let with = clause("upsert", "bytes", &[("key.encode", "json")]);
    let mut decoder = RecordFormat::keyed(&bytes, &[0], &with).unwrap().decoder(&[0, 1]).unwrap();
    decoder.append(&record(Some(b"{\"id\": 7}"), Some(b"\xff"))).unwrap();
    decoder.append(&record(Some(b"7"), None)).unwrap();
    assert_eq!(taken(&mut decoder), ["7|ff", "-7|NULL"]);
}

/// Key, payload, and the rows or the error that come of them.
type Case = (Option<&'static str>, Option<String>, Result<Vec<&'static str>, &'static str>);

#[test]
fn changes_of_debezium() {
    let columns =
        [key_column("id", SqlType::Int8), key_column("part", SqlType::Text), Column::new("v", SqlType::Int4, false)];
    let format = RecordFormat::keyed(&columns, &[0, 1], &clause("debezium", "json", &[])).unwrap();
    let mut decoder = format.decoder(&[0, 1, 2]).unwrap();
    let mut pruned = format.decoder(&[2]).unwrap();
    let row = |id: i64, part: &str, v: i64| format!("{{\"id\": {id}, \"part\": \"{part}\", \"v\": {v}}}");
    let change = |before: &str, after: &str, op: &str| {
        format!(
            "{{\"before\": {before}, \"after\": {after}, \"source\": {{\"lsn\": 1}}, \"op\": \"{op}\", \"ts_ms\": 5}}"
        )
    };
    let key = "{\"id\": 9, \"part\": \"k\"}";
    let cases: Vec<Case> = vec![
        (None, Some(change("null", &row(1, "a", 10), "c")), Ok(vec!["1|a|10"])),
        (None, Some(change("null", &row(2, "a", 20), "r")), Ok(vec!["2|a|20"])),
        (None, Some(change(&row(1, "a", 10), &row(1, "a", 11), "u")), Ok(vec!["1|a|11"])),
        // The table keeps no rows from before.
        (None, Some(change("null", &row(1, "a", 12), "u")), Ok(vec!["1|a|12"])),
        // The key changes: the row of the old one goes.
        (None, Some(change(&row(1, "a", 12), &row(1, "b", 13), "u")), Ok(vec!["-1|a|NULL", "1|b|13"])),
        (None, Some(change(&row(1, "b", 13), "null", "d")), Ok(vec!["-1|b|NULL"])),
        // Of the row before there may be its key alone.
        (None, Some(change("{\"id\": 2, \"part\": \"a\"}", "null", "d")), Ok(vec!["-2|a|NULL"])),
        (Some(key), Some(change("null", "null", "d")), Ok(vec!["-9|k|NULL"])),
        (Some(key), None, Ok(vec![])),
        (None, None, Ok(vec![])),
        // In the envelope of Kafka Connect's converter.
        (
            None,
            Some(format!(
                "{{\"schema\": {{\"type\": \"struct\"}}, \"payload\": {}}}",
                change("null", &row(3, "a", 1), "c")
            )),
            Ok(vec!["3|a|1"]),
        ),
        (
            Some("{\"schema\": {}, \"payload\": {\"id\": 3, \"part\": \"a\"}}"),
            Some(format!("{{\"payload\": {}, \"schema\": null}}", change("null", "null", "d"))),
            Ok(vec!["-3|a|NULL"]),
        ),
        (
            None,
            Some(change("null", "null", "d")),
            Err("a deletion without \"before\" in a record without a key: whose row is gone?"),
        ),
        (None, Some(change("null", "null", "u")), Err("a change that is no deletion has no \"after\"")),
        (
            None,
            Some(change("null", "null", "t")),
            Err("op \"t\" (the table was truncated) is not supported: it does not say which rows are gone"),
        ),
        (None, Some(change("null", "null", "x")), Err("op \"x\" is not known")),
        (None, Some("{\"after\": {}}".into()), Err("the record is no change of Debezium's: it has no \"op\"")),
        (None, Some(row(1, "a", 1)), Err("the record is no change of Debezium's: it has no \"op\"")),
        (None, Some("[]".into()), Err("invalid JSON at byte 0: expected '{', found '['")),
        (
            None,
            Some(change("null", "{\"id\": 1, \"part\": \"a\"}", "c")),
            Err("column \"v\": null or missing, but the column is NOT NULL"),
        ),
        (
            None,
            Some(change("null", "{\"id\": 1, \"part\": \"a\", \"v\": \"x\"}", "c")),
            Err("column \"v\": x as integer: not a number"),
        ),
        (None, Some(change("{\"id\": 1}", "null", "d")), Err("column \"part\" of the key: null or missing")),
        (None, Some(change("{\"id\": \"x\"}", &row(1, "a", 1), "u")), Err("column \"id\": x as bigint: not a number")),
        (None, Some(change("null", "7", "c")), Err("invalid JSON at byte 0: expected '{', found '7'")),
        (None, Some(change("null", &row(1, "z", 1), "c")), Ok(vec!["1|z|1"])),
    ];
    for (key, payload, expected) in cases {
        let record = record(key.map(str::as_bytes), payload.as_deref().map(str::as_bytes));
        let outcome = decoder.append(&record);
        assert_eq!(pruned.append(&record), outcome, "{payload:?}");
        match expected {
            Ok(rows) => assert_eq!(
                (outcome, taken(&mut decoder)),
                (Ok(()), rows.iter().map(ToString::to_string).collect()),
                "{payload:?}"
            ),
            Err(error) => assert_eq!(outcome, Err(error.into()), "{payload:?}"),
        }
    }
    let pruned = taken(&mut pruned);
    assert_eq!(pruned.join(" "), "10 20 11 12 -NULL 13 -NULL -NULL -NULL 1 -NULL 1");
}

#[test]
fn numbers_of_times_are_milliseconds_or_microseconds() {
    let columns = [column("ts", SqlType::Timestamp), column("t", SqlType::Time)];
    for (mode, expected) in
        [("milli", "2026-01-31T23:59:59.001|00:00:01"), ("micro", "1970-01-21T11:38:23.999001|00:00:00.001")]
    {
        let format = clause("plain", "json", &[("timestamp.handling.mode", mode)]);
        let mut decoder = RecordFormat::of_columns(&columns, &format).unwrap().decoder(&[0, 1]).unwrap();
        decoder.append(&record(None, Some(b"{\"ts\": 1769903999001, \"t\": 1000}"))).unwrap();
        assert_eq!(taken(&mut decoder), [expected], "{mode}");
        assert!(decoder.append(&record(None, Some(b"{\"t\": 86400000000}"))).is_err());
    }
}

#[test]
fn sinks_write_changes_of_debezium() {
    let columns = [column("id", SqlType::Int8), column("name", SqlType::Text)];
    let ids: ArrayRef = std::sync::Arc::new(Int64Array::from(vec![1, 2, 3]));
    let names: ArrayRef = std::sync::Arc::new(StringViewArray::from(vec![Some("a"), None, Some("new")]));
    let batch = RecordBatch::try_from_iter([("id", ids.clone()), ("name", names)]).unwrap();
    let names: ArrayRef = std::sync::Arc::new(StringViewArray::from(vec![None, Some("-"), Some("old")]));
    let old = RecordBatch::try_from_iter([("id", ids), ("name", names)]).unwrap();
    let sink = RowFormat::new(&columns, &[0], &clause("debezium", "json", &[]), "t").unwrap();
    assert!(sink.takes_deletes() && sink.tells_before());
    let deletes = BooleanArray::from(vec![false, true, false]);
    let messages = sink.encode(&batch, Some(&deletes), Some(&images(&old, &[None, None, Some(2)]))).unwrap();
    let values: Vec<serde_json::Value> =
        messages.iter().map(|m| serde_json::from_slice(m.payload.as_deref().unwrap()).unwrap()).collect();
    let changes: Vec<_> = values.iter().map(|v| (v["op"].as_str().unwrap(), &v["before"], &v["after"])).collect();
    let row = |id: i64, name: Option<&str>| serde_json::json!({ "id": id, "name": name });
    let none = serde_json::Value::Null;
    assert_eq!(
        changes,
        [
            ("c", &none, &row(1, Some("a"))),
            ("d", &row(2, None), &none),
            ("u", &row(3, Some("old")), &row(3, Some("new")))
        ]
    );
    assert_eq!(values[1]["source"], serde_json::json!({ "connector": "millstream", "name": "t" }));
    assert!(values[1]["ts_ms"].as_i64().unwrap() > 1_700_000_000_000);
    // They read back as what they say.
    let keyed = [key_column("id", SqlType::Int8), column("name", SqlType::Text)];
    let mut decoder =
        RecordFormat::keyed(&keyed, &[0], &clause("debezium", "json", &[])).unwrap().decoder(&[0, 1]).unwrap();
    for message in &messages {
        assert_eq!(decoder.append(&record(message.key.as_deref(), message.payload.as_deref())), Ok(()));
    }
    assert_eq!(taken(&mut decoder), ["1|a", "-2|NULL", "3|new"]);
    // Of rows that another server put aside no before is known.
    let messages = sink.encode(&batch, Some(&deletes), None).unwrap();
    let last: serde_json::Value = serde_json::from_slice(messages[2].payload.as_deref().unwrap()).unwrap();
    assert_eq!((last["op"].as_str(), &last["before"]), (Some("c"), &none));
}
