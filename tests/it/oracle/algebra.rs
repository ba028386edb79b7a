//! Random continuous views of the larger algebra: outer and non-equi joins, subqueries, set operations, DISTINCT.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::case::{Column, Relation, Ty};
use super::view::{Draft, View, aggregates, branch, columns_of, expression, join_side, keys, pick_relation, predicate};

/// The constructs of this file, for the coverage table.
pub const CONSTRUCTS: &[&str] = &[
    "left join",
    "right join",
    "full join",
    "outer join with condition",
    "outer join of outer join",
    "non-equi join",
    "interval join",
    "asof join",
    "exists",
    "not exists",
    "in",
    "not in",
    "any or all",
    "correlated in",
    "in within or",
    "scalar subquery",
    "correlated scalar subquery",
    "lateral",
    "union",
    "intersect",
    "intersect all",
    "except",
    "except all",
    "distinct",
];

/// A view of one of the kinds of this file.
pub fn generate(random: &mut StdRng, relations: &[Relation], name: String) -> View {
    match random.random_range(0..14) {
        0..3 => outer_join(random, relations).into_view(name),
        3 => non_equi_join(random, relations).into_view(name),
        4 => exists(random, relations).into_view(name),
        5 | 6 => in_subquery(random, relations).into_view(name),
        7 | 8 => scalar_subquery(random, relations).into_view(name),
        9 => interval_join(random, relations).into_view(name),
        10 | 11 => set_operation(random, relations, name),
        12 => asof_join(random, relations).into_view(name),
        _ => distinct(random, relations).into_view(name),
    }
}

/// `FROM relation AS x`, with one or two expressions selected.
fn from_one<'a>(random: &mut StdRng, relations: &'a [Relation]) -> (Draft, &'a Relation) {
    let relation = pick_relation(random, relations);
    let mut draft =
        Draft { from: format!("{} AS x", relation.name), reads: vec![relation.name.clone()], ..Draft::default() };
    for _ in 0..random.random_range(1..3) {
        let one = relation.columns.choose(random).expect("a relation has columns");
        let (sql, ty) = expression(random, "x.", one);
        draft.item(sql, ty);
    }
    (draft, relation)
}

/// A column of `relation` of a type, or something of that type that is made of another column.
fn column(random: &mut StdRng, prefix: &str, relation: &Relation, ty: Ty) -> String {
    if let Some(name) = columns_of(relation, ty).choose(random) {
        return format!("{prefix}{name}");
    }
    let text = format!("CAST({prefix}{} AS VARCHAR)", relation.columns[0].name);
    if ty == Ty::Text { text } else { format!("CAST(length({text}) AS {})", ty.sql()) }
}

/// An equality between `x` and `y` on columns of one type.
fn correlation(random: &mut StdRng, left: &Relation, right: &Relation) -> String {
    let ty = *[Ty::Int, Ty::Text, Ty::Big].choose(random).expect("not empty");
    format!("{} = {}", column(random, "x.", left, ty), column(random, "y.", right, ty))
}

/// An equality between plain columns of `x` and `y`, if they have columns of one type.
fn plain_correlation(random: &mut StdRng, left: &Relation, right: &Relation) -> Option<String> {
    let mut types = [Ty::Int, Ty::Text, Ty::Big, Ty::Num, Ty::Stamp];
    types.shuffle(random);
    types.into_iter().find_map(|ty| {
        let (left, right) = (columns_of(left, ty), columns_of(right, ty));
        Some(format!("x.{} = y.{}", left.choose(random)?, right.choose(random)?))
    })
}

/// A comparison of numbers of two relations.
fn comparison(random: &mut StdRng, left: (&str, &Relation), right: (&str, &Relation)) -> String {
    let ty = |random: &mut StdRng| *[Ty::Int, Ty::Big, Ty::Num].choose(random).expect("not empty");
    let op = *["<", ">=", "<>"].choose(random).expect("not empty");
    let (l, r) = (ty(random), ty(random));
    let left = column(random, left.0, left.1, l);
    format!("{left} {op} {}", column(random, right.0, right.1, r))
}

fn outer_join(random: &mut StdRng, relations: &[Relation]) -> Draft {
    let mut draft = Draft::default();
    let mut joined: Vec<(String, &Relation)> = Vec::new();
    let sides = random.random_range(2..4);
    for n in 0..sides {
        let alias = format!("x{n}");
        let (relation, on) = join_side(random, relations, &joined, &alias);
        let (words, construct) =
            *[("LEFT JOIN", "left join"), ("RIGHT JOIN", "right join"), ("FULL JOIN", "full join")]
                .choose(random)
                .expect("not empty");
        draft.reads.push(relation.name.clone());
        if n == 0 {
            draft.from = format!("{} AS {alias}", relation.name);
        } else {
            draft.from += &format!(" {words} {} AS {alias} ON {on}", relation.name);
            draft.constructs.push(construct);
            if random.random_bool(0.4) {
                let (other, of) = joined.choose(random).expect("not the first side");
                let left = format!("{other}.");
                draft.from += &format!(" AND {}", comparison(random, (&left, of), (&format!("{alias}."), relation)));
                draft.constructs.push("outer join with condition");
            }
        }
        joined.push((alias, relation));
    }
    if sides > 2 {
        draft.constructs.push("outer join of outer join");
    }
    let (alias, relation) = joined.choose(random).expect("not empty").clone();
    if sides > 2 || random.random_bool(0.3) {
        let keys = keys(random, &mut draft, &format!("{alias}."), relation, 1);
        let (alias, relation) = joined.choose(random).expect("not empty").clone();
        aggregates(random, &mut draft, &format!("{alias}."), relation);
        draft.tail = format!(" GROUP BY {}", keys.join(", "));
        return draft;
    }
    for (alias, relation) in &joined {
        let one = relation.columns.choose(random).expect("a relation has columns");
        let (sql, ty) = expression(random, &format!("{alias}."), one);
        draft.item(sql, ty);
    }
    if random.random_bool(0.3) {
        draft.tail = format!(" WHERE {}", predicate(random, &format!("{alias}."), relation));
    }
    draft
}

fn non_equi_join(random: &mut StdRng, relations: &[Relation]) -> Draft {
    let (left, right) = (pick_relation(random, relations), pick_relation(random, relations));
    let on = comparison(random, ("x.", left), ("y.", right));
    let mut draft = Draft {
        from: format!("{} AS x JOIN {} AS y ON {on}", left.name, right.name),
        reads: vec![left.name.clone(), right.name.clone()],
        constructs: vec!["non-equi join"],
        ..Draft::default()
    };
    let keys = keys(random, &mut draft, "x.", left, 1);
    aggregates(random, &mut draft, "y.", right);
    draft.tail = format!(" GROUP BY {}", keys.join(", "));
    draft
}

/// A bound between the times of two append-only inputs, whose watermarks free what is too old to be met.
fn interval_join(random: &mut StdRng, relations: &[Relation]) -> Draft {
    let timed = relations.iter().find(|relation| relation.watermark.is_some()).expect("an append-only table");
    let (before, after) = (random.random_range(0..120), random.random_range(0..90));
    let words = if random.random_bool(0.4) { "LEFT JOIN" } else { "JOIN" };
    let key = if random.random_bool(0.7) { "x.k = y.k AND " } else { "" };
    let from = format!("x.ts >= y.ts - INTERVAL '{before} seconds'");
    let until = format!("x.ts <= y.ts + INTERVAL '{after} seconds'");
    // With one bound only the rows of one side are forgotten.
    let bound = match random.random_range(0..6) {
        0 => from,
        1 => until,
        _ => format!("{from} AND {until}"),
    };
    let mut draft = Draft {
        from: format!("{0} AS x {words} {0} AS y ON {key}{bound}", timed.name),
        reads: vec![timed.name.clone()],
        constructs: vec!["interval join"],
        ..Draft::default()
    };
    draft.item("x.v", Ty::Big);
    draft.item("y.v", Ty::Big);
    draft.item("x.ts", Ty::Stamp);
    draft.item("y.ts", Ty::Stamp);
    draft
}

fn exists(random: &mut StdRng, relations: &[Relation]) -> Draft {
    let (mut draft, relation) = from_one(random, relations);
    let other = pick_relation(random, relations);
    draft.reads.push(other.name.clone());
    let mut conditions = vec![correlation(random, relation, other)];
    if random.random_bool(0.4) {
        conditions.push(comparison(random, ("x.", relation), ("y.", other)));
    }
    if random.random_bool(0.4) {
        conditions.push(predicate(random, "y.", other));
    }
    let (not, construct) = if random.random_bool(0.5) { ("NOT ", "not exists") } else { ("", "exists") };
    draft.constructs.push(construct);
    let subquery = format!("{not}EXISTS (SELECT 1 FROM {} AS y WHERE {})", other.name, conditions.join(" AND "));
    draft.tail = match random.random_bool(0.3) {
        true => format!(" WHERE {subquery} OR {}", predicate(random, "x.", relation)),
        false => format!(" WHERE {subquery}"),
    };
    draft
}

fn in_subquery(random: &mut StdRng, relations: &[Relation]) -> Draft {
    let (mut draft, relation) = from_one(random, relations);
    let other = pick_relation(random, relations);
    draft.reads.push(other.name.clone());
    let ty = *[Ty::Int, Ty::Text, Ty::Big].choose(random).expect("not empty");
    let x = column(random, "x.", relation, ty);
    let y = column(random, "y.", other, ty);
    let mut conditions = Vec::new();
    if random.random_bool(0.4) {
        conditions.push(correlation(random, relation, other));
        draft.constructs.push("correlated in");
    }
    if random.random_bool(0.5) {
        conditions.push(predicate(random, "y.", other));
    }
    let filter = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    let (words, construct) = match random.random_range(0..10) {
        0..4 => ("NOT IN", "not in"),
        4..7 => ("IN", "in"),
        _ => (*["= ANY", "<> ANY", "< ANY", ">= ALL", "<> ALL"].choose(random).expect("not empty"), "any or all"),
    };
    draft.constructs.push(construct);
    let subquery = format!("{x} {words} (SELECT {y} FROM {} AS y{filter})", other.name);
    draft.tail = match random.random_range(0..4) {
        0 => {
            draft.constructs.push("in within or");
            format!(" WHERE {subquery} OR {}", predicate(random, "x.", relation))
        }
        1 => format!(" WHERE NOT ({subquery})"),
        2 => format!(" WHERE ({subquery}) IS NULL"),
        _ => format!(" WHERE {subquery}"),
    };
    draft
}

fn scalar_subquery(random: &mut StdRng, relations: &[Relation]) -> Draft {
    let (mut draft, relation) = from_one(random, relations);
    let other = pick_relation(random, relations);
    draft.reads.push(other.name.clone());
    let ty = *[Ty::Int, Ty::Big, Ty::Num].choose(random).expect("not empty");
    let value = column(random, "y.", other, ty);
    let (function, result) = [("max", ty), ("min", ty), ("count", Ty::Big)].choose(random).copied().expect("not empty");
    let mut filter = String::new();
    if random.random_bool(0.5) {
        filter = format!(" WHERE {}", predicate(random, "y.", other));
    }
    // A correlated aggregate is kept only where plain columns correlate it.
    let correlation = plain_correlation(random, relation, other);
    match (random.random_range(0..4), correlation) {
        (2, Some(on)) => {
            draft.constructs.push("lateral");
            draft.from +=
                &format!(", LATERAL (SELECT {function}({value}) AS f FROM {} AS y WHERE {on}) AS z", other.name);
            draft.item("z.f", result);
        }
        (3, Some(on)) => {
            draft.constructs.push("correlated scalar subquery");
            draft.item(format!("(SELECT {function}({value}) FROM {} AS y WHERE {on})", other.name), result);
        }
        (0, _) => {
            draft.constructs.push("scalar subquery");
            let x = column(random, "x.", relation, ty);
            draft.tail = format!(" WHERE {x} >= (SELECT {function}({value}) FROM {} AS y{filter})", other.name);
        }
        _ => {
            draft.constructs.push("scalar subquery");
            draft.item(format!("(SELECT {function}({value}) FROM {} AS y{filter})", other.name), result);
        }
    }
    draft
}

fn asof_join(random: &mut StdRng, relations: &[Relation]) -> Draft {
    let (mut draft, relation) = from_one(random, relations);
    let other = pick_relation(random, relations);
    draft.reads.push(other.name.clone());
    draft.constructs.push("asof join");
    let words = *["ASOF JOIN", "ASOF LEFT JOIN"].choose(random).expect("not empty");
    let op = *[">=", ">", "<=", "<"].choose(random).expect("not empty");
    let time = *[Ty::Stamp, Ty::Stamp, Ty::Int, Ty::Big, Ty::Num].choose(random).expect("not empty");
    let (left, right) = (columns_of(relation, time), columns_of(other, time));
    let (left, right) = match (left.choose(random), right.choose(random)) {
        (Some(left), Some(right)) => (format!("x.{left}"), format!("y.{right}")),
        _ => (column(random, "x.", relation, Ty::Text), column(random, "y.", other, Ty::Text)),
    };
    let mut on = format!("{left} {op} {right}");
    if random.random_bool(0.8) {
        on = format!("{} AND {on}", correlation(random, relation, other));
    }
    draft.from += &format!(" {words} {} AS y ON {on}", other.name);
    for _ in 0..random.random_range(1..3) {
        let one = other.columns.choose(random).expect("a relation has columns");
        let (sql, ty) = expression(random, "y.", one);
        draft.item(sql, ty);
    }
    if random.random_bool(0.3) {
        draft.tail = format!(" WHERE {}", predicate(random, "y.", other));
    }
    draft
}

fn set_operation(random: &mut StdRng, relations: &[Relation], name: String) -> View {
    let mut types = vec![Ty::Int, Ty::Big, Ty::Num, Ty::Text, Ty::Stamp];
    types.shuffle(random);
    types.truncate(random.random_range(1..3));
    let (mut reads, mut constructs) = (Vec::new(), Vec::new());
    let mut sql = String::new();
    for n in 0..random.random_range(2..4) {
        let (side, read) = branch(random, relations, &types);
        reads.push(read);
        if n == 0 {
            sql = side;
            continue;
        }
        let operations = [
            ("UNION", "union"),
            ("INTERSECT", "intersect"),
            ("INTERSECT ALL", "intersect all"),
            ("EXCEPT", "except"),
            ("EXCEPT ALL", "except all"),
        ];
        let (words, construct) = *operations.choose(random).expect("not empty");
        sql = format!("({sql}) {words} ({side})");
        constructs.push(construct);
    }
    let columns = types.iter().enumerate().map(|(n, ty)| Column { name: format!("c{n}"), ty: *ty }).collect();
    View {
        relation: Relation { name, columns, watermark: None },
        expected: sql.clone(),
        sql,
        emit_on_window_close: false,
        state_ttl: false,
        reads,
        constructs,
    }
}

fn distinct(random: &mut StdRng, relations: &[Relation]) -> Draft {
    let (mut draft, relation) = from_one(random, relations);
    draft.distinct = true;
    draft.constructs.push("distinct");
    if random.random_bool(0.5) {
        draft.tail = format!(" WHERE {}", predicate(random, "x.", relation));
    }
    draft
}
