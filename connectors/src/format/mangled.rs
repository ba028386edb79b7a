//! Broken records, schemas and options: whatever comes, a decoder says that it is malformed or makes a row of it, the same
//! whatever is read of it, and the records around it are read as if it had not been there.
//!
//! `MILLSTREAM_MANGLED_CASES` and `MILLSTREAM_SEED` set the number of records for each decoder and the seed.

use millstream_catalog::object::{Format, SchemaText};
use millstream_catalog::{Column, SqlType};

use super::tests::{clause, column, key_column, record};
use super::{Failure, RecordFormat, RowFormat};

/// A small generator of its own: these tests need no more than numbers that look random.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = std::env::var("MILLSTREAM_SEED").ok().and_then(|s| s.parse().ok());
        Self(seed.unwrap_or(20_260_131))
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

/// Key and payload.
type Sent = (Option<Vec<u8>>, Option<Vec<u8>>);

fn cases() -> usize {
    std::env::var("MILLSTREAM_MANGLED_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(3000)
}

/// A record broken in one to three ways, with pieces of another.
fn mangled(own: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut out = own.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(out.len() + 1);
        let len = random.below(8);
        match random.below(7) {
            0 => out.truncate(at),
            1 if at < out.len() => out[at] ^= 1 << random.below(8),
            2 if at < out.len() => out[at] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'}', b',', b'-'][random.below(10)],
            3 => drop(out.drain(at..(at + len).min(out.len()))),
            4 => {
                let from = random.below(other.len() + 1);
                let piece = other[from..(from + len).min(other.len())].to_vec();
                out.splice(at..at, piece);
            }
            5 => {
                let piece = out[at..(at + len).min(out.len())].to_vec();
                out.splice(at..at, piece);
            }
            6 => out.insert(at, random.below(256) as u8),
            _ => {}
        }
    }
    out
}

/// Feeds broken ones among good records to decoders of all and of some columns.
fn feed(format: &RecordFormat, good: &[Sent]) {
    let mut random = Random::new();
    let width = format.columns().len();
    let mut all = format.decoder(&(0..width).collect::<Vec<_>>()).unwrap();
    let mut some = format.decoder(&[width - 1]).unwrap();
    let mut none = format.decoder(&[]).unwrap();
    let (mut taken, mut refused) = (0, 0);
    for case in 0..cases() {
        let (own, other) = (&good[random.below(good.len())], &good[random.below(good.len())]);
        let mangle = |own: &Option<Vec<u8>>, other: &Option<Vec<u8>>, random: &mut Random| {
            own.as_ref().map(|own| mangled(own, other.as_deref().unwrap_or_default(), random))
        };
        let broken = match random.below(3) {
            0 => (mangle(&own.0, &other.0, &mut random), own.1.clone()),
            _ => (own.0.clone(), mangle(&own.1, &other.1, &mut random)),
        };
        for (key, payload) in [&broken, own] {
            let record = record(key.as_deref(), payload.as_deref());
            let before = all.rows();
            let outcome = all.append(&record);
            let show = || format!("case {case}: {key:?} {:?}", payload.as_deref().map(String::from_utf8_lossy));
            match &outcome {
                Ok(()) => taken += 1,
                Err(Failure::Malformed(error)) => {
                    assert!(!error.is_empty(), "{}", show());
                    assert_eq!(all.rows(), before, "{}", show());
                    refused += 1;
                }
                Err(Failure::Unavailable(error)) => panic!("{}: {error}", show()),
            }
            assert_eq!(some.append(&record), outcome, "{}", show());
            assert_eq!(none.append(&record), outcome, "{}", show());
            assert_eq!((some.rows(), none.rows()), (all.rows(), all.rows()), "{}", show());
        }
        assert_eq!(all.append(&record(own.0.as_deref(), own.1.as_deref())), Ok(()), "case {case}: {own:?}");
        assert_eq!(some.append(&record(own.0.as_deref(), own.1.as_deref())), Ok(()));
        assert_eq!(none.append(&record(own.0.as_deref(), own.1.as_deref())), Ok(()));
        if case % 64 == 63 {
            let (a, b, c) = (all.finish().unwrap(), some.finish().unwrap(), none.finish().unwrap());
            assert_eq!(a.batch.column(width - 1), b.batch.column(0), "case {case}");
            assert_eq!((&a.deletes, &a.deletes), (&b.deletes, &c.deletes), "case {case}");
            for column in a.batch.columns() {
                column.to_data().validate_full().unwrap();
            }
        }
    }
    assert!(taken > cases() / 2 && refused > cases() / 10, "{taken} taken, {refused} refused");
}

fn columns() -> Vec<Column> {
    use SqlType::*;
    vec![
        key_column("id", Int8),
        column("name", Text),
        column("code", Varchar(Some(4))),
        column("amount", Numeric(Some((8, 2)))),
        column("rate", Float8),
        column("ok", Bool),
        column("at", Timestamptz),
        column("day", Date),
        column("uid", Uuid),
        column("raw", Bytea),
    ]
}

fn nested() -> Vec<Column> {
    use SqlType::*;
    let mut all = columns();
    all.push(column("doc", Jsonb));
    all.push(column("tags", Array(Box::new(Text))));
    all.push(column("place", Record(vec![("x".into(), Int4), ("names".into(), Array(Box::new(Text)))])));
    all
}

fn json_row(id: usize) -> String {
    format!(
        r#"{{"id": {id}, "name": "name \u00e9 \"quoted\" {id}", "code": "ab", "amount": 12.5, "rate": -1.5e3, "ok": true,
            "at": "2026-01-31T01:02:03Z", "day": 20484, "uid": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "raw": "aGk=",
            "doc": {{"a": [1, {{"b": null}}]}}, "tags": ["x", null], "place": {{"x": 1, "names": ["y", "z"]}}, "more": [[]]}}"#
    )
}

fn plain(payloads: impl IntoIterator<Item = Vec<u8>>) -> Vec<Sent> {
    payloads.into_iter().map(|p| (None, Some(p))).collect()
}

#[test]
fn mangled_json() {
    let format = RecordFormat::of_columns(&nested(), &clause("plain", "json", &[])).unwrap();
    feed(&format, &plain([json_row(1).into(), b"{\"id\": 2}".to_vec(), json_row(3).replace(' ', "").into()]));
}

#[test]
fn mangled_csv() {
    let format = RecordFormat::of_columns(&columns(), &clause("plain", "csv", &[])).unwrap();
    let line = |id: usize| {
        format!(
            "{id},\"a \"\"b\"\", c\",ab,12.5,-1e3,true,2026-01-31T01:02:03Z,2026-01-31,a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,aGk="
        )
    };
    feed(&format, &plain([line(1).into(), b"2,,,,,,,,,".to_vec(), line(3).into()]));
}

#[test]
fn mangled_upserts() {
    let format = RecordFormat::keyed(&nested(), &[0], &clause("upsert", "json", &[])).unwrap();
    feed(
        &format,
        &[
            (Some(b"{\"id\": 1}".to_vec()), Some(json_row(1).into())),
            (Some(b"2".to_vec()), None),
            (Some(b"\"3\"".to_vec()), Some(b"{}".to_vec())),
        ],
    );
}

#[test]
fn mangled_changes() {
    let format = RecordFormat::keyed(&nested(), &[0], &clause("debezium", "json", &[])).unwrap();
    let change = |before: &str, after: &str, op: &str| -> Vec<u8> {
        format!("{{\"before\": {before}, \"after\": {after}, \"source\": {{}}, \"op\": \"{op}\"}}").into()
    };
    feed(
        &format,
        &[
            (None, Some(change("null", &json_row(1), "c"))),
            (None, Some(change(&json_row(1), &json_row(2), "u"))),
            (None, Some(change(&json_row(2), &json_row(2), "u"))),
            (Some(b"{\"id\": 2}".to_vec()), Some(change("null", "null", "d"))),
            (Some(b"{\"id\": 2}".to_vec()), None),
        ],
    );
}

/// Data in Avro with the schema that a sink of the columns would register.
fn avro(kind: &str, columns: &[Column], key: &[usize]) -> (Format, Vec<Sent>) {
    let registry = crate::registry::mock::MockRegistry::start();
    let json = RecordFormat::of_columns(columns, &clause("plain", "json", &[])).unwrap();
    let mut decoder = json.decoder(&(0..columns.len()).collect::<Vec<_>>()).unwrap();
    for id in [1, 64, 70_000] {
        decoder.append(&record(None, Some(json_row(id).as_bytes()))).unwrap();
    }
    decoder.append(&record(None, Some(b"{\"id\": 2}"))).unwrap();
    let sink = RowFormat::new(columns, key, &clause(kind, "avro", &[("schema.registry", &registry.url)]), "t").unwrap();
    let messages = sink.encode(&decoder.finish().unwrap().batch, None, None).unwrap();
    // Without the header, by a schema that the source has: a broken number would ask a registry that is gone.
    let schema = SchemaText { text: registry.text("t-value").unwrap(), ..SchemaText::default() };
    let mut format = clause(kind, "avro", &[("schema.location", "/schema.avsc")]);
    if kind != "plain" {
        format.options.insert("key.encode".into(), "json".into());
    }
    let format = Format { schema: Some(schema), ..format };
    (format, messages.into_iter().map(|m| (Some(b"5".to_vec()), Some(m.payload.unwrap()[5..].to_vec()))).collect())
}

#[test]
fn mangled_avro() {
    let (format, records) = avro("plain", &nested(), &[]);
    feed(&RecordFormat::of_columns(&nested(), &format).unwrap(), &records);
    let (format, records) = avro("debezium", &nested(), &[0]);
    feed(&RecordFormat::keyed(&nested(), &[0], &format).unwrap(), &records);
}

const PROTO: &str = r#"syntax = "proto3"; package p;
    message M { int64 id = 1; string name = 2; repeated sint32 codes = 3; map<string, double> doc = 4; Place place = 5;
                google.protobuf.Timestamp at = 6; repeated Place places = 7; Kind kind = 8; fixed64 f = 9; }
    message Place { int32 x = 1; repeated string names = 2; Place in = 3; } enum Kind { A = 0; B = 1; }"#;

#[test]
fn mangled_protobuf() {
    use SqlType::*;
    let place = || Record(vec![("x".into(), Int4), ("names".into(), Array(Box::new(Text)))]);
    let columns = [
        column("id", Int8),
        column("name", Text),
        column("codes", Array(Box::new(Int4))),
        column("doc", Jsonb),
        column("place", place()),
        column("at", Timestamptz),
        column("kind", Text),
        column("f", Numeric(Some((20, 0)))),
        column("places", Array(Box::new(place()))),
    ];
    let schema = Some(SchemaText { text: PROTO.into(), ..SchemaText::default() });
    let options = [("schema.location", "/schema.proto"), ("message", "p.M")];
    let format =
        RecordFormat::of_columns(&columns, &Format { schema, ..clause("plain", "protobuf", &options) }).unwrap();
    // id = 150, name = "testing", codes = [1, -2] packed and 3, doc = {"a": 1.0}, place = {x: 1, names: [y, z], in: {x: 2}},
    // at = {seconds: 1}, two places, kind = B, f.
    let full = b"\x08\x96\x01\x12\x07testing\x1a\x02\x02\x03\x18\x06\x22\x0c\x0a\x01a\x11\0\0\0\0\0\0\xf0\x3f\
                 \x2a\x0c\x08\x01\x12\x01y\x12\x01z\x1a\x02\x08\x02\x32\x02\x08\x01\x3a\x00\x3a\x03\x12\x01q\x40\x01\
                 \x49\x01\0\0\0\0\0\0\x80";
    feed(&format, &plain([full.to_vec(), b"\x08\x01".to_vec(), full[..12].to_vec()]));
}

/// Schemas are answered with an error or are of use.
#[test]
fn mangled_schemas() {
    let mut random = Random::new();
    let (format, _) = avro("debezium", &nested(), &[0]);
    let avro = format.schema.unwrap().text;
    let mut parsed = 0;
    for _ in 0..cases() {
        let text = |own: &str, random: &mut Random| SchemaText {
            text: String::from_utf8_lossy(&mangled(own.as_bytes(), own.as_bytes(), random)).into_owned(),
            ..SchemaText::default()
        };
        parsed += usize::from(super::avro::schema::Schema::parse(&text(&avro, &mut random)).is_ok());
        parsed += usize::from(super::protobuf::schema::Schema::parse(&text(PROTO, &mut random)).is_ok());
    }
    assert!(parsed > cases() / 10, "{parsed} of {}", cases());
}

/// Options are answered with an error that has a SQLSTATE and names something, or are of use.
#[test]
fn mangled_options() {
    let mut random = Random::new();
    let names = [
        "schema.registry",
        "schema.registry.username",
        "schema.registry.password",
        "schema.registry.name.strategy",
        "schema.location",
        "message",
        "key.encode",
        "delimiter",
        "quote",
        "null",
        "without_header",
        "timestamp.handling.mode",
    ];
    let values = [
        "http://127.0.0.1:1",
        "http://[::1",
        "avro",
        "json",
        "text",
        ",",
        "\t",
        "é",
        "",
        "true",
        "micro",
        "topic_name_strategy",
        "a.b",
    ];
    let (mut good, mut bad) = (0, 0);
    for _ in 0..cases() {
        let mut options = Vec::new();
        for _ in 0..random.below(4) {
            let (name, value) = (names[random.below(names.len())], values[random.below(values.len())]);
            let text = |text: &str, random: &mut Random| match random.below(4) {
                0 => String::from_utf8_lossy(&mangled(text.as_bytes(), b"registry", random)).into_owned(),
                _ => text.to_string(),
            };
            options.push((text(name, &mut random), text(value, &mut random)));
        }
        let options: Vec<(&str, &str)> = options.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let kind = ["plain", "upsert", "debezium", "Plain"][random.below(4)];
        let encode = ["json", "csv", "bytes", "avro", "protobuf", "parquet"][random.below(6)];
        let format = clause(kind, encode, &options);
        let key: &[usize] = if kind == "plain" { &[] } else { &[0] };
        let columns = [key_column("id", SqlType::Int8), column("v", SqlType::Text)];
        let outcomes =
            [RecordFormat::keyed(&columns, key, &format).err(), RowFormat::new(&columns, key, &format, "t").err()];
        for outcome in outcomes {
            match outcome {
                None => good += 1,
                Some(e) => {
                    bad += 1;
                    assert_eq!(e.sqlstate().len(), 5, "{options:?}: {e}");
                    assert_ne!(e.sqlstate(), "XX000", "{options:?}: {e}");
                    assert!(!e.message().is_empty());
                }
            }
        }
    }
    assert!(good > cases() / 20 && bad > cases() / 2, "{good} good, {bad} bad");
}
