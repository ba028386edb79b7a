//! What goes on in the server, in PostgreSQL's words: who is connected and what runs.

use millstream_catalog::SqlType::{Bool, Float8, Int4, Int8, InternalChar, Name, Oid, Text, Timestamptz};
use millstream_catalog::{DEFAULT_DATABASE, ObjectId};

use super::rows::{Cell, NULL, row};
use super::tables::Made;
use super::view::{CatalogView, DATABASE_OID, ROLE_OID};

/// A session as `pg_stat_activity` shows it. Times are microseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActivityRow {
    pub process_id: i32,
    pub user: String,
    pub application_name: String,
    /// `address:port` of the client.
    pub address: String,
    pub connected_us: i64,
    /// The statement that runs, or the last one that ran.
    pub statement: String,
    pub is_running: bool,
    /// Since when the statement runs or ran; `None` before the first.
    pub statement_us: Option<i64>,
    /// Since when it is in its state.
    pub changed_us: i64,
    /// Since when a transaction is open, and whether it has failed.
    pub transaction: Option<(i64, bool)>,
}

impl ActivityRow {
    fn state(&self) -> &'static str {
        match (self.is_running, self.transaction) {
            (true, _) => "active",
            (false, Some((_, false))) => "idle in transaction",
            (false, Some((_, true))) => "idle in transaction (aborted)",
            (false, None) => "idle",
        }
    }

    /// Host and port of the client.
    fn client(&self) -> (Cell, Cell) {
        match self.address.parse::<std::net::SocketAddr>() {
            Ok(address) => (address.ip().to_string().into(), i64::from(address.port()).into()),
            Err(_) => (NULL, (-1).into()),
        }
    }
}

/// Tables of this file.
pub const TABLES: &[Made] = &[
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_stat_activity",
        columns: &[
            ("datid", Oid),
            ("datname", Name),
            ("pid", Int4),
            ("leader_pid", Int4),
            ("usesysid", Oid),
            ("usename", Name),
            ("application_name", Text),
            ("client_addr", Text),
            ("client_hostname", Text),
            ("client_port", Int4),
            ("backend_start", Timestamptz),
            ("xact_start", Timestamptz),
            ("query_start", Timestamptz),
            ("state_change", Timestamptz),
            ("wait_event_type", Text),
            ("wait_event", Text),
            ("state", Text),
            ("backend_xid", Text),
            ("backend_xmin", Text),
            ("query_id", Int8),
            ("query", Text),
            ("backend_type", Text),
        ],
        rows: pg_stat_activity,
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_stat_database",
        columns: &[
            ("datid", Oid),
            ("datname", Name),
            ("numbackends", Int4),
            ("xact_commit", Int8),
            ("xact_rollback", Int8),
            ("blks_read", Int8),
            ("blks_hit", Int8),
            ("tup_returned", Int8),
            ("tup_fetched", Int8),
            ("tup_inserted", Int8),
            ("tup_updated", Int8),
            ("tup_deleted", Int8),
            ("conflicts", Int8),
            ("temp_files", Int8),
            ("temp_bytes", Int8),
            ("deadlocks", Int8),
            ("blk_read_time", Float8),
            ("blk_write_time", Float8),
            ("stats_reset", Timestamptz),
        ],
        // What is not counted is NULL; there are no locks, and so no deadlocks.
        rows: |view| {
            let sessions = (view.activity)().len() as i64;
            let mut row = vec![NULL; 19];
            (row[0], row[1], row[2]) = (DATABASE_OID.into(), DEFAULT_DATABASE.into(), sessions.into());
            row[15] = 0.into();
            vec![row]
        },
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_stat_user_tables",
        columns: &[
            ("relid", Oid),
            ("schemaname", Name),
            ("relname", Name),
            ("seq_scan", Int8),
            ("idx_scan", Int8),
            ("n_tup_ins", Int8),
            ("n_tup_upd", Int8),
            ("n_tup_del", Int8),
            ("n_live_tup", Int8),
            ("n_dead_tup", Int8),
            ("last_vacuum", Timestamptz),
            ("last_autovacuum", Timestamptz),
            ("last_analyze", Timestamptz),
            ("last_autoanalyze", Timestamptz),
        ],
        // Nothing of it is counted: NULL says so, where 0 would be wrong.
        rows: |view| {
            let own = |r: &super::view::Relation| matches!(r.kind, 'r' | 'm') && r.object.is_some();
            let row = |r: super::view::Relation| {
                let mut row = vec![NULL; 14];
                (row[0], row[1], row[2]) = (r.oid.into(), view.schema_name(r.schema).into(), r.name.clone().into());
                row
            };
            view.relations().into_iter().filter(own).map(row).collect()
        },
    },
    Made {
        schema: ObjectId::INFORMATION_SCHEMA,
        name: "character_sets",
        columns: &[
            ("character_set_catalog", Name),
            ("character_set_schema", Name),
            ("character_set_name", Name),
            ("character_repertoire", Name),
            ("form_of_use", Name),
        ],
        rows: |_| vec![row![NULL, NULL, "UTF8", "UCS", "UTF8"]],
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_listening_channels",
        columns: &[("pg_listening_channels", Text)],
        rows: |view| view.channels.iter().map(|channel| row![channel.clone()]).collect(),
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_get_keywords",
        columns: &[
            ("word", Text),
            ("catcode", InternalChar),
            ("barelabel", Bool),
            ("catdesc", Text),
            ("baredesc", Text),
        ],
        rows: |_| keywords(),
    },
];

/// Tables that are functions: they are called, and no relation has their name.
pub const FUNCTIONS: &[&str] = &["pg_listening_channels", "pg_get_keywords", "ts_token_type", "pg_partition_tree"];

fn pg_stat_activity(view: &CatalogView) -> Vec<Vec<Cell>> {
    let row = |s: ActivityRow| {
        let (host, port) = s.client();
        row![
            DATABASE_OID,
            DEFAULT_DATABASE,
            s.process_id,
            NULL,
            ROLE_OID,
            s.user.clone(),
            s.application_name.clone(),
            host,
            NULL,
            port,
            s.connected_us,
            s.transaction.map(|(since, _)| since),
            s.statement_us,
            s.changed_us,
            if s.is_running { NULL } else { "Client".into() },
            if s.is_running { NULL } else { "ClientRead".into() },
            s.state(),
            NULL,
            NULL,
            NULL,
            s.statement.clone(),
            "client backend",
        ]
    };
    (view.activity)().into_iter().map(row).collect()
}

/// The words that the parser knows, with those that cannot be names unless quoted.
fn keywords() -> Vec<Vec<Cell>> {
    use datafusion::sql::sqlparser::keywords::{ALL_KEYWORDS, RESERVED_FOR_TABLE_ALIAS};
    let reserved: Vec<String> = RESERVED_FOR_TABLE_ALIAS.iter().map(|k| format!("{k:?}")).collect();
    let word = |word: &&str| {
        let (code, text) = match reserved.iter().any(|r| r == word) {
            true => ('R', "reserved"),
            false => ('U', "unreserved"),
        };
        row![
            word.to_lowercase(),
            code,
            code == 'U',
            text,
            if code == 'U' { "can be bare label" } else { "requires AS" }
        ]
    };
    ALL_KEYWORDS.iter().filter(|w| w.chars().all(|c| c.is_ascii_alphabetic() || c == '_')).map(word).collect()
}
