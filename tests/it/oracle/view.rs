//! Random continuous views: filter, project, UNION ALL, GROUP BY, TUMBLE, HOP, inner joins, views on views; more in `algebra`,
//! those with an order in `ordered`.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::algebra;
use super::case::{Column, Relation, Ty, WATERMARK_DELAY_S};
use super::ordered;

/// A view of a case.
#[derive(Debug, Clone)]
pub struct View {
    pub relation: Relation,
    pub sql: String,
    pub emit_on_window_close: bool,
    /// Whether it is made with a `state_ttl` that outlasts the case, where that is supported.
    pub state_ttl: bool,
    /// The SELECT whose batch result the view must hold; not `sql` itself where only closed windows count.
    pub expected: String,
    pub reads: Vec<String>,
    /// The constructs that the view exercises, for the coverage table.
    pub constructs: Vec<&'static str>,
}

impl View {
    pub fn ddl(&self) -> String {
        let emit = if self.emit_on_window_close { " EMIT ON WINDOW CLOSE" } else { "" };
        format!("CREATE MATERIALIZED VIEW {} AS {}{emit}", self.relation.name, self.sql)
    }

    /// The same with the option.
    pub fn ddl_with_ttl(&self) -> String {
        let name = &self.relation.name;
        let plain = format!("CREATE MATERIALIZED VIEW {name} AS ");
        self.ddl().replacen(&plain, &format!("CREATE MATERIALIZED VIEW {name} WITH (state_ttl = '1 day') AS "), 1)
    }
}

/// Every construct that a run must have met.
pub const CONSTRUCTS: &[&str] = &[
    "filter",
    "project",
    "union all",
    "group by",
    "grouping sets",
    "rollup",
    "cube",
    "global aggregate",
    "having",
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "bit_or",
    "bool_and",
    "string_agg",
    "percentile_disc",
    "percentile_cont",
    "mode",
    "aggregate of distinct values",
    "aggregate with filter",
    "tumble",
    "hop",
    "cumulate",
    "session",
    "window close",
    "session close",
    "session rows close",
    "window join close",
    "join",
    "three-way join",
    "join with condition",
    "view on view",
    "window rows",
];

/// A SELECT in the making.
#[derive(Default)]
pub struct Draft {
    pub items: Vec<(String, Ty)>,
    pub distinct: bool,
    pub distinct_on: Option<String>,
    pub from: String,
    pub tail: String,
    pub reads: Vec<String>,
    pub constructs: Vec<&'static str>,
}

impl Draft {
    pub fn item(&mut self, sql: impl Into<String>, ty: Ty) {
        self.items.push((sql.into(), ty));
    }

    fn sql(&self) -> String {
        let items: Vec<String> = self.items.iter().enumerate().map(|(n, (sql, _))| format!("{sql} AS c{n}")).collect();
        let distinct = match &self.distinct_on {
            Some(on) => format!("DISTINCT ON ({on}) "),
            None if self.distinct => "DISTINCT ".to_string(),
            None => String::new(),
        };
        format!("SELECT {distinct}{} FROM {}{}", items.join(", "), self.from, self.tail)
    }

    pub fn into_view(self, name: String) -> View {
        let columns = self.items.iter().enumerate().map(|(n, (_, ty))| Column { name: format!("c{n}"), ty: *ty });
        View {
            relation: Relation { name, columns: columns.collect(), watermark: None },
            expected: self.sql(),
            sql: self.sql(),
            emit_on_window_close: false,
            state_ttl: false,
            reads: self.reads,
            constructs: self.constructs,
        }
    }
}

/// View number `n` over some of the relations; later ones, so views, are preferred a little.
pub fn generate(random: &mut StdRng, n: usize, relations: &[Relation]) -> View {
    let name = format!("v{n}");
    let mut view = match random.random_range(0..22) {
        0 => filter_project(random, relations).into_view(name),
        1 => union_all(random, relations, name),
        2 | 3 => grouped(random, relations).into_view(name),
        4 => global_aggregate(random, relations).into_view(name),
        5 => windowed(random, relations).into_view(name),
        6 => on_window_close(random, relations, name),
        7 => join(random, relations, 2).into_view(name),
        8 => join(random, relations, 3).into_view(name),
        9 => ordered::top_n(random, relations).into_view(name),
        10 => ordered::numbered(random, relations).into_view(name),
        11 => ordered::distinct_on(random, relations).into_view(name),
        12 | 13 => ordered::over(random, relations).into_view(name),
        14 => ordered::over_closed(random, relations, name),
        15 => windows_joined(random, relations, name),
        _ => algebra::generate(random, relations, name),
    };
    view.state_ttl = random.random_bool(0.4);
    if view.reads.iter().any(|read| read.starts_with('v')) {
        view.constructs.push("view on view");
    }
    view
}

pub fn pick_relation<'a>(random: &mut StdRng, relations: &'a [Relation]) -> &'a Relation {
    match relations.last() {
        Some(last) if relations.len() > 3 && random.random_bool(0.4) => last,
        _ => relations.choose(random).expect("not empty"),
    }
}

pub fn columns_of(relation: &Relation, ty: Ty) -> Vec<&str> {
    relation.columns.iter().filter(|column| column.ty == ty).map(|column| column.name.as_str()).collect()
}

/// An expression over one column.
pub fn expression(random: &mut StdRng, prefix: &str, column: &Column) -> (String, Ty) {
    let name = format!("{prefix}{}", column.name);
    let plain = random.random_bool(0.5);
    match column.ty {
        _ if plain => (name, column.ty),
        Ty::Int => match random.random_range(0..3) {
            0 => (format!("{name} + 1"), Ty::Int),
            1 => (format!("coalesce({name}, -1)"), Ty::Int),
            _ => (format!("CASE WHEN {name} > 2 THEN 1 ELSE 0 END"), Ty::Int),
        },
        Ty::Big => match random.random_range(0..3) {
            0 => (format!("{name} % 7"), Ty::Big),
            1 => (format!("abs({name})"), Ty::Big),
            _ => (format!("-{name}"), Ty::Big),
        },
        Ty::Num => (format!("CAST({name} AS DECIMAL(14,1))"), Ty::Num),
        Ty::Text => match random.random_range(0..2) {
            0 => (format!("upper({name})"), Ty::Text),
            _ => (format!("{name} || 'x'"), Ty::Text),
        },
        Ty::Stamp => (format!("date_trunc('minute', {name})"), Ty::Stamp),
    }
}

pub fn predicate(random: &mut StdRng, prefix: &str, relation: &Relation) -> String {
    let column = relation.columns.choose(random).expect("a relation has columns");
    let name = format!("{prefix}{}", column.name);
    match (column.ty, random.random_range(0..4)) {
        (_, 0) => format!("{name} IS NOT NULL"),
        (Ty::Int, _) => format!("{name} <= {}", random.random_range(1..5)),
        (Ty::Big, 1) => format!("({name} > 5 OR {name} IS NULL)"),
        (Ty::Big, _) => format!("{name} % 3 <> 1"),
        (Ty::Num, _) => format!("{name} > {}.25", random.random_range(-20..200)),
        (Ty::Text, 1) => format!("{name} IN ('a', 'b', 'A', '')"),
        (Ty::Text, _) => format!("{name} <> 'c'"),
        (Ty::Stamp, _) => format!("{name} >= TIMESTAMP '2024-05-01 00:02:00'"),
    }
}

fn filter_project(random: &mut StdRng, relations: &[Relation]) -> Draft {
    let relation = pick_relation(random, relations);
    let mut draft = Draft { from: relation.name.clone(), reads: vec![relation.name.clone()], ..Draft::default() };
    for _ in 0..random.random_range(1..4) {
        let column = relation.columns.choose(random).expect("a relation has columns");
        let (sql, ty) = expression(random, "", column);
        draft.item(sql, ty);
    }
    draft.constructs.push("project");
    if random.random_bool(0.8) {
        draft.tail = format!(" WHERE {}", predicate(random, "", relation));
        draft.constructs.push("filter");
    }
    draft
}

fn union_all(random: &mut StdRng, relations: &[Relation], name: String) -> View {
    // Both branches give one column of each of some types, in the same order.
    let mut types = vec![Ty::Int, Ty::Big, Ty::Num, Ty::Text, Ty::Stamp];
    types.shuffle(random);
    types.truncate(random.random_range(1..4));
    let (mut branches, mut reads) = (Vec::new(), Vec::new());
    for _ in 0..random.random_range(2..4) {
        let (sql, read) = branch(random, relations, &types);
        branches.push(sql);
        reads.push(read);
    }
    let columns = types.iter().enumerate().map(|(n, ty)| Column { name: format!("c{n}"), ty: *ty }).collect();
    let sql = branches.join(" UNION ALL ");
    View {
        relation: Relation { name, columns, watermark: None },
        expected: sql.clone(),
        sql,
        emit_on_window_close: false,
        state_ttl: false,
        reads,
        constructs: vec!["union all"],
    }
}

/// A SELECT of one column of each of some types, and the relation that it reads.
pub fn branch(random: &mut StdRng, relations: &[Relation], types: &[Ty]) -> (String, String) {
    let relation = pick_relation(random, relations);
    let mut draft = Draft { from: relation.name.clone(), ..Draft::default() };
    for ty in types {
        let column = columns_of(relation, *ty).choose(random).map(|name| name.to_string());
        let missing = match ty {
            Ty::Int => "CAST(NULL AS INT)",
            Ty::Big => "CAST(1 AS BIGINT)",
            Ty::Num => "CAST(2.50 AS DECIMAL(12,2))",
            Ty::Text => "CAST('u' AS VARCHAR)",
            Ty::Stamp => "TIMESTAMP '2024-05-01 00:00:00'",
        };
        draft.item(column.unwrap_or_else(|| missing.to_string()), *ty);
    }
    if random.random_bool(0.5) {
        draft.tail = format!(" WHERE {}", predicate(random, "", relation));
    }
    (draft.sql(), relation.name.clone())
}

/// Adds one to three aggregates over columns of the relation.
pub fn aggregates(random: &mut StdRng, draft: &mut Draft, prefix: &str, relation: &Relation) {
    for _ in 0..random.random_range(1..4) {
        let column = relation.columns.choose(random).expect("a relation has columns");
        let name = format!("{prefix}{}", column.name);
        match (random.random_range(0..13), column.ty) {
            (6, _) => draft.item(format!("count(DISTINCT {name})"), Ty::Big),
            (7, Ty::Big | Ty::Num) => draft.item(format!("sum(DISTINCT {name})"), Ty::Num),
            (8, Ty::Int) => draft.item(format!("bit_or({name})"), Ty::Int),
            (8 | 9, Ty::Text) => draft.item(format!("string_agg({name}, ',' ORDER BY {name})"), Ty::Text),
            (9, _) => draft.item(format!("bool_and({name} IS NULL)::INT"), Ty::Int),
            (10, _) => draft.item(format!("count({name}) FILTER (WHERE {name} IS NOT NULL)"), Ty::Big),
            (11, Ty::Int | Ty::Big) => {
                draft.item(format!("percentile_cont(0.3) WITHIN GROUP (ORDER BY {name} DESC)::numeric(12,2)"), Ty::Num)
            }
            (11, ty) => draft.item(format!("percentile_disc(0.7) WITHIN GROUP (ORDER BY {name})"), ty),
            (12, ty) => draft.item(format!("mode() WITHIN GROUP (ORDER BY {name})"), ty),
            (0, _) => draft.item("count(*)", Ty::Big),
            (1, _) => draft.item(format!("count({name})"), Ty::Big),
            (2, Ty::Int) => draft.item(format!("sum({name})"), Ty::Big),
            (2, Ty::Big | Ty::Num) => draft.item(format!("sum({name})"), Ty::Num),
            (3, Ty::Int | Ty::Big | Ty::Num) => draft.item(format!("avg({name})"), Ty::Num),
            (4, ty) => draft.item(format!("min({name})"), ty),
            (_, ty) => draft.item(format!("max({name})"), ty),
        }
        let sql = draft.items.last().map_or("", |(sql, _)| sql.as_str());
        if sql.contains("DISTINCT") {
            draft.constructs.push("aggregate of distinct values");
        }
        if sql.contains("FILTER") {
            draft.constructs.push("aggregate with filter");
        }
        let function = sql.split('(').next().unwrap_or_default();
        let construct = CONSTRUCTS.iter().find(|construct| **construct == function);
        draft.constructs.extend(construct);
    }
}

pub fn keys(random: &mut StdRng, draft: &mut Draft, prefix: &str, relation: &Relation, most: usize) -> Vec<String> {
    let mut keys = Vec::new();
    for _ in 0..random.random_range(1..=most) {
        let column = relation.columns.choose(random).expect("a relation has columns");
        let (sql, ty) = expression(random, prefix, column);
        if !keys.contains(&sql) {
            draft.item(sql.clone(), ty);
            keys.push(sql);
        }
    }
    keys
}

fn grouped(random: &mut StdRng, relations: &[Relation]) -> Draft {
    let relation = pick_relation(random, relations);
    let mut draft = Draft { from: relation.name.clone(), reads: vec![relation.name.clone()], ..Draft::default() };
    let keys = keys(random, &mut draft, "", relation, 2);
    aggregates(random, &mut draft, "", relation);
    draft.constructs.push("group by");
    if random.random_bool(0.4) {
        draft.tail = format!(" WHERE {}", predicate(random, "", relation));
        draft.constructs.push("filter");
    }
    let all = keys.join(", ");
    let (group_by, construct) = match random.random_range(0..8) {
        0 => (format!("ROLLUP ({all})"), Some("rollup")),
        1 => (format!("CUBE ({all})"), Some("cube")),
        2 => (format!("GROUPING SETS (({all}), ({}))", keys[0]), Some("grouping sets")),
        _ => (all, None),
    };
    draft.constructs.extend(construct);
    draft.tail += &format!(" GROUP BY {group_by}");
    if random.random_bool(0.3) {
        draft.tail += " HAVING count(*) > 1";
        draft.constructs.push("having");
    }
    draft
}

fn global_aggregate(random: &mut StdRng, relations: &[Relation]) -> Draft {
    let relation = pick_relation(random, relations);
    let mut draft = Draft { from: relation.name.clone(), reads: vec![relation.name.clone()], ..Draft::default() };
    aggregates(random, &mut draft, "", relation);
    draft.constructs.push("global aggregate");
    if random.random_bool(0.5) {
        draft.tail = format!(" WHERE {}", predicate(random, "", relation));
    }
    draft
}

/// A relation as windows over one of its timestamp columns: the FROM item and the construct.
fn window(random: &mut StdRng, relation: &Relation, column: &str) -> (String, &'static str) {
    let name = &relation.name;
    match random.random_range(0..5) {
        4 => (format!("CUMULATE({name}, {column}, INTERVAL '1 minute', INTERVAL '150 seconds')"), "cumulate"),
        0 => (format!("TUMBLE({name}, {column}, INTERVAL '1 minute')"), "tumble"),
        1 => (format!("TUMBLE({name}, {column}, INTERVAL '5 minutes')"), "tumble"),
        2 => (format!("HOP({name}, {column}, INTERVAL '30 seconds', INTERVAL '2 minutes')"), "hop"),
        _ => (format!("HOP({name}, {column}, INTERVAL '1 minute', INTERVAL '3 minutes')"), "hop"),
    }
}

fn windowed(random: &mut StdRng, relations: &[Relation]) -> Draft {
    let timed: Vec<&Relation> =
        relations.iter().filter(|relation| !columns_of(relation, Ty::Stamp).is_empty()).collect();
    let relation = *timed.choose(random).expect("tables have a timestamp");
    let column = columns_of(relation, Ty::Stamp).choose(random).expect("just filtered").to_string();
    let (mut from, mut construct) = window(random, relation, &column);
    if random.random_bool(0.25) {
        let key = relation.columns.choose(random).expect("a relation has columns");
        from = format!("SESSION({} PARTITION BY {}, {column}, INTERVAL '40 seconds')", relation.name, key.name);
        construct = "session";
    }
    let mut draft = Draft { from, reads: vec![relation.name.clone()], constructs: vec![construct], ..Draft::default() };
    draft.item("window_start", Ty::Stamp);
    if random.random_bool(0.2) {
        let column = relation.columns.choose(random).expect("a relation has columns");
        draft.item("window_end", Ty::Stamp);
        draft.item(column.name.clone(), column.ty);
        draft.constructs.push("window rows");
        return draft;
    }
    let mut group = vec!["window_start".to_string(), "window_end".to_string()];
    if random.random_bool(0.6) {
        group.extend(keys(random, &mut draft, "", relation, 1));
    }
    aggregates(random, &mut draft, "", relation);
    draft.tail = format!(" GROUP BY {}", group.join(", "));
    draft
}

/// EMIT ON WINDOW CLOSE over the append-only table: holds the windows whose end the watermark has passed.
fn on_window_close(random: &mut StdRng, relations: &[Relation], name: String) -> View {
    let relation = relations.iter().find(|relation| relation.watermark.is_some()).expect("an append-only table");
    let (mut from, construct) = window(random, relation, "ts");
    let mut constructs = [construct, "window close"];
    if random.random_bool(0.4) {
        let key = relation.columns[..4].choose(random).expect("not the time");
        let gap = random.random_range(5..60);
        from = format!("SESSION({} PARTITION BY {}, ts, INTERVAL '{gap} seconds')", relation.name, key.name);
        constructs = ["session", "session close"];
    }
    let mut draft = Draft { from, reads: vec![relation.name.clone()], ..Draft::default() };
    draft.constructs.extend(constructs);
    draft.item("window_start", Ty::Stamp);
    draft.item("window_end", Ty::Stamp);
    if constructs[0] == "session" && random.random_bool(0.3) {
        let column = relation.columns.choose(random).expect("a relation has columns");
        draft.item(column.name.clone(), column.ty);
        draft.constructs.push("session rows close");
        return closed(draft, name, &relation.name);
    }
    let mut group = vec!["window_start".to_string(), "window_end".to_string()];
    if random.random_bool(0.6) {
        let key = keys(random, &mut draft, "", relation, 1);
        // A group of one time is final, and put out, before its window closes.
        match key.iter().any(|key| key == "ts") {
            true => drop(draft.items.pop()),
            false => group.extend(key),
        }
    }
    aggregates(random, &mut draft, "", relation);
    draft.tail = format!(" GROUP BY {}", group.join(", "));
    closed(draft, name, &relation.name)
}

/// A view with EMIT ON WINDOW CLOSE over a table, whose second column is the end of the window.
fn closed(draft: Draft, name: String, table: &str) -> View {
    let mut view = draft.into_view(name);
    view.emit_on_window_close = true;
    view.expected = format!(
        "SELECT * FROM ({}) AS w WHERE c1 <= (SELECT max(ts) - INTERVAL '{WATERMARK_DELAY_S} seconds' FROM {table})",
        view.sql
    );
    view
}

/// EMIT ON WINDOW CLOSE over a join of windows of the append-only table, also where one side has no window.
fn windows_joined(random: &mut StdRng, relations: &[Relation], name: String) -> View {
    let relation = relations.iter().find(|relation| relation.watermark.is_some()).expect("an append-only table");
    let (window, construct) = window(random, relation, "ts");
    let key = *["k", "g"].choose(random).expect("not empty");
    let mut side = |what: &str| {
        let condition = predicate(random, "", relation);
        format!(
            "(SELECT window_start, window_end, {key}, {what} AS x FROM {window} WHERE {condition} \
             GROUP BY window_start, window_end, {key})"
        )
    };
    let (left, right) = (side("count(*)"), side("sum(v)"));
    let kind = *["JOIN", "LEFT JOIN"].choose(random).expect("not empty");
    let from = format!(
        "{left} AS a {kind} {right} AS b \
         ON a.window_start = b.window_start AND a.window_end = b.window_end AND a.{key} = b.{key}"
    );
    let mut draft = Draft { from, reads: vec![relation.name.clone()], ..Draft::default() };
    draft.constructs.extend([construct, "window join close"]);
    draft.item("a.window_start", Ty::Stamp);
    draft.item("a.window_end", Ty::Stamp);
    draft.item(format!("a.{key}"), if key == "k" { Ty::Int } else { Ty::Text });
    draft.item("a.x", Ty::Big);
    draft.item("b.x", Ty::Num);
    closed(draft, name, &relation.name)
}

/// The types that sides are joined on.
const JOINABLE: &[Ty] = &[Ty::Int, Ty::Text, Ty::Big];

/// The next side of a join and its ON condition, which needs a column of a type that an earlier side has too.
pub fn join_side<'a>(
    random: &mut StdRng,
    relations: &'a [Relation],
    joined: &[(String, &Relation)],
    alias: &str,
) -> (&'a Relation, String) {
    for _ in 0..20 {
        let relation = pick_relation(random, relations);
        let ty = *JOINABLE.choose(random).expect("not empty");
        let right = columns_of(relation, ty);
        let Some(right) = right.choose(random) else { continue };
        let Some((other_alias, other)) = joined.choose(random) else { return (relation, String::new()) };
        if let Some(left) = columns_of(other, ty).choose(random) {
            return (relation, format!("{other_alias}.{left} = {alias}.{right}"));
        }
    }
    // Tables have columns of every type, and the first side has one that can be joined on.
    let (other_alias, other) = &joined[0];
    let ty = *JOINABLE.iter().find(|ty| !columns_of(other, **ty).is_empty()).expect("the first side is joinable");
    let (left, right) = (columns_of(other, ty)[0], columns_of(&relations[0], ty)[0]);
    (&relations[0], format!("{other_alias}.{left} = {alias}.{right}"))
}

fn join(random: &mut StdRng, relations: &[Relation], sides: usize) -> Draft {
    let mut draft = Draft::default();
    let mut joined: Vec<(String, &Relation)> = Vec::new();
    for n in 0..sides {
        let alias = format!("x{n}");
        let (relation, on) = join_side(random, relations, &joined, &alias);
        draft.from += &match n {
            0 => format!("{} AS {alias}", relation.name),
            _ => format!(" JOIN {} AS {alias} ON {on}", relation.name),
        };
        draft.reads.push(relation.name.clone());
        joined.push((alias, relation));
    }
    draft.constructs.push(if sides == 2 { "join" } else { "three-way join" });
    let nth = random.random_range(0..joined.len());
    let (alias, relation) = joined[nth].clone();
    if random.random_bool(0.4) {
        draft.from += &format!(" AND {}", predicate(random, &format!("{alias}."), relation));
        draft.constructs.push("join with condition");
    }
    if sides == 3 || random.random_bool(0.3) {
        // Grouped: three-way joins of small domains grow large.
        let keys = keys(random, &mut draft, &format!("{alias}."), relation, 1);
        let (alias, relation) = joined.choose(random).expect("not empty").clone();
        aggregates(random, &mut draft, &format!("{alias}."), relation);
        draft.tail = format!(" GROUP BY {}", keys.join(", "));
        draft.constructs.push("group by");
    } else {
        for (alias, relation) in &joined {
            let column = relation.columns.choose(random).expect("a relation has columns");
            let (sql, ty) = expression(random, &format!("{alias}."), column);
            draft.item(sql, ty);
        }
        if random.random_bool(0.4) {
            draft.tail = format!(" WHERE {}", predicate(random, &format!("{alias}."), relation));
            draft.constructs.push("filter");
        }
    }
    draft
}
