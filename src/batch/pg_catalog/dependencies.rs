//! What views are built on: `pg_rewrite`, whose rules are views' queries, and `pg_depend`.

use millstream_catalog::ObjectId;
use millstream_catalog::SqlType::{Bool, Int4, InternalChar, Name, Oid, Text};

use super::rows::{Cell, row};
use super::tables::Made;
use super::types;
use super::view::{CatalogView, Relation};

/// The rule of a view has the OID of the view with this bit, which no relation's has.
const RULE_OIDS: u32 = 0x4000_0000;

/// Tables of this file.
pub const TABLES: &[Made] = &[
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_rewrite",
        columns: &[
            ("oid", Oid),
            ("rulename", Name),
            ("ev_class", Oid),
            ("ev_type", InternalChar),
            ("ev_enabled", InternalChar),
            ("is_instead", Bool),
            ("ev_qual", Text),
            ("ev_action", Text),
        ],
        rows: |view| {
            views(view).map(|r| row![RULE_OIDS | r.oid, "_RETURN", r.oid, '1', 'O', true, "<>", "<>"]).collect()
        },
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_depend",
        columns: &[
            ("classid", Oid),
            ("objid", Oid),
            ("objsubid", Int4),
            ("refclassid", Oid),
            ("refobjid", Oid),
            ("refobjsubid", Int4),
            ("deptype", InternalChar),
        ],
        rows: pg_depend,
    },
];

fn views(view: &CatalogView) -> impl Iterator<Item = Relation> {
    view.relations().into_iter().filter(|r| matches!(r.kind, 'v' | 'm') && r.object.is_some())
}

/// A view's rule belongs to the view, and needs what the query reads.
fn pg_depend(view: &CatalogView) -> Vec<Vec<Cell>> {
    let class = |name: &str| types::known_relation_oid(name).unwrap_or_default();
    let (rules, relations, functions) = (class("pg_rewrite"), class("pg_class"), class("pg_proc"));
    let mut rows = Vec::new();
    for r in views(view) {
        let rule = RULE_OIDS | r.oid;
        rows.push(row![rules, rule, 0, relations, r.oid, 0, 'i']);
        for id in r.object.iter().flat_map(|object| object.references.values()) {
            let Some(target) = view.catalog.get(*id) else { continue };
            let class = if target.kind.relkind().is_some() { relations } else { functions };
            rows.push(row![rules, rule, 0, class, id.0, 0, 'n']);
        }
    }
    rows
}
