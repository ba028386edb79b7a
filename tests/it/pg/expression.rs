//! Typed random expressions over the columns of table `v`.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// The types that expressions have here. `Num` is numeric, `Tz` timestamptz.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ty {
    Bool,
    Small,
    Int,
    Big,
    Num,
    Float,
    Text,
    Date,
    Stamp,
    Tz,
    Span,
}

use Ty::{Big, Bool, Date, Float, Int, Num, Small, Span, Stamp, Text, Tz};

const ALL: &[Ty] = &[Bool, Small, Int, Big, Num, Float, Text, Date, Stamp, Tz, Span];

/// An expression and those of its parts that are expressions themselves.
#[derive(Debug, Clone)]
pub struct Expression {
    pub sql: String,
    pub parts: Vec<Expression>,
}

impl Expression {
    /// The statement that shows the expression on every row.
    pub fn select(&self) -> String {
        format!("SELECT id, {} FROM v ORDER BY v.id", self.sql)
    }
}

/// `template => result(arguments)`: `$1`, `$2`, … stand for arguments of the given types.
type Shape = (&'static str, Ty, &'static [Ty]);

/// Every operator and function that is compared, once for each signature.
const SHAPES: &[Shape] = &[
    // Three-valued logic and comparison.
    ("($1 AND $2)", Bool, &[Bool, Bool]),
    ("($1 OR $2)", Bool, &[Bool, Bool]),
    ("(NOT $1)", Bool, &[Bool]),
    ("($1 IS NULL)", Bool, &[Int]),
    ("($1 IS NOT NULL)", Bool, &[Text]),
    ("($1 IS TRUE)", Bool, &[Bool]),
    ("($1 IS NOT FALSE)", Bool, &[Bool]),
    ("($1 IS UNKNOWN)", Bool, &[Bool]),
    ("($1 = $2)", Bool, &[Int, Big]),
    ("($1 <> $2)", Bool, &[Num, Int]),
    ("($1 < $2)", Bool, &[Float, Num]),
    ("($1 >= $2)", Bool, &[Text, Text]),
    ("($1 = $2)", Bool, &[Text, Text]),
    ("($1 < $2)", Bool, &[Date, Stamp]),
    ("($1 > $2)", Bool, &[Stamp, Stamp]),
    ("($1 <= $2)", Bool, &[Tz, Tz]),
    ("($1 = $2)", Bool, &[Span, Span]),
    ("($1 < $2)", Bool, &[Span, Span]),
    ("($1 IN ($2, $3))", Bool, &[Span, Span, Span]),
    ("($1 BETWEEN $2 AND $3)", Bool, &[Span, Span, Span]),
    ("($1 IS DISTINCT FROM $2)", Bool, &[Span, Span]),
    ("($1 IS DISTINCT FROM $2)", Bool, &[Int, Int]),
    ("($1 IS NOT DISTINCT FROM $2)", Bool, &[Num, Num]),
    ("($1 BETWEEN $2 AND $3)", Bool, &[Int, Int, Int]),
    ("($1 NOT BETWEEN $2 AND $3)", Bool, &[Date, Date, Date]),
    ("($1 IN ($2, $3))", Bool, &[Int, Int, Int]),
    ("($1 NOT IN ($2, $3))", Bool, &[Text, Text, Text]),
    ("($1 LIKE '%a%')", Bool, &[Text]),
    ("($1 NOT LIKE '_e%')", Bool, &[Text]),
    ("($1 ILIKE 'AL%')", Bool, &[Text]),
    ("($1 ~ '^[a-m]')", Bool, &[Text]),
    ("($1 !~* 'Z')", Bool, &[Text]),
    ("starts_with($1, $2)", Bool, &[Text, Text]),
    ("($1 SIMILAR TO '%(a|e)_?')", Bool, &[Text]),
    ("($1 NOT SIMILAR TO '[a-z]+|!%' ESCAPE '!')", Bool, &[Text]),
    ("($1 LIKE '%!_%' ESCAPE '!')", Bool, &[Text]),
    // Arithmetic: widening, truncation, overflow.
    ("($1 + $2)", Small, &[Small, Small]),
    ("($1 * $2)", Small, &[Small, Small]),
    ("($1 + $2)", Int, &[Int, Int]),
    ("($1 - $2)", Int, &[Int, Small]),
    ("($1 * $2)", Int, &[Int, Int]),
    ("($1 / $2)", Int, &[Int, Int]),
    ("($1 % $2)", Int, &[Int, Int]),
    ("(- $1)", Int, &[Int]),
    ("($1 + $2)", Big, &[Big, Int]),
    ("($1 - $2)", Big, &[Big, Big]),
    ("($1 * $2)", Big, &[Big, Int]),
    ("($1 / $2)", Big, &[Big, Int]),
    ("($1 % $2)", Big, &[Big, Big]),
    ("($1 + $2)", Num, &[Num, Int]),
    ("($1 - $2)", Num, &[Num, Num]),
    ("round($1 * $2, 2)", Num, &[Num, Small]),
    ("round($1 / $2, 4)", Num, &[Num, Num]),
    ("round($1 / $2, 4)", Num, &[Num, Int]),
    ("($1 % $2)", Num, &[Num, Num]),
    ("(- $1)", Num, &[Num]),
    ("($1 + $2)", Float, &[Float, Float]),
    ("($1 * $2)", Float, &[Float, Int]),
    ("($1 / $2)", Float, &[Float, Float]),
    ("($1 - $2)", Float, &[Float, Num]),
    // Numeric functions.
    ("abs($1)", Int, &[Int]),
    ("abs($1)", Num, &[Num]),
    ("abs($1)", Float, &[Float]),
    ("sign($1)", Num, &[Num]),
    ("ceil($1)", Num, &[Num]),
    ("floor($1)", Num, &[Num]),
    ("ceil($1)", Float, &[Float]),
    ("floor($1)", Float, &[Float]),
    ("round($1)", Num, &[Num]),
    ("round($1, 1)", Num, &[Num]),
    ("round($1, -1)", Num, &[Num]),
    ("round($1)", Float, &[Float]),
    ("trunc($1)", Num, &[Num]),
    ("trunc($1, 1)", Num, &[Num]),
    ("trunc($1)", Float, &[Float]),
    ("mod($1, $2)", Int, &[Int, Int]),
    ("mod($1, $2)", Num, &[Num, Num]),
    ("sqrt($1)", Float, &[Float]),
    ("div($1, $2)", Num, &[Num, Num]),
    ("sign($1)", Float, &[Float]),
    ("power($1, 2)", Float, &[Float]),
    ("exp(least(greatest($1, -5.0), 5.0) * 0)", Float, &[Float]),
    ("greatest($1, $2)", Int, &[Int, Int]),
    ("least($1, $2)", Num, &[Num, Num]),
    ("greatest($1, $2)", Date, &[Date, Date]),
    // Conditionals.
    ("coalesce($1, $2)", Int, &[Int, Int]),
    ("coalesce($1, $2)", Text, &[Text, Text]),
    ("coalesce($1, $2)", Num, &[Num, Int]),
    ("nullif($1, $2)", Int, &[Int, Int]),
    ("nullif($1, $2)", Text, &[Text, Text]),
    ("CASE WHEN $1 THEN $2 ELSE $3 END", Int, &[Bool, Int, Int]),
    ("CASE WHEN $1 THEN $2 END", Text, &[Bool, Text]),
    ("CASE WHEN $1 THEN $2 ELSE $3 END", Num, &[Bool, Int, Num]),
    ("CASE $1 WHEN $2 THEN $3 ELSE $4 END", Stamp, &[Int, Int, Stamp, Stamp]),
    ("CASE WHEN $1 THEN $2 ELSE $3 END", Float, &[Bool, Float, Float]),
    ("CASE WHEN $1 THEN $2 ELSE $3 END", Float, &[Bool, Num, Float]),
    ("coalesce($1, $2)", Float, &[Num, Float]),
    ("least($1, $2)", Float, &[Float, Num]),
    ("nullif($1, $2)", Num, &[Int, Num]),
    // Text.
    ("upper($1)", Text, &[Text]),
    ("lower($1)", Text, &[Text]),
    ("initcap($1)", Text, &[Text]),
    ("length($1)", Int, &[Text]),
    ("char_length($1)", Int, &[Text]),
    ("octet_length($1)", Int, &[Text]),
    ("($1 || $2)", Text, &[Text, Text]),
    ("($1 || $2)", Text, &[Text, Int]),
    ("concat($1, $2)", Text, &[Text, Int]),
    ("concat($1, $2, $3)", Text, &[Text, Text, Num]),
    ("concat_ws('-', $1, $2, $3)", Text, &[Text, Text, Text]),
    ("substring($1 from 2 for 3)", Text, &[Text]),
    ("substr($1, 2)", Text, &[Text]),
    ("substr($1, -1, 4)", Text, &[Text]),
    ("left($1, 3)", Text, &[Text]),
    ("left($1, -2)", Text, &[Text]),
    ("right($1, 3)", Text, &[Text]),
    ("right($1, -2)", Text, &[Text]),
    ("replace($1, 'a', 'AA')", Text, &[Text]),
    ("translate($1, 'aeb', 'xy')", Text, &[Text]),
    ("overlay($1 placing 'XX' from 2 for 1)", Text, &[Text]),
    ("position('a' in $1)", Int, &[Text]),
    ("strpos($1, $2)", Int, &[Text, Text]),
    ("trim($1)", Text, &[Text]),
    ("ltrim($1)", Text, &[Text]),
    ("rtrim($1, 'a')", Text, &[Text]),
    ("btrim($1, ' a')", Text, &[Text]),
    ("lpad($1, 6, '*')", Text, &[Text]),
    ("rpad($1, 6)", Text, &[Text]),
    ("repeat($1, 2)", Text, &[Text]),
    ("reverse($1)", Text, &[Text]),
    ("split_part($1, ',', 2)", Text, &[Text]),
    ("split_part($1, 'a', -1)", Text, &[Text]),
    ("ascii($1)", Int, &[Text]),
    ("chr(65 + abs($1 % 26))", Text, &[Int]),
    ("md5($1)", Text, &[Text]),
    ("format('%s|%5s|%L', $1, $2, $3)", Text, &[Text, Int, Text]),
    ("CAST(json_build_object('k', $1, 'v', $2, 't', $3) AS TEXT)", Text, &[Text, Num, Stamp]),
    ("to_hex($1)", Text, &[Big]),
    ("regexp_replace($1, '[aeiou]', '.', 'g')", Text, &[Text]),
    ("regexp_replace($1, '([a-z])', '\\1\\1')", Text, &[Text]),
    // Dates and times.
    ("($1 + $2 % 1000)", Date, &[Date, Int]),
    ("($1 - 30)", Date, &[Date]),
    ("($1 - $2)", Int, &[Date, Date]),
    ("($1 + $2)", Stamp, &[Stamp, Span]),
    ("($1 - $2)", Stamp, &[Stamp, Span]),
    ("($1 - $2)", Span, &[Stamp, Stamp]),
    ("($1 + $2)", Stamp, &[Date, Span]),
    ("($1 + $2)", Tz, &[Tz, Span]),
    ("($1 - $2)", Span, &[Tz, Tz]),
    ("($1 + $2)", Span, &[Span, Span]),
    ("(- $1)", Span, &[Span]),
    ("($1 * 2)", Span, &[Span]),
    ("($1 * -1.5)", Span, &[Span]),
    ("($1 / 3)", Span, &[Span]),
    ("justify_hours($1)", Span, &[Span]),
    ("justify_days($1)", Span, &[Span]),
    ("justify_interval($1)", Span, &[Span]),
    ("nullif($1, $2)", Span, &[Span, Span]),
    ("greatest($1, $2)", Span, &[Span, Span]),
    ("least($1, $2)", Span, &[Span, Span]),
    ("date_trunc('hour', $1)", Stamp, &[Stamp]),
    ("date_trunc('month', $1)", Stamp, &[Stamp]),
    ("date_trunc('week', $1)", Stamp, &[Stamp]),
    ("date_trunc('quarter', $1)", Stamp, &[Stamp]),
    ("date_trunc('day', $1)", Tz, &[Tz]),
    ("date_bin('15 minutes', $1, TIMESTAMP '2001-01-01')", Stamp, &[Stamp]),
    ("extract(year from $1)", Num, &[Date]),
    ("extract(month from $1)", Num, &[Stamp]),
    ("extract(day from $1)", Num, &[Date]),
    ("extract(hour from $1)", Num, &[Stamp]),
    ("extract(minute from $1)", Num, &[Tz]),
    ("extract(second from $1)", Num, &[Stamp]),
    ("extract(dow from $1)", Num, &[Date]),
    ("extract(isodow from $1)", Num, &[Stamp]),
    ("extract(doy from $1)", Num, &[Date]),
    ("extract(week from $1)", Num, &[Date]),
    ("extract(epoch from $1)", Num, &[Stamp]),
    ("extract(quarter from $1)", Num, &[Date]),
    ("date_part('year', $1)", Float, &[Stamp]),
    ("to_char($1, 'YYYY-MM-DD HH24:MI:SS')", Text, &[Stamp]),
    ("to_char($1, 'FMDay DDth Month, YYYY AD HH12:MI:SS.US pm IYYY-IW-ID Q J')", Text, &[Stamp]),
    ("to_char($1, 'YYYY-MM-DD HH24:MI:SS.MS TZH')", Text, &[Tz]),
    ("to_char($1, 'YYYY MM DD HH24:MI:SS.MS HH12')", Text, &[Span]),
    ("to_char($1, '9,999,990.99')", Text, &[Num]),
    ("to_char($1, 'FM99G999G999G999D099')", Text, &[Num]),
    ("to_char($1, 'S0999999999')", Text, &[Int]),
    ("to_char($1, '999PR')", Text, &[Small]),
    ("to_date(CAST($1 AS TEXT), 'YYYY-MM-DD')", Date, &[Date]),
    ("to_timestamp(to_char($1, 'DD Mon YYYY HH24MISSUS'), 'DD Mon YYYY HH24MISSUS')", Tz, &[Stamp]),
    ("to_timestamp($1)", Tz, &[Int]),
    ("age($1, $2)", Span, &[Stamp, Stamp]),
    ("age($1, $2)", Span, &[Tz, Tz]),
    ("date_trunc('week', $1, 'Asia/Kolkata')", Tz, &[Tz]),
    ("date_trunc('month', $1)", Tz, &[Date]),
    ("date_trunc('quarter', $1)", Span, &[Span]),
    // Casts.
    ("CAST($1 AS SMALLINT)", Small, &[Int]),
    ("CAST($1 AS INT)", Int, &[Big]),
    ("CAST($1 AS INT)", Int, &[Num]),
    ("CAST($1 AS INT)", Int, &[Float]),
    ("CAST($1 AS INT)", Int, &[Bool]),
    ("CAST($1 AS BIGINT)", Big, &[Int]),
    ("CAST($1 AS BIGINT)", Big, &[Num]),
    ("CAST($1 AS NUMERIC(10,1))", Num, &[Num]),
    ("CAST($1 AS NUMERIC(14,2))", Num, &[Int]),
    ("CAST($1 AS DOUBLE PRECISION)", Float, &[Num]),
    ("CAST($1 AS DOUBLE PRECISION)", Float, &[Int]),
    ("CAST($1 AS TEXT)", Text, &[Int]),
    ("CAST($1 AS TEXT)", Text, &[Num]),
    ("CAST($1 AS TEXT)", Text, &[Float]),
    ("CAST($1 AS TEXT)", Text, &[Bool]),
    ("CAST($1 AS TEXT)", Text, &[Date]),
    ("CAST($1 AS TEXT)", Text, &[Stamp]),
    ("CAST($1 AS TEXT)", Text, &[Tz]),
    ("CAST($1 AS TEXT)", Text, &[Span]),
    ("CAST($1 AS VARCHAR(3))", Text, &[Text]),
    ("CAST($1 AS INT)", Int, &[Text]),
    ("CAST($1 AS NUMERIC(8,2))", Num, &[Text]),
    ("CAST($1 AS BOOLEAN)", Bool, &[Int]),
    ("CAST($1 AS DATE)", Date, &[Stamp]),
    ("CAST($1 AS TIMESTAMP)", Stamp, &[Date]),
    ("CAST($1 AS TIMESTAMPTZ)", Tz, &[Stamp]),
    ("CAST($1 AS TIMESTAMP)", Stamp, &[Tz]),
];

/// Makes expressions from a random source.
pub struct Generator<'a> {
    random: &'a mut StdRng,
}

impl<'a> Generator<'a> {
    pub fn new(random: &'a mut StdRng) -> Self {
        Generator { random }
    }

    /// An expression of any type, nested at most `depth` deep and not a bare column.
    pub fn any(&mut self, depth: usize) -> Expression {
        let ty = *ALL.choose(self.random).expect("not empty");
        self.shape(ty, depth)
    }

    /// An expression of a type.
    pub fn of(&mut self, ty: Ty, depth: usize) -> Expression {
        match depth {
            0 => self.leaf(ty),
            _ if self.random.random_ratio(1, 3) => self.leaf(ty),
            _ => self.shape(ty, depth),
        }
    }

    fn shape(&mut self, ty: Ty, depth: usize) -> Expression {
        let fitting: Vec<&Shape> = SHAPES.iter().filter(|(_, result, _)| *result == ty).collect();
        let (template, _, arguments) = **fitting.choose(self.random).expect("each type has a shape");
        let parts: Vec<Expression> = arguments.iter().map(|ty| self.of(*ty, depth - 1)).collect();
        let mut sql = template.to_string();
        for (n, part) in parts.iter().enumerate() {
            sql = sql.replace(&format!("${}", n + 1), &part.sql);
        }
        Expression { sql, parts }
    }

    fn leaf(&mut self, ty: Ty) -> Expression {
        let choices: &[&str] = match ty {
            Bool => &["b", "b", "true", "false", "CAST(NULL AS BOOLEAN)"],
            Small => &["s", "s", "CAST(3 AS SMALLINT)", "CAST(-1 AS SMALLINT)"],
            Int => &["i", "id", "i", "0", "1", "-1", "7", "100000", "2147483647", "CAST(NULL AS INT)"],
            Big => &["l", "l", "CAST(2 AS BIGINT)", "3000000000", "CAST(0 AS BIGINT)"],
            Num => &["n", "n", "m", "1.5", "0.0", "-2.345", "100.00", "CAST(NULL AS NUMERIC(8,2))"],
            Float => &["f", "f", "CAST(0.5 AS DOUBLE PRECISION)", "CAST(0 AS DOUBLE PRECISION)"],
            Text => &["c", "c", "w", "'alpha'", "''", "'10'", "'a'", "CAST(NULL AS TEXT)"],
            Date => &["d", "d", "DATE '2024-02-29'", "DATE '1999-12-31'"],
            Stamp => &["ts", "ts", "TIMESTAMP '2024-03-31 01:02:03'"],
            Tz => &["tz", "tz", "TIMESTAMPTZ '2024-03-31 01:02:03+00'"],
            Span => &["iv", "iv", "INTERVAL '1 hour'", "INTERVAL '36 hours'", "INTERVAL '1 month -2 days'"],
        };
        Expression { sql: choices.choose(self.random).expect("not empty").to_string(), parts: Vec::new() }
    }
}
