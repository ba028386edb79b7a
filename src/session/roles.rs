//! Roles: CREATE, ALTER and DROP ROLE, who is in which, and which of them a session acts as.
//!
//! As in PostgreSQL 16, CREATEROLE is about the roles that its holder has made, or was given with ADMIN OPTION, and never
//! about superusers: it is no way to become one.

use std::collections::BTreeMap;

use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast::Ident;
use millstream_catalog::role::{Membership, Role};
use millstream_catalog::{Catalog, DEFAULT_USER, Draft, Object, ObjectId, ObjectKind, SqlType};
use millstream_sql::statement::role::{RoleName, RoleOption, RoleStatement};
use millstream_sql::types::{normalize, parse_value};
use millstream_sql::{Parsed, Rights};

use super::api::{Notice, Response, Severity};
use super::{Scope, Session, complete};
use crate::error::{Error, Result, sqlstate};
use crate::scram::Verifier;

/// The settings that say who a session is.
pub(super) const SESSION_AUTHORIZATION: &str = "session_authorization";
pub(super) const ROLE: &str = "role";
pub(super) const IS_SUPERUSER: &str = "is_superuser";
/// The role that acts as no other than the session's own.
pub(super) const NO_ROLE: &str = "none";

const DENIED: &str = "42501";
const IN_USE: &str = "55006";
const INVALID_GRANT: &str = "0LP01";
const DEPENDENT: &str = "2BP01";

impl Session {
    /// The role that the session acts as.
    pub(super) fn role(&self) -> &str {
        match self.settings.value(ROLE) {
            None | Some(NO_ROLE) => self.session_user(),
            Some(role) => role,
        }
    }

    /// The role that the session began with, or SET SESSION AUTHORIZATION put in its place.
    pub(super) fn session_user(&self) -> &str {
        self.settings.value(SESSION_AUTHORIZATION).unwrap_or(&self.client.user)
    }

    /// The rights that its statements are planned with.
    pub(super) fn rights(&self) -> Option<Rights<'_>> {
        Some(Rights { role: self.role(), unread: None })
    }

    /// The role behind a name; empty for PUBLIC.
    ///
    /// # Errors
    /// 42704 if there is none.
    pub(super) fn role_named(&self, name: &RoleName, catalog: &Catalog) -> Result<String> {
        Ok(match name {
            RoleName::Named(ident) => {
                let name = normalize(ident);
                catalog.role(&name)?;
                name
            }
            RoleName::CurrentUser => self.role().to_string(),
            RoleName::SessionUser => self.session_user().to_string(),
            RoleName::Everybody => String::new(),
        })
    }

    /// The role behind a name, which is not PUBLIC.
    ///
    /// # Errors
    /// 42704 if there is none.
    pub(super) fn one_role(&self, name: &RoleName, catalog: &Catalog) -> Result<String> {
        match name {
            RoleName::Everybody => Err(Error::new(sqlstate::UNDEFINED_OBJECT, "role \"public\" does not exist")
                .with_hint("PUBLIC is everybody; name a role here")),
            name => self.role_named(name, catalog),
        }
    }

    pub(super) async fn role_statement(
        &mut self,
        s: RoleStatement,
        parsed: &Parsed,
        scope: &Scope,
    ) -> Result<Response> {
        let mut draft = self.draft(scope);
        let tag = match s {
            RoleStatement::Set { role, local } => return self.set_role(role, local, draft.catalog()),
            RoleStatement::SetSession(role) => return self.set_session(role.as_deref(), draft.catalog()),
            RoleStatement::Create { name, options } => {
                self.create_role(&normalize(&name), options, parsed, &mut draft)?;
                "CREATE ROLE"
            }
            RoleStatement::Alter { role, options } => {
                let name = self.one_role(&role, draft.catalog())?;
                self.alter_role(&name, options, &mut draft)?;
                "ALTER ROLE"
            }
            RoleStatement::Rename { role, to } => {
                self.rename_role(&normalize(&role), &normalize(&to), &mut draft)?;
                "ALTER ROLE"
            }
            RoleStatement::Setting { role, name, value } => {
                let role = self.one_role(&role, draft.catalog())?;
                self.role_setting(&role, name, value, &mut draft)?;
                "ALTER ROLE"
            }
            RoleStatement::Drop { names, if_exists } => {
                for name in &names {
                    self.drop_role(name, if_exists, &mut draft)?;
                }
                "DROP ROLE"
            }
            RoleStatement::Grant { roles, members, admin } => {
                let members = self.one_role_each(&members, draft.catalog())?;
                for role in names_of(&roles) {
                    for member in &members {
                        self.add_member(&role, member, admin, &mut draft)?;
                    }
                }
                "GRANT ROLE"
            }
            RoleStatement::Revoke { roles, members, admin_only } => {
                let members = self.one_role_each(&members, draft.catalog())?;
                for role in names_of(&roles) {
                    for member in &members {
                        self.remove_member(&role, member, admin_only, &mut draft)?;
                    }
                }
                "REVOKE ROLE"
            }
            RoleStatement::ReassignOwned { from, to } => {
                let to = self.one_role(&to, draft.catalog())?;
                for from in self.one_role_each(&from, draft.catalog())? {
                    for role in [&from, &to] {
                        self.require_acting_as(role, "reassign objects", draft.catalog())?;
                    }
                    refuse_first(&from, "reassign ownership of objects owned by")?;
                    draft.reassign(&from, &to);
                }
                "REASSIGN OWNED"
            }
            RoleStatement::DropOwned { by, cascade } => {
                for role in self.one_role_each(&by, draft.catalog())? {
                    self.require_acting_as(&role, "drop objects", draft.catalog())?;
                    refuse_first(&role, "drop objects owned by")?;
                    self.drop_owned(&role, cascade, &mut draft)?;
                }
                "DROP OWNED"
            }
        };
        if !draft.is_empty() {
            self.apply(draft, Vec::new(), Vec::new(), parsed).await?;
        }
        Ok(complete(tag))
    }

    fn one_role_each(&self, names: &[RoleName], catalog: &Catalog) -> Result<Vec<String>> {
        names.iter().map(|name| self.one_role(name, catalog)).collect()
    }

    fn require_acting_as(&self, role: &str, what: &str, catalog: &Catalog) -> Result<()> {
        match catalog.has_privileges_of(self.role(), role) {
            true => Ok(()),
            false => Err(Error::new(DENIED, format!("permission denied to {what}"))
                .with_detail(format!("Only roles with privileges of role \"{role}\" may {what} owned by it."))),
        }
    }

    /// Whether the session may change a role: superusers any, others with CREATEROLE those that they are admins of.
    fn require_admin(&self, name: &str, what: &str, catalog: &Catalog) -> Result<()> {
        let (user, (_, role)) = (self.role(), catalog.role(name)?);
        if catalog.is_superuser(user) {
            return Ok(());
        }
        let denied = Error::new(DENIED, format!("permission denied to {what} role \"{name}\""));
        if role.superuser {
            let detail =
                format!("Only roles with the SUPERUSER attribute may {what} roles with the SUPERUSER attribute.");
            return Err(denied.with_detail(detail));
        }
        let may_create = catalog.find_role(user).is_some_and(|(_, r)| r.create_role);
        match may_create && catalog.is_admin(user, name) {
            true => Ok(()),
            false => Err(denied.with_detail(format!(
                "Only roles with the CREATEROLE attribute and the ADMIN option on role \"{name}\" may {what} it."
            ))),
        }
    }

    fn create_role(&mut self, name: &str, options: Vec<RoleOption>, parsed: &Parsed, draft: &mut Draft) -> Result<()> {
        let user = self.role().to_string();
        let is_superuser = draft.catalog().is_superuser(&user);
        if !is_superuser && !draft.catalog().find_role(&user).is_some_and(|(_, r)| r.create_role) {
            return Err(Error::new(DENIED, "permission denied to create role")
                .with_detail("Only roles with the CREATEROLE attribute may create roles."));
        }
        let mut role = Role::default();
        let memberships = self.apply_options(&mut role, name, options, draft.catalog())?;
        let id = draft.new_id();
        let object = Object {
            owner: DEFAULT_USER.into(),
            definition: millstream_sql::masked(&parsed.text),
            ..Object::named(id, id, name, ObjectKind::Role(role))
        };
        draft.create(object)?;
        if !is_superuser {
            put_member(name, &user, Membership { admin: true, grantor: DEFAULT_USER.into() }, draft)?;
        }
        for (group, member, admin) in memberships {
            self.add_member(&group, &member, admin, draft)?;
        }
        Ok(())
    }

    fn alter_role(&mut self, name: &str, options: Vec<RoleOption>, draft: &mut Draft) -> Result<()> {
        let own_password = name == self.role() && options.iter().all(|o| matches!(o, RoleOption::Password(_)));
        if !own_password {
            self.require_admin(name, "alter", draft.catalog())?;
        }
        let (object, role) = draft.catalog().role(name)?;
        let (object, mut role) = (Object::clone(object), role.clone());
        if let (DEFAULT_USER, Some(option)) =
            (name, options.iter().find(|o| matches!(o, RoleOption::Superuser(false) | RoleOption::Login(false))))
        {
            let message = format!("role \"{name}\" must have {}, for it is the server's first", option.name());
            return Err(Error::new(DENIED, message).with_hint("create other roles, and give this one a password"));
        }
        let takes_password = options.iter().any(|o| matches!(o, RoleOption::Password(None)));
        self.apply_options(&mut role, name, options, draft.catalog())?;
        draft.replace(Object { kind: ObjectKind::Role(role), ..object });
        if takes_password && !draft.catalog().is_protected() {
            let notice = "no superuser has a password: clients of this machine are let in without one, and no others";
            self.notices.push(Notice::warning(notice));
        }
        Ok(())
    }

    /// Puts options into a role; the memberships among them, as group, member and whether with ADMIN OPTION.
    fn apply_options(
        &mut self,
        role: &mut Role,
        name: &str,
        options: Vec<RoleOption>,
        catalog: &Catalog,
    ) -> Result<Vec<(String, String, bool)>> {
        let user = self.role().to_string();
        let mut memberships = Vec::new();
        for option in options {
            let word = option.name();
            // What one does not have oneself, one cannot give.
            let has = |of: fn(&Role) -> bool| {
                let own = catalog.find_role(&user).is_some_and(|(_, r)| of(r));
                match own || catalog.is_superuser(&user) {
                    true => Ok(()),
                    false => Err(Error::new(DENIED, format!("permission denied to give role \"{name}\" {word}"))
                        .with_detail(format!("Only roles with the {word} attribute may give it."))),
                }
            };
            match option {
                RoleOption::Superuser(on) => {
                    has(|r| r.superuser)?;
                    role.superuser = on;
                }
                RoleOption::CreateDatabase(on) => {
                    has(|r| r.create_database || r.superuser)?;
                    role.create_database = on;
                }
                RoleOption::CreateRole(on) => role.create_role = on,
                RoleOption::Inherit(on) => role.inherit = on,
                RoleOption::Login(on) => role.login = on,
                RoleOption::Replication(on) => {
                    has(|r| r.replication)?;
                    role.replication = on;
                }
                RoleOption::BypassRls(on) => {
                    has(|r| r.bypass_rls)?;
                    role.bypass_rls = on;
                }
                RoleOption::ConnectionLimit(limit) if limit < -1 => {
                    return Err(Error::new(
                        sqlstate::INVALID_PARAMETER_VALUE,
                        format!("invalid connection limit: {limit}"),
                    )
                    .with_hint("use a number of connections, or -1 for no limit"));
                }
                RoleOption::ConnectionLimit(limit) => role.connection_limit = limit,
                RoleOption::Password(None) => role.password = None,
                RoleOption::Password(Some(text)) => role.password = self.password(name, &text)?,
                RoleOption::ValidUntil(text) => {
                    role.valid_until_us = match text.trim() {
                        "infinity" => None,
                        text => match parse_value(text, &SqlType::Timestamptz, self.settings.time_zone())? {
                            ScalarValue::TimestampMicrosecond(us, _) => us,
                            _ => None,
                        },
                    }
                }
                RoleOption::InRole(groups) => {
                    memberships.extend(names_of(&groups).map(|group| (group, name.to_string(), false)));
                }
                RoleOption::Members { roles, admin } => {
                    memberships.extend(names_of(&roles).map(|member| (name.to_string(), member, admin)));
                }
            }
        }
        Ok(memberships)
    }

    /// What is stored of a password, which may be a verifier already: psql's `\password` sends one.
    fn password(&mut self, role: &str, text: &str) -> Result<Option<String>> {
        if text.is_empty() {
            self.notices.push(Notice::notice("empty string is not a valid password, clearing password"));
            return Ok(None);
        }
        if Verifier::parse(text).is_some() {
            return Ok(Some(text.to_string()));
        }
        let is_md5 = text.len() == 35 && text.starts_with("md5") && text[3..].chars().all(|c| c.is_ascii_hexdigit());
        if is_md5 {
            return Err(Error::unsupported(format!("the MD5 password of role \"{role}\" is not supported"))
                .with_hint("give the password itself, or its SCRAM-SHA-256 verifier"));
        }
        Ok(Some(Verifier::new(text).text()))
    }

    fn rename_role(&mut self, from: &str, to: &str, draft: &mut Draft) -> Result<()> {
        self.require_admin(from, "rename", draft.catalog())?;
        for (user, what) in [(self.session_user(), "session user"), (self.role(), "current user")] {
            if user == from {
                return Err(Error::new(sqlstate::FEATURE_NOT_SUPPORTED, format!("{what} cannot be renamed"))
                    .with_hint("let another superuser rename it"));
            }
        }
        draft.rename_role(from, to)?;
        Ok(())
    }

    fn role_setting(
        &mut self,
        name: &str,
        setting: Option<String>,
        value: Option<String>,
        draft: &mut Draft,
    ) -> Result<()> {
        if name != self.role() {
            self.require_admin(name, "alter", draft.catalog())?;
        }
        let (object, role) = draft.catalog().role(name)?;
        let (object, mut role) = (Object::clone(object), role.clone());
        match (setting, value) {
            (None, _) => role.settings.clear(),
            (Some(setting), None) => {
                self.settings.get(&setting)?;
                role.settings.remove(&setting);
            }
            (Some(setting), Some(value)) => {
                // Tried on a copy.
                self.settings.clone().set(&setting, Some(&value))?;
                role.settings.insert(setting, value);
            }
        }
        draft.replace(Object { kind: ObjectKind::Role(role), ..object });
        Ok(())
    }

    fn drop_role(&mut self, name: &RoleName, if_exists: bool, draft: &mut Draft) -> Result<()> {
        let name = match self.one_role(name, draft.catalog()) {
            Ok(name) => name,
            Err(e) if if_exists && e.sqlstate() == sqlstate::UNDEFINED_OBJECT => {
                self.notices.push(Notice::notice(format!("{}, skipping", e.message())));
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        self.require_admin(&name, "drop", draft.catalog())?;
        for (user, what) in [(self.role(), "current user"), (self.session_user(), "session user")] {
            if user == name {
                return Err(Error::new(IN_USE, format!("{what} cannot be dropped")));
            }
        }
        let id = draft.catalog().role(&name)?.0.id;
        if id < ObjectId::FIRST_USER {
            let message = format!("cannot drop role {name} because it is required by the database system");
            return Err(Error::new(DEPENDENT, message));
        }
        let uses = draft.catalog().uses_of_role(&name);
        if !uses.is_empty() {
            let message = format!("role \"{name}\" cannot be dropped because some objects depend on it");
            return Err(Error::new(DEPENDENT, message)
                .with_detail(uses.join("\n"))
                .with_hint("REASSIGN OWNED gives its objects to another role; DROP OWNED drops what is left"));
        }
        let members: Vec<String> = members_of(&name, draft.catalog());
        for member in members {
            take_member(&name, &member, draft)?;
        }
        draft.drop(&[id], false)?;
        Ok(())
    }

    fn add_member(&mut self, group: &str, member: &str, admin: bool, draft: &mut Draft) -> Result<()> {
        let catalog = draft.catalog();
        catalog.role(group)?;
        let (_, role) = catalog.role(member)?;
        self.require_to_admit(group, catalog)?;
        if catalog.is_member(group, member) && !catalog.is_superuser(group) || group == member {
            return Err(Error::new(INVALID_GRANT, format!("role \"{group}\" is a member of role \"{member}\"")));
        }
        // A superuser is, in effect, a member of all; what counts here is what was granted.
        if let Some(membership) = role.member_of.get(group)
            && (membership.admin || !admin)
        {
            let notice = format!("role \"{member}\" has already been granted membership in role \"{group}\"");
            self.notices.push(Notice::notice(notice));
            return Ok(());
        }
        let grantor = self.role().to_string();
        put_member(group, member, Membership { admin, grantor }, draft)
    }

    fn remove_member(&mut self, group: &str, member: &str, admin_only: bool, draft: &mut Draft) -> Result<()> {
        let catalog = draft.catalog();
        catalog.role(group)?;
        let (_, role) = catalog.role(member)?;
        self.require_to_admit(group, catalog)?;
        let Some(membership) = role.member_of.get(group).cloned() else {
            let warning = format!("role \"{member}\" is not a member of role \"{group}\"");
            self.notices.push(Notice::new(Severity::Warning, "01000", warning));
            return Ok(());
        };
        match admin_only {
            true => put_member(group, member, Membership { admin: false, ..membership }, draft),
            false => take_member(group, member, draft),
        }
    }

    /// Taking others into a role is for its admins; into one of superusers, for superusers.
    fn require_to_admit(&self, group: &str, catalog: &Catalog) -> Result<()> {
        let (user, (_, role)) = (self.role(), catalog.role(group)?);
        let allowed = match role.superuser {
            true => catalog.is_superuser(user),
            false => catalog.is_admin(user, group),
        };
        match allowed {
            true => Ok(()),
            false => Err(Error::new(DENIED, format!("permission denied to grant role \"{group}\""))
                .with_detail(format!("Only roles with the ADMIN option on role \"{group}\" may grant this role."))),
        }
    }

    fn drop_owned(&mut self, role: &str, cascade: bool, draft: &mut Draft) -> Result<()> {
        let catalog = draft.catalog();
        let is_owned = |o: &&std::sync::Arc<Object>| {
            o.owner == role && !matches!(o.kind, ObjectKind::Role(_) | ObjectKind::Snapshot(_))
        };
        let owned: Vec<ObjectId> = catalog.objects().filter(is_owned).map(|o| o.id).collect();
        let dropped = draft.drop(&owned, cascade)?;
        for object in dropped.iter().filter(|o| super::transaction::is_outside(&o.kind)) {
            self.check_outside(&format!("DROP of {}", object.describe()), true)?;
        }
        let changed: Vec<Object> = draft.catalog().objects().filter_map(|o| without_grants(o, role)).collect();
        for object in changed {
            draft.replace(object);
        }
        Ok(())
    }

    fn set_role(&mut self, role: Option<String>, local: bool, catalog: &Catalog) -> Result<Response> {
        if local && self.transaction.is_none() {
            self.warn_no_transaction("SET LOCAL can only be used in transaction blocks");
            return Ok(complete("SET"));
        }
        let tag = if role.is_some() || local { "SET" } else { "RESET" };
        let role = role.filter(|role| role != NO_ROLE).unwrap_or_else(|| NO_ROLE.into());
        if role != NO_ROLE {
            self.check_exists(&role, catalog)?;
            if !catalog.is_member(self.session_user(), &role) {
                return Err(Error::new(DENIED, format!("permission denied to set role \"{role}\"")).with_hint(
                    format!("the session is of role \"{}\", which is no member of it", self.session_user()),
                ));
            }
        }
        self.put_identity(&[(ROLE, &role)], local, catalog)?;
        Ok(complete(tag))
    }

    fn set_session(&mut self, role: Option<&str>, catalog: &Catalog) -> Result<Response> {
        let user = self.client.user.clone();
        let to = role.unwrap_or(&user);
        self.check_exists(to, catalog)?;
        if to != user && !catalog.is_superuser(&user) {
            return Err(Error::new(DENIED, format!("permission denied to set session authorization \"{to}\""))
                .with_hint("only a session that a superuser has opened can become another role's"));
        }
        self.put_identity(&[(SESSION_AUTHORIZATION, to), (ROLE, NO_ROLE)], false, catalog)?;
        Ok(complete(if role.is_some() { "SET" } else { "RESET" }))
    }

    fn check_exists(&self, role: &str, catalog: &Catalog) -> Result<()> {
        let missing = || {
            Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("role \"{role}\" does not exist"))
                .with_hint("\\du lists the roles")
        };
        catalog.find_role(role).map(|_| ()).ok_or_else(missing)
    }

    /// Notes who the session is from now on.
    fn put_identity(&mut self, values: &[(&'static str, &str)], local: bool, catalog: &Catalog) -> Result<()> {
        for (name, value) in values {
            self.settings.put(name, value);
        }
        let is_superuser = if catalog.is_superuser(self.role()) { "on" } else { "off" };
        self.settings.put(IS_SUPERUSER, is_superuser);
        if !local {
            for (name, value) in values.iter().copied().chain([(IS_SUPERUSER, is_superuser)]) {
                self.put_after_commit(name, value);
            }
        }
        self.database.acts_as(self.id, self.role().to_string());
        Ok(())
    }
}

fn names_of(idents: &[Ident]) -> impl Iterator<Item = String> {
    idents.iter().map(normalize)
}

/// The first role owns what the system is made of.
fn refuse_first(role: &str, what: &str) -> Result<()> {
    match role {
        DEFAULT_USER => Err(Error::new(
            DEPENDENT,
            format!("cannot {what} role {role} because they are required by the database system"),
        )),
        _ => Ok(()),
    }
}

fn members_of(group: &str, catalog: &Catalog) -> Vec<String> {
    let is_in = |role: &Role| role.member_of.contains_key(group);
    catalog.roles().filter(|(_, role)| is_in(role)).map(|(object, _)| object.name.clone()).collect()
}

fn put_member(group: &str, member: &str, membership: Membership, draft: &mut Draft) -> Result<()> {
    change_members(member, draft, |member_of| {
        member_of.insert(group.to_string(), membership);
    })
}

fn take_member(group: &str, member: &str, draft: &mut Draft) -> Result<()> {
    change_members(member, draft, |member_of| {
        member_of.remove(group);
    })
}

fn change_members(
    member: &str,
    draft: &mut Draft,
    change: impl FnOnce(&mut BTreeMap<String, Membership>),
) -> Result<()> {
    let (object, role) = draft.catalog().role(member)?;
    let (object, mut role) = (Object::clone(object), role.clone());
    change(&mut role.member_of);
    draft.replace(Object { kind: ObjectKind::Role(role), ..object });
    Ok(())
}

/// An object on which a role has nothing granted any more; `None` if it had nothing.
fn without_grants(object: &Object, role: &str) -> Option<Object> {
    let mut object = Object::clone(object);
    let mut lists: Vec<&mut Vec<millstream_catalog::privilege::AclItem>> = object.acl.iter_mut().collect();
    if let ObjectKind::Role(of) = &mut object.kind {
        lists.extend(of.default_privileges.iter_mut().map(|d| &mut d.acl));
    }
    let mut has_changed = false;
    for acl in lists {
        let before = acl.len();
        acl.retain(|item| item.grantee != role && item.grantor != role);
        has_changed |= acl.len() != before;
    }
    has_changed.then_some(object)
}
