//! Whether the role that a statement is planned for may do what it asks.
//!
//! Rights are looked at where names are resolved, so that nothing is planned that must not run. Inside of a plain view those
//! of the view's owner count; where a stored definition is planned again nobody's do.

use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{self, Visit, Visitor};
use millstream_catalog::privilege::Class;
use millstream_catalog::role::{READ_SERVER_FILES, WRITE_SERVER_FILES};
use millstream_catalog::{Catalog, Object, ObjectId, ObjectKind, Privilege};

use crate::context::{ExternalCall, PlanContext, Rights};
use crate::error::{Result, SqlError};
use crate::types::quote_ident;

const DENIED: &str = "42501";

impl<'a> PlanContext<'a> {
    /// Refuses what the role may not do with an object.
    ///
    /// # Errors
    /// 42501 naming the object.
    pub(crate) fn require(&self, object: &Object, privilege: Privilege) -> Result<()> {
        // What there are no privileges on is refused for what it is.
        let Some(rights) = self.rights.filter(|_| object.class().is_some()) else { return Ok(()) };
        if self.catalog.privileges(rights.role, object).has(privilege) {
            return Ok(());
        }
        Err(denied(object, privilege, rights.role, self.catalog))
    }

    /// Refuses reading a relation, unless it is the one that the statement changes without reading it.
    ///
    /// # Errors
    /// As [`Self::require`].
    pub(crate) fn require_select(&self, object: &Object) -> Result<()> {
        match self.rights.and_then(|r| r.unread) {
            Some(unread) if unread == object.id => Ok(()),
            _ => self.require(object, Privilege::Select),
        }
    }

    /// Refuses what is for an object's owner.
    ///
    /// # Errors
    /// 42501 naming the object.
    pub(crate) fn require_owner(&self, object: &Object) -> Result<()> {
        match self.rights {
            Some(rights) if !self.catalog.is_owner(rights.role, object) => {
                Err(SqlError::new(DENIED, format!("must be owner of {} {}", object.kind_name(), object.name))
                    .with_hint(format!("it belongs to role \"{}\"", object.owner)))
            }
            _ => Ok(()),
        }
    }

    /// Refuses dropping an object, which its owner and that of its schema may.
    ///
    /// # Errors
    /// As [`Self::require_owner`].
    pub(crate) fn require_to_drop(&self, object: &Object) -> Result<()> {
        let schema = self.catalog.get(object.schema).filter(|s| s.kind == ObjectKind::Schema);
        match (self.rights, schema) {
            (Some(rights), Some(schema)) if self.catalog.is_owner(rights.role, schema) => Ok(()),
            _ => self.require_owner(object),
        }
    }

    /// Refuses looking into, or making something in, a schema.
    ///
    /// # Errors
    /// As [`Self::require`].
    pub(crate) fn require_in_schema(&self, schema: ObjectId, privilege: Privilege) -> Result<()> {
        match self.catalog.get(schema) {
            Some(schema) => self.require(schema, privilege),
            None => Ok(()),
        }
    }

    /// Refuses what takes a right in the database as a whole.
    ///
    /// # Errors
    /// As [`Self::require`].
    pub(crate) fn require_in_database(&self, privilege: Privilege) -> Result<()> {
        self.require_in_schema(ObjectId::DATABASE, privilege)
    }

    /// Refuses files of the server's machine to roles that may not read, or write, them.
    ///
    /// # Errors
    /// 42501 naming the file.
    pub(crate) fn require_files(&self, location: &str, write: bool) -> Result<()> {
        match self.rights {
            Some(rights) => may_open(location, write, rights, self.catalog),
            None => Ok(()),
        }
    }

    /// The same in the name of a view's owner.
    pub(crate) fn of_owner<'b>(self, owner: &'b str) -> Option<Rights<'b>>
    where
        'a: 'b,
    {
        self.rights.map(|_| Rights { role: owner, unread: None })
    }

    /// The context of a statement that changes a relation whose rows it does not look at.
    pub(crate) fn without_reading(self, object: ObjectId) -> Self {
        Self { rights: self.rights.map(|r| Rights { unread: Some(object), ..r }), ..self }
    }

    /// The schemas of the search path that the role may look into.
    pub(crate) fn usable_path(&self) -> impl Iterator<Item = &'a String> {
        let (catalog, rights) = (self.catalog, self.rights);
        self.search_path.iter().filter(move |schema| {
            let Some(rights) = rights else { return true };
            let found = catalog.schema(schema).ok().and_then(|id| catalog.get(id));
            found.is_none_or(|s| catalog.privileges(rights.role, s).has(Privilege::Usage))
        })
    }
}

/// Refuses the files of a call to a role that may not read them, before anybody looks at them.
///
/// # Errors
/// 42501 naming the file.
pub fn may_read(call: &ExternalCall, role: &str, catalog: &Catalog) -> Result<()> {
    let rights = Rights { role, unread: None };
    // Of records that have a schema the file is that of the schema, and the location a name.
    if matches!(call.format.as_str(), "avro" | "protobuf") {
        let file = call.options.get("encode.schema.location");
        return file.map_or(Ok(()), |file| may_open(file, false, rights, catalog));
    }
    call.locations.iter().try_for_each(|location| may_open(location, false, rights, catalog))
}

fn may_open(location: &str, write: bool, rights: Rights<'_>, catalog: &Catalog) -> Result<()> {
    let is_local = location.split_once("://").is_none_or(|(scheme, _)| scheme == "file");
    let (group, verb) = if write { (WRITE_SERVER_FILES, "write") } else { (READ_SERVER_FILES, "read") };
    if !is_local || catalog.has_privileges_of(rights.role, group) {
        return Ok(());
    }
    Err(SqlError::new(DENIED, format!("permission denied to {verb} file \"{location}\""))
        .with_detail(format!("only roles with the privileges of role \"{group}\" may {verb} files of the server"))
        .with_hint(format!("GRANT {group} TO {} gives them", quote_ident(rights.role))))
}

fn denied(object: &Object, privilege: Privilege, role: &str, catalog: &Catalog) -> SqlError {
    let name = match object.class() {
        Some(Class::Relation | Class::Function | Class::Task)
            if catalog.schema_name(object) != millstream_catalog::DEFAULT_SCHEMA =>
        {
            format!("{}.{}", quote_ident(catalog.schema_name(object)), quote_ident(&object.name))
        }
        _ => quote_ident(&object.name),
    };
    let on = match object.class() {
        Some(Class::Relation) | None => String::new(),
        Some(class) => format!("{} ", class.name().to_uppercase()),
    };
    SqlError::new(DENIED, format!("permission denied for {} {}", object.kind_name(), object.name)).with_hint(format!(
        "GRANT {} ON {on}{name} TO {} gives the right",
        privilege.name(),
        quote_ident(role)
    ))
}

/// Whether an expression looks at rows: it has a column or a query in it.
pub(crate) fn reads(expr: &ast::Expr) -> bool {
    struct Reads;
    impl Visitor for Reads {
        type Break = ();

        fn pre_visit_query(&mut self, _: &ast::Query) -> ControlFlow<()> {
            ControlFlow::Break(())
        }

        fn pre_visit_expr(&mut self, expr: &ast::Expr) -> ControlFlow<()> {
            match expr {
                ast::Expr::Identifier(_) | ast::Expr::CompoundIdentifier(_) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        }
    }
    expr.visit(&mut Reads).is_break()
}
