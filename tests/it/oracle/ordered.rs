//! Random views whose result depends on an order: top-N, DISTINCT ON, and window functions.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::case::{Column, Relation, Ty, WATERMARK_DELAY_S};
use super::view::{Draft, View, pick_relation};

/// The constructs that these views exercise.
pub const CONSTRUCTS: &[&str] = &[
    "order by limit",
    "offset",
    "with ties",
    "row number limit",
    "rank limit",
    "distinct on",
    "over range",
    "over rows",
    "over default frame",
    "ranking",
    "lag lead",
    "first last",
    "filter over",
    "distinct over",
    "spread over",
    "over window close",
];

fn column<'a>(random: &mut StdRng, relation: &'a Relation) -> &'a Column {
    relation.columns.choose(random).expect("a relation has columns")
}

fn sort_key(random: &mut StdRng, column: &Column) -> String {
    let direction = ["", " DESC", " NULLS FIRST", " DESC NULLS LAST"].choose(random).expect("not empty");
    format!("x.{}{direction}", column.name)
}

fn draft_over(random: &mut StdRng, relation: &Relation) -> Draft {
    let from = format!("{} AS x", relation.name);
    let mut draft = Draft { from, reads: vec![relation.name.clone()], ..Draft::default() };
    for _ in 0..random.random_range(1..4) {
        let column = column(random, relation);
        draft.item(format!("x.{}", column.name), column.ty);
    }
    draft
}

/// ORDER BY with a bound on the number of rows.
pub fn top_n(random: &mut StdRng, relations: &[Relation]) -> Draft {
    let relation = pick_relation(random, relations);
    let mut draft = draft_over(random, relation);
    // A column that is not selected could have the name of one that is.
    let (selected, ty) = draft.items.choose(random).expect("a view selects something").clone();
    let name = selected.trim_start_matches("x.").to_string();
    draft.tail = format!(" ORDER BY {}", sort_key(random, &Column { name, ty }));
    if random.random_bool(0.3) {
        draft.tail += &format!(" OFFSET {} ROWS", random.random_range(0..4));
        draft.constructs.push("offset");
    }
    let rows = random.random_range(1..6);
    if random.random_bool(0.3) {
        draft.tail += &format!(" FETCH FIRST {rows} ROWS WITH TIES");
        draft.constructs.push("with ties");
    } else {
        draft.tail += &format!(" FETCH FIRST {rows} ROWS ONLY");
        draft.constructs.push("order by limit");
    }
    draft
}

/// A filter on a row's number or rank in its group.
pub fn numbered(random: &mut StdRng, relations: &[Relation]) -> Draft {
    let relation = pick_relation(random, relations);
    let (group, order) = (column(random, relation), column(random, relation));
    let order = sort_key(random, order);
    let function = *["row_number", "row_number", "rank", "dense_rank"].choose(random).expect("not empty");
    let mut draft = draft_over(random, relation);
    draft.from = format!(
        "(SELECT x.*, {function}() OVER (PARTITION BY x.{} ORDER BY {order}) AS number FROM {} AS x) AS x",
        group.name, relation.name
    );
    if random.random_bool(0.5) {
        draft.item("x.number", Ty::Big);
    }
    let most = random.random_range(1..4);
    draft.tail = match random.random_range(0..3) {
        0 if function == "row_number" => format!(" WHERE x.number = {most}"),
        1 => format!(" WHERE x.number > 1 AND x.number <= {}", most + 1),
        _ => format!(" WHERE x.number <= {most}"),
    };
    draft.constructs.push(if function == "row_number" { "row number limit" } else { "rank limit" });
    draft
}

/// The first row of each group.
pub fn distinct_on(random: &mut StdRng, relations: &[Relation]) -> Draft {
    let relation = pick_relation(random, relations);
    let (group, order) = (column(random, relation), column(random, relation));
    let mut draft = draft_over(random, relation);
    draft.distinct_on = Some(format!("x.{}", group.name));
    if random.random_bool(0.8) {
        let order = sort_key(random, order);
        draft.tail = format!(" ORDER BY x.{}, {order}", group.name);
    }
    draft.constructs.push("distinct on");
    draft
}

/// Window functions over one or two windows.
pub fn over(random: &mut StdRng, relations: &[Relation]) -> Draft {
    let relation = pick_relation(random, relations);
    let mut draft = draft_over(random, relation);
    for _ in 0..random.random_range(1..4) {
        window_function(random, &mut draft, relation);
    }
    draft
}

/// EMIT ON WINDOW CLOSE over the append-only table: holds the rows that the watermark has passed.
pub fn over_closed(random: &mut StdRng, relations: &[Relation], name: String) -> View {
    let relation = relations.iter().find(|relation| relation.watermark.is_some()).expect("an append-only table");
    let from = format!("{} AS x", relation.name);
    let mut draft = Draft { from, reads: vec![relation.name.clone()], ..Draft::default() };
    draft.item("x.ts", Ty::Stamp);
    let (key, argument) = (column(random, relation), column(random, relation));
    draft.item(format!("x.{}", key.name), key.ty);
    let seconds = random.random_range(0..200);
    let frame = match random.random_range(0..3) {
        0 => "ROWS BETWEEN 2 PRECEDING AND CURRENT ROW".to_string(),
        _ => format!("RANGE BETWEEN INTERVAL '{seconds} seconds' PRECEDING AND CURRENT ROW"),
    };
    aggregate(random, &mut draft, argument, &format!("OVER (PARTITION BY x.{} ORDER BY x.ts {frame})", key.name));
    draft.constructs.push("over window close");
    let mut view = draft.into_view(name);
    view.emit_on_window_close = true;
    view.expected = format!(
        "SELECT * FROM ({}) AS w WHERE c0 < (SELECT max(ts) - INTERVAL '{WATERMARK_DELAY_S} seconds' FROM {})",
        view.sql, relation.name
    );
    view
}

fn window_function(random: &mut StdRng, draft: &mut Draft, relation: &Relation) {
    let partition = match random.random_bool(0.7) {
        true => format!("PARTITION BY x.{} ", column(random, relation).name),
        false => String::new(),
    };
    let order = column(random, relation);
    let sorted = sort_key(random, order);
    let argument = column(random, relation);
    let name = format!("x.{}", argument.name);
    let window = |frame: &str| format!("OVER ({partition}ORDER BY {sorted}{frame})");
    match random.random_range(0..8) {
        0 => {
            let (call, ty) = match random.random_range(0..6) {
                0 => ("row_number()", Ty::Big),
                1 => ("rank()", Ty::Big),
                2 => ("dense_rank()", Ty::Big),
                3 => ("ntile(3)", Ty::Int),
                4 => ("percent_rank()", Ty::Num),
                _ => ("cume_dist()", Ty::Num),
            };
            let call = format!("{call} {}", window(""));
            draft.item(if ty == Ty::Num { format!("CAST({call} AS DECIMAL(12,6))") } else { call }, ty);
            draft.constructs.push("ranking");
        }
        1 => {
            let call = match random.random_range(0..3) {
                0 => format!("lag({name})"),
                1 => format!("lead({name}, 2)"),
                _ => format!("lag({name}, 1, {name})"),
            };
            draft.item(format!("{call} {}", window("")), argument.ty);
            draft.constructs.push("lag lead");
        }
        2 => {
            let frame = rows_frame(random);
            let call = match random.random_range(0..4) {
                0 => format!("last_value({name}) {}", window(&frame)),
                1 => format!("nth_value({name}, 2) {}", window(&frame)),
                2 => format!("first_value({name}) {}", window(&frame)),
                _ => format!("first_value({name}) {}", window("")),
            };
            draft.item(call, argument.ty);
            draft.constructs.push("first last");
        }
        3 => {
            let frame = rows_frame(random);
            aggregate(random, draft, argument, &window(&frame));
            draft.constructs.push("over rows");
        }
        4 => {
            let spec = if random.random_bool(0.2) { format!("OVER ({partition})") } else { window("") };
            aggregate(random, draft, argument, &spec);
            draft.constructs.push("over default frame");
        }
        _ => {
            let timed: Vec<&Column> =
                relation.columns.iter().filter(|c| matches!(c.ty, Ty::Stamp | Ty::Int | Ty::Big | Ty::Num)).collect();
            let Some(order) = timed.choose(random) else { return draft.item("count(*) OVER ()", Ty::Big) };
            let sorted = sort_key(random, order);
            let distance = |random: &mut StdRng| match order.ty {
                Ty::Stamp => format!("INTERVAL '{} seconds'", random.random_range(0..150)),
                Ty::Num => format!("{}.5", random.random_range(0..80)),
                _ => random.random_range(0..20).to_string(),
            };
            let frame = match random.random_range(0..5) {
                0 => format!("RANGE BETWEEN {} PRECEDING AND {} FOLLOWING", distance(random), distance(random)),
                1 => format!("RANGE BETWEEN {} PRECEDING AND UNBOUNDED FOLLOWING", distance(random)),
                2 => format!("RANGE {} PRECEDING", distance(random)),
                _ => format!("RANGE BETWEEN {} PRECEDING AND CURRENT ROW", distance(random)),
            };
            aggregate(random, draft, argument, &format!("OVER ({partition}ORDER BY {sorted} {frame})"));
            draft.constructs.push("over range");
        }
    }
}

fn rows_frame(random: &mut StdRng) -> String {
    let frame = match random.random_range(0..5) {
        0 => "2 PRECEDING AND CURRENT ROW",
        1 => "1 PRECEDING AND 1 FOLLOWING",
        2 => "UNBOUNDED PRECEDING AND CURRENT ROW",
        3 => "UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING",
        _ => "3 PRECEDING AND 1 PRECEDING",
    };
    format!(" ROWS BETWEEN {frame}")
}

fn aggregate(random: &mut StdRng, draft: &mut Draft, argument: &Column, window: &str) {
    let name = format!("x.{}", argument.name);
    let filter = match random.random_bool(0.2) {
        true => {
            draft.constructs.push("filter over");
            format!("FILTER (WHERE {name} IS NOT NULL) ")
        }
        false => String::new(),
    };
    match (random.random_range(0..8), argument.ty) {
        (7, Ty::Int | Ty::Big | Ty::Num) => {
            draft.constructs.push("spread over");
            let function = *["stddev", "var_pop"].choose(random).expect("not empty");
            // As text: what is compared is every digit of the double.
            draft.item(format!("CAST({function}({name}) {filter}{window} AS TEXT)"), Ty::Text);
        }
        (0, _) => draft.item(format!("count(*) {filter}{window}"), Ty::Big),
        (1, _) => draft.item(format!("count({name}) {filter}{window}"), Ty::Big),
        (2, Ty::Int) => draft.item(format!("sum({name}) {filter}{window}"), Ty::Big),
        (2, Ty::Big | Ty::Num) => draft.item(format!("sum({name}) {filter}{window}"), Ty::Num),
        (3, Ty::Int | Ty::Big | Ty::Num) => draft.item(format!("avg({name}) {filter}{window}"), Ty::Num),
        (4, _) => {
            draft.constructs.push("distinct over");
            draft.item(format!("count(DISTINCT {name}) {window}"), Ty::Big);
        }
        (5, ty) => draft.item(format!("min({name}) {filter}{window}"), ty),
        (_, ty) => draft.item(format!("max({name}) {filter}{window}"), ty),
    }
}
