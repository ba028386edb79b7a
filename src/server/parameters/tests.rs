//! Both forms of every type, the errors of what is none, and the way back through the encoder.

use bytes::BytesMut;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::Schema;

use super::*;
use crate::server::encode::RowEncoder;
use crate::session::api::OutputFormat;

fn read(sql_type: &SqlType, text: &str) -> Result<ScalarValue> {
    Ok(decode(1, sql_type, Format::Text, Some(text.as_bytes()), "UTC")?.value)
}

/// What the encoder sends for a value.
fn send(sql_type: &SqlType, value: &ScalarValue, format: Format) -> Vec<u8> {
    let schema = Schema::new(vec![sql_type.field("c", true)]);
    let batch = RecordBatch::try_from_iter([("c", value.to_array().unwrap())]).unwrap();
    let mut out = BytesMut::new();
    RowEncoder::new(&schema, &batch, &[format], &OutputFormat::default()).unwrap().put(0, &mut out).unwrap();
    out[11..].to_vec()
}

#[test]
fn values_come_back_as_they_were_sent_in_both_forms() {
    let array = |t| SqlType::Array(Box::new(t));
    for (t, text) in [
        (SqlType::Bool, "f"),
        (SqlType::Int2, "-32768"),
        (SqlType::Int4, "2147483647"),
        (SqlType::Int8, "-9223372036854775808"),
        (SqlType::Oid, "4294967295"),
        (SqlType::Float4, "1.5e-10"),
        (SqlType::Float8, "-Infinity"),
        (SqlType::Float8, "NaN"),
        (SqlType::Numeric(Some((10, 3))), "-1234567.890"),
        (SqlType::Numeric(None), "0.000000000000000001"),
        (SqlType::Numeric(None), "99999999999999999999.5"),
        (SqlType::Text, " a\tb "),
        (SqlType::Varchar(Some(3)), "abc"),
        (SqlType::Json, "{\"a\": [1, 2]}"),
        (SqlType::Jsonb, "[null]"),
        (SqlType::Bytea, "\\x00ff10"),
        (SqlType::Date, "2024-02-29"),
        (SqlType::Date, "0044-03-15 BC"),
        (SqlType::Time, "23:59:59.999999"),
        (SqlType::Time, "24:00:00"),
        (SqlType::Timestamp, "2024-01-02 03:04:05.1"),
        (SqlType::Timestamp, "0001-01-01 00:00:00"),
        (SqlType::Timestamptz, "1969-12-31 23:59:59.999999+00"),
        (SqlType::Interval, "1 year 2 mons 3 days 04:05:06.5"),
        (SqlType::Interval, "-1 mons +2 days -03:00:00"),
        (SqlType::Interval, "00:00:00"),
        (SqlType::Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        (array(SqlType::Int4), "{1,NULL,-3}"),
        (array(SqlType::Text), r#"{"a b",NULL,"NULL","","q\"\\"}"#),
        (array(SqlType::Numeric(None)), "{}"),
    ] {
        let value = read(&t, text).unwrap();
        assert_eq!(String::from_utf8(send(&t, &value, Format::Text)).unwrap(), text, "{t}");
        let binary = send(&t, &value, Format::Binary);
        let back = decode(1, &t, Format::Binary, Some(&binary), "UTC").unwrap().value;
        assert_eq!(send(&t, &back, Format::Text), text.as_bytes(), "{t} binary");
        assert!(decode(1, &t, Format::Text, None, "UTC").unwrap().value.is_null());
    }
}

#[test]
fn other_spellings_are_read_too() {
    for (t, text, wanted) in [
        (SqlType::Bool, " TRUE ", "t"),
        (SqlType::Bool, "of", "f"),
        (SqlType::Bool, "y", "t"),
        (SqlType::Int4, " +7 ", "7"),
        (SqlType::Float8, "inf", "Infinity"),
        (SqlType::Numeric(Some((6, 2))), "1.005", "1.01"),
        (SqlType::Numeric(Some((6, 2))), "-1.005", "-1.01"),
        (SqlType::Numeric(Some((6, 2))), "12e2", "1200.00"),
        (SqlType::Numeric(Some((6, 2))), "1e-300", "0.00"),
        (SqlType::Numeric(None), "1.50000000000000000000000", "1.5"),
        (SqlType::Numeric(None), "0e99", "0"),
        (SqlType::Bytea, "a\\\\b\\001", "\\x615c6201"),
        (SqlType::Date, "2024-01-02 23:00:00", "2024-01-02"),
        (SqlType::Timestamp, "2024-01-02T03:04:05Z", "2024-01-02 03:04:05"),
        (SqlType::Timestamp, "2024-01-02", "2024-01-02 00:00:00"),
        (SqlType::Timestamptz, "2024-01-02 03:04:05+05:30", "2024-01-01 21:34:05+00"),
        (SqlType::Timestamptz, "2024-01-02 03:04:05.5-08", "2024-01-02 11:04:05.5+00"),
        (SqlType::Timestamptz, "2024-07-02 03:04:05 Europe/London", "2024-07-02 02:04:05+00"),
        (SqlType::Interval, "90 minutes", "01:30:00"),
        (SqlType::Interval, "1.5 days", "1 day 12:00:00"),
        (SqlType::Interval, "2 weeks 3h ago", "-14 days -03:00:00"),
        (SqlType::Interval, "100ms", "00:00:00.1"),
        (SqlType::Uuid, "{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        (SqlType::Array(Box::new(SqlType::Int4)), "{ 1 , null }", "{1,NULL}"),
    ] {
        let value = read(&t, text).unwrap_or_else(|e| panic!("{t} {text}: {e}"));
        assert_eq!(String::from_utf8(send(&t, &value, Format::Text)).unwrap(), wanted, "{t} {text}");
    }
    let summer =
        decode(1, &SqlType::Timestamptz, Format::Text, Some(b"2024-07-02 03:04:05"), "Europe/London").unwrap().value;
    assert_eq!(send(&SqlType::Timestamptz, &summer, Format::Text), b"2024-07-02 02:04:05+00");
}

#[test]
fn what_is_no_value_is_refused_with_its_code() {
    for (t, text, code, message) in [
        (SqlType::Bool, "o", "22P02", "invalid input syntax for type boolean: \"o\""),
        (SqlType::Int4, "", "22P02", "invalid input syntax for type integer: \"\""),
        (SqlType::Int4, "1.5", "22P02", "invalid input syntax for type integer: \"1.5\""),
        (SqlType::Int2, "32768", "22003", "value \"32768\" is out of range for type smallint"),
        (SqlType::Float8, "1e999", "22003", "\"1e999\" is out of range for type double precision"),
        (SqlType::Numeric(None), "1,5", "22P02", "invalid input syntax for type numeric: \"1,5\""),
        (
            SqlType::Numeric(None),
            &format!("0.{}1", "0".repeat(38)),
            "22003",
            &format!("numeric \"0.{}1\" has more digits than can be kept", "0".repeat(38)),
        ),
        (SqlType::Numeric(Some((4, 2))), "99.995", "22003", "numeric field overflow"),
        (SqlType::Numeric(None), &"9".repeat(39), "22003", "numeric field overflow"),
        (SqlType::Json, "{", "22P02", "invalid input syntax for type json"),
        (SqlType::Bytea, "\\x1", "22P02", "invalid input syntax for type bytea: \"\\x1\""),
        (SqlType::Date, "2023-02-29", "22008", "date/time field value out of range: \"2023-02-29\""),
        (SqlType::Interval, "3 apples", "22007", "invalid input syntax for type interval: \"3 apples\""),
        (SqlType::Uuid, "x", "22P02", "invalid input syntax for type uuid: \"x\""),
        (SqlType::Array(Box::new(SqlType::Int4)), "1,2", "22P02", "malformed array literal: \"1,2\""),
        (SqlType::Array(Box::new(SqlType::Int4)), "{1,,2}", "22P02", "malformed array literal: \"{1,,2}\""),
        (SqlType::Text, "a\0b", "22021", "invalid byte sequence for encoding \"UTF8\": 0x00"),
    ] {
        let error = read(&t, text).unwrap_err();
        assert_eq!((error.sqlstate(), error.message()), (code, message), "{t} {text}");
    }
    let error = decode(1, &SqlType::Text, Format::Text, Some(&[b'a', 0xff]), "UTC").unwrap_err();
    assert_eq!(error.message(), "invalid byte sequence for encoding \"UTF8\": 0xff");
    for t in [SqlType::Int4, SqlType::Interval, SqlType::Uuid, SqlType::Numeric(None), SqlType::Jsonb] {
        let error = decode(3, &t, Format::Binary, Some(&[9; 5]), "UTC").unwrap_err();
        assert_eq!(error.sqlstate(), "22P03", "{t}");
        assert!(error.message().starts_with("incorrect binary data format in bind parameter 3"), "{error}");
    }
}
