//! Every type in both forms, against what PostgreSQL sends.

use std::sync::Arc;

use datafusion::arrow::array::{DictionaryArray, NullArray, StructArray, UInt64Array};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::{DataType, IntervalMonthDayNano, TimeUnit};
use datafusion::common::ScalarValue;

use super::*;

/// The one value of a one-row batch in both forms, NULL as `None`.
fn sent(field: Field, array: ArrayRef, output: &OutputFormat) -> (Option<String>, Option<Vec<u8>>) {
    let field = field.with_data_type(array.data_type().clone());
    let schema = Arc::new(Schema::new(vec![field]));
    let batch = RecordBatch::try_new(schema.clone(), vec![array]).unwrap();
    let value = |format| {
        let mut out = BytesMut::new();
        RowEncoder::new(&schema, &batch, &[format], output).unwrap().put(0, &mut out).unwrap();
        let total = i32::from_be_bytes(out[1..5].try_into().unwrap()) as usize;
        assert_eq!((out[0], total, &out[5..7]), (b'D', out.len() - 1, &[0, 1][..]));
        let length = i32::from_be_bytes(out[7..11].try_into().unwrap());
        assert_eq!(out.len() - 11, length.max(0) as usize);
        (length >= 0).then(|| out[11..].to_vec())
    };
    (value(Format::Text).map(|b| String::from_utf8(b).unwrap()), value(Format::Binary))
}

fn check(sql_type: SqlType, value: ScalarValue, text: &str, binary: &[u8]) {
    let array = value.to_array().unwrap();
    let (t, b) = sent(sql_type.field("c", true), array, &OutputFormat::default());
    assert_eq!((t.as_deref(), b.as_deref()), (Some(text), Some(binary)), "{sql_type}");
}

fn utf8(text: &str) -> ScalarValue {
    ScalarValue::Utf8View(Some(text.into()))
}

#[test]
fn scalars() {
    check(SqlType::Bool, ScalarValue::Boolean(Some(true)), "t", &[1]);
    check(SqlType::Int2, ScalarValue::Int16(Some(-2)), "-2", &[0xff, 0xfe]);
    check(SqlType::Int4, ScalarValue::Int32(Some(i32::MIN)), "-2147483648", &i32::MIN.to_be_bytes());
    check(SqlType::Int8, ScalarValue::Int64(Some(i64::MAX)), "9223372036854775807", &i64::MAX.to_be_bytes());
    check(SqlType::Oid, ScalarValue::UInt32(Some(u32::MAX)), "4294967295", &[0xff; 4]);
    check(SqlType::Float4, ScalarValue::Float32(Some(0.1)), "0.1", &0.1_f32.to_be_bytes());
    check(SqlType::Float8, ScalarValue::Float64(Some(1e20)), "1e+20", &1e20_f64.to_be_bytes());
    let decimal = |value, s| ScalarValue::Decimal128(Some(value), 38, s);
    let two = SqlType::Numeric(Some((38, 2)));
    check(two, decimal(150, 2), "1.50", &[0, 2, 0, 0, 0, 0, 0, 2, 0, 1, 0x13, 0x88]);
    let any = SqlType::Numeric(None);
    check(any, decimal(1_500_000_000_000_000_000, 18), "1.5", &[0, 2, 0, 0, 0, 0, 0, 1, 0, 1, 0x13, 0x88]);
    for t in [SqlType::Text, SqlType::Varchar(Some(9)), SqlType::Char(2), SqlType::Name, SqlType::Json] {
        check(t, utf8("é "), "é ", "é ".as_bytes());
    }
    check(SqlType::InternalChar, utf8("r"), "r", b"r");
    check(SqlType::Jsonb, utf8("{}"), "{}", b"\x01{}");
    check(SqlType::Bytea, ScalarValue::Binary(Some(vec![1, 0xab])), "\\x01ab", &[1, 0xab]);
    check(SqlType::Date, ScalarValue::Date32(Some(10_957)), "2000-01-01", &[0; 4]);
    check(SqlType::Time, ScalarValue::Time64Microsecond(Some(1)), "00:00:00.000001", &1_i64.to_be_bytes());
    let moment = 946_684_800_000_001;
    let timestamp = ScalarValue::TimestampMicrosecond(Some(moment), None);
    check(SqlType::Timestamp, timestamp, "2000-01-01 00:00:00.000001", &1_i64.to_be_bytes());
    let timestamptz = ScalarValue::TimestampMicrosecond(Some(moment - 1), Some("UTC".into()));
    check(SqlType::Timestamptz, timestamptz, "2000-01-01 00:00:00+00", &[0; 8]);
    let interval = IntervalMonthDayNano::new(14, 3, 5_000);
    let binary = [&5_i64.to_be_bytes()[..], &3_i32.to_be_bytes(), &14_i32.to_be_bytes()].concat();
    let interval = ScalarValue::IntervalMonthDayNano(Some(interval));
    check(SqlType::Interval, interval, "1 year 2 mons 3 days 00:00:00.000005", &binary);
    let id: Vec<u8> = (0..16).collect();
    let uuid = ScalarValue::FixedSizeBinary(16, Some(id.clone()));
    check(SqlType::Uuid, uuid, "00010203-0405-0607-0809-0a0b0c0d0e0f", &id);
}

#[test]
fn nulls_have_no_value() {
    for t in [SqlType::Int4, SqlType::Text, SqlType::Array(Box::new(SqlType::Int4)), SqlType::Timestamptz] {
        let array = ScalarValue::try_new_null(&t.arrow_type()).unwrap().to_array().unwrap();
        assert_eq!(sent(t.field("c", true), array, &OutputFormat::default()), (None, None), "{t}");
    }
    let untyped: ArrayRef = Arc::new(NullArray::new(1));
    assert_eq!(sent(Field::new("c", DataType::Null, true), untyped, &OutputFormat::default()), (None, None));
}

#[test]
fn timestamptz_prints_in_the_sessions_zone() {
    let output = |name: &str| OutputFormat { time_zone: TimeZone::get(name).unwrap() };
    let array = |us| ScalarValue::TimestampMicrosecond(Some(us), Some("UTC".into())).to_array().unwrap();
    let field = SqlType::Timestamptz.field("c", true);
    for (zone, us, text) in [
        ("Europe/London", 1_704_164_645_000_000, "2024-01-02 03:04:05+00"),
        ("Europe/London", 1_719_889_445_500_000, "2024-07-02 04:04:05.5+01"),
        ("Asia/Kolkata", 0, "1970-01-01 05:30:00+05:30"),
        ("America/New_York", -62_135_596_800_000_000, "0001-12-31 19:03:58-04:56:02 BC"),
        ("Europe/London", i64::MAX, "294247-01-10 04:00:54.775807+00"),
    ] {
        assert_eq!(sent(field.clone(), array(us), &output(zone)).0.as_deref(), Some(text), "{zone}");
    }
}

fn list(item: &SqlType, values: ArrayRef) -> ArrayRef {
    let offsets = OffsetBuffer::from_lengths([values.len()]);
    Arc::new(ListArray::new(Arc::new(item.field("item", true)), offsets, values, None))
}

#[test]
fn arrays_and_records() {
    let texts: ArrayRef = Arc::new(StringViewArray::from(vec![Some("a b"), None, Some("NULL"), Some(""), Some("x")]));
    let array = list(&SqlType::Text, texts);
    let (text, binary) = sent(Field::new("c", DataType::Null, true), array, &OutputFormat::default());
    assert_eq!(text.as_deref(), Some("{\"a b\",NULL,\"NULL\",\"\",x}"));
    let wanted = [
        &[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 25, 0, 0, 0, 5, 0, 0, 0, 1][..],
        &[0, 0, 0, 3],
        b"a b",
        &[0xff; 4],
        &[0, 0, 0, 4],
        b"NULL",
        &[0, 0, 0, 0],
        &[0, 0, 0, 1],
        b"x",
    ];
    assert_eq!(binary, Some(wanted.concat()));

    let empty = list(&SqlType::Int4, Arc::new(Int32Array::from(Vec::<i32>::new())));
    let (text, binary) = sent(Field::new("c", DataType::Null, true), empty, &OutputFormat::default());
    assert_eq!((text.as_deref(), binary), (Some("{}"), Some(vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 23])));

    let bytes: ArrayRef = Arc::new(BinaryArray::from_vec(vec![b"\x01"]));
    let (text, _) = sent(Field::new("c", DataType::Null, true), list(&SqlType::Bytea, bytes), &OutputFormat::default());
    assert_eq!(text.as_deref(), Some("{\"\\\\x01\"}"));

    let record_type = SqlType::Record(vec![
        ("a".into(), SqlType::Int4),
        ("b".into(), SqlType::Text),
        ("c".into(), SqlType::Text),
        ("d".into(), SqlType::Bool),
    ]);
    let DataType::Struct(fields) = record_type.arrow_type() else { panic!("a record is a struct") };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from(vec![1])),
        Arc::new(StringViewArray::from(vec!["a \"b\""])),
        Arc::new(StringViewArray::from(vec![None::<&str>])),
        Arc::new(BooleanArray::from(vec![true])),
    ];
    let record: ArrayRef = Arc::new(StructArray::new(fields, columns, None));
    let (text, binary) = sent(record_type.field("c", true), record.clone(), &OutputFormat::default());
    assert_eq!(text.as_deref(), Some("(1,\"a \"\"b\"\"\",,t)"));
    let wanted = [
        &[0, 0, 0, 4, 0, 0, 0, 23, 0, 0, 0, 4, 0, 0, 0, 1][..],
        &[0, 0, 0, 25, 0, 0, 0, 5],
        b"a \"b\"",
        &[0, 0, 0, 25, 0xff, 0xff, 0xff, 0xff],
        &[0, 0, 0, 16, 0, 0, 0, 1, 1],
    ];
    assert_eq!(binary, Some(wanted.concat()));
    let (text, _) = sent(Field::new("c", DataType::Null, true), list(&record_type, record), &OutputFormat::default());
    assert_eq!(text.as_deref(), Some(r#"{"(1,\"a \"\"b\"\"\",,t)"}"#));
}

#[test]
fn arrays_of_arrays_print_but_have_no_binary_form_here() {
    let inner = list(&SqlType::Int4, Arc::new(Int32Array::from(vec![1, 2])));
    let item = SqlType::Array(Box::new(SqlType::Int4));
    let array = list(&item, inner);
    let schema = Schema::new(vec![SqlType::Array(Box::new(item)).field("c", true)]);
    let batch = RecordBatch::try_from_iter([("c", array)]).unwrap();
    let mut out = BytesMut::new();
    let encoder = RowEncoder::new(&schema, &batch, &[Format::Text], &OutputFormat::default()).unwrap();
    encoder.put(0, &mut out).unwrap();
    assert_eq!(&out[11..], b"{{1,2}}");
    let refused = RowEncoder::new(&schema, &batch, &[Format::Binary], &OutputFormat::default());
    assert_eq!(refused.err().map(|e| e.sqlstate().to_string()).as_deref(), Some("0A000"));
}

#[test]
fn layouts_of_files_are_cast() {
    let plain = |data_type: DataType| Field::new("c", data_type, true);
    let text = |array: ArrayRef| sent(plain(DataType::Null), array, &OutputFormat::default()).0.unwrap();
    assert_eq!(text(Arc::new(UInt64Array::from(vec![u64::MAX]))), "18446744073709551615");
    let half = cast_with_options(&Float32Array::from(vec![1.5]), &DataType::Float16, &CastOptions::default());
    assert_eq!(text(half.unwrap()), "1.5");
    assert_eq!(text(Arc::new(DictionaryArray::<Int32Type>::from_iter(["word"]))), "word");
    assert_eq!(text(ScalarValue::LargeUtf8(Some("long".into())).to_array().unwrap()), "long");
    assert_eq!(text(ScalarValue::Date64(Some(86_400_000)).to_array().unwrap()), "1970-01-02");
    assert_eq!(
        text(ScalarValue::TimestampNanosecond(Some(1_500_000_000), None).to_array().unwrap()),
        "1970-01-01 00:00:01.5"
    );
    assert_eq!(text(ScalarValue::DurationMillisecond(Some(1_500)).to_array().unwrap()), "00:00:01.5");
    assert_eq!(text(ScalarValue::new_interval_ym(1, 2).to_array().unwrap()), "1 year 2 mons");
    let oid = SqlType::Oid.field("c", true).with_data_type(DataType::Int64);
    assert_eq!(sent(oid, Arc::new(Int64Array::from(vec![7])), &OutputFormat::default()).1, Some(vec![0, 0, 0, 7]));
    let zoned = DataType::Timestamp(TimeUnit::Second, Some("+02:00".into()));
    assert_eq!(column_type(&plain(zoned)).unwrap(), SqlType::Timestamptz);
    let run = DataType::Map(Arc::new(plain(DataType::Int8)), false);
    assert_eq!(column_type(&plain(run)).unwrap_err().sqlstate(), "0A000");
}
