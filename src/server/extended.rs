//! The extended query protocol: prepared statements and portals.

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use pgwire::messages::extendedquery::{Bind, Close, Describe, Execute, Parse};
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Connection, guarded};
use super::encode::{Format, column_type};
use super::message::{
    put_bind_complete, put_close_complete, put_complete, put_empty, put_no_data, put_parameter_description,
    put_parse_complete, put_row_description, put_suspended,
};
use super::parameters;
use super::rows::{Failure, Interrupts, Progress, Rows};
use super::socket::{Disconnect, protocol_violation};
use crate::error::{Error, Result, sqlstate};
use crate::session::api::{Description, Parameter, Prepared, Response, SqlSession};

const DUPLICATE_CURSOR: &str = "42P03";
const UNDEFINED_CURSOR: &str = "34000";

/// A statement with its parameters, ready to run or running.
pub struct Portal<St> {
    statement: Option<St>,
    parameters: Vec<Parameter>,
    columns: Option<SchemaRef>,
    formats: Vec<Format>,
    state: PortalState,
}

enum PortalState {
    Ready,
    /// Some rows are sent, more may come. Cancelling reaches the stream through the token it was made with.
    Open {
        rows: Box<Rows>,
        interrupts: Interrupts,
    },
    Done,
}

impl<S, Q> Connection<S, Q>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    Q: SqlSession,
{
    pub(super) async fn parse(&mut self, message: Parse) -> Result<(), Failure> {
        let name = message.name.unwrap_or_default();
        let mut statements = self.parsed(&message.query).await?;
        if statements.len() > 1 {
            return Err(Error::new(
                sqlstate::SYNTAX_ERROR,
                "cannot insert multiple commands into a prepared statement",
            )
            .into());
        }
        let statement = statements.pop();
        let description = match &statement {
            Some(statement) => guarded(self.session.describe(statement, &message.type_oids)).await?,
            None => Description::default(),
        };
        self.put_notices();
        self.session.prepare(&name, Prepared { statement, description })?;
        put_parse_complete(&mut self.socket.output);
        Ok(())
    }

    pub(super) fn bind(&mut self, message: Bind) -> Result<(), Failure> {
        let portal_name = message.portal_name.unwrap_or_default();
        let statement_name = message.statement_name.unwrap_or_default();
        let prepared = self.session.prepared(&statement_name)?;
        let is_taken = |name: &str| self.portals.contains_key(name) || self.session.cursor_columns(name).is_some();
        if !portal_name.is_empty() && is_taken(&portal_name) {
            return Err(Error::new(DUPLICATE_CURSOR, format!("cursor \"{portal_name}\" already exists")).into());
        }
        let types = &prepared.description.parameters;
        if message.parameters.len() != types.len() {
            return Err(protocol_violation(format!(
                "bind message supplies {} parameters, but prepared statement \"{statement_name}\" requires {}",
                message.parameters.len(),
                types.len()
            ))
            .into());
        }
        let formats = formats(&message.parameter_format_codes, types.len()).ok_or_else(|| {
            protocol_violation(format!(
                "bind message has {} parameter formats but {} parameters",
                message.parameter_format_codes.len(),
                types.len()
            ))
        })??;
        let zone = self.session.time_zone();
        let parameters = types
            .iter()
            .zip(&message.parameters)
            .zip(formats)
            .enumerate()
            .map(|(i, ((t, bytes), format))| parameters::decode(i + 1, t, format, bytes.as_deref(), zone))
            .collect::<Result<_>>()?;
        let columns = prepared.description.columns.clone();
        let width = columns.as_ref().map_or(0, |c| c.fields().len());
        let codes = &message.result_column_format_codes;
        // A statement without rows ignores how they would be sent.
        let formats = match formats_of_result(codes, width, columns.is_some()) {
            Some(formats) => formats?,
            None => {
                return Err(protocol_violation(format!(
                    "bind message has {} result formats but query has {width} columns",
                    codes.len()
                ))
                .into());
            }
        };
        let statement = prepared.statement;
        self.portals.insert(portal_name, Portal { statement, parameters, columns, formats, state: PortalState::Ready });
        put_bind_complete(&mut self.socket.output);
        Ok(())
    }

    pub(super) fn describe(&mut self, message: &Describe) -> Result<(), Failure> {
        let name = message.name.as_deref().unwrap_or_default();
        let out = &mut self.socket.output;
        let text = |columns: &Option<SchemaRef>| vec![Format::Text; columns.as_ref().map_or(0, |c| c.fields().len())];
        let (columns, formats) = match message.target_type {
            b'S' => {
                let description = self.session.prepared(name)?.description;
                put_parameter_description(out, &description.parameters);
                let formats = text(&description.columns);
                (description.columns, formats)
            }
            b'P' => match (self.portals.get(name), self.session.cursor_columns(name)) {
                (Some(portal), _) => (portal.columns.clone(), portal.formats.clone()),
                (None, Some(columns)) => {
                    let columns = Some(columns);
                    let formats = text(&columns);
                    (columns, formats)
                }
                (None, None) => return Err(undefined_portal(name).into()),
            },
            other => return Err(bad_target("DESCRIBE", other)),
        };
        match columns {
            Some(columns) => put_row_description(out, &columns, &formats)?,
            None => put_no_data(out),
        }
        Ok(())
    }

    pub(super) fn close(&mut self, message: Close) -> Result<(), Failure> {
        let name = message.name.unwrap_or_default();
        match message.target_type {
            b'S' => self.session.forget_prepared(&name),
            b'P' if self.portals.remove(&name).is_some() => {}
            b'P' => self.session.close_cursor(&name),
            other => return Err(bad_target("CLOSE", other)),
        }
        put_close_complete(&mut self.socket.output);
        Ok(())
    }

    pub(super) async fn execute_portal(&mut self, message: Execute) -> Result<(), Failure> {
        let name = message.name.unwrap_or_default();
        // Taken out while it runs: a portal that fails is gone.
        let mut portal = self.portals.remove(&name).ok_or_else(|| undefined_portal(&name))?;
        let limit = u64::try_from(message.max_rows).ok().filter(|n| *n > 0);
        self.run_portal(&name, &mut portal, limit).await?;
        self.portals.insert(name, portal);
        Ok(())
    }

    async fn run_portal(
        &mut self,
        name: &str,
        portal: &mut Portal<Q::Statement>,
        limit: Option<u64>,
    ) -> Result<(), Failure> {
        let Some(statement) = &portal.statement else {
            put_empty(&mut self.socket.output);
            return Ok(());
        };
        let (open, mut interrupts) = match std::mem::replace(&mut portal.state, PortalState::Done) {
            PortalState::Ready => (None, self.interrupts()),
            PortalState::Open { rows, mut interrupts } => {
                interrupts.deadline = self.interrupts().deadline;
                (Some(rows), interrupts)
            }
            PortalState::Done if portal.columns.is_some() => {
                put_complete(&mut self.socket.output, "SELECT 0");
                return Ok(());
            }
            PortalState::Done => {
                return Err(Error::new(
                    sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
                    format!("portal \"{name}\" cannot be run"),
                )
                .into());
            }
        };
        let _running = self.running().start(interrupts.token.clone());
        let mut rows = match open {
            Some(rows) => rows,
            None => {
                // Executes up to a Sync are one transaction; one alone commits by itself.
                if !self.socket.is_before_sync().await? {
                    self.session.begin_implicit_block();
                }
                let response = self.execute(statement, &portal.parameters, &interrupts).await?;
                self.put_notices();
                match response {
                    Response::Rows(rows) => {
                        self.end_live(rows.live, &mut interrupts);
                        check_schema(portal.columns.as_deref(), &rows.schema)?;
                        Box::new(Rows::new(rows, portal.formats.clone(), self.session.format()))
                    }
                    other => return self.finish(other, &mut interrupts).await,
                }
            }
        };
        match rows.send(&mut self.socket, limit, &interrupts).await? {
            Progress::Done(count) => {
                self.put_notices();
                put_complete(&mut self.socket.output, &rows.complete_tag(count));
            }
            Progress::Suspended => {
                put_suspended(&mut self.socket.output);
                portal.state = PortalState::Open { rows, interrupts };
            }
        }
        Ok(())
    }
}

/// The rows must be those that the client was told of: the catalog may have changed since.
fn check_schema(described: Option<&Schema>, actual: &Schema) -> Result<()> {
    // The digits of a numeric may be those of a parameter's value.
    let types =
        |schema: &Schema| schema.fields().iter().map(|f| Ok(column_type(f)?.oid())).collect::<Result<Vec<u32>>>();
    match described {
        Some(described) if types(described)? == types(actual)? => Ok(()),
        _ => {
            Err(Error::unsupported("cached plan must not change result type").with_hint("prepare the statement again"))
        }
    }
}

/// One format each for `count` values from none, one or `count` codes; `None` for another number of codes.
fn formats(codes: &[i16], count: usize) -> Option<Result<Vec<Format>>> {
    match codes {
        [] => Some(Ok(vec![Format::Text; count])),
        [one] => Some(Format::from_code(*one).map(|f| vec![f; count])),
        each if each.len() == count => Some(each.iter().map(|code| Format::from_code(*code)).collect()),
        _ => None,
    }
}

fn formats_of_result(codes: &[i16], width: usize, has_rows: bool) -> Option<Result<Vec<Format>>> {
    if has_rows { formats(codes, width) } else { Some(Ok(Vec::new())) }
}

fn undefined_portal(name: &str) -> Error {
    Error::new(UNDEFINED_CURSOR, format!("portal \"{name}\" does not exist"))
}

fn bad_target(message: &str, target: u8) -> Failure {
    Disconnect::Protocol(protocol_violation(format!("invalid {message} message subtype {target}"))).into()
}
