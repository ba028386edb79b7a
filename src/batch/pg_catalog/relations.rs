//! `pg_class`, `pg_attribute` and what belongs to a relation: keys, checks, defaults, comments.

use millstream_catalog::SqlType::{self, Bool, Float4, Int2, Int4, InternalChar, Name, Oid, Text};
use millstream_catalog::object::IndexColumn;
use millstream_catalog::{ObjectId, ObjectKind};
use millstream_sql::quote_ident;

use super::routines;
use super::rows::{Cell, NULL, row};
use super::tables::Made;
use super::types;
use super::view::{CatalogView, ROLE_OID, Relation};

/// OID of access method `heap`.
const HEAP: u32 = 2;
/// OID of access method `btree`.
const BTREE: u32 = 403;
/// OID of the foreign server that all sources, sinks and external tables show under.
const SERVER_OID: u32 = 13_090;
/// OID of its wrapper.
const WRAPPER_OID: u32 = 13_091;

/// Tables of this file.
pub const TABLES: &[Made] = &[
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_class",
        columns: &[
            ("oid", Oid),
            ("relname", Name),
            ("relnamespace", Oid),
            ("reltype", Oid),
            ("reloftype", Oid),
            ("relowner", Oid),
            ("relam", Oid),
            ("relfilenode", Oid),
            ("reltablespace", Oid),
            ("relpages", Int4),
            ("reltuples", Float4),
            ("relallvisible", Int4),
            ("reltoastrelid", Oid),
            ("relhasindex", Bool),
            ("relisshared", Bool),
            ("relpersistence", InternalChar),
            ("relkind", InternalChar),
            ("relnatts", Int2),
            ("relchecks", Int2),
            ("relhasrules", Bool),
            ("relhastriggers", Bool),
            ("relhassubclass", Bool),
            ("relrowsecurity", Bool),
            ("relforcerowsecurity", Bool),
            ("relispopulated", Bool),
            ("relreplident", InternalChar),
            ("relispartition", Bool),
            ("relrewrite", Oid),
            // Options are never set, and lists of grants are printed: one text each keeps functions over them simple.
            ("relacl", Text),
            ("reloptions", Text),
            ("relpartbound", Text),
        ],
        rows: pg_class,
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_attribute",
        columns: &[
            ("attrelid", Oid),
            ("attname", Name),
            ("atttypid", Oid),
            ("attstattarget", Int4),
            ("attlen", Int2),
            ("attnum", Int2),
            ("attndims", Int4),
            ("attcacheoff", Int4),
            ("atttypmod", Int4),
            ("attbyval", Bool),
            ("attalign", InternalChar),
            ("attstorage", InternalChar),
            ("attcompression", InternalChar),
            ("attnotnull", Bool),
            ("atthasdef", Bool),
            ("atthasmissing", Bool),
            ("attidentity", InternalChar),
            ("attgenerated", InternalChar),
            ("attisdropped", Bool),
            ("attislocal", Bool),
            ("attinhcount", Int4),
            ("attcollation", Oid),
            ("attacl", Text),
            ("attoptions", Text),
            ("attfdwoptions", Text),
            ("attmissingval", Text),
        ],
        rows: pg_attribute,
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_index",
        columns: &[
            ("indexrelid", Oid),
            ("indrelid", Oid),
            ("indnatts", Int2),
            ("indnkeyatts", Int2),
            ("indisunique", Bool),
            ("indnullsnotdistinct", Bool),
            ("indisprimary", Bool),
            ("indisexclusion", Bool),
            ("indimmediate", Bool),
            ("indisclustered", Bool),
            ("indisvalid", Bool),
            ("indcheckxmin", Bool),
            ("indisready", Bool),
            ("indislive", Bool),
            ("indisreplident", Bool),
            // PostgreSQL's int2vector: numbers with spaces between.
            ("indkey", Text),
            ("indcollation", Text),
            ("indclass", Text),
            ("indoption", Text),
            ("indexprs", Text),
            ("indpred", Text),
        ],
        rows: pg_index,
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_constraint",
        columns: &[
            ("oid", Oid),
            ("conname", Name),
            ("connamespace", Oid),
            ("contype", InternalChar),
            ("condeferrable", Bool),
            ("condeferred", Bool),
            ("convalidated", Bool),
            ("conrelid", Oid),
            ("contypid", Oid),
            ("conindid", Oid),
            ("conparentid", Oid),
            ("confrelid", Oid),
            ("confupdtype", InternalChar),
            ("confdeltype", InternalChar),
            ("confmatchtype", InternalChar),
            ("conislocal", Bool),
            ("coninhcount", Int4),
            ("connoinherit", Bool),
            // `{1,2}`: positions of the columns from 1.
            ("conkey", Text),
            ("confkey", Text),
            ("conbin", Text),
        ],
        rows: pg_constraint,
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_attrdef",
        columns: &[("oid", Oid), ("adrelid", Oid), ("adnum", Int2), ("adbin", Text)],
        rows: pg_attrdef,
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_description",
        columns: &[("objoid", Oid), ("classoid", Oid), ("objsubid", Int4), ("description", Text)],
        rows: pg_description,
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_foreign_table",
        columns: &[("ftrelid", Oid), ("ftserver", Oid), ("ftoptions", Text)],
        rows: pg_foreign_table,
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_foreign_server",
        columns: &[
            ("oid", Oid),
            ("srvname", Name),
            ("srvowner", Oid),
            ("srvfdw", Oid),
            ("srvtype", Text),
            ("srvversion", Text),
            ("srvacl", Text),
            ("srvoptions", Text),
        ],
        rows: |_| vec![row![SERVER_OID, "millstream", ROLE_OID, WRAPPER_OID, NULL, NULL, NULL, NULL]],
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_foreign_data_wrapper",
        columns: &[
            ("oid", Oid),
            ("fdwname", Name),
            ("fdwowner", Oid),
            ("fdwhandler", Oid),
            ("fdwvalidator", Oid),
            ("fdwacl", Text),
            ("fdwoptions", Text),
        ],
        rows: |_| vec![row![WRAPPER_OID, "millstream", ROLE_OID, 0, 0, NULL, NULL]],
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_tables",
        columns: &[
            ("schemaname", Name),
            ("tablename", Name),
            ("tableowner", Name),
            ("tablespace", Name),
            ("hasindexes", Bool),
            ("hasrules", Bool),
            ("hastriggers", Bool),
            ("rowsecurity", Bool),
        ],
        rows: |view| {
            let tables = view.relations().into_iter().filter(|r| r.kind == 'r');
            tables
                .map(|r| {
                    let schema = view.schema_name(r.schema);
                    let indexed = view.has_index(&r);
                    row![schema, r.name.clone(), owner(&r), NULL, indexed, false, false, false]
                })
                .collect()
        },
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_views",
        columns: &[("schemaname", Name), ("viewname", Name), ("viewowner", Name), ("definition", Text)],
        rows: |view| {
            let views = view.relations().into_iter().filter(|r| r.kind == 'v');
            views.map(|r| row![view.schema_name(r.schema), r.name.clone(), owner(&r), view.definition(&r)]).collect()
        },
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_matviews",
        columns: &[
            ("schemaname", Name),
            ("matviewname", Name),
            ("matviewowner", Name),
            ("tablespace", Name),
            ("hasindexes", Bool),
            ("ispopulated", Bool),
            ("definition", Text),
        ],
        rows: |view| {
            let views = view.relations().into_iter().filter(|r| r.kind == 'm');
            views
                .map(|r| {
                    let query = view.definition(&r);
                    row![view.schema_name(r.schema), r.name.clone(), owner(&r), NULL, view.has_index(&r), true, query]
                })
                .collect()
        },
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_indexes",
        columns: &[
            ("schemaname", Name),
            ("tablename", Name),
            ("indexname", Name),
            ("tablespace", Name),
            ("indexdef", Text),
        ],
        rows: |view| {
            let of = |r: Relation| {
                if let Some(index) = r.index() {
                    let of = view.relation(index.of.0)?;
                    let text = index_definition(view, &r);
                    return Some(row![view.schema_name(r.schema), of.name, r.name.clone(), NULL, text]);
                }
                let (_, name) = r.key_index()?;
                let text = index_definition(view, &r);
                Some(row![view.schema_name(r.schema), r.name.clone(), name, NULL, text])
            };
            view.relations().into_iter().filter_map(of).collect()
        },
    },
];

/// `CREATE INDEX` of an index, or of the primary key's index of a table.
pub fn index_definition(view: &CatalogView, relation: &Relation) -> Option<String> {
    if let (Some(index), Some(object)) = (relation.index(), &relation.object) {
        return Some(millstream_sql::index_definition(object, index, &view.catalog));
    }
    let (_, name) = relation.key_index()?;
    let schema = quote_ident(&view.schema_name(relation.schema));
    Some(format!(
        "CREATE UNIQUE INDEX {} ON {schema}.{} USING btree ({})",
        quote_ident(&name),
        quote_ident(&relation.name),
        relation.key_columns()
    ))
}

fn owner(relation: &Relation) -> String {
    relation.object.as_ref().map_or(millstream_catalog::DEFAULT_USER, |o| o.owner.as_str()).to_string()
}

fn pg_class(view: &CatalogView) -> Vec<Vec<Cell>> {
    let class = |oid: u32, name: String, r: &Relation, kind: char, columns: usize, checks: usize, indexed: bool| {
        let granted = r.object.as_deref().filter(|_| kind != 'i').map_or(NULL, super::roles::acl);
        let method = match kind {
            'r' | 'm' => HEAP,
            'i' => BTREE,
            _ => 0,
        };
        row![
            oid,
            name,
            r.schema.0,
            0,
            0,
            view.role_oid(&owner(r)),
            method,
            0,
            0,
            0,
            -1,
            0,
            0,
            indexed,
            false,
            if view.schema_name(r.schema).starts_with("pg_temp_") { 't' } else { 'p' },
            kind,
            columns as i64,
            checks as i64,
            false,
            false,
            false,
            false,
            false,
            true,
            'd',
            false,
            0,
            granted,
            NULL,
            NULL,
        ]
    };
    let mut rows = Vec::new();
    for r in view.relations() {
        let index = r.key_index();
        let (columns, checks) = (r.columns.len(), r.checks().len());
        rows.push(class(r.oid, r.name.clone(), &r, r.kind, columns, checks, view.has_index(&r)));
        if let Some((oid, name)) = index {
            rows.push(class(oid, name, &r, 'i', r.primary_key().len(), 0, false));
        }
    }
    rows
}

fn pg_attribute(view: &CatalogView) -> Vec<Vec<Cell>> {
    let attribute = |relation: u32, number: usize, c: &super::view::RelationColumn| {
        let t = &c.sql_type;
        let fixed = t.typlen() > 0 && t.typlen() <= 8;
        let align = match t.typlen() {
            1 => 'c',
            2 => 's',
            8 | 16 => 'd',
            _ => 'i',
        };
        let storage = if t.typlen() > 0 { 'p' } else { 'x' };
        let collation = match t {
            SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) => 100,
            SqlType::Name => 950,
            _ => 0,
        };
        let dimensions = i32::from(matches!(t, SqlType::Array(_)));
        let generated = if c.generated { "s" } else { "" };
        row![
            relation,
            c.name.clone(),
            t.oid(),
            -1,
            i32::from(t.typlen()),
            number as i64,
            dimensions,
            -1,
            t.typmod(),
            fixed,
            align,
            storage,
            "",
            !c.nullable,
            c.default.is_some(),
            false,
            "",
            generated,
            false,
            true,
            0,
            collation,
            NULL,
            NULL,
            NULL,
            NULL,
        ]
    };
    let mut rows = Vec::new();
    for r in view.relations() {
        rows.extend(r.columns.iter().enumerate().map(|(i, c)| attribute(r.oid, i + 1, c)));
        if let Some((oid, _)) = r.key_index() {
            let of_key = r.primary_key().iter().enumerate();
            rows.extend(of_key.map(|(i, column)| attribute(oid, i + 1, &r.columns[*column])));
        }
    }
    rows
}

fn pg_index(view: &CatalogView) -> Vec<Vec<Cell>> {
    // OIDs of index and relation, the columns from 1 with their options, and whether the index is unique and of a key.
    let of = |r: Relation| {
        let (oid, of, columns, unique, primary) = match r.index() {
            Some(index) => {
                // The bits of indoption: descending, NULLs first.
                let option = |c: &IndexColumn| u8::from(c.descending) | (u8::from(c.nulls_first) << 1);
                let columns: Vec<_> = index.columns.iter().map(|c| (c.column + 1, option(c))).collect();
                (r.oid, index.of.0, columns, index.unique, false)
            }
            None => {
                let (oid, _) = r.key_index()?;
                (oid, r.oid, r.primary_key().iter().map(|c| (c + 1, 0)).collect(), true, true)
            }
        };
        let each = |text: fn(&(usize, u8)) -> String| columns.iter().map(text).collect::<Vec<_>>().join(" ");
        let numbers = each(|(number, _)| number.to_string());
        let options = each(|(_, option)| option.to_string());
        let zeros = each(|_| "0".into());
        Some(row![
            oid,
            of,
            columns.len() as i64,
            columns.len() as i64,
            unique,
            false,
            primary,
            false,
            true,
            false,
            true,
            false,
            true,
            true,
            false,
            numbers,
            zeros.clone(),
            zeros,
            options,
            NULL,
            NULL,
        ])
    };
    view.relations().into_iter().filter_map(of).collect()
}

fn pg_constraint(view: &CatalogView) -> Vec<Vec<Cell>> {
    let constraint = |oid: u32, name: &str, kind: char, r: &Relation, index: u32, key: Cell, text: Option<&str>| {
        row![
            oid, name, r.schema.0, kind, false, false, true, r.oid, 0, index, 0, 0, ' ', ' ', ' ', true, 0, true, key,
            NULL, text,
        ]
    };
    let mut rows = Vec::new();
    for r in view.relations() {
        if let Some((index, name)) = r.key_index() {
            let numbers: Vec<_> = r.primary_key().iter().map(|i| (i + 1).to_string()).collect();
            let key = Cell::from(format!("{{{}}}", numbers.join(",")));
            rows.push(constraint(r.key_constraint(), &name, 'p', &r, index, key, None));
        }
        for (oid, name, text) in r.checks() {
            rows.push(constraint(oid, name, 'c', &r, 0, NULL, Some(text)));
        }
    }
    rows
}

fn pg_attrdef(view: &CatalogView) -> Vec<Vec<Cell>> {
    let mut rows = Vec::new();
    for r in view.relations() {
        let defaults = r.columns.iter().enumerate().filter_map(|(i, c)| Some((i + 1, c.default.clone()?)));
        rows.extend(defaults.map(|(number, text)| row![r.oid, r.oid, number as i64, text]));
    }
    rows
}

fn pg_description(view: &CatalogView) -> Vec<Vec<Cell>> {
    let of_tables = types::known_relation_oid("pg_class").unwrap_or_default();
    let of_schemas = types::known_relation_oid("pg_namespace").unwrap_or_default();
    let mut rows = Vec::new();
    for r in view.relations() {
        rows.extend(r.comment.clone().map(|text| row![r.oid, of_tables, 0, text]));
        let columns = r.columns.iter().enumerate().filter_map(|(i, c)| Some((i + 1, c.comment.clone()?)));
        rows.extend(columns.map(|(number, text)| row![r.oid, of_tables, number as i64, text]));
    }
    let schemas = view.catalog.objects().filter(|o| o.kind == ObjectKind::Schema);
    rows.extend(schemas.filter_map(|s| Some(row![s.id.0, of_schemas, 0, s.comment.clone()?])));
    let of_functions = types::known_relation_oid("pg_proc").unwrap_or_default();
    let functions = routines::functions(view);
    rows.extend(functions.filter_map(|(f, _)| Some(row![f.id.0, of_functions, 0, f.comment.clone()?])));
    rows
}

fn pg_foreign_table(view: &CatalogView) -> Vec<Vec<Cell>> {
    let foreign = view.relations().into_iter().filter(|r| r.kind == 'f');
    // Options are kept one a line, for the function that lists them.
    foreign.map(|r| row![r.oid, SERVER_OID, r.options().join("\n")]).collect()
}
