//! Protobuf: schemas as text and as descriptors, every type, evolution, what is malformed.

use base64::Engine;
use millstream_catalog::object::{Format, SchemaText};
use millstream_catalog::{Column, SqlType};

use super::schema::{Kind, Schema};
use crate::format::tests::{clause, column, record, taken};
use crate::format::{RecordDecoder, RecordFormat, resolve};
use crate::registry::mock::MockRegistry;

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A field of layout 0.
fn number(field: u32, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(u64::from(field) << 3, &mut out);
    varint(value, &mut out);
    out
}

/// A field of layout 2.
fn bytes(field: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(u64::from(field) << 3 | 2, &mut out);
    varint(value.len() as u64, &mut out);
    out.extend_from_slice(value);
    out
}

fn fixed<const N: usize>(field: u32, value: [u8; N]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(u64::from(field) << 3 | if N == 8 { 1 } else { 5 }, &mut out);
    out.extend(value);
    out
}

fn text(text: &str) -> SchemaText {
    SchemaText { text: text.into(), ..SchemaText::default() }
}

fn with(schema: &str, options: &[(&str, &str)]) -> Format {
    let mut all = vec![("schema.location", "/schema.proto")];
    all.extend(options);
    Format { schema: Some(text(schema)), ..clause("plain", "protobuf", &all) }
}

fn all(format: &RecordFormat) -> RecordDecoder {
    format.decoder(&(0..format.columns().len()).collect::<Vec<_>>()).unwrap()
}

const PAYMENT: &str = r#"
// A payment.
syntax = "proto3";
package shop.v1;
import "google/protobuf/timestamp.proto";
import public "google/protobuf/wrappers.proto";
option java_package = "x.y";
/* of a
   card */
message Payment {
  reserved 100 to 110, 200;
  option deprecated = false;
  int64 id = 1 [deprecated = true, json_name = "ID"];
  optional string note = 2;
  Status status = 3;
  repeated int32 codes = 4;
  repeated Item items = 5;
  map<string, int64> counts = 6;
  google.protobuf.Timestamp at = 7;
  google.protobuf.StringValue nick = 8;
  double rate = 9;
  bool ok = 10;
  bytes raw = 11;
  uint64 large = 12;
  sint32 low = 13;
  fixed32 f32 = 14;
  oneof way { string card = 15; int32 wire = 16; }
  enum Status { option allow_alias = true; NEW = 0; DONE = 1; OVER = 1; }
  message Item { string name = 1; float price = 2; }
}
enum Unused { A = 0; B = -1; }
service Pay { rpc Do (Payment) returns (Payment) { option x = 1; } }
"#;

#[test]
fn every_type_fills_its_column() {
    let given = with(PAYMENT, &[]);
    let origin = crate::registry::SchemaOrigin::File("/schema.proto".into());
    let columns = super::columns_of(&origin, given.schema.as_ref().unwrap(), None).unwrap();
    let types: Vec<String> = columns.iter().map(|c| format!("{} {}", c.name, c.sql_type)).collect();
    assert_eq!(
        types.join(", "),
        "id bigint, note character varying, status character varying, codes integer[], items record[], counts jsonb, \
         at timestamp with time zone, nick character varying, rate double precision, ok boolean, raw bytea, \
         large numeric(20,0), low integer, f32 bigint, card character varying, wire integer"
    );
    let format = RecordFormat::of_columns(&columns, &given).unwrap();
    let mut decoder = all(&format);
    let item = |name: &str, price: f32| [bytes(1, name.as_bytes()), fixed(2, price.to_le_bytes())].concat();
    let entry = |key: &str, value: u64| [bytes(1, key.as_bytes()), number(2, value)].concat();
    let full = [
        number(1, 7),
        bytes(2, b"n"),
        number(3, 1),
        bytes(4, &[1, 2]),
        number(4, 3),
        bytes(5, &item("a", 1.5)),
        bytes(6, &entry("x", 1)),
        bytes(7, &[number(1, 1_769_903_999), number(2, 1_000_000)].concat()),
        bytes(8, &bytes(1, b"nick")),
        fixed(9, 0.25f64.to_le_bytes()),
        number(10, 1),
        bytes(11, b"\xff"),
        number(12, u64::MAX),
        number(13, 3),
        fixed(14, u32::MAX.to_le_bytes()),
        number(16, 5),
        bytes(5, &item("b", 0.0)),
        bytes(6, &entry("y", 2)),
        // Not known to the schema; and the id again, which counts.
        bytes(99, b"unknown"),
        number(1, 8),
    ];
    decoder.append(&record(None, Some(&full.concat()))).unwrap();
    decoder.append(&record(None, Some(b""))).unwrap();
    decoder.append(&record(None, Some(&[number(3, 9), number(13, 4)].concat()))).unwrap();
    assert_eq!(
        taken(&mut decoder),
        [
            "8|n|DONE|[1, 2, 3]|[{name: a, price: 1.5}, {name: b, price: 0.0}]|{\"x\": 1, \"y\": 2}|2026-01-31T23:59:59.001Z|\
             nick|0.25|true|ff|18446744073709551615|-2|4294967295|NULL|5",
            "0|NULL|NEW|[]|[]|{}|NULL|NULL|0.0|false||0|0|0|NULL|NULL",
            "0|NULL|9|[]|[]|{}|NULL|NULL|0.0|false||0|2|0|NULL|NULL",
        ]
    );
    // Whatever is read of it, the same records are malformed.
    let mut some = format.decoder(&[4, 0]).unwrap();
    some.append(&record(None, Some(&full.concat()))).unwrap();
    assert_eq!(taken(&mut some), ["[{name: a, price: 1.5}, {name: b, price: 0.0}]|8"]);
    let mut bad = vec![
        bytes(2, b"\xff"),
        number(2, 1),
        bytes(1, b"x"),
        fixed(13, [0; 8]),
        bytes(5, &bytes(1, b"\xff")),
        bytes(7, &number(1, i64::MAX as u64)),
        bytes(9, b""),
        vec![0],
        vec![0x0c],
        vec![0x0f],
    ];
    bad.extend((1..full[5].len()).map(|end| full[5][..end].to_vec()));
    for payload in bad {
        let outcome = decoder.append(&record(None, Some(&payload)));
        assert!(outcome.is_err(), "{payload:?}");
        assert_eq!(some.append(&record(None, Some(&payload))), outcome, "{payload:?}");
    }
    assert_eq!(taken(&mut decoder), Vec::<String>::new());
}

#[test]
fn any_value_goes_into_jsonb() {
    let schema = "syntax = 'proto3'; message M { map<int32, In> m = 1; In one = 2; repeated In many = 3; repeated uint32 n = 4; }
                  message In { repeated bool b = 1; string s = 2; In in = 3; bytes y = 4; }";
    let columns: Vec<Column> = ["m", "one", "many", "n"].map(|n| column(n, SqlType::Jsonb)).into();
    let mut decoder = all(&RecordFormat::of_columns(&columns, &with(schema, &[("message", "M")])).unwrap());
    let inner = [bytes(1, &[1, 0]), bytes(2, "é\"".as_bytes()), bytes(3, &bytes(4, b"\x01"))].concat();
    let payload = [
        bytes(1, &[number(1, 5), bytes(2, &inner)].concat()),
        bytes(2, &inner),
        bytes(3, b""),
        bytes(3, &bytes(2, b"x")),
        bytes(4, &[1, 2]),
        number(4, 3),
    ];
    decoder.append(&record(None, Some(&payload.concat()))).unwrap();
    decoder.append(&record(None, Some(b""))).unwrap();
    let one = "{\"b\": [true, false], \"s\": \"é\\\"\", \"in\": {\"y\": \"AQ==\"}}";
    assert_eq!(
        taken(&mut decoder),
        [format!("{{\"5\": {one}}}|{one}|[{{}}, {{\"s\": \"x\"}}]|[1, 2, 3]"), "{}|NULL|[]|[]".into()]
    );
    // As deep as can be, and deeper.
    let mut deep = Vec::new();
    for _ in 0..100 {
        deep = bytes(3, &deep);
    }
    assert!(
        decoder.append(&record(None, Some(&bytes(2, &deep)))).unwrap_err().to_string().contains("nested too deeply")
    );
}

#[test]
fn names_are_found_from_within_outwards() {
    let schema = r#"
        syntax = "proto2";
        package a.b;
        message Outer {
          required Inner in = 1;
          optional .a.b.Other other = 2;
          optional b.Other same = 3;
          message Inner { optional Deep deep = 1; enum Deep { ZERO = 0x0; TEN = 10; } }
        }
        message Other { optional int32 n = 1 [default = 5]; extensions 100 to max; }
        extend Other { optional int32 more = 100; }
    "#;
    let schema = Schema::parse(&text(schema)).unwrap();
    let outer = &schema.messages[schema.find(Some("a.b.Outer")).unwrap()];
    assert!(matches!(outer.fields[0].kind, Kind::Message(at) if schema.messages[at].name == "a.b.Outer.Inner"));
    assert_eq!(outer.fields[1].kind, outer.fields[2].kind);
    assert_eq!(schema.find(Some("Other")), schema.find(Some(".a.b.Other")));
    assert!(schema.find(None).unwrap_err().contains("2 messages"));
    assert_eq!(schema.at_path(&[0, 0]), schema.find(Some("a.b.Outer.Inner")).ok());
    assert_eq!(schema.at_path(&[0, 1]), None);
    for (bad, expected) in [
        ("message", "line 1: a name is expected, found the end"),
        ("syntax = \"proto3\";\nmessage M { int32 a = 0; }", "line 2: the number of field \"a\" is out of range"),
        ("message M { optional Missing a = 1; }", "field \"a\" of message \"M\": type \"Missing\" is not defined"),
        ("message M { optional int32 a = 1; optional int32 b = 1; }", "two fields of number 1"),
        ("message M { optional group G = 1 { } }", "groups are not supported"),
        ("message M { map<M, int32> m = 1; }", "\"M\" cannot be a map's key"),
        ("message M { optional int32 a = 1 }", "';' is expected, found a closing bracket"),
        ("message M { /* ", "a comment is not closed"),
        ("message M { optional string s = 1 [default = \"x];\n", "a string is not closed"),
        ("message M {} message M {}", "message \"M\" is defined twice"),
        ("hello", "line 1: \"hello\" is not expected here"),
    ] {
        let error = Schema::parse(&text(bad)).unwrap_err();
        assert!(error.contains(expected), "{bad}: {error}");
    }
    assert!(Schema::parse(&text(&"message M { ".repeat(1000))).unwrap_err().contains("nested too deeply"));
}

#[test]
fn descriptors_say_the_same_as_text() {
    // A FileDescriptorSet as protoc writes it of: package p; message M { optional int64 id = 1; repeated E e = 2;
    // map<string, int32> m = 3; enum E { A = 0; } } in proto3.
    let entry = [
        bytes(1, b"MEntry"),
        bytes(2, &[bytes(1, b"key"), number(3, 1), number(4, 1), number(5, 9)].concat()),
        bytes(2, &[bytes(1, b"value"), number(3, 2), number(4, 1), number(5, 5)].concat()),
        bytes(7, &number(7, 1)),
    ];
    let message = [
        bytes(1, b"M"),
        bytes(2, &[bytes(1, b"id"), number(3, 1), number(4, 1), number(5, 3), number(9, 0), number(17, 1)].concat()),
        bytes(2, &[bytes(1, b"e"), number(3, 2), number(4, 3), number(5, 14), bytes(6, b".p.M.E")].concat()),
        bytes(2, &[bytes(1, b"m"), number(3, 3), number(4, 3), number(5, 11), bytes(6, b".p.M.MEntry")].concat()),
        bytes(3, &entry.concat()),
        bytes(4, &[bytes(1, b"E"), bytes(2, &[bytes(1, b"A"), number(2, 0)].concat())].concat()),
    ];
    let file = [bytes(1, b"m.proto"), bytes(2, b"p"), bytes(4, &message.concat()), bytes(12, b"proto3")].concat();
    let set = base64::prelude::BASE64_STANDARD.encode(bytes(1, &file));
    let descriptor = Schema::parse(&SchemaText::of_bytes(set)).unwrap();
    let text =
        "syntax = \"proto3\"; package p; message M { optional int64 id = 1; repeated E e = 2; map<string, int32> m = 3;
                enum E { A = 0; } }";
    let text = Schema::parse(&self::text(text)).unwrap();
    let fields = |schema: &Schema| schema.messages[schema.find(Some("p.M")).unwrap()].fields.clone();
    let (a, b) = (fields(&descriptor), fields(&text));
    assert_eq!(format!("{a:?}"), format!("{b:?}"));
    for bad in [&b"\xff\xff"[..], b"", &bytes(1, &bytes(4, b"\x0a"))] {
        let bad = SchemaText::of_bytes(base64::prelude::BASE64_STANDARD.encode(bad));
        assert!(Schema::parse(&bad).is_err());
    }
}

#[test]
fn a_registry_knows_the_message_and_its_imports() {
    let registry = MockRegistry::start();
    registry.add(
        "common",
        "PROTOBUF",
        "syntax = \"proto3\"; package c; message Money { int64 cents = 1; }",
        serde_json::json!([]),
    );
    let references = serde_json::json!([{ "name": "common.proto", "subject": "common", "version": 1 }]);
    let old = "syntax = \"proto3\"; import \"common.proto\"; message First { int32 x = 1; }
               message Second { message Nested { string s = 1; c.Money price = 2; } }";
    let old = registry.add("t-value", "PROTOBUF", old, references.clone());
    let new = "syntax = \"proto3\"; import \"common.proto\"; message First { int32 x = 1; }
               message Second { message Nested { string renamed = 1; c.Money price = 2; int32 added = 3; } }";
    let new = registry.add("t-value", "PROTOBUF", new, references);
    let options = [("topic".to_string(), "t".to_string())].into();
    let given = clause("plain", "protobuf", &[("schema.registry", &registry.url), ("message", "Second.Nested")]);
    let found = resolve(&options, &given, true).unwrap();
    let format = RecordFormat::of_columns(&found.columns, &found.format).unwrap();
    let mut decoder = all(&format);
    let framed = |id: u32, path: &[u8], message: &[u8]| {
        let mut out = vec![0];
        out.extend(id.to_be_bytes());
        out.extend(path);
        out.extend(message);
        out
    };
    let message = [bytes(1, b"s"), bytes(2, &number(1, 150)), number(3, 4)].concat();
    for id in [old, new] {
        decoder.append(&record(None, Some(&framed(id, &[4, 2, 0], &message)))).unwrap();
    }
    // A field that had another name is found by its number.
    assert_eq!(taken(&mut decoder), ["s|{cents: 150}|NULL", "s|{cents: 150}|4"]);
    for (bad, expected) in [
        (framed(new, &[4, 2, 8], &message), "it has no message at [1, 4]"),
        (framed(new, &[1], &message), "the record has -1 message indexes"),
        (framed(new, &[4, 2], &[]), "the message ends within a number"),
        (framed(77, &[0], &message), "has no schema id 77"),
    ] {
        let error = decoder.append(&record(None, Some(&bad))).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let unnamed = clause("plain", "protobuf", &[("schema.registry", &registry.url)]);
    let error = resolve(&options, &unnamed, true).unwrap_err();
    assert!(error.message().contains("the schema has 2 messages, and none is named"), "{error}");
    assert_eq!(error.hint(), Some("message = '…' names one; the messages are First, Second"));
}
