//! A generated case: tables, views over them, and the changes to carry out; how it is made and how it prints.

use std::collections::BTreeSet;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::view::{self, View};

/// The column types that cases use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ty {
    Int,
    Big,
    Num,
    Text,
    Stamp,
}

impl Ty {
    pub fn sql(self) -> &'static str {
        match self {
            Ty::Int => "INT",
            Ty::Big => "BIGINT",
            Ty::Num => "DECIMAL(12,2)",
            Ty::Text => "VARCHAR",
            Ty::Stamp => "TIMESTAMP",
        }
    }
}

/// A column of a table or view.
#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    pub ty: Ty,
}

/// What a view can read.
#[derive(Debug, Clone)]
pub struct Relation {
    pub name: String,
    pub columns: Vec<Column>,
    /// The column with a watermark, on append-only tables.
    pub watermark: Option<String>,
}

/// A table: with a primary key `id`, without any key, or append-only with a watermark on `ts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    Keyed,
    Bag,
    AppendOnly,
}

#[derive(Debug, Clone)]
pub struct Table {
    pub kind: TableKind,
    pub relation: Relation,
}

impl Table {
    pub fn ddl(&self) -> String {
        match self.kind {
            TableKind::AppendOnly => {
                let watermark = format!("WATERMARK FOR ts AS ts - INTERVAL '{WATERMARK_DELAY_S} seconds'");
                format!("CREATE TABLE {} ({}, {watermark}) APPEND ONLY", self.relation.name, self.columns())
            }
            _ => self.ddl_without_watermark(),
        }
    }

    /// The table as PostgreSQL knows it.
    pub fn ddl_without_watermark(&self) -> String {
        format!("CREATE TABLE {} ({})", self.relation.name, self.columns())
    }

    fn columns(&self) -> String {
        let columns = self.relation.columns.iter().enumerate().map(|(n, column)| {
            let key = if n == 0 && self.kind == TableKind::Keyed { " PRIMARY KEY" } else { "" };
            format!("{} {}{key}", column.name, column.ty.sql())
        });
        columns.collect::<Vec<_>>().join(", ")
    }
}

/// Rows of append-only tables come at most this much out of order, so that none is late.
pub const WATERMARK_DELAY_S: u32 = 30;

/// One change, or the creation of a view amid them.
#[derive(Debug, Clone)]
pub enum Step {
    Insert {
        table: String,
        rows: Vec<String>,
    },
    Update(String),
    Delete(String),
    CreateView(usize),
    /// SIGKILL, and a start on the same directory.
    Restart,
}

impl Step {
    pub fn sql(&self, views: &[View]) -> String {
        match self {
            Step::Insert { table, rows } => format!("INSERT INTO {table} VALUES {}", rows.join(", ")),
            Step::Update(sql) | Step::Delete(sql) => sql.clone(),
            Step::CreateView(n) => views[*n].ddl(),
            Step::Restart => "-- here the server is killed and started again".to_string(),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Case {
    pub tables: Vec<Table>,
    pub views: Vec<View>,
    pub steps: Vec<Step>,
}

impl Case {
    pub fn generate(random: &mut StdRng) -> Self {
        let tables: Vec<Table> = [TableKind::Keyed, TableKind::Bag, TableKind::AppendOnly]
            .into_iter()
            .enumerate()
            .map(|(n, kind)| table(n, kind))
            .collect();
        let mut relations: Vec<Relation> = tables.iter().map(|table| table.relation.clone()).collect();
        let mut views: Vec<View> = Vec::new();
        for n in 0..random.random_range(2..5) {
            let view = view::generate(random, n, &relations);
            relations.push(view.relation.clone());
            views.push(view);
        }

        let mut clock_s = 0;
        let mut changes: Vec<Step> =
            (0..random.random_range(12..32)).map(|_| change(random, &tables, &mut clock_s)).collect();
        // Views come in order, each at a moment of its own: some over empty tables, some over old data.
        let mut moments: Vec<usize> = views.iter().map(|_| random.random_range(0..changes.len())).collect();
        moments.sort_unstable();
        if random.random_bool(0.4) {
            moments.fill(0);
        }
        for (n, moment) in moments.into_iter().enumerate().rev() {
            changes.insert(moment, Step::CreateView(n));
        }
        if random.random_bool(0.25) {
            changes.insert(random.random_range(1..changes.len()), Step::Restart);
        }
        Case { tables, views, steps: changes }
    }

    /// The case as a script that a person can run.
    pub fn script(&self) -> String {
        let tables = self.tables.iter().map(Table::ddl);
        let steps = self.steps.iter().map(|step| match step {
            // Some refuse the option; they are made without it.
            Step::CreateView(n) if self.views[*n].state_ttl => self.views[*n].ddl_with_ttl(),
            step => step.sql(&self.views),
        });
        tables.chain(steps).map(|statement| statement + ";\n").collect()
    }

    /// Without the views that `keep` does not need and the tables that nothing mentions.
    pub fn only_for(&self, keep: usize) -> Self {
        let mut needed = BTreeSet::from([keep]);
        for n in (0..=keep).rev().filter(|n| *n != keep) {
            let name = &self.views[n].relation.name;
            if needed.iter().any(|user| self.views[*user].reads.contains(name)) {
                needed.insert(n);
            }
        }
        let read: BTreeSet<&String> = needed.iter().flat_map(|n| &self.views[*n].reads).collect();
        let tables: Vec<Table> =
            self.tables.iter().filter(|table| read.contains(&table.relation.name)).cloned().collect();
        let about = |sql: &str| tables.iter().any(|table| sql.split(' ').any(|word| word == table.relation.name));
        let steps = self.steps.iter().filter(|step| match step {
            Step::CreateView(n) => needed.contains(n),
            Step::Insert { table, .. } => about(table),
            Step::Update(sql) | Step::Delete(sql) => about(sql),
            Step::Restart => true,
        });
        Case { steps: steps.cloned().collect(), views: self.views.clone(), tables }
    }
}

fn table(n: usize, kind: TableKind) -> Table {
    let column = |name: &str, ty| Column { name: name.to_string(), ty };
    let mut columns = vec![
        column("k", Ty::Int),
        column("g", Ty::Text),
        column("v", Ty::Big),
        column("d", Ty::Num),
        column("ts", Ty::Stamp),
    ];
    if kind == TableKind::Keyed {
        columns.insert(0, column("id", Ty::Int));
    }
    let watermark = (kind == TableKind::AppendOnly).then(|| "ts".to_string());
    Table { kind, relation: Relation { name: format!("t{n}"), columns, watermark } }
}

/// A literal from a small domain, so that keys meet, values repeat, and NULL is common.
fn value(random: &mut StdRng, column: &Column, clock_s: u64) -> String {
    let null = column.name != "id" && column.name != "ts" && random.random_ratio(1, 6);
    if null {
        return "NULL".to_string();
    }
    match (column.name.as_str(), column.ty) {
        ("id", _) => random.random_range(1..30).to_string(),
        (_, Ty::Int) => random.random_range(0..5).to_string(),
        (_, Ty::Big) => random.random_range(-20..100).to_string(),
        (_, Ty::Num) => format!("{}.{:02}", random.random_range(-50..500), random.random_range(0..100)),
        (_, Ty::Text) => format!("'{}'", ["a", "b", "c", "", "ö"].choose(random).expect("not empty")),
        (_, Ty::Stamp) => stamp(clock_s + random.random_range(0..u64::from(WATERMARK_DELAY_S))),
    }
}

fn stamp(second: u64) -> String {
    format!("TIMESTAMP '2024-05-01 {:02}:{:02}:{:02}'", second / 3600 % 24, second / 60 % 60, second % 60)
}

fn insert(random: &mut StdRng, table: &Table, clock_s: &mut u64) -> Step {
    *clock_s += random.random_range(0..90);
    let rows = (0..random.random_range(1..9)).map(|_| {
        let values: Vec<String> = table.relation.columns.iter().map(|column| value(random, column, *clock_s)).collect();
        format!("({})", values.join(", "))
    });
    let mut rows: Vec<String> = rows.collect();
    if table.kind == TableKind::Bag && random.random_bool(0.5) {
        // A true duplicate: the same row twice in a table without a key.
        rows.push(rows[0].clone());
    }
    Step::Insert { table: table.relation.name.clone(), rows }
}

fn change(random: &mut StdRng, tables: &[Table], clock_s: &mut u64) -> Step {
    let table = tables.choose(random).expect("not empty");
    let name = &table.relation.name;
    if table.kind == TableKind::AppendOnly || random.random_bool(0.5) {
        return insert(random, table, clock_s);
    }
    let condition = match random.random_range(0..6) {
        0 => format!("k = {}", random.random_range(0..5)),
        1 => format!("v < {}", random.random_range(-10..60)),
        2 => "g IS NULL".to_string(),
        3 => format!("g = '{}'", ["a", "b", "c"].choose(random).expect("not empty")),
        4 => format!("d > {}.5", random.random_range(0..400)),
        _ => "k IS NOT NULL AND v % 2 = 0".to_string(),
    };
    if random.random_bool(0.5) {
        return Step::Delete(format!("DELETE FROM {name} WHERE {condition}"));
    }
    let assignment = match random.random_range(0..6) {
        0 => format!("v = v + {}", random.random_range(-5..20)),
        1 => format!("k = {}", random.random_range(0..5)),
        2 => "g = NULL".to_string(),
        3 => "d = d - 1.25, v = NULL".to_string(),
        4 => "g = 'b', k = v % 5".to_string(),
        _ => "ts = ts + INTERVAL '45 seconds'".to_string(),
    };
    Step::Update(format!("UPDATE {name} SET {assignment} WHERE {condition}"))
}
