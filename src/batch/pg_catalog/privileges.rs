//! `has_table_privilege` and its kin: each as `(object, privileges)` and `(role, object, privileges)`, names or OIDs.

use std::sync::Arc;

use millstream_catalog::privilege::Class;
use millstream_catalog::{Object, ObjectId, Privilege, Privileges};

use super::rows::Cell;
use super::view::CatalogView;
use crate::error::{Error, Result, sqlstate};

/// Whether a role may do at least one of the things that the last argument names, separated by commas, with the object that
/// the one before it names. NULL for NULL, and for an OID that nothing has.
///
/// # Errors
/// 42704, 42P01, 3F000 for names that nothing has; 22023 for a privilege that there is not.
pub fn has(view: &CatalogView, args: &[Cell], class: Class) -> Result<Cell> {
    if args.contains(&Cell::Null) {
        return Ok(Cell::Null);
    }
    // That of a column is that of its relation: there are none of single columns.
    let (role, rest) = match (args, class) {
        ([role, rest @ ..], _) if rest.len() == 2 => (role_of(view, role)?, rest),
        (rest, _) => (view.user.clone(), rest),
    };
    let [object, wanted] = rest else {
        return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "wrong number of arguments")
            .with_hint("they are an object and a privilege, or a role, an object and a privilege"));
    };
    let found: Option<Privileges> = match class {
        Class::Relation => {
            let relation = match object.oid() {
                Some(oid) => view.relation(oid),
                None => {
                    let name = object.text().unwrap_or_default();
                    let missing =
                        || Error::new(sqlstate::UNDEFINED_TABLE, format!("relation \"{name}\" does not exist"));
                    Some(view.find(&name).ok_or_else(missing)?)
                }
            };
            relation.map(|r| view.privileges_on(&role, r.object.as_deref()))
        }
        Class::Schema => by_id(view, object, &role, |name| Ok(view.catalog.schema(name)?))?,
        Class::Database => view.catalog.get(ObjectId::DATABASE).map(|o| view.catalog.privileges(&role, o)),
        Class::Function => by_id(view, object, &role, |name| {
            let bare = name.split('(').next().unwrap_or(name).rsplit('.').next().unwrap_or(name);
            let function = view.search_path.iter().find_map(|s| view.catalog.functions(s, bare).next());
            // Everybody may call those of the system.
            Ok(function.map_or(ObjectId(0), |f| f.id))
        })?
        .or(Some(class.all())),
        Class::Task | Class::Secret => None,
    };
    let Some(found) = found else { return Ok(Cell::Null) };
    any(found, &wanted.text().unwrap_or_default(), class).map(Into::into)
}

fn by_id(
    view: &CatalogView,
    object: &Cell,
    role: &str,
    by_name: impl Fn(&str) -> Result<ObjectId>,
) -> Result<Option<Privileges>> {
    let id = match object.oid() {
        Some(oid) => ObjectId(oid),
        None => by_name(&object.text().unwrap_or_default())?,
    };
    let object: Option<&Arc<Object>> = view.catalog.get(id);
    Ok(object.map(|o| view.catalog.privileges(role, o)))
}

fn any(found: Privileges, wanted: &str, class: Class) -> Result<bool> {
    let mut has = false;
    for word in wanted.split(',').map(str::trim) {
        let upper = word.to_uppercase();
        let name = upper.strip_suffix("WITH GRANT OPTION").map_or(upper.as_str(), str::trim);
        // Columns have privileges of their own in PostgreSQL, and the same as relations here.
        let privilege = Privilege::of_name(name).filter(|p| class.all().has(*p)).ok_or_else(|| {
            Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("unrecognized privilege type: \"{word}\""))
                .with_hint(format!("those of a {} are known", class.name()))
        })?;
        has |= found.has(privilege);
    }
    Ok(has)
}

/// The role that a name or OID stands for.
///
/// # Errors
/// 42704 if there is none of that name.
pub fn role_of(view: &CatalogView, role: &Cell) -> Result<String> {
    match (role, role.text()) {
        (Cell::Int(_), _) => Ok(role.oid().and_then(|oid| view.role_name(oid)).map(str::to_string).unwrap_or_default()),
        (_, Some(name)) if name == "public" => Ok(String::new()),
        (_, Some(name)) => Ok(view.catalog.role(&name).map(|_| name.clone())?),
        (_, None) => Ok(String::new()),
    }
}

/// `pg_has_role([user,] role, 'MEMBER' | 'USAGE' | 'SET')`.
///
/// # Errors
/// 42704 for names that no role has, 22023 for another word.
pub fn has_role(view: &CatalogView, args: &[Cell]) -> Result<Cell> {
    if args.contains(&Cell::Null) {
        return Ok(Cell::Null);
    }
    let (user, role, wanted) = match args {
        [user, role, wanted] => (role_of(view, user)?, role, wanted),
        [role, wanted] => (view.user.clone(), role, wanted),
        _ => {
            return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "wrong number of arguments")
                .with_hint("they are a role and a privilege, or a user, a role and a privilege"));
        }
    };
    let role = role_of(view, role)?;
    let wanted = wanted.text().unwrap_or_default().to_uppercase();
    let catalog = &view.catalog;
    match wanted.split(" WITH ").next().unwrap_or_default().trim() {
        "MEMBER" | "SET" => Ok(catalog.is_member(&user, &role).into()),
        "USAGE" => Ok(catalog.has_privileges_of(&user, &role).into()),
        other => {
            Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("unrecognized privilege type: \"{other}\""))
                .with_hint("it is MEMBER, USAGE or SET"))
        }
    }
}
