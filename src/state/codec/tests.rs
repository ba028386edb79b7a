//! Both codecs over arrays of every stored type: values come back, and keys compare as Arrow and PostgreSQL do.

use std::cmp::Ordering;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, BooleanArray, FixedSizeBinaryArray, Float32Array,
    Float64Array, Int32Array, Int64Array, IntervalMonthDayNanoArray, LargeStringArray, ListArray, NullArray,
    PrimitiveArray, StringArray, StringViewArray, StructArray, make_comparator,
};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::compute::{SortOptions, cast};
use datafusion::arrow::datatypes::{
    DataType, Decimal128Type, Field, Fields, Int8Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNano,
    IntervalUnit, TimeUnit, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{KeyCodec, RowCodec};
use crate::state::ByteRows;

fn types() -> Vec<DataType> {
    let item = |t: DataType| Arc::new(Field::new("item", t, true));
    let record = DataType::Struct(Fields::from(vec![
        Field::new("a", DataType::Int32, true),
        Field::new("b", DataType::Utf8View, true),
        Field::new("c", DataType::List(item(DataType::Boolean)), true),
    ]));
    vec![
        DataType::Null,
        DataType::Boolean,
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::UInt8,
        DataType::UInt16,
        DataType::UInt32,
        DataType::UInt64,
        DataType::Float32,
        DataType::Float64,
        DataType::Decimal128(38, 5),
        DataType::Utf8,
        DataType::LargeUtf8,
        DataType::Utf8View,
        DataType::Binary,
        DataType::LargeBinary,
        DataType::BinaryView,
        DataType::FixedSizeBinary(3),
        DataType::FixedSizeBinary(16),
        DataType::Date32,
        DataType::Date64,
        DataType::Time32(TimeUnit::Second),
        DataType::Time32(TimeUnit::Millisecond),
        DataType::Time64(TimeUnit::Microsecond),
        DataType::Time64(TimeUnit::Nanosecond),
        DataType::Timestamp(TimeUnit::Second, None),
        DataType::Timestamp(TimeUnit::Millisecond, None),
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Timestamp(TimeUnit::Nanosecond, Some("Europe/London".into())),
        DataType::Duration(TimeUnit::Microsecond),
        DataType::Interval(IntervalUnit::MonthDayNano),
        DataType::List(item(DataType::Int64)),
        DataType::List(item(DataType::Utf8)),
        DataType::List(item(DataType::List(item(DataType::Boolean)))),
        DataType::List(item(record.clone())),
        record,
    ]
}

/// Numbers of all sizes and signs, small ones and repetitions often.
fn number(rng: &mut StdRng) -> i128 {
    match rng.random_range(0..4) {
        0 => rng.random_range(-3..4),
        1 => i128::from(rng.random_range(-70_000..70_000)),
        _ => rng.random::<i128>() >> rng.random_range(0..128),
    }
}

/// Bytes of few kinds, so that zeros, prefixes and the highest byte are common.
fn bytes(rng: &mut StdRng, alphabet: &[u8]) -> Vec<u8> {
    (0..rng.random_range(0..6)).map(|_| alphabet[rng.random_range(0..alphabet.len())]).collect()
}

fn option<T>(rng: &mut StdRng, value: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
    if rng.random_range(0..5) == 0 { None } else { Some(value(rng)) }
}

fn optional<T>(rng: &mut StdRng, rows: usize, value: impl Fn(&mut StdRng) -> T) -> Vec<Option<T>> {
    (0..rows).map(|_| option(rng, &value)).collect()
}

fn integers<T: ArrowPrimitiveType>(rng: &mut StdRng, rows: usize, truncate: impl Fn(i128) -> T::Native) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::from_iter(optional(rng, rows, |rng| truncate(number(rng)))))
}

fn float(rng: &mut StdRng) -> f64 {
    const SOME: [f64; 8] = [0.0, 1.0, -1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, f64::MIN_POSITIVE, -0.1];
    if rng.random() { SOME[rng.random_range(0..SOME.len())] } else { number(rng) as f64 / 7.0 }
}

fn nulls(rng: &mut StdRng, rows: usize) -> Option<NullBuffer> {
    rng.random::<bool>().then(|| NullBuffer::from((0..rows).map(|_| rng.random_range(0..5) > 0).collect::<Vec<_>>()))
}

fn array(data_type: &DataType, rng: &mut StdRng, rows: usize) -> ArrayRef {
    match data_type {
        DataType::Null => Arc::new(NullArray::new(rows)),
        DataType::Boolean => Arc::new(BooleanArray::from(optional(rng, rows, |rng| rng.random::<bool>()))),
        DataType::Int8 => integers::<Int8Type>(rng, rows, |v| v as i8),
        DataType::Int16 => integers::<Int16Type>(rng, rows, |v| v as i16),
        DataType::Int32 => integers::<Int32Type>(rng, rows, |v| v as i32),
        DataType::Int64 => integers::<Int64Type>(rng, rows, |v| v as i64),
        DataType::UInt8 => integers::<UInt8Type>(rng, rows, |v| v as u8),
        DataType::UInt16 => integers::<UInt16Type>(rng, rows, |v| v as u16),
        DataType::UInt32 => integers::<UInt32Type>(rng, rows, |v| v as u32),
        DataType::UInt64 => integers::<UInt64Type>(rng, rows, |v| v as u64),
        DataType::Decimal128(_, _) => {
            let values = PrimitiveArray::<Decimal128Type>::from_iter(optional(rng, rows, number));
            Arc::new(values.with_data_type(data_type.clone()))
        }
        DataType::Float32 => Arc::new(Float32Array::from(optional(rng, rows, |rng| float(rng) as f32))),
        DataType::Float64 => Arc::new(Float64Array::from(optional(rng, rows, float))),
        DataType::Interval(_) => Arc::new(IntervalMonthDayNanoArray::from(optional(rng, rows, |rng| {
            IntervalMonthDayNano::new(number(rng) as i32, number(rng) as i32, number(rng) as i64)
        }))),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let values = optional(rng, rows, |rng| {
                String::from_utf8(bytes(rng, b"\0\x01ab\x7f")).unwrap() + if rng.random() { "é" } else { "" }
            });
            cast(&StringArray::from(values), data_type).unwrap()
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            let values = optional(rng, rows, |rng| bytes(rng, b"\0\x01\x02a\xfe\xff"));
            cast(&BinaryArray::from_iter(values), data_type).unwrap()
        }
        DataType::FixedSizeBinary(width) => {
            let values = optional(rng, rows, |rng| (0..*width).map(|_| rng.random()).collect::<Vec<u8>>());
            Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(values.into_iter(), *width).unwrap())
        }
        DataType::Date32 | DataType::Time32(_) => cast_bits(array(&DataType::Int32, rng, rows), data_type),
        DataType::Date64 | DataType::Time64(_) | DataType::Timestamp(_, _) | DataType::Duration(_) => {
            cast_bits(array(&DataType::Int64, rng, rows), data_type)
        }
        DataType::List(item) => {
            let lengths: Vec<usize> = (0..rows).map(|_| rng.random_range(0..4)).collect();
            let items = array(item.data_type(), rng, lengths.iter().sum());
            let offsets = OffsetBuffer::from_lengths(lengths);
            Arc::new(ListArray::new(item.clone(), offsets, items, nulls(rng, rows)))
        }
        DataType::Struct(fields) => {
            let columns = fields.iter().map(|f| array(f.data_type(), rng, rows)).collect();
            Arc::new(StructArray::new(fields.clone(), columns, nulls(rng, rows)))
        }
        other => panic!("no values of {other}"),
    }
}

/// The same bits under another type.
fn cast_bits(array: ArrayRef, data_type: &DataType) -> ArrayRef {
    let data = array.to_data().into_builder().data_type(data_type.clone()).build().unwrap();
    datafusion::arrow::array::make_array(data)
}

/// NULLs last, as PostgreSQL sorts.
fn compare(a: &ArrayRef, b: &ArrayRef, i: usize, j: usize) -> Ordering {
    let options = SortOptions { descending: false, nulls_first: false };
    make_comparator(a, b, options).unwrap()(i, j)
}

/// Arrays of some of the types, sliced so that offsets are not zero.
fn columns(seed: u64, picks: &[usize], rows: usize) -> (Vec<DataType>, Vec<ArrayRef>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let all = types();
    let types: Vec<DataType> = picks.iter().map(|i| all[i % all.len()].clone()).collect();
    let skip = rng.random_range(0..3);
    let columns = types.iter().map(|t| array(t, &mut rng, rows + skip).slice(skip, rows)).collect();
    (types, columns)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn rows_come_back(seed in any::<u64>(), picks in proptest::collection::vec(0usize..100, 1..12), rows in 0usize..20) {
        let (types, columns) = columns(seed, &picks, rows);
        let codec = RowCodec::new(&types).unwrap();
        let encoded = codec.encode(&columns).unwrap();
        prop_assert_eq!(encoded.len(), rows);
        prop_assert_eq!(&codec.decode(encoded.iter()).unwrap(), &columns);
        // Any other row of bytes is refused or read, and never a panic.
        for row in encoded.iter() {
            for cut in 0..row.len() {
                prop_assert!(codec.decode([&row[..cut]]).is_err());
            }
            let mut longer = row.to_vec();
            longer.push(0);
            prop_assert!(codec.decode([longer.as_slice()]).is_err());
            let mut broken = row.to_vec();
            broken[seed as usize % row.len()] ^= 1 << (seed % 8);
            let _ = codec.decode([broken.as_slice()]);
        }
    }

    #[test]
    fn keys_come_back_and_are_self_delimiting(
        seed in any::<u64>(), picks in proptest::collection::vec(0usize..100, 1..5), rows in 0usize..20,
    ) {
        let (types, columns) = columns(seed, &picks, rows);
        let codec = KeyCodec::for_rows(&types).unwrap();
        let encoded = codec.encode(&columns).unwrap();
        prop_assert_eq!(encoded.len(), rows);
        prop_assert_eq!(&codec.decode(encoded.iter()).unwrap(), &columns);
        let longer: ByteRows = encoded.iter().map(|k| [k, b"\xff\x00tail"].concat()).collect();
        for (key, longer) in encoded.iter().zip(longer.iter()) {
            prop_assert_eq!(codec.prefix_len(longer).unwrap(), key.len());
            for cut in 0..key.len() {
                prop_assert!(codec.decode([&key[..cut]]).is_err());
                prop_assert!(codec.prefix_len(&key[..cut]).is_err());
            }
            let mut broken = key.to_vec();
            broken[seed as usize % key.len()] ^= 1 << (seed % 8);
            let _ = (codec.decode([broken.as_slice()]), codec.prefix_len(&broken));
        }
        let prefixes: ByteRows = (0..rows).map(|i| vec![7; i % 3]).collect();
        let onto = codec.encode_onto(&prefixes, &columns).unwrap();
        for i in 0..rows {
            prop_assert_eq!(onto.get(i), [prefixes.get(i), encoded.get(i)].concat());
        }
        let after = codec.encode_after(b"ab", &columns).unwrap();
        prop_assert!((0..rows).all(|i| after.get(i) == [b"ab", encoded.get(i)].concat()));
    }

    #[test]
    fn keys_compare_as_their_values(seed in any::<u64>(), picks in proptest::collection::vec(0usize..100, 1..4)) {
        let rows = 24;
        let picks: Vec<usize> = picks.into_iter().filter(|i| types()[i % types().len()] != DataType::Null).collect();
        let (types, columns) = columns(seed, &picks, rows);
        let encoded = KeyCodec::for_rows(&types).unwrap().encode(&columns).unwrap();
        for i in 0..encoded.len() {
            for j in 0..rows {
                let expected = columns.iter().fold(Ordering::Equal, |o, c| o.then_with(|| compare(c, c, i, j)));
                prop_assert_eq!(encoded.get(i).cmp(encoded.get(j)), expected, "rows {} and {} of {:?}", i, j, columns);
            }
        }
    }
}

#[test]
fn equal_floats_are_one_key_and_different_rows() {
    let odd_nan = f64::from_bits(0xfff8_0000_0000_0001);
    let values: ArrayRef = Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, odd_nan, f64::INFINITY, -1.0]));
    let keys = KeyCodec::new(&[DataType::Float64]).unwrap().encode(std::slice::from_ref(&values)).unwrap();
    assert_eq!(keys.get(0), keys.get(1));
    assert_eq!(keys.get(2), keys.get(3));
    assert!(keys.get(2) > keys.get(4) && keys.get(5) < keys.get(0));
    let codec = KeyCodec::for_rows(&[DataType::Float64]).unwrap();
    let rows = codec.encode(&[values]).unwrap();
    assert_ne!(rows.get(0), rows.get(1));
    let back = codec.decode([rows.get(1)]).unwrap();
    assert!(back[0].as_primitive::<datafusion::arrow::datatypes::Float64Type>().value(0).is_sign_negative());
}

#[test]
fn an_interval_is_a_row_but_no_key() {
    let interval = DataType::Interval(IntervalUnit::MonthDayNano);
    let list = DataType::List(Arc::new(Field::new("item", interval.clone(), true)));
    for t in [interval.clone(), list] {
        let error = KeyCodec::new(&[DataType::Int64, t.clone()]).unwrap_err();
        assert_eq!(error.sqlstate(), "0A000");
        KeyCodec::for_rows(&[t]).unwrap();
    }
    assert_eq!(KeyCodec::new(&[interval]).unwrap_err().message(), "a value of type interval cannot be a key");
}

#[test]
fn types_that_are_not_stored_are_refused() {
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    for t in [dictionary, DataType::Float16, DataType::Decimal256(40, 0)] {
        assert_eq!(KeyCodec::new(std::slice::from_ref(&t)).unwrap_err().sqlstate(), "0A000");
        assert_eq!(RowCodec::new(&[t]).unwrap_err().sqlstate(), "0A000");
    }
}

#[test]
fn the_wrong_columns_are_an_error() {
    let codec = KeyCodec::new(&[DataType::Int32]).unwrap();
    let wide: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let narrow: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    assert!(codec.encode(&[wide]).is_err());
    assert!(codec.encode(&[narrow.clone(), narrow]).is_err());
    let text = RowCodec::new(&[DataType::Utf8View]).unwrap();
    let large: ArrayRef = Arc::new(LargeStringArray::from(vec!["any string layout will do"]));
    let back = text.decode(text.encode(&[large]).unwrap().iter()).unwrap();
    let expected: ArrayRef = Arc::new(StringViewArray::from(vec!["any string layout will do"]));
    assert_eq!(back, [expected]);
}

#[test]
fn a_row_grows_columns() {
    let old = RowCodec::new(&[DataType::Int32]).unwrap();
    let new = RowCodec::new(&[DataType::Int32, DataType::Utf8]).unwrap();
    let value: ArrayRef = Arc::new(Int32Array::from(vec![Some(7), None]));
    let rows = old.encode(std::slice::from_ref(&value)).unwrap();
    let added: ArrayRef = Arc::new(StringArray::new_null(2));
    assert_eq!(new.decode(rows.iter()).unwrap(), [value, added.clone()]);
    let wider = new.encode(&[Arc::new(Int32Array::new_null(2)), added]).unwrap();
    assert_eq!(old.decode(wider.iter()).unwrap_err().sqlstate(), "XX001");
}

#[test]
fn the_bytes_on_disk_are_these() {
    let types =
        [DataType::Int64, DataType::Utf8View, DataType::Decimal128(12, 2), DataType::Float64, DataType::Boolean];
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![Some(300), None])),
        Arc::new(StringViewArray::from(vec![Some("a\0b"), None])),
        Arc::new(PrimitiveArray::<Decimal128Type>::from(vec![Some(-100), None]).with_data_type(types[2].clone())),
        Arc::new(Float64Array::from(vec![Some(1.0), None])),
        Arc::new(BooleanArray::from(vec![Some(true), None])),
    ];
    let key = KeyCodec::new(&types).unwrap().encode(&columns).unwrap();
    assert_eq!(key.get(0), [0x82, 1, 44, b'a', 0, 0xff, b'b', 0, 1, 0x7e, 0x9c, 1, 0xbf, 0xf0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(key.get(1), [0xff; 5]);
    let row = RowCodec::new(&types).unwrap().encode(&columns).unwrap();
    assert_eq!(row.get(0), [1, 5, 0, 0x82, 1, 44, 3, b'a', 0, b'b', 0x7e, 0x9c, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 1]);
    assert_eq!(row.get(1), [1, 5, 0b11111]);
}
