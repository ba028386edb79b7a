//! GRANT, REVOKE, ALTER DEFAULT PRIVILEGES and ALTER … OWNER TO.

use millstream_catalog::privilege::{AclItem, Class, grant, initial_acl, revoke};
use millstream_catalog::role::{DefaultPrivileges, Role};
use millstream_catalog::{Catalog, Object, ObjectId, ObjectKind, Privilege, Privileges};
use millstream_sql::Parsed;
use millstream_sql::plan::{AlterOwnerPlan, DefaultPrivilegesPlan, GrantPlan};
use millstream_sql::statement::role::GrantChange;

use super::api::{Notice, Response, Severity};
use super::ddl::{gone, tag};
use super::{Scope, Session, complete};
use crate::error::{Error, Result};

const DENIED: &str = "42501";
const INVALID_GRANT: &str = "0LP01";
/// Warnings: privilege not granted, privilege not revoked.
const NOT_GRANTED: &str = "01007";
const NOT_REVOKED: &str = "01006";

impl Session {
    pub(super) async fn grant(&mut self, p: GrantPlan, parsed: &Parsed, scope: &Scope) -> Result<Response> {
        let mut draft = self.draft(scope);
        let grantees = self.grantees(&p.change, draft.catalog())?;
        self.check_grantor(&p.change, draft.catalog())?;
        for id in &p.objects {
            let object = draft.catalog().get(*id).cloned().ok_or_else(|| gone(*id))?;
            let (grantor, grantable) = draft.catalog().grantable(self.role(), &object);
            let privileges = self.allowed(&object, p.privileges, grantable, &p.change, draft.catalog())?;
            let mut acl = object.granted();
            for grantee in &grantees {
                change_acl(&mut acl, grantee, &grantor, privileges, &p.change)?;
            }
            draft.replace(Object { acl: Some(acl), ..Object::clone(&object) });
        }
        if !draft.is_empty() {
            self.apply(draft, Vec::new(), Vec::new(), parsed).await?;
        }
        Ok(complete(if p.change.is_revoke { "REVOKE" } else { "GRANT" }))
    }

    fn grantees(&self, change: &GrantChange, catalog: &Catalog) -> Result<Vec<String>> {
        let grantees = change.roles.iter().map(|name| self.role_named(name, catalog)).collect::<Result<Vec<_>>>()?;
        if change.option && !change.is_revoke && grantees.iter().any(String::is_empty) {
            return Err(Error::new(INVALID_GRANT, "grant options can only be granted to roles")
                .with_hint("PUBLIC is everybody, and no role"));
        }
        Ok(grantees)
    }

    fn check_grantor(&self, change: &GrantChange, catalog: &Catalog) -> Result<()> {
        let Some(by) = &change.granted_by else { return Ok(()) };
        match self.role_named(by, catalog)? == self.role() {
            true => Ok(()),
            false => Err(Error::new("0A000", "grantor must be current user").with_hint("SET ROLE makes it that")),
        }
    }

    /// Of the privileges that a statement names those that its role may give and take. A warning if that is not all.
    ///
    /// # Errors
    /// 42501 if the role has nothing to do with the object at all.
    fn allowed(
        &mut self,
        object: &Object,
        wanted: Privileges,
        grantable: Privileges,
        change: &GrantChange,
        catalog: &Catalog,
    ) -> Result<Privileges> {
        let allowed = wanted.within(grantable);
        if allowed == wanted {
            return Ok(allowed);
        }
        if grantable.is_empty() && catalog.privileges(self.role(), object).is_empty() {
            return Err(Error::new(DENIED, format!("permission denied for {} {}", object.kind_name(), object.name))
                .with_hint(format!("its owner is role \"{}\"", object.owner)));
        }
        // ALL is all that there is to give.
        if change.privileges.is_none() && !allowed.is_empty() {
            return Ok(allowed);
        }
        let (sqlstate, verb) = if change.is_revoke { (NOT_REVOKED, "revoked") } else { (NOT_GRANTED, "granted") };
        let could = if change.is_revoke { "could be" } else { "were" };
        let warning = match allowed.is_empty() {
            true => format!("no privileges {could} {verb} for \"{}\"", object.name),
            false => format!("not all privileges {could} {verb} for \"{}\"", object.name),
        };
        self.notices.push(Notice::new(Severity::Warning, sqlstate, warning));
        Ok(allowed)
    }

    pub(super) async fn default_privileges(
        &mut self,
        p: DefaultPrivilegesPlan,
        parsed: &Parsed,
        scope: &Scope,
    ) -> Result<Response> {
        let mut draft = self.draft(scope);
        let grantees = self.grantees(&p.change, draft.catalog())?;
        let roles = match p.roles.as_slice() {
            [] => vec![self.role().to_string()],
            names => names.iter().map(|name| self.one_role(name, draft.catalog())).collect::<Result<_>>()?,
        };
        let Some(class) = p.class else { return Ok(complete("ALTER DEFAULT PRIVILEGES")) };
        for name in roles {
            if !draft.catalog().has_privileges_of(self.role(), &name) {
                return Err(Error::new(DENIED, "permission denied to change default privileges").with_hint(format!(
                    "only roles with the privileges of role \"{name}\" may say what is granted on its new objects"
                )));
            }
            let (object, role) = draft.catalog().role(&name)?;
            let (object, mut role) = (Object::clone(object), role.clone());
            let places = match p.schemas.as_slice() {
                [] => vec![None],
                schemas => schemas.iter().copied().map(Some).collect(),
            };
            for schema in places {
                change_default(&mut role, &name, class, schema, &grantees, &p)?;
            }
            draft.replace(Object { kind: ObjectKind::Role(role), ..object });
        }
        self.apply(draft, Vec::new(), Vec::new(), parsed).await?;
        Ok(complete("ALTER DEFAULT PRIVILEGES"))
    }

    pub(super) async fn alter_owner(&mut self, p: AlterOwnerPlan, parsed: &Parsed, scope: &Scope) -> Result<Response> {
        let mut draft = self.draft(scope);
        let catalog = draft.catalog();
        let to = self.one_role(&p.to, catalog)?;
        let mut object = Object::clone(catalog.get(p.id).ok_or_else(|| gone(p.id))?);
        let user = self.role();
        if !catalog.is_superuser(user) {
            if !catalog.is_member(user, &to) {
                return Err(Error::new(DENIED, format!("must be able to SET ROLE \"{to}\""))
                    .with_hint("a superuser can give an object to any role"));
            }
            let place = match object.kind {
                ObjectKind::Schema | ObjectKind::Secret(_) => ObjectId::DATABASE,
                _ => object.schema,
            };
            let place = catalog.get(place).ok_or_else(|| gone(place))?;
            if !catalog.privileges(&to, place).has(Privilege::Create) {
                return Err(Error::new(DENIED, format!("permission denied for {} {}", place.kind_name(), place.name))
                    .with_hint(format!("the new owner needs CREATE on {} {}", place.kind_name(), place.name)));
            }
        }
        if object.owner != to {
            let indexes: Vec<Object> = catalog.indexes(object.id).map(|(index, _)| Object::clone(index)).collect();
            object.set_owner(&to);
            draft.replace(object);
            for mut index in indexes {
                index.set_owner(&to);
                draft.replace(index);
            }
            self.apply(draft, Vec::new(), Vec::new(), parsed).await?;
        }
        Ok(complete(format!("ALTER {}", tag(p.kind))))
    }
}

fn change_acl(
    acl: &mut Vec<AclItem>,
    grantee: &str,
    grantor: &str,
    privileges: Privileges,
    change: &GrantChange,
) -> Result<()> {
    if !change.is_revoke {
        let grantable = if change.option { privileges } else { Privileges::NONE };
        grant(acl, AclItem { grantee: grantee.into(), grantor: grantor.into(), privileges, grantable });
        return Ok(());
    }
    revoke(acl, grantee, grantor, privileges, change.option, change.cascade).map_err(|dependents| {
        Error::new("2BP01", "dependent privileges exist")
            .with_detail(format!("role \"{grantee}\" has given them on to {}", dependents.join(", ")))
            .with_hint("use CASCADE to revoke them too")
    })
}

fn change_default(
    role: &mut Role,
    name: &str,
    class: Class,
    schema: Option<ObjectId>,
    grantees: &[String],
    p: &DefaultPrivilegesPlan,
) -> Result<()> {
    // Any new object: its number does not matter.
    let initial = match schema {
        None => initial_acl(class, name, false),
        Some(_) => Vec::new(),
    };
    let at = role.default_privileges.iter().position(|d| d.class == class && d.schema == schema);
    let mut acl = at.map_or_else(|| initial.clone(), |at| role.default_privileges.remove(at).acl);
    for grantee in grantees {
        change_acl(&mut acl, grantee, name, p.privileges, &p.change)?;
    }
    if acl != initial {
        role.default_privileges.push(DefaultPrivileges { schema, class, acl });
    }
    Ok(())
}
