//! Constant expressions against the values and errors that PostgreSQL gives for them.

mod common;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::Schema;
use datafusion_expr::LogicalPlan;
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_physical_expr::create_physical_expr;
use millstream_sql::plan::Plan;
use millstream_sql::{Result, SqlError};

/// Plans `SELECT expression` and computes its first projection's value as text.
fn evaluate(expression: &str) -> Result<String> {
    let db = common::Db::new("");
    let Plan::Query(query) = db.plan(&format!("SELECT {expression}"))? else { panic!("a query") };
    let mut projections = Vec::new();
    let mut plan = &query.plan;
    while let LogicalPlan::Projection(p) = plan {
        projections.push(p);
        plan = &p.input;
    }
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let mut batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options)?;
    for p in projections.iter().rev() {
        let mut columns: Vec<ArrayRef> = Vec::new();
        for expr in &p.expr {
            let physical = create_physical_expr(expr, p.input.schema(), &ExecutionProps::new(), &Default::default())?;
            columns.push(physical.evaluate(&batch)?.into_array(1)?);
        }
        let fields = p.schema.as_arrow().fields().clone();
        let nullable: Vec<_> = fields.iter().map(|f| Arc::new(f.as_ref().clone().with_nullable(true))).collect();
        batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(nullable)), columns, &options)?;
    }
    let column = batch.column(0);
    if column.is_null(0) {
        return Ok("NULL".into());
    }
    let field = query.columns[0].sql_type.field("c", true);
    let text = millstream_sql::types::to_text(column, &field, "UTC")?;
    Ok((&text as &dyn Array).as_string_view().value(0).to_string())
}

fn show(expression: &str) -> String {
    match evaluate(expression) {
        Ok(value) => value,
        Err(SqlError { sqlstate, message, .. }) => format!("{sqlstate} {message}"),
    }
}

fn check(cases: &[(&str, &str)]) {
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|(expression, expected)| {
            let got = show(expression);
            (got != *expected).then(|| format!("{expression}\n  expected {expected}\n  got      {got}"))
        })
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn arithmetic() {
    check(&[
        ("1 + 1", "2"),
        ("2147483647 + 1", "22003 integer out of range"),
        ("2147483648 + 1", "2147483649"),
        ("9223372036854775807 + 1", "22003 bigint out of range"),
        ("32767::smallint + 1::smallint", "22003 smallint out of range"),
        ("7 / 2", "3"),
        ("-7 / 2", "-3"),
        ("-7 % 3", "-1"),
        ("1 / 0", "22012 division by zero"),
        ("1 % 0", "22012 division by zero"),
        ("1.0 / 0", "22012 division by zero"),
        ("1::float8 / 0", "22012 division by zero"),
        ("10 / 4.0", "2.5000000000000000"),
        ("2.0 / 3", "0.6666666666666667"),
        ("1.5 * 2.25", "3.375"),
        ("0.1 + 0.2", "0.3"),
        ("-(-2147483647 - 1)", "22003 integer out of range"),
        ("'1e308'::float8 * 10", "22003 value out of range: overflow"),
        ("1 + NULL", "NULL"),
        ("1 + '2'", "3"),
        ("1 + 'x'", "22P02 invalid input syntax for type integer: \"x\""),
        ("true + 1", "42883 operator does not exist: boolean + integer"),
        ("date '2024-02-28' + 2", "2024-03-01"),
        ("date '2024-03-01' - date '2024-02-28'", "2"),
        ("timestamp '2024-01-03 05:00' - timestamp '2024-01-01 06:30'", "1 day 22:30:00"),
        ("date '2024-01-01' + interval '1 hour'", "2024-01-01 01:00:00"),
    ]);
}

#[test]
fn casts() {
    check(&[
        ("'12'::int", "12"),
        ("' 12 '::int", "12"),
        ("'1.5'::int", "22P02 invalid input syntax for type integer: \"1.5\""),
        ("'3000000000'::int", "22003 value \"3000000000\" is out of range for type integer"),
        ("2.5::int", "3"),
        ("-2.5::numeric(3,1)::int", "-3"),
        ("2.5::float8::int", "2"),
        ("3.5::float8::int", "4"),
        ("1e10::float8::int", "22003 integer out of range"),
        ("1.005::numeric(10,2)", "1.01"),
        ("1234.5::numeric(4,2)", "22003 numeric field overflow"),
        ("'abcdef'::varchar(3)", "abc"),
        ("12345::varchar(3)", "123"),
        ("'ab'::char(4) || '|'", "ab|"),
        ("'yes'::bool", "true"),
        ("'of'::bool", "false"),
        ("'o'::bool", "22P02 invalid input syntax for type boolean: \"o\""),
        ("1::bool::text", "true"),
        ("1e20::float8::text", "1e+20"),
        ("0.1::float8::text", "0.1"),
        ("'NaN'::float8::text", "NaN"),
        ("1.50::text", "1.50"),
        ("'2024-02-30'::date", "22008 date/time field value out of range: \"2024-02-30\""),
        ("'x'::date", "22007 invalid input syntax for type date: \"x\""),
        ("'2024-01-01 10:00:00.5'::timestamp::text", "2024-01-01 10:00:00.5"),
        ("'2024-01-01 10:00+02'::timestamptz::text", "2024-01-01 08:00:00+00"),
        ("'1 year 2 months -3 days 04:05:06.5'::interval::text", "1 year 2 mons -3 days +04:05:06.5"),
        ("'\\x00ff'::bytea::text", "\\x00ff"),
        ("'{1,2,NULL}'::int[]::text", "{1,2,NULL}"),
        ("'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'::uuid::text", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("'{'::json", "22P02 invalid input syntax for type json"),
        ("true::date", "42846 cannot cast type boolean to date"),
    ]);
}

#[test]
fn typing_of_literals() {
    check(&[
        ("1 = '1'", "true"),
        ("'b' > 'a'", "true"),
        ("date '2024-01-02' > '2024-01-01'", "true"),
        ("1 IN ('1', 2)", "true"),
        ("5 BETWEEN '1' AND 9", "true"),
        ("'a'::text = 1", "42883 operator does not exist: text = integer"),
        ("CASE WHEN true THEN 1 ELSE '2' END", "1"),
        ("CASE WHEN true THEN 1 ELSE 'x'::text END", "42804 CASE types integer and text cannot be matched"),
        ("'a' || 1", "a1"),
        ("'a' || NULL", "NULL"),
        ("1 IS DISTINCT FROM '2'", "true"),
    ]);
}

#[test]
fn dates_and_times() {
    check(&[
        ("extract(year from date '2024-03-01')", "2024"),
        ("extract(second from timestamp '2024-01-01 00:00:01.5')", "1.500000"),
        ("extract(milliseconds from timestamp '2024-01-01 00:00:01.5')", "1500.000"),
        ("extract(epoch from timestamp '1970-01-02 00:00:00.25')", "86400.250000"),
        ("extract(week from date '2021-01-03')", "53"),
        ("extract(isoyear from date '2021-01-03')", "2020"),
        ("extract(doy from date '2024-12-31')", "366"),
        ("extract(dow from date '2024-09-01')", "0"),
        ("extract(century from date '2000-12-31')", "20"),
        ("date_part('hour', timestamp '2024-01-01 05:06:07')", "5"),
        ("extract(foo from date '2024-01-01')", "22023 unit \"foo\" not recognized for type timestamp"),
        ("extract(epoch from interval '1 day 01:00')", "90000.000000"),
        ("to_char(timestamp '2024-03-05 14:07:09.5', 'YYYY-MM-DD HH24:MI:SS.MS')", "2024-03-05 14:07:09.500"),
        ("to_char(timestamp '2024-03-05 14:07:09', 'FMDD Mon YYYY, HH12:MI PM')", "5 Mar 2024, 02:07 PM"),
        ("to_char(timestamp '2024-03-05', 'YYYYx')", "2024x"),
        ("timestamp '2024-07-01 12:00' AT TIME ZONE 'America/New_York'", "2024-07-01 16:00:00+00"),
        ("timestamptz '2024-07-01 12:00+00' AT TIME ZONE 'Europe/London'", "2024-07-01 13:00:00"),
        ("tumble_start(timestamp '2024-01-01 00:07', interval '5 minutes')", "2024-01-01 00:05:00"),
        (
            "hop_starts(timestamp '2024-01-01 00:07', interval '5 minutes', interval '10 minutes')",
            "{\"2024-01-01 00:00:00\",\"2024-01-01 00:05:00\"}",
        ),
    ]);
}
