//! Avro against a registry in the test: types, evolution, what is malformed, and rows written and read back.

use arrow::array::{BooleanArray, RecordBatch};
use millstream_catalog::object::{Format, SchemaText};
use millstream_catalog::{Column, SqlType};

use super::encode::{write_long, write_text};
use super::schema::Schema;
use crate::format::tests::{clause, column, images, key_column, record, taken};
use crate::format::{Failure, RecordDecoder, RecordFormat, RowFormat, resolve};
use crate::registry::mock::MockRegistry;

/// Data after Confluent's header.
fn framed(id: u32, data: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(data);
    out
}

fn long(value: i64) -> Vec<u8> {
    let mut out = Vec::new();
    write_long(value, &mut out);
    out
}

fn text(value: &str) -> Vec<u8> {
    let mut out = Vec::new();
    write_text(value, &mut out);
    out
}

/// A source of FORMAT PLAIN ENCODE AVRO with the schema that the registry has for it; its columns are the schema's if none
/// are given.
fn source(registry: &MockRegistry, format: &str, key: &[usize], columns: &[Column]) -> RecordFormat {
    let (columns, format) = resolved(registry, format, columns);
    let mut columns = columns;
    key.iter().for_each(|i| columns[*i].nullable = false);
    RecordFormat::keyed(&columns, key, &format).unwrap()
}

fn resolved(registry: &MockRegistry, format: &str, columns: &[Column]) -> (Vec<Column>, Format) {
    let options = [("topic".to_string(), "t".to_string())].into();
    let clause = clause(format, "avro", &[("schema.registry", &registry.url)]);
    let resolved = resolve(&options, &clause, columns.is_empty()).unwrap();
    let columns = if columns.is_empty() { resolved.columns } else { columns.to_vec() };
    (columns, resolved.format)
}

fn all(format: &RecordFormat) -> RecordDecoder {
    format.decoder(&(0..format.columns().len()).collect::<Vec<_>>()).unwrap()
}

fn types(columns: &[Column]) -> Vec<String> {
    columns.iter().map(|c| format!("{} {}", c.name, c.sql_type)).collect()
}

/// A schema of one record with these fields.
fn of_fields(fields: &str) -> String {
    format!("{{\"type\": \"record\", \"name\": \"R\", \"namespace\": \"n.s\", \"fields\": [{fields}]}}")
}

#[test]
fn every_type_fills_its_column() {
    let schema = of_fields(
        r#"{"name": "b", "type": "boolean"}, {"name": "i", "type": "int"}, {"name": "l", "type": "long"},
           {"name": "f", "type": "float"}, {"name": "d", "type": "double"}, {"name": "s", "type": "string"},
           {"name": "y", "type": "bytes"}, {"name": "n", "type": ["null", "string"], "default": null},
           {"name": "m", "type": ["long", "null"]},
           {"name": "dec", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
           {"name": "fdec", "type": {"type": "fixed", "name": "F", "size": 4, "logicalType": "decimal", "precision": 9, "scale": 3}},
           {"name": "day", "type": {"type": "int", "logicalType": "date"}},
           {"name": "tms", "type": {"type": "int", "logicalType": "time-millis"}},
           {"name": "tus", "type": {"type": "long", "logicalType": "time-micros"}},
           {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
           {"name": "atu", "type": {"type": "long", "logicalType": "timestamp-micros"}},
           {"name": "loc", "type": {"type": "long", "logicalType": "local-timestamp-micros"}},
           {"name": "dbz", "type": {"type": "long", "connect.name": "io.debezium.time.MicroTimestamp"}},
           {"name": "u", "type": {"type": "string", "logicalType": "uuid"}},
           {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["RED", "GREEN"]}},
           {"name": "fx", "type": {"type": "fixed", "name": "G", "size": 2}},
           {"name": "a", "type": {"type": "array", "items": ["null", "int"]}},
           {"name": "r", "type": {"type": "record", "name": "In", "fields": [{"name": "x", "type": "int"}, {"name": "e", "type": "E"}]}},
           {"name": "mp", "type": {"type": "map", "values": "long"}}"#,
    );
    let registry = MockRegistry::start();
    let id = registry.avro("t-value", &schema);
    let format = source(&registry, "plain", &[], &[]);
    assert_eq!(
        types(format.columns()).join(", "),
        "b boolean, i integer, l bigint, f real, d double precision, s character varying, y bytea, n character varying, \
         m bigint, dec numeric(10,2), fdec numeric(9,3), day date, tms time without time zone, tus time without time zone, \
         at timestamp with time zone, atu timestamp with time zone, loc timestamp without time zone, \
         dbz timestamp without time zone, u uuid, e character varying, fx bytea, a integer[], r record, mp jsonb"
    );
    let mut data = vec![1];
    data.extend(long(-5));
    data.extend(long(i64::MIN));
    data.extend(1.5f32.to_le_bytes());
    data.extend((-0.25f64).to_le_bytes());
    data.extend(text("a string of more than twelve bytes"));
    data.extend([4, 0xff, 0]);
    data.extend([0]);
    data.extend([0, 84]);
    data.extend([4, 0xfe, 0xd4]);
    data.extend([0, 0, 4, 210]);
    data.extend(long(20_484));
    data.extend(long(1_500));
    data.extend(long(1_500_000));
    data.extend(long(1_769_903_999_001));
    data.extend(long(1_769_903_999_000_002));
    data.extend(long(1_769_903_999_000_003));
    data.extend(long(1_769_903_999_000_004));
    data.extend(text("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"));
    data.extend([2]);
    data.extend([9, 10]);
    // Two blocks, the second with its size.
    data.extend([2, 2, 14, 3, 8, 0, 2, 18, 0]);
    data.extend([6, 0]);
    data.extend([2]);
    data.extend(text("k"));
    data.extend([2, 0]);
    let mut decoder = all(&format);
    assert_eq!(decoder.append(&record(None, Some(&framed(id, &data)))), Ok(()));
    assert_eq!(
        taken(&mut decoder).join(""),
        "true|-5|-9223372036854775808|1.5|-0.25|a string of more than twelve bytes|ff00|NULL|42|-3.00|1.234|2026-01-31|\
         00:00:01.500|00:00:01.500|2026-01-31T23:59:59.001Z|2026-01-31T23:59:59.000002Z|2026-01-31T23:59:59.000003|\
         2026-01-31T23:59:59.000004|a0eebc999c0b4ef8bb6d6bb9bd380a11|GREEN|090a|[7, NULL, 9]|{x: 3, e: RED}|{\"k\": 1}"
    );
    // Cut anywhere, and with a byte too many, it is malformed, whatever is read of it.
    let mut some = format.decoder(&[5, 21]).unwrap();
    for end in 0..data.len() {
        let cut = framed(id, &data[..end]);
        assert!(matches!(decoder.append(&record(None, Some(&cut))), Err(Failure::Malformed(_))), "{end}");
        assert!(some.append(&record(None, Some(&cut))).is_err(), "{end}");
    }
    data.push(0);
    let error = decoder.append(&record(None, Some(&framed(id, &data)))).unwrap_err().to_string();
    assert!(error.ends_with("1 bytes behind the value"), "{error}");
    assert_eq!(decoder.finish().unwrap().batch.num_rows(), 0);
}

#[test]
fn schemas_evolve_by_avros_rules() {
    let registry = MockRegistry::start();
    let old = registry.avro(
        "t-value",
        &of_fields(r#"{"name": "id", "type": "int"}, {"name": "gone", "type": {"type": "array", "items": "string"}}, {"name": "old_name", "type": "float"}"#),
    );
    let new = registry.avro(
        "t-value",
        &of_fields(
            r#"{"name": "amount", "type": "double", "aliases": ["old_name"]}, {"name": "id", "type": "long"},
               {"name": "state", "type": "string", "default": "new"}, {"name": "note", "type": ["null", "string"], "default": null},
               {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "default": 1000000},
               {"name": "tags", "type": {"type": "array", "items": "string"}, "default": ["a", "b"]},
               {"name": "must", "type": "string"}"#,
        ),
    );
    let format = source(&registry, "plain", &[], &[]);
    let mut decoder = all(&format);
    let mut data = long(7);
    data.extend([2]);
    data.extend(text("x"));
    data.extend([0]);
    data.extend(2.5f32.to_le_bytes());
    decoder.append(&record(None, Some(&framed(old, &data)))).unwrap();
    let mut data = 0.5f64.to_le_bytes().to_vec();
    data.extend(long(1 << 40));
    data.extend(text("done"));
    data.extend([2]);
    data.extend(text("n"));
    data.extend(long(2_000_000));
    data.extend([0]);
    data.extend(text("m"));
    decoder.append(&record(None, Some(&framed(new, &data)))).unwrap();
    assert_eq!(
        taken(&mut decoder),
        ["2.5|7|new|NULL|1970-01-01T00:00:01Z|[a, b]|NULL", "0.5|1099511627776|done|n|1970-01-01T00:00:02Z|[]|m"]
    );
    // Each schema was asked for once, by its number.
    let asked = registry.requests().iter().filter(|r| r.contains("/schemas/ids/")).count();
    assert_eq!(asked, 2);
    // A schema that cannot fill a column is told of with its number; its records alone are dead letters.
    let other =
        registry.avro("t-value", &of_fields(r#"{"name": "id", "type": "string"}, {"name": "tags", "type": "int"}"#));
    let error = decoder.append(&record(None, Some(&framed(other, &[0, 0])))).unwrap_err();
    assert_eq!(
        error,
        Failure::Malformed("schema id 3: field \"tags\": int cannot fill a column of type character varying[]".into())
    );
}

#[test]
fn numbers_fit_or_the_record_is_malformed() {
    let registry = MockRegistry::start();
    let id = registry.avro(
        "t-value",
        &of_fields(
            r#"{"name": "n", "type": "long"}, {"name": "d", "type": {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 3}},
               {"name": "s", "type": "string"}, {"name": "j", "type": "string"}, {"name": "x", "type": ["null", "int", "string"]}"#,
        ),
    );
    let columns = [
        column("n", SqlType::Int2),
        column("d", SqlType::Numeric(Some((6, 2)))),
        column("s", SqlType::Varchar(Some(3))),
        column("j", SqlType::Jsonb),
        column("x", SqlType::Jsonb),
    ];
    let format = source(&registry, "plain", &[], &columns);
    let mut decoder = all(&format);
    let data = |n: i64, d: &[u8], s: &[u8], j: &str, x: &[u8]| {
        let mut data = long(n);
        data.extend(long(d.len() as i64));
        data.extend(d);
        data.extend(long(s.len() as i64));
        data.extend(s);
        data.extend(text(j));
        data.extend(x);
        framed(id, &data)
    };
    let good = data(-7, &[0x27, 0x10], b"abc", "{\"b\":1,\"a\":2}", &[4, 2, b'q']);
    decoder.append(&record(None, Some(&good))).unwrap();
    assert_eq!(taken(&mut decoder), ["-7|10.00|abc|{\"a\": 2, \"b\": 1}|\"q\""]);
    for (bad, expected) in [
        (data(40_000, &[0], b"a", "1", &[0]), "column \"n\": 40000 as smallint: out of range"),
        (data(1, &[0x27, 0x11], b"a", "1", &[0]), "a digit after the decimal point would be lost"),
        (data(1, &[0x7f, 0xff, 0xff, 0xf8], b"a", "1", &[0]), "out of range"),
        (data(1, &[1; 17], b"a", "1", &[0]), "a decimal of more than 38 digits"),
        (data(1, &[0], b"abcd", "1", &[0]), "abcd is too long for type character varying(3)"),
        (data(1, &[0], b"\xff", "1", &[0]), "a string that is not valid UTF-8"),
        (data(1, &[0], b"a", "{", &[0]), "column \"j\": "),
        (data(1, &[0], b"a", "1", &[6]), "branch 3 of 3"),
        (data(1, &[0], b"a", "1", &[2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), "more than 32 bits"),
        (data(1, &[0], b"a", "1", &[2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]), "more than 64 bits"),
        (vec![], "the record is empty"),
        (vec![0, 0, 0], "the record ends within the schema id"),
        (b"{\"n\": 1}".to_vec(), "the record begins with byte 123"),
        (framed(99, &[0]), "has no schema id 99: Schema not found"),
    ] {
        let error = decoder.append(&record(None, Some(&bad))).unwrap_err();
        let Failure::Malformed(error) = error else { panic!("{error}") };
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_registry_that_is_away_is_no_fault_of_the_record() {
    let registry = MockRegistry::start();
    let id = registry.avro("t-value", &of_fields(r#"{"name": "n", "type": "int"}"#));
    let format = source(&registry, "plain", &[], &[]);
    registry.set_down(true);
    let mut decoder = all(&format);
    let data = framed(id, &[14]);
    for _ in 0..2 {
        let Err(Failure::Unavailable(error)) = decoder.append(&record(None, Some(&data))) else { panic!() };
        assert!(error.contains("does not answer for schema id 1: away"), "{error}");
    }
    registry.set_down(false);
    assert_eq!(decoder.append(&record(None, Some(&data))), Ok(()));
    // What is known needs no registry.
    registry.set_down(true);
    assert_eq!(decoder.append(&record(None, Some(&data))), Ok(()));
    assert_eq!(taken(&mut decoder), ["7", "7"]);
}

#[test]
fn credentials_and_several_addresses() {
    let registry = MockRegistry::start();
    registry.avro("t-value", &of_fields(r#"{"name": "n", "type": "int"}"#));
    registry.protect("dTpw");
    let options = [("topic".to_string(), "t".to_string())].into();
    let ask = |more: &[(&str, &str)]| {
        let urls = format!("http://127.0.0.1:1,{}", registry.url);
        let mut all = vec![("schema.registry", urls.as_str())];
        all.extend(more);
        resolve(&options, &clause("plain", "avro", &all), true)
    };
    let error = ask(&[]).unwrap_err();
    assert_eq!(error.sqlstate(), "28000");
    let with = [("schema.registry.username", "u"), ("schema.registry.password", "p")];
    let found = ask(&with).unwrap();
    assert_eq!(types(&found.columns), ["n integer"]);
    assert!(!format!("{found:?}").contains("dTpw"));
    let missing = clause("plain", "avro", &[("schema.registry", &registry.url), with[0], with[1]]);
    let options = [("topic".to_string(), "other".to_string())].into();
    let error = resolve(&options, &missing, true).unwrap_err();
    assert_eq!(error.sqlstate(), "42704");
    assert!(error.message().contains("has no subject \"other-value\""), "{error}");
    // Who lists the columns can be there before the first schema.
    assert_eq!(resolve(&options, &missing, false).unwrap().format.schema, None);
    let away = clause("plain", "avro", &[("schema.registry", "http://127.0.0.1:1")]);
    assert_eq!(resolve(&options, &away, true).unwrap_err().sqlstate(), "08001");
}

#[test]
fn a_schema_file_reads_records_without_header() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.avsc");
    std::fs::write(&path, of_fields(r#"{"name": "n", "type": "int"}, {"name": "s", "type": "string"}"#)).unwrap();
    let given = clause("plain", "avro", &[("schema.location", path.to_str().unwrap())]);
    let found = resolve(&Default::default(), &given, true).unwrap();
    std::fs::remove_file(&path).unwrap();
    // The file is not needed any more.
    let format = RecordFormat::of_columns(&found.columns, &found.format).unwrap();
    let mut decoder = all(&format);
    decoder.append(&record(None, Some(&[14, 2, b'x']))).unwrap();
    assert!(decoder.append(&record(None, Some(&[14, 2]))).is_err());
    assert_eq!(taken(&mut decoder), ["7|x"]);
}

#[test]
fn schemas_refer_to_others() {
    let registry = MockRegistry::start();
    registry.avro("inner", r#"{"type": "record", "name": "n.In", "fields": [{"name": "x", "type": "int"}]}"#);
    let references = serde_json::json!([{ "name": "n.In", "subject": "inner", "version": 1 }]);
    let outer = r#"{"type": "record", "name": "n.Out", "fields": [{"name": "in", "type": ["null", "n.In"]}]}"#;
    let id = registry.add("t-value", "AVRO", outer, references);
    let format = source(&registry, "plain", &[], &[]);
    let mut decoder = all(&format);
    decoder.append(&record(None, Some(&framed(id, &[2, 14])))).unwrap();
    assert_eq!(taken(&mut decoder), ["{x: 7}"]);
}

#[test]
fn what_no_column_takes_is_named() {
    let derive = |fields: &str| {
        let registry = MockRegistry::start();
        registry.avro("t-value", fields);
        let options = [("topic".to_string(), "t".to_string())].into();
        resolve(&options, &clause("plain", "avro", &[("schema.registry", &registry.url)]), true).unwrap_err()
    };
    for (schema, expected) in [
        (
            of_fields(r#"{"name": "x", "type": ["int", "string"]}"#),
            "field \"x\" of the Avro schema: a union of int, string is not supported",
        ),
        (
            r#"{"type": "record", "name": "L", "fields": [{"name": "next", "type": ["null", "L"]}]}"#.into(),
            "field \"next\" of the Avro schema: field \"next\": record L is within itself, which no column is",
        ),
        ("\"string\"".into(), "it is a string and no record"),
        ("{".into(), "the schema is not valid JSON"),
        (of_fields(r#"{"name": "x", "type": "Missing"}"#), "type \"Missing\" is not defined"),
        (
            of_fields(r#"{"name": "x", "type": "int"}, {"name": "x", "type": "int"}"#),
            "field \"x\" of \"n.s.R\" is there twice",
        ),
    ] {
        let error = derive(&schema);
        assert!(error.message().contains(expected), "{error}");
        assert!(error.hint().is_some());
    }
    assert!(Schema::of(&"[".repeat(500)).is_err());
    assert!(
        Schema::of(&format!("{}\"int\"{}", "{\"type\": ".repeat(100), "}".repeat(100))).unwrap_err().contains("nested")
    );
}

#[test]
fn upserts_with_keys_in_avro() {
    let registry = MockRegistry::start();
    let value =
        registry.avro("t-value", &of_fields(r#"{"name": "id", "type": "long"}, {"name": "v", "type": "string"}"#));
    let key = registry.avro("t-key", r#"{"type": "record", "name": "K", "fields": [{"name": "id", "type": "long"}]}"#);
    let format = source(&registry, "upsert", &[0], &[]);
    let mut decoder = all(&format);
    let mut data = long(1);
    data.extend(text("a"));
    let (key, payload) = (framed(key, &long(1)), framed(value, &data));
    decoder.append(&record(Some(&key), Some(&payload))).unwrap();
    decoder.append(&record(Some(&key), None)).unwrap();
    assert!(decoder.append(&record(None, Some(&payload))).is_err());
    assert!(decoder.append(&record(Some(b"1"), None)).is_err());
    // A key that is a long alone.
    let plain = registry.avro("t-key", "\"long\"");
    decoder.append(&record(Some(&framed(plain, &long(2))), None)).unwrap();
    assert_eq!(taken(&mut decoder), ["1|a", "-1|NULL", "-2|NULL"]);
}

#[test]
fn changes_of_debezium_in_avro() {
    let envelope = r#"{"type": "record", "name": "Envelope", "namespace": "db.t", "fields": [
        {"name": "before", "type": ["null", {"type": "record", "name": "Value", "fields": [
            {"name": "id", "type": "int"}, {"name": "v", "type": ["null", "string"]}]}], "default": null},
        {"name": "after", "type": ["null", "Value"], "default": null},
        {"name": "source", "type": {"type": "record", "name": "Source", "fields": [{"name": "lsn", "type": ["null", "long"]}]}},
        {"name": "op", "type": "string"}, {"name": "ts_ms", "type": ["null", "long"]}]}"#;
    let registry = MockRegistry::start();
    let id = registry.avro("t-value", envelope);
    let key = registry.avro("t-key", r#"{"type": "record", "name": "Key", "fields": [{"name": "id", "type": "int"}]}"#);
    let format = source(&registry, "debezium", &[0], &[]);
    assert_eq!(types(format.columns()), ["id integer", "v character varying"]);
    let mut decoder = all(&format);
    let image = |row: Option<(i64, Option<&str>)>| match row {
        None => vec![0],
        Some((id, v)) => {
            let mut out = vec![2];
            out.extend(long(id));
            match v {
                None => out.push(0),
                Some(v) => {
                    out.push(2);
                    out.extend(text(v));
                }
            }
            out
        }
    };
    let change = |before, after, op: &str| {
        let mut out = image(before);
        out.extend(image(after));
        out.extend([2, 10]);
        out.extend(text(op));
        out.extend([0]);
        framed(id, &out)
    };
    let key = framed(key, &long(4));
    for (key, payload) in [
        (None, Some(change(None, Some((1, Some("a"))), "c"))),
        (None, Some(change(Some((1, Some("a"))), Some((1, None)), "u"))),
        (None, Some(change(Some((1, None)), Some((2, Some("b"))), "u"))),
        (None, Some(change(Some((2, None)), None, "d"))),
        (None, None),
        (Some(&key), Some(change(None, None, "d"))),
    ] {
        assert_eq!(decoder.append(&record(key.map(|k| k.as_slice()), payload.as_deref())), Ok(()));
    }
    for bad in [change(None, None, "t"), change(None, None, "c"), change(None, Some((1, None)), "x")] {
        assert!(decoder.append(&record(None, Some(&bad))).is_err());
    }
    assert_eq!(taken(&mut decoder), ["1|a", "1|NULL", "-1|NULL", "2|b", "-2|NULL", "-4|NULL"]);
}

/// Columns of every type that can be written, with a row of values and one of NULLs.
fn every_type() -> (Vec<Column>, RecordBatch) {
    use SqlType::*;
    let columns: Vec<Column> = [
        Int8,
        Bool,
        Int2,
        Int4,
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
        Record(vec![("x".into(), Int4), ("y".into(), Array(Box::new(Text)))]),
    ]
    .into_iter()
    .enumerate()
    .map(|(i, t)| column(&format!("c{i}"), t))
    .collect();
    let json = RecordFormat::of_columns(&columns, &clause("plain", "json", &[])).unwrap();
    let mut decoder = all(&json);
    for text in [
        r#"{"c0": 9007199254740993, "c1": true, "c2": -1, "c3": 2, "c4": 7, "c5": 0.1, "c6": 1e300, "c7": -0.05, "c8": 1.5,
            "c9": "q\" é", "c10": {"k": [1, 2]}, "c11": "AP8=", "c12": "1969-01-31", "c13": "01:02:03.000004",
            "c14": "2026-01-31 01:02:03.4", "c15": "2026-01-31T01:02:03+02:00", "c16": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "c17": ["1969-12-31 23:59:59.5", null], "c18": {"x": 1, "y": ["z", null]}}"#,
        r#"{"c0": 1, "c7": 9999999999.99, "c8": -99999999999999999999, "c17": [], "c18": {}}"#,
        r#"{"c0": 2}"#,
    ] {
        decoder.append(&record(None, Some(text.as_bytes()))).unwrap();
    }
    (columns, decoder.finish().unwrap().batch)
}

#[test]
fn rows_written_read_back_the_same() {
    let (columns, batch) = every_type();
    for (kind, key) in [("plain", vec![]), ("plain", vec![0]), ("upsert", vec![0]), ("debezium", vec![0])] {
        let registry = MockRegistry::start();
        let format = clause(kind, "avro", &[("schema.registry", &registry.url)]);
        let sink = RowFormat::new(&columns, &key, &format, "t").unwrap();
        // The rows themselves as what they were before, which `debezium` alone tells.
        let before = images(&batch, &[Some(0), None, Some(2)]);
        let messages = sink.encode(&batch, None, Some(&before)).unwrap();
        let source_key = if kind == "plain" { &[][..] } else { key.as_slice() };
        let source = source(&registry, kind, source_key, &columns);
        let mut decoder = all(&source);
        for message in &messages {
            let record = record(message.key.as_deref(), message.payload.as_deref());
            assert_eq!(decoder.append(&record), Ok(()), "{kind}");
        }
        assert_eq!(decoder.finish().unwrap().batch.columns(), batch.columns(), "{kind}");
        // The schemas are registered once, and others can read them.
        assert_eq!(registry.requests().iter().filter(|r| r.starts_with("POST")).count(), 1 + key.len());
        let text = registry.text("t-value").unwrap();
        Schema::parse(&SchemaText { text, ..SchemaText::default() }).unwrap();
        if kind != "plain" {
            let deletes = BooleanArray::from(vec![true, false, true]);
            for message in sink.encode(&batch, Some(&deletes), None).unwrap() {
                let record = record(message.key.as_deref(), message.payload.as_deref());
                assert_eq!(decoder.append(&record), Ok(()), "{kind}");
            }
            let rows = decoder.finish().unwrap();
            assert_eq!(rows.deletes, Some(deletes));
            assert_eq!(rows.batch.column(0), batch.column(0));
        }
    }
}

#[test]
fn what_a_sink_cannot_register_is_told() {
    let registry = MockRegistry::start();
    let sink = |columns: &[Column], key: &[usize], topic: &str| {
        let format = clause("upsert", "avro", &[("schema.registry", &registry.url)]);
        RowFormat::new(columns, key, &format, topic)
    };
    let id = key_column("id", SqlType::Int8);
    let error = sink(&[id.clone(), column("a b", SqlType::Text)], &[0], "t").unwrap_err();
    assert!(error.message().contains("column \"a b\" of a sink of ENCODE AVRO has a name that Avro does not take"));
    registry.avro("fixed-value", "\"string\"");
    let error = sink(std::slice::from_ref(&id), &[0], "fixed").unwrap().probe().unwrap_err();
    assert_eq!(error.sqlstate(), "22023");
    assert!(error.message().contains("refused subject \"fixed-value\": Schema is incompatible"), "{error}");
    registry.set_down(true);
    let away = sink(&[id], &[0], "t").unwrap();
    assert_eq!(away.probe().unwrap_err().sqlstate(), "08001");
    registry.set_down(false);
    away.probe().unwrap();
}
