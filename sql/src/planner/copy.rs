//! COPY in both directions.

use millstream_catalog::{Column, Privilege};

use super::{dml, plan_query, secret, subscribe};
use crate::context::PlanContext;
use crate::error::{Result, SqlError};
use crate::plan::{CopyFromPlan, CopySubscribePlan, CopyTarget, CopyToPlan, Plan};
use crate::statement::{Copy, CopyEnd, CopyRelation};

/// The format that the name of a file says, compressed or not.
fn format_of(path: &str) -> Option<&'static str> {
    let name = path.rsplit('/').next()?.to_lowercase();
    let compressed = [".gz", ".zst"].iter().find_map(|end| name.strip_suffix(end));
    let (_, extension) = compressed.unwrap_or(&name).rsplit_once('.')?;
    match (extension, compressed.is_some()) {
        ("parquet" | "parq", false) => Some("parquet"),
        ("csv", _) => Some("csv"),
        ("json" | "jsonl" | "ndjson", _) => Some("json"),
        _ => None,
    }
}

/// `COPY`.
///
/// # Errors
/// 22023 for an unknown format, 42703 for a column of PARTITION_BY that is not there, 42704 for an unknown secret, and those
/// of the query or the table.
pub(super) fn copy(copy: &Copy, ctx: &PlanContext<'_>) -> Result<Plan> {
    let mut options = copy.options.clone();
    let given = options.remove("format");
    let file = match &copy.target {
        CopyEnd::ToFile(file) | CopyEnd::FromFile(file) => Some(file.clone()),
        CopyEnd::ToStdout | CopyEnd::FromStdin => None,
    };
    let by_name = file.as_deref().and_then(format_of).map(str::to_string);
    let format = given.or(by_name).unwrap_or_else(|| "text".into());
    if !["text", "csv", "binary", "json", "parquet"].contains(&format.as_str()) {
        return Err(SqlError::new("22023", format!("COPY format \"{format}\" not recognized"))
            .with_hint("the formats are text, csv, binary, json, parquet"));
    }
    match &copy.target {
        CopyEnd::ToFile(_) | CopyEnd::ToStdout => {
            let query = match &copy.source {
                CopyRelation::Subscribe(s) => {
                    if let Some(file) = file {
                        let message = format!("COPY (SUBSCRIBE ...) TO '{file}' is not supported");
                        return Err(
                            SqlError::unsupported(message).with_hint("use TO STDOUT; a sink writes changes to Kafka")
                        );
                    }
                    let subscribe = subscribe::subscribe(s, ctx)?;
                    return Ok(Plan::CopySubscribe(CopySubscribePlan { subscribe, format, options }));
                }
                CopyRelation::Query(query) => query.clone(),
                CopyRelation::Table { name, columns } => dml::select_columns(name, columns),
            };
            let query = plan_query(&query, ctx)?;
            let target = file.map_or(CopyTarget::Stdout, CopyTarget::File);
            secret::named(&options, ctx)?;
            if let CopyTarget::File(file) = &target {
                ctx.require_files(file, true)?;
            }
            let partition_by = match options.remove("partition_by") {
                Some(names) if target != CopyTarget::Stdout => partition_columns(&names, &query.columns)?,
                Some(_) => return Err(SqlError::syntax("PARTITION_BY is for files")),
                None => Vec::new(),
            };
            Ok(Plan::CopyTo(CopyToPlan { query, target, format, options, partition_by }))
        }
        CopyEnd::FromFile(file) => Err(SqlError::unsupported(format!("COPY FROM '{file}' is not supported"))
            .with_hint(
                "send the file: \\copy table FROM 'file' in psql; or INSERT INTO table SELECT * FROM read_csv('file')",
            )),
        CopyEnd::FromStdin => {
            let CopyRelation::Table { name, columns } = &copy.source else {
                return Err(SqlError::syntax("COPY FROM fills a table, not a query"));
            };
            let object = dml::target_table(name, ctx)?;
            ctx.require(&object, Privilege::Insert)?;
            let (insert, columns) = dml::copy_from(columns, &object, ctx)?;
            Ok(Plan::CopyFrom(CopyFromPlan { insert, columns, format, options }))
        }
    }
}

/// Positions of the columns that the names are of, which commas part.
fn partition_columns(names: &str, columns: &[Column]) -> Result<Vec<usize>> {
    let mut found = Vec::new();
    for name in names.split(',').map(str::trim) {
        let at = columns
            .iter()
            .position(|c| c.name == name)
            .ok_or_else(|| SqlError::new("42703", format!("column \"{name}\" named in PARTITION_BY does not exist")))?;
        if found.contains(&at) {
            return Err(SqlError::new("42701", format!("column \"{name}\" is in PARTITION_BY more than once")));
        }
        found.push(at);
    }
    if found.len() == columns.len() {
        return Err(SqlError::new("22023", "PARTITION_BY leaves no column for the files")
            .with_hint("a partition column is in the names of the folders, not in the files"));
    }
    Ok(found)
}
