//! GRANT, REVOKE, ALTER DEFAULT PRIVILEGES, ALTER … OWNER TO: the objects and privileges that they name.

use datafusion_sql::sqlparser::ast::Ident;
use millstream_catalog::privilege::Class;
use millstream_catalog::{Object, ObjectId, Privilege, Privileges};

use super::ddl::{Altered, altered, find};
use super::provider::{Relation, resolve, table_reference};
use crate::context::PlanContext;
use crate::error::{Result, SqlError};
use crate::plan::{AlterOwnerPlan, DefaultPrivilegesPlan, GrantPlan, Plan};
use crate::statement::role::{AlterOwner, DefaultPrivilegesStatement, GrantChange, GrantStatement, GrantTarget};
use crate::types::normalize;

/// `GRANT … ON`, `REVOKE … ON`.
///
/// # Errors
/// As those of the names; 0LP01 for a privilege that the objects do not have.
pub(crate) fn grant(s: &GrantStatement, ctx: &PlanContext<'_>) -> Result<Plan> {
    let (class, objects) = targets(&s.on, ctx)?;
    let privileges = privileges(&s.change, class)?;
    Ok(Plan::Grant(GrantPlan { objects, privileges, change: s.change.clone() }))
}

/// `ALTER DEFAULT PRIVILEGES`.
///
/// # Errors
/// 3F000 for an unknown schema, 0LP01 for a privilege that the objects do not have.
pub(crate) fn default_privileges(s: &DefaultPrivilegesStatement, ctx: &PlanContext<'_>) -> Result<Plan> {
    let mut schemas = Vec::new();
    for name in &s.schemas {
        schemas.push(ctx.catalog.schema(&normalize(name)).map_err(|e| SqlError::from(e).with_span(name.span))?);
    }
    if let (Some(Class::Schema | Class::Secret), false) = (s.class, schemas.is_empty()) {
        return Err(SqlError::new(
            "0LP01",
            "cannot use IN SCHEMA clause when using GRANT/REVOKE ON SCHEMAS or SECRETS",
        ));
    }
    let privileges = match s.class {
        Some(class) => privileges(&s.change, class)?,
        None => Privileges::NONE,
    };
    Ok(Plan::DefaultPrivileges(DefaultPrivilegesPlan {
        roles: s.roles.clone(),
        schemas,
        class: s.class,
        privileges,
        change: s.change.clone(),
    }))
}

/// `ALTER … OWNER TO`.
pub(crate) fn alter_owner(s: &AlterOwner, ctx: &PlanContext<'_>) -> Result<Plan> {
    Ok(match altered(s.kind, &s.name, s.if_exists, ctx)? {
        Altered::Object(object) => Plan::AlterOwner(AlterOwnerPlan { id: object.id, kind: s.kind, to: s.to.clone() }),
        Altered::Missing(plan) => *plan,
    })
}

fn targets(on: &GrantTarget, ctx: &PlanContext<'_>) -> Result<(Class, Vec<ObjectId>)> {
    let class_of = |object: &Object| {
        object
            .class()
            .ok_or_else(|| SqlError::new("42809", format!("there are no privileges on {}", object.describe())))
    };
    Ok(match on {
        GrantTarget::Relations(names) => {
            let mut ids = Vec::new();
            for name in names {
                let span = name.0.last().and_then(|p| p.as_ident()).map(|i| i.span);
                let located = |e: SqlError| match span {
                    Some(span) => e.with_span(span),
                    None => e,
                };
                match resolve(ctx, &table_reference(name)?).map_err(located)? {
                    Relation::Object(object) => ids.push(object.id),
                    Relation::System { name, .. } => {
                        return Err(located(
                            SqlError::unsupported(format!("privileges on system table \"{name}\" cannot be changed"))
                                .with_hint("everybody may read it, and sees of it what their rights allow"),
                        ));
                    }
                }
            }
            (Class::Relation, ids)
        }
        GrantTarget::Objects(kind, names) => {
            let objects = names.iter().map(|name| find(*kind, name, ctx)).collect::<Result<Vec<_>>>()?;
            let class = objects.first().map(|o| class_of(o)).transpose()?.unwrap_or(Class::Relation);
            (class, objects.iter().map(|o| o.id).collect())
        }
        GrantTarget::Databases(names) => {
            for name in names {
                if normalize(name) != ctx.session.database {
                    return Err(SqlError::new("3D000", format!("database \"{}\" does not exist", normalize(name)))
                        .with_span(name.span));
                }
            }
            (Class::Database, vec![ObjectId::DATABASE])
        }
        GrantTarget::AllIn { class, kind, schemas } => {
            let mut ids = Vec::new();
            for name in schemas {
                let schema =
                    ctx.catalog.schema(&normalize(name)).map_err(|e| SqlError::from(e).with_span(name.span))?;
                let in_schema = ctx.catalog.objects().filter(|o| o.schema == schema && o.id != schema);
                let wanted = in_schema
                    .filter(|o| o.class() == Some(*class) && kind.is_none_or(|kind| kind.name() == o.kind_name()));
                ids.extend(wanted.map(|o| o.id));
            }
            (*class, ids)
        }
        GrantTarget::Nothing => (Class::Relation, Vec::new()),
    })
}

/// The privileges that a statement names, of objects of that class.
fn privileges(change: &GrantChange, class: Class) -> Result<Privileges> {
    let Some(words) = &change.privileges else { return Ok(class.all()) };
    let mut all = Privileges::NONE;
    for word in words {
        all = all.and(privilege(word, class)?);
    }
    Ok(all)
}

fn privilege(word: &Ident, class: Class) -> Result<Privileges> {
    let found = Privilege::of_name(&word.value)
        .ok_or_else(|| SqlError::syntax(format!("unrecognized privilege type \"{}\"", word.value.to_lowercase())));
    let found = found.map_err(|e| e.with_hint(of_class(class)).with_span(word.span))?;
    if class.all().has(found) {
        return Ok(Privileges::of(&[found]));
    }
    Err(SqlError::new("0LP01", format!("invalid privilege type {} for {}", found.name(), class.name()))
        .with_hint(of_class(class))
        .with_span(word.span))
}

fn of_class(class: Class) -> String {
    let names: Vec<_> = class.all().iter().map(Privilege::name).collect();
    format!("the privileges on a {} are {}", class.name(), names.join(", "))
}
