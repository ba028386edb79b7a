//! `sql/FUNCTIONS.md`: the functions that there are, and those of PostgreSQL that there are not, made from the registry and
//! from PostgreSQL's own catalog. `INSTA_UPDATE=always` writes it anew.

use std::collections::BTreeSet;
use std::fmt::Write;

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::common::ScalarValue;

use super::rows::Cell;
use super::{fixed, functions};

/// What a session adds by itself.
const OF_SESSION: [&str; 7] = [
    "pg_sleep",
    "pg_notify",
    "set_config",
    "pg_cancel_backend",
    "pg_terminate_backend",
    "pg_listening_channels",
    "generate_series",
];

/// Columns of PostgreSQL's catalog that name functions which nobody calls by name: those behind operators, casts, types,
/// aggregates and access methods.
const BEHIND: [(&str, &[&str]); 8] = [
    ("pg_operator", &["oprcode", "oprrest", "oprjoin"]),
    ("pg_cast", &["castfunc"]),
    (
        "pg_type",
        &["typinput", "typoutput", "typreceive", "typsend", "typmodin", "typmodout", "typanalyze", "typsubscript"],
    ),
    (
        "pg_aggregate",
        &[
            "aggtransfn",
            "aggfinalfn",
            "aggcombinefn",
            "aggserialfn",
            "aggdeserialfn",
            "aggmtransfn",
            "aggminvtransfn",
            "aggmfinalfn",
        ],
    ),
    ("pg_amproc", &["amproc"]),
    ("pg_am", &["amhandler"]),
    ("pg_conversion", &["conproc"]),
    ("pg_ts_parser", &["prsstart", "prstoken", "prsend", "prsheadline", "prslextype"]),
];

fn cells(column: &ArrayRef) -> impl Iterator<Item = Cell> {
    (0..column.len()).map(|i| ScalarValue::try_from_array(column, i).map_or(Cell::Null, |v| Cell::of(&v)))
}

/// Names of a kind, in lines.
fn lines(names: &BTreeSet<String>) -> String {
    let mut out = String::new();
    let mut width = 0;
    for (i, name) in names.iter().enumerate() {
        let piece = format!("`{name}`{}", if i + 1 == names.len() { "" } else { "," });
        if width + piece.len() + 1 > 120 {
            out.push('\n');
            width = 0;
        } else if i > 0 {
            out.push(' ');
            width += 1;
        }
        width += piece.len();
        out.push_str(&piece);
    }
    out + "\n"
}

fn list() -> String {
    let own = millstream_sql::functions();
    let is_plain = |name: &str| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    // What the planner puts in the place of operators has such names.
    let is_public = |name: &str| is_plain(name) && !name.starts_with("__") && !name.starts_with("checked_");
    let names = |all: Vec<&str>| -> BTreeSet<String> {
        all.into_iter().filter(|name| is_public(name)).map(ToString::to_string).collect()
    };
    let aliases = |name, aliases: &'static [String]| std::iter::once(name).chain(aliases.iter().map(String::as_str));
    let scalar = names(own.scalar.iter().flat_map(|f| aliases(f.name(), f.aliases())).collect());
    let aggregate = names(own.aggregate.iter().flat_map(|f| aliases(f.name(), f.aliases())).collect());
    let window = names(own.window.iter().flat_map(|f| aliases(f.name(), f.aliases())).collect());
    let system = names(functions::names().chain(OF_SESSION).collect());
    let all = fixed::all().expect("PostgreSQL's catalog");
    let procs = &all["pg_proc"];
    let column = |table: &str, name: &str| all.get(table).and_then(|rows| rows.column_by_name(name).cloned());
    let oids: Vec<Option<u32>> = cells(procs.column_by_name("oid").expect("a column")).map(|c| c.oid()).collect();
    let by_name: Vec<String> =
        cells(procs.column_by_name("proname").expect("a column")).map(|c| c.text().unwrap_or_default()).collect();
    let mut behind: BTreeSet<String> = BTreeSet::new();
    for (table, columns) in BEHIND {
        for cell in columns.iter().filter_map(|c| column(table, c)).flat_map(|c| cells(&c).collect::<Vec<_>>()) {
            match cell.oid() {
                Some(oid) => {
                    behind.extend(oids.iter().position(|o| *o == Some(oid)).map(|at| by_name[at].clone()));
                }
                None => behind.extend(cell.text().map(|name| name.rsplit('.').next().unwrap_or_default().to_string())),
            }
        }
    }
    let known = |name: &String| [&scalar, &aggregate, &window, &system].iter().any(|set| set.contains(name));
    // Functions that only the server's own parts call, by their names.
    let is_inner = |name: &str| {
        [
            "_in",
            "_out",
            "_recv",
            "_send",
            "_support",
            "_handler",
            "_consistent",
            "_compress",
            "_penalty",
            "_ops",
            "_accum",
            "_combine",
            "_sortsupport",
            "_picksplit",
            "_union",
            "_same",
            "_fetch",
            "_distance",
        ]
        .iter()
        .any(|end| name.ends_with(end))
            || [
                "binary_upgrade",
                "RI_FKey",
                "pg_stat_get_",
                "gin",
                "gist",
                "brin",
                "spg_",
                "hash",
                "bt",
                "ts",
                "dsnowball",
                "dsynonym",
                "dispell",
                "dsimple",
                "thesaurus",
                "unique_key",
                "suppress_",
                "pg_logical",
                "pg_replication",
                "pg_walfile",
                "pg_backup",
                "pg_promote",
                "pg_wal_",
                "pg_create_",
                "pg_drop_",
                "lo_",
                "lo",
            ]
            .iter()
            .any(|start| name.starts_with(start))
    };
    let missing: BTreeSet<String> = by_name
        .iter()
        .filter(|name| !behind.contains(*name) && !known(name) && is_public(name) && !is_inner(name))
        .cloned()
        .collect();
    let mut out = String::from(
        "# Functions\n\nMade from the registry by the test `functions_are_listed` (`INSTA_UPDATE=always` writes it anew). Beside them there is what \
         the grammar has:\n`CASE`, `COALESCE`, `NULLIF`, `GREATEST`, `LEAST`, `EXTRACT`, `OVERLAY`, `POSITION`, `SUBSTRING`, `TRIM`, `CAST`, \
         `AT TIME ZONE`, the window functions `TUMBLE`,\n`HOP`, `CUMULATE` and `SESSION` of relations, and `read_parquet`, `read_csv`, `read_json`, `read_delta`.\n",
    );
    for (title, names) in [
        ("Scalar functions", &scalar),
        ("Aggregates", &aggregate),
        ("Window functions", &window),
        ("Functions of the system catalog and the session", &system),
        ("PostgreSQL's that are not here", &missing),
    ] {
        write!(out, "\n## {title}\n\n{}", lines(names)).expect("a string");
    }
    out
}

#[test]
fn functions_are_listed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/FUNCTIONS.md");
    let list = list();
    if std::env::var("INSTA_UPDATE").as_deref() == Ok("always") {
        std::fs::write(path, &list).expect("a file");
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == list, "sql/FUNCTIONS.md is not what the registry has: run the test with INSTA_UPDATE=always");
}
