//! The order along a Z-curve (G. M. Morton, "A Computer Oriented Geodetic Data Base", 1966): rows that are near to each other
//! in each of several columns are near to each other in it, so that filters on any of them find few files.

use std::sync::Arc;

use datafusion::arrow::array::{Array, BinaryBuilder};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// Bytes of each value that count: the order of longer ones goes by their beginnings.
const BYTES: usize = 12;

/// The function that gives the place of its arguments on the curve, as bytes that compare so.
pub fn z_order() -> ScalarUDF {
    ScalarUDF::new_from_impl(ZOrder { signature: Signature::variadic_any(Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ZOrder {
    signature: Signature,
}

impl ScalarUDFImpl for ZOrder {
    fn name(&self) -> &str {
        "z_order"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let mut encoded = Vec::with_capacity(args.args.len());
        for arg in &args.args {
            let array = arg.to_array(rows)?;
            let converter = RowConverter::new(vec![SortField::new(array.data_type().clone())])?;
            encoded.push(converter.convert_columns(&[array])?);
        }
        let mut places = BinaryBuilder::with_capacity(rows, rows * BYTES * encoded.len());
        let mut place = vec![0u8; BYTES * encoded.len()];
        for row in 0..rows {
            place.fill(0);
            for (i, values) in encoded.iter().enumerate() {
                for (at, byte) in values.row(row).as_ref().iter().take(BYTES).enumerate() {
                    for bit in 0..8 {
                        let to = (at * 8 + bit) * encoded.len() + i;
                        place[to / 8] |= (byte >> (7 - bit) & 1) << (7 - to % 8);
                    }
                }
            }
            places.append_value(&place);
        }
        Ok(ColumnarValue::Array(Arc::new(places.finish())))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{AsArray, Int32Array};
    use datafusion::arrow::datatypes::Field;
    use datafusion::config::ConfigOptions;

    use super::*;

    #[test]
    fn the_curve_takes_turns() {
        let column = |values: &[i32]| ColumnarValue::Array(Arc::new(Int32Array::from(values.to_vec())));
        // The order of a square of four by four along the curve.
        let (xs, ys): (Vec<i32>, Vec<i32>) = (0..16).map(|i| (i % 4, i / 4)).unzip();
        let field = |name: &str| Arc::new(Field::new(name, DataType::Int32, false));
        let args = ScalarFunctionArgs {
            args: vec![column(&ys), column(&xs)],
            arg_fields: vec![field("y"), field("x")],
            number_rows: 16,
            return_field: Arc::new(Field::new("z", DataType::Binary, true)),
            config_options: Arc::new(ConfigOptions::default()),
        };
        let places = z_order().invoke_with_args(args).unwrap().into_array(16).unwrap();
        let places = places.as_binary::<i32>();
        let mut order: Vec<usize> = (0..16).collect();
        order.sort_by_key(|i| places.value(*i).to_vec());
        assert_eq!(order, [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]);
    }
}
