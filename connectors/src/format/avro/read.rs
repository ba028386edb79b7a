//! Readers of payloads, keys and changes in Avro: each keeps a plan for every schema that it has met.

use std::collections::HashMap;
use std::sync::Arc;

use millstream_catalog::SqlType;

use super::Writers;
use super::decode::{read_record, read_value};
use super::input::Input;
use super::plan::{self, Op, ReaderType, RecordOp, Wanted};
use super::schema::{Schema, Type};
use crate::format::Failure;
use crate::format::debezium::{self, Change, ReadChange};
use crate::format::payload::{Columns, ReadPayload, Target};
use crate::registry::split_header;

/// Where the values of a row are.
#[derive(Debug)]
pub(super) enum Root {
    /// In the fields of a record.
    Record(RecordOp),
    /// The value itself is that of the one column.
    Single { at: usize, name: Box<str>, op: Op },
}

impl Root {
    /// For columns of (position, name, type).
    pub fn new<'a>(
        schema: &Schema,
        row: &Type,
        reader: ReaderType<'_>,
        columns: impl Iterator<Item = (usize, &'a str, &'a SqlType)>,
    ) -> Result<Self, String> {
        let wanted: Vec<_> = columns.map(|(at, name, sql_type)| Wanted { name, sql_type, at }).collect();
        match (schema.fields(row), wanted.as_slice()) {
            // A column of records is not the record of the row.
            (Some(fields), _) => Ok(Self::Record(plan::record(schema, fields, reader, &wanted)?)),
            (None, [one]) => {
                let op = plan::value(schema, row, reader, one.sql_type)?;
                Ok(Self::Single { at: one.at, name: one.name.into(), op })
            }
            (None, _) => {
                Err(format!("it is a {} and no record, and there are {} columns", schema.describe(row), wanted.len()))
            }
        }
    }

    fn read(&self, schema: &Schema, data: &[u8], mut columns: Columns<'_>) -> Result<(), Failure> {
        let mut input = Input::new(data);
        match self {
            Self::Record(op) => read_record(op, schema, &mut input, columns.builders, columns.kept, None)?,
            Self::Single { at, name, op } => read_value(op, schema, &mut input, columns.cleared(*at))
                .map_err(|e| format!("column \"{name}\": {e}"))?,
        }
        Ok(input.end()?)
    }
}

/// Columns to be filled, as they are kept between records.
struct Owned(Vec<(usize, String, SqlType)>);

impl Owned {
    fn new(targets: &[Target<'_>]) -> Self {
        Self(targets.iter().map(|t| (t.at, t.name.to_string(), t.sql_type.clone())).collect())
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &str, &SqlType)> {
        self.0.iter().map(|(at, name, t)| (*at, name.as_str(), t))
    }
}

/// What is remembered of each schema that records are written by.
struct Plans<P> {
    writers: Arc<Writers>,
    by_id: HashMap<u32, Result<Arc<P>, String>>,
    last: Option<(u32, Arc<P>)>,
}

impl<P> Plans<P> {
    fn new(writers: Arc<Writers>) -> Self {
        Self { writers, by_id: HashMap::new(), last: None }
    }

    /// The plan for a record, and the record without its header.
    fn of<'a>(
        &mut self,
        record: &'a [u8],
        make: impl FnOnce(Arc<Schema>) -> Result<P, String>,
    ) -> Result<(Arc<P>, &'a [u8]), Failure> {
        let (id, data) = match &*self.writers {
            Writers::One(_) => (0, record),
            Writers::ById(_) => split_header(record)?,
        };
        if let Some((last, plan)) = &self.last
            && *last == id
        {
            return Ok((plan.clone(), data));
        }
        let plan = match self.by_id.get(&id) {
            Some(known) => known.clone(),
            None => {
                let schema = match &*self.writers {
                    Writers::One(schema) => schema.clone(),
                    Writers::ById(cache) => cache.get(id)?,
                };
                let plan = make(schema).map(Arc::new).map_err(|e| match &*self.writers {
                    Writers::One(_) => e,
                    Writers::ById(_) => format!("schema id {id}: {e}"),
                });
                self.by_id.insert(id, plan.clone());
                plan
            }
        }?;
        self.last = Some((id, plan.clone()));
        Ok((plan, data))
    }
}

/// Reads payloads and keys.
pub(in crate::format) struct AvroPayload {
    plans: Plans<(Arc<Schema>, Root)>,
    reader: Option<Arc<Schema>>,
    targets: Owned,
}

impl AvroPayload {
    pub fn new(writers: Arc<Writers>, reader: Option<Arc<Schema>>, targets: &[Target<'_>]) -> Self {
        Self { plans: Plans::new(writers), reader, targets: Owned::new(targets) }
    }
}

impl ReadPayload for AvroPayload {
    fn read(&mut self, payload: &[u8], columns: Columns<'_>) -> Result<(), Failure> {
        let Self { plans, reader, targets } = self;
        let (plan, data) = plans.of(payload, |schema| {
            let reader = reader.as_ref().map(|r| (r, &r.root));
            let root = Root::new(&schema, &schema.root, reader, targets.iter())?;
            Ok((schema, root))
        })?;
        plan.1.read(&plan.0, data, columns)
    }
}

/// A part of Debezium's envelope.
enum Part {
    /// With the branch of its union that is null, and that which is a row.
    Before(Image),
    After(Image),
    Op,
    Other(Type),
}

/// How the image of a row is written: in a union with null, or always there.
struct Image {
    null: Option<usize>,
    row: Type,
}

struct EnvelopePlan {
    schema: Arc<Schema>,
    parts: Vec<Part>,
    row: Root,
    key: Root,
}

impl EnvelopePlan {
    fn new(schema: Arc<Schema>, reader: Option<&Arc<Schema>>, row: &Owned, key: &Owned) -> Result<Self, String> {
        let none = "the schema is no envelope of Debezium's";
        let fields = schema.fields(&schema.root).ok_or(none)?;
        let image = |t: &Type| match t {
            Type::Union(branches) if branches.len() == 2 => {
                let null = branches.iter().position(|b| *b == Type::Null).ok_or(none)?;
                Ok(Image { null: Some(null), row: branches[1 - null].clone() })
            }
            other => Ok::<_, String>(Image { null: None, row: other.clone() }),
        };
        let mut parts = Vec::with_capacity(fields.len());
        for field in fields {
            parts.push(match (field.name.as_str(), &field.field_type) {
                ("before", t) => Part::Before(image(t)?),
                ("after", t) => Part::After(image(t)?),
                ("op", Type::String { .. }) => Part::Op,
                (_, t) => Part::Other(t.clone()),
            });
        }
        let find = |wanted: &str| {
            let field = fields.iter().find(|f| f.name == wanted);
            field.map(|f| schema.without_null(&f.field_type).0.clone()).ok_or(format!("{none}: it has no \"{wanted}\""))
        };
        let (before, after) = (find("before")?, find("after")?);
        find("op")?;
        let reader_row = reader.and_then(|r| Some((r, super::row_type(r, true).ok()?)));
        let row = Root::new(&schema, &after, reader_row, row.iter())?;
        let key = Root::new(&schema, &before, reader_row, key.iter())?;
        Ok(Self { parts, row, key, schema })
    }
}

/// Reads changes.
pub(in crate::format) struct AvroChange {
    plans: Plans<EnvelopePlan>,
    reader: Option<Arc<Schema>>,
    row: Owned,
    key: Owned,
    /// Of the change that was opened last.
    current: Option<Arc<EnvelopePlan>>,
}

impl AvroChange {
    pub fn new(writers: Arc<Writers>, reader: Option<Arc<Schema>>, row: &[Target<'_>], key: &[Target<'_>]) -> Self {
        Self { plans: Plans::new(writers), reader, row: Owned::new(row), key: Owned::new(key), current: None }
    }

    fn current(&self) -> Result<&EnvelopePlan, Failure> {
        self.current.as_deref().ok_or_else(|| "no change was opened".into())
    }
}

impl ReadChange for AvroChange {
    fn open<'a>(&mut self, payload: &'a [u8]) -> Result<Change<'a>, Failure> {
        let Self { plans, reader, row, key, .. } = self;
        let (plan, data) = plans.of(payload, |schema| EnvelopePlan::new(schema, reader.as_ref(), row, key))?;
        let mut input = Input::new(data);
        let (mut before, mut after, mut op) = (None, None, None);
        for part in &plan.parts {
            match part {
                Part::Before(image) => before = take_image(&mut input, &plan.schema, image)?,
                Part::After(image) => after = take_image(&mut input, &plan.schema, image)?,
                Part::Op => op = Some(debezium::Op::parse(input.text()?)?),
                Part::Other(t) => input.skip(&plan.schema, t, 0)?,
            }
        }
        input.end()?;
        self.current = Some(plan);
        let op = op.ok_or("the record is no change of Debezium's: it has no \"op\"")?;
        Ok(Change { op, before, after })
    }

    fn read_row(&mut self, image: &[u8], columns: Columns<'_>) -> Result<(), Failure> {
        let plan = self.current()?;
        plan.row.read(&plan.schema, image, columns)
    }

    fn read_key(&mut self, image: &[u8], columns: Columns<'_>) -> Result<(), Failure> {
        let plan = self.current()?;
        plan.key.read(&plan.schema, image, columns)
    }
}

/// The data of a row's image, if there is one.
fn take_image<'a>(input: &mut Input<'a>, schema: &Schema, image: &Image) -> Result<Option<&'a [u8]>, String> {
    if let Some(null) = image.null
        && input.index(2, "branch")? == null
    {
        return Ok(None);
    }
    let mark = input.mark();
    input.skip(schema, &image.row, 0)?;
    Ok(Some(input.since(mark)))
}
