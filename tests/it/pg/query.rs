//! Random SELECTs over the tables `v` and `g`: joins, grouping, set operations, subqueries, ordering.
//!
//! Each is ordered by all its columns, so that the answer is one list of rows on both servers.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::expression::{Generator, Ty};

const AGGREGATES: &[&str] = &[
    "count(*)",
    "count(n)",
    "count(DISTINCT i)",
    "sum(i)",
    "sum(s)",
    "sum(l / 1000)",
    "sum(n)",
    "sum(f)",
    "round(avg(i), 4)",
    "round(avg(n), 4)",
    "avg(f)",
    "min(n)",
    "max(l)",
    "min(c)",
    "max(d)",
    "min(ts)",
    "max(tz)",
    "min(iv)",
    "max(iv)",
    "count(DISTINCT iv)",
    "bool_and(b)",
    "bool_or(b)",
    "count(*) FILTER (WHERE b)",
    "sum(i) FILTER (WHERE n > 0)",
    "string_agg(c, ',' ORDER BY id)",
    "percentile_disc(0.4) WITHIN GROUP (ORDER BY d)",
    "percentile_cont(0.25) WITHIN GROUP (ORDER BY i)",
];

const KEYS: &[&str] =
    &["b", "i", "s % 3", "w", "length(c)", "d", "extract(year from ts)", "n > 0", "date_trunc('year', ts)", "iv"];

/// A query of one of the kinds below.
pub fn generate(random: &mut StdRng) -> String {
    match random.random_range(0..9) {
        0 => grouped(random),
        1 => scalar_aggregates(random),
        2 => join(random),
        3 => outer_join_grouped(random),
        4 => set_operation(random),
        5 => subquery(random),
        6 => limited(random),
        7 => windowed(random),
        _ => distinct(random),
    }
}

fn pick<'a>(random: &mut StdRng, choices: &[&'a str]) -> &'a str {
    choices.choose(random).expect("not empty")
}

/// `1, 2, … n`, for ORDER BY.
fn positions(n: usize) -> String {
    (1..=n).map(|n| n.to_string()).collect::<Vec<_>>().join(", ")
}

fn condition(random: &mut StdRng) -> String {
    Generator::new(random).of(Ty::Bool, 2).sql
}

fn grouped(random: &mut StdRng) -> String {
    let (key, first, second) = (pick(random, KEYS), pick(random, AGGREGATES), pick(random, AGGREGATES));
    let condition = if random.random_bool(0.5) { format!(" WHERE {}", condition(random)) } else { String::new() };
    let having = pick(random, &["", "", " HAVING count(*) > 1", " HAVING max(id) < 9"]);
    format!("SELECT {key} AS k, {first} AS x, {second} AS y FROM v{condition} GROUP BY {key}{having} ORDER BY 1, 2, 3")
}

fn scalar_aggregates(random: &mut StdRng) -> String {
    let (first, second) = (pick(random, AGGREGATES), pick(random, AGGREGATES));
    format!("SELECT {first}, {second} FROM v WHERE {}", condition(random))
}

fn join(random: &mut StdRng) -> String {
    let kind = pick(random, &["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
    let on = pick(random, &["v.i = g.k", "v.w = g.name", "v.d = g.day", "v.i = g.k AND v.w = g.name"]);
    let value = pick(random, &["v.n + g.amount", "coalesce(v.c, g.name)", "g.day - v.d", "v.i * g.k"]);
    format!("SELECT v.id, g.k, g.name, g.amount, {value} FROM v {kind} g ON {on} ORDER BY {}", positions(5))
}

fn outer_join_grouped(random: &mut StdRng) -> String {
    let aggregate = pick(random, &["count(g.k)", "sum(g.amount)", "max(g.day)", "count(*)", "min(g.name)"]);
    format!("SELECT v.id, {aggregate} AS x FROM v LEFT JOIN g ON v.i = g.k GROUP BY v.id ORDER BY 1, 2")
}

fn set_operation(random: &mut StdRng) -> String {
    let operation = pick(random, &["UNION", "UNION ALL", "INTERSECT", "EXCEPT", "EXCEPT ALL", "INTERSECT ALL"]);
    let (left, right) = *[
        ("SELECT i, n FROM v", "SELECT k, amount FROM g"),
        ("SELECT d, w FROM v", "SELECT day, name FROM g"),
        ("SELECT l, n FROM v", "SELECT k, 1 FROM g"),
        ("SELECT s, NULL FROM v", "SELECT k, name FROM g"),
    ]
    .choose(random)
    .expect("not empty");
    format!("{left} {operation} {right} ORDER BY 1, 2")
}

fn subquery(random: &mut StdRng) -> String {
    let condition = pick(
        random,
        &[
            "i IN (SELECT k FROM g)",
            "i NOT IN (SELECT k FROM g WHERE k IS NOT NULL)",
            "i NOT IN (SELECT k FROM g)",
            "EXISTS (SELECT 1 FROM g WHERE g.k = v.i)",
            "NOT EXISTS (SELECT 1 FROM g WHERE g.name = v.w)",
            "n > (SELECT avg(amount) FROM g)",
            "n > (SELECT max(amount) FROM g WHERE g.k = v.i)",
        ],
    );
    format!("SELECT id, i, w FROM v WHERE {condition} ORDER BY 1")
}

fn limited(random: &mut StdRng) -> String {
    let key = pick(random, &["n", "c", "d", "f", "ts", "b", "l"]);
    let order = pick(random, &["", " DESC", " NULLS FIRST", " DESC NULLS LAST"]);
    let (limit, offset) = (random.random_range(1..8), random.random_range(0..5));
    format!("SELECT id, {key} FROM v ORDER BY {key}{order}, id LIMIT {limit} OFFSET {offset}")
}

fn windowed(random: &mut StdRng) -> String {
    const NUMBERED: &[&str] = &["row_number()", "rank()", "dense_rank()", "ntile(3)", "lag(n)", "lead(c, 2)"];
    const FRAMED: &[&str] = &["sum(i)", "count(*)", "count(n)", "min(d)", "max(n)", "first_value(w)", "last_value(s)"];
    let partition =
        pick(random, &["", "PARTITION BY b ", "PARTITION BY w ", "PARTITION BY s % 3 ", "PARTITION BY iv "]);
    let (function, frame) = if random.random_bool(0.5) {
        (pick(random, NUMBERED), "")
    } else {
        let frames = ["", " ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING", " ROWS UNBOUNDED PRECEDING"];
        (pick(random, FRAMED), pick(random, &frames))
    };
    format!("SELECT id, {function} OVER ({partition}ORDER BY id{frame}) AS x FROM v ORDER BY 1")
}

fn distinct(random: &mut StdRng) -> String {
    let key = pick(random, KEYS);
    format!("SELECT DISTINCT {key} AS k FROM v WHERE {} ORDER BY 1", condition(random))
}
