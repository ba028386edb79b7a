//! What the catalog answers about roles: who is who, who may do what with an object; and a role's other name.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::DEFAULT_SCHEMA;
use crate::catalog::{Catalog, Draft};
use crate::error::{CatalogError, Result};
use crate::object::{Object, ObjectKind};
use crate::privilege::{AclItem, Class, Privilege, Privileges, grant, initial_acl};
use crate::role::{READ_ALL_DATA, Role, WRITE_ALL_DATA};

impl Catalog {
    /// The role of that name.
    ///
    /// # Errors
    /// 42704 if there is none.
    pub fn role(&self, name: &str) -> Result<(&Arc<Object>, &Role)> {
        let missing = || CatalogError::NotFound { kind: "role", name: name.to_string() };
        self.find_role(name).ok_or_else(missing)
    }

    /// The role of that name, if there is one.
    pub fn find_role(&self, name: &str) -> Option<(&Arc<Object>, &Role)> {
        let object = self.get(*self.role_ids().get(name)?)?;
        match &object.kind {
            ObjectKind::Role(role) => Some((object, role)),
            _ => None,
        }
    }

    /// All roles, by name.
    pub fn roles(&self) -> impl Iterator<Item = (&Arc<Object>, &Role)> {
        self.role_ids().keys().filter_map(|name| self.find_role(name))
    }

    /// Whether a superuser has a password. From then on everybody needs one; before it clients of this machine need none,
    /// and no others are let in.
    pub fn is_protected(&self) -> bool {
        self.roles().any(|(_, role)| role.superuser && role.login && role.password.is_some())
    }

    /// Whether a role may do everything.
    pub fn is_superuser(&self, role: &str) -> bool {
        self.find_role(role).is_some_and(|(_, r)| r.superuser)
    }

    /// A role and those that it is in at any distance; with `inherited` only those whose privileges it has without SET
    /// ROLE.
    fn groups<'a>(&'a self, role: &'a str, inherited: bool) -> BTreeSet<&'a str> {
        let mut found = BTreeSet::from([role]);
        let mut open = vec![role];
        while let Some((_, role)) = open.pop().and_then(|name| self.find_role(name)) {
            if role.inherit || !inherited {
                open.extend(role.member_of.keys().map(String::as_str).filter(|group| found.insert(group)));
            }
        }
        found
    }

    /// Whether a role is, or may become by SET ROLE, another.
    pub fn is_member(&self, role: &str, of: &str) -> bool {
        role == of || self.is_superuser(role) || self.groups(role, false).contains(of)
    }

    /// Whether a role has the privileges of another without SET ROLE.
    pub fn has_privileges_of(&self, role: &str, of: &str) -> bool {
        role == of || self.is_superuser(role) || self.groups(role, true).contains(of)
    }

    /// Whether a role may take others into one, and out of it.
    pub fn is_admin(&self, role: &str, of: &str) -> bool {
        let is_above = |name: &str| {
            let membership = self.find_role(name).and_then(|(_, r)| r.member_of.get(of));
            membership.is_some_and(|m| m.admin)
        };
        self.is_superuser(role) || self.groups(role, false).into_iter().any(is_above)
    }

    /// Whether a role may do with an object what its owner may.
    pub fn is_owner(&self, role: &str, object: &Object) -> bool {
        self.has_privileges_of(role, &object.owner)
    }

    /// What a role may do with an object; all that there is, of an object that nothing is granted on.
    pub fn privileges(&self, role: &str, object: &Object) -> Privileges {
        let class = object.class();
        let all = class.map_or(Privileges::NONE, Class::all);
        let Some(class) = class.filter(|_| !self.is_superuser(role)) else { return all };
        let roles = self.groups(role, true);
        let mut found = Privileges::NONE;
        for item in object.granted() {
            if item.grantee.is_empty() || roles.contains(item.grantee.as_str()) {
                found = found.and(item.privileges);
            }
        }
        let of_group = |group: &str, class: Class| match (group, class) {
            (READ_ALL_DATA, Class::Relation) => Privileges::of(&[Privilege::Select]),
            (WRITE_ALL_DATA, Class::Relation) => {
                Privileges::of(&[Privilege::Insert, Privilege::Update, Privilege::Delete])
            }
            (READ_ALL_DATA | WRITE_ALL_DATA, Class::Schema) => Privileges::of(&[Privilege::Usage]),
            _ => Privileges::NONE,
        };
        roles.into_iter().fold(found, |found, group| found.and(of_group(group, class)))
    }

    /// Who a grant by this role is from, and which privileges it may give on: the owner's, for whoever may act for the
    /// owner; else those that the role holds with the right to give them on.
    pub fn grantable(&self, role: &str, object: &Object) -> (String, Privileges) {
        let Some(class) = object.class() else { return (role.into(), Privileges::NONE) };
        if self.is_owner(role, object) {
            return (object.owner.clone(), class.all());
        }
        let roles = self.groups(role, true);
        let items = object.acl.iter().flatten().filter(|i| roles.contains(i.grantee.as_str()));
        let best = items.max_by_key(|i| (i.grantable.iter().count(), i.grantee == role));
        best.map_or((role.into(), Privileges::NONE), |i| (i.grantee.clone(), i.grantable))
    }

    /// What is granted on a new object of a role by its ALTER DEFAULT PRIVILEGES; `None`: what is granted on all others.
    pub fn default_acl(&self, object: &Object) -> Option<Vec<AclItem>> {
        let class = object.class()?;
        let (_, owner) = self.find_role(&object.owner)?;
        let of = |schema| owner.default_privileges.iter().find(|d| d.class == class && d.schema == schema);
        let in_schema = if class == Class::Schema { None } else { of(Some(object.schema)) };
        let everywhere = of(None);
        if everywhere.is_none() && in_schema.is_none() {
            return None;
        }
        let mut acl = match everywhere {
            Some(default) => default.acl.clone(),
            None => initial_acl(class, &object.owner, false),
        };
        for item in in_schema.iter().flat_map(|d| &d.acl) {
            grant(&mut acl, item.clone());
        }
        Some(acl)
    }

    /// What hangs on a role, as `owner of table t`: it cannot be dropped while there is anything.
    pub fn uses_of_role(&self, name: &str) -> Vec<String> {
        let mut uses = Vec::new();
        for object in self.objects().filter(|o| !matches!(o.kind, ObjectKind::Snapshot(_))) {
            let shown = || match self.schema_name(object) {
                DEFAULT_SCHEMA => format!("{} {}", object.kind_name(), object.name),
                _ if object.class() == Some(Class::Relation) => {
                    format!("{} {}.{}", object.kind_name(), self.schema_name(object), object.name)
                }
                _ => format!("{} {}", object.kind_name(), object.name),
            };
            let is_role = matches!(object.kind, ObjectKind::Role(_));
            if object.owner == name && !is_role {
                uses.push(format!("owner of {}", shown()));
            } else if object.acl.iter().flatten().any(|i| i.grantee == name || i.grantor == name) {
                uses.push(format!("privileges for {}", shown()));
            }
            if let ObjectKind::Role(role) = &object.kind {
                let in_defaults = role.default_privileges.iter().flat_map(|d| &d.acl);
                if in_defaults.into_iter().any(|i| i.grantee == name) && object.name != name {
                    uses.push(format!("default privileges of role {}", object.name));
                }
            }
        }
        uses
    }
}

impl Draft {
    /// Gives all that one role owns to another.
    pub fn reassign(&mut self, from: &str, to: &str) {
        let is_owned = |o: &&Arc<Object>| o.owner == from && !matches!(o.kind, ObjectKind::Role(_));
        let owned: Vec<Object> = self.catalog().objects().filter(is_owned).map(|o| Object::clone(o)).collect();
        for mut object in owned {
            object.set_owner(to);
            self.replace(object);
        }
    }

    /// Renames a role, wherever it is named: as an owner, in what is granted, in what roles are members of.
    ///
    /// # Errors
    /// As [`Draft::rename`].
    pub fn rename_role(&mut self, from: &str, to: &str) -> Result<()> {
        let id = self.catalog().role(from)?.0.id;
        self.rename(id, to)?;
        self.reassign(from, to);
        let changed: Vec<Object> = self.catalog().objects().filter_map(|o| renamed(o, from, to)).collect();
        for object in changed {
            self.replace(object);
        }
        Ok(())
    }
}

/// An object in which a role has another name; `None` if it does not name the role.
fn renamed(object: &Object, from: &str, to: &str) -> Option<Object> {
    let mut object = Object::clone(object);
    let mut has_changed = false;
    let mut rename = |name: &mut String| {
        if name == from {
            *name = to.to_string();
            has_changed = true;
        }
    };
    let mut items: Vec<&mut AclItem> = object.acl.iter_mut().flatten().collect();
    if let ObjectKind::Role(role) = &mut object.kind {
        let member_of = std::mem::take(&mut role.member_of);
        for (mut group, mut membership) in member_of {
            rename(&mut group);
            rename(&mut membership.grantor);
            role.member_of.insert(group, membership);
        }
        items.extend(role.default_privileges.iter_mut().flat_map(|d| &mut d.acl));
    }
    for item in items {
        rename(&mut item.grantee);
        rename(&mut item.grantor);
    }
    has_changed.then_some(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DEFAULT_USER;
    use crate::object::{ObjectId, Table};
    use crate::role::{DefaultPrivileges, Membership};

    fn role(draft: &mut Draft, name: &str, member_of: &[&str], inherit: bool) {
        let membership = || Membership { admin: false, grantor: DEFAULT_USER.into() };
        let member_of = member_of.iter().map(|g| ((*g).to_string(), membership())).collect();
        let kind = ObjectKind::Role(Role { member_of, inherit, ..Role::default() });
        let id = draft.new_id();
        draft.create(Object::named(id, id, name, kind)).unwrap();
    }

    fn table(draft: &mut Draft, name: &str, owner: &str) -> ObjectId {
        let table = Table { columns: vec![], primary_key: vec![], append_only: false, watermark: None, checks: vec![] };
        let id = draft.new_id();
        let object = Object::named(id, ObjectId::PUBLIC, name, ObjectKind::Table(table));
        draft.create(Object { owner: owner.into(), ..object }).unwrap();
        id
    }

    const READ: Privileges = Privileges::of(&[Privilege::Select]);

    fn read_by(draft: &mut Draft, id: ObjectId, grantee: &str) {
        let mut object = Object::clone(draft.catalog().get(id).unwrap());
        let mut acl = object.acl.take().unwrap_or_else(|| object.granted());
        let grantor = object.owner.clone();
        grant(&mut acl, AclItem { grantee: grantee.into(), grantor, privileges: READ, grantable: Privileges::NONE });
        draft.replace(Object { acl: Some(acl), ..object });
    }

    #[test]
    fn privileges_come_from_ownership_grants_groups_and_everybody() {
        let mut draft = Draft::new(&Catalog::new());
        role(&mut draft, "group", &[], true);
        role(&mut draft, "member", &["group"], true);
        role(&mut draft, "guest", &["group"], false);
        role(&mut draft, "reader", &[READ_ALL_DATA], true);
        let id = table(&mut draft, "t", "member");
        let of = |draft: &Draft, role: &str| {
            format!("{:?}", draft.catalog().privileges(role, draft.catalog().get(id).unwrap()))
        };
        assert_eq!(of(&draft, "member"), "arwdDxt");
        assert_eq!(of(&draft, DEFAULT_USER), "arwdDxt");
        assert_eq!((of(&draft, "group"), of(&draft, "reader")), (String::new(), "r".into()));
        read_by(&mut draft, id, "group");
        assert_eq!((of(&draft, "group"), of(&draft, "guest")), ("r".into(), String::new()));
        assert!(draft.catalog().is_member("guest", "group"));
        assert!(!draft.catalog().has_privileges_of("guest", "group"));
        read_by(&mut draft, id, "");
        assert_eq!(of(&draft, "guest"), "r");
        let uses = draft.catalog().uses_of_role("member");
        assert_eq!(uses, ["owner of table t"]);
        assert_eq!(draft.catalog().uses_of_role("group"), ["privileges for table t"]);
    }

    #[test]
    fn a_role_keeps_all_it_has_under_a_new_name() {
        let mut draft = Draft::new(&Catalog::new());
        role(&mut draft, "group", &[], true);
        role(&mut draft, "member", &["group"], true);
        let id = table(&mut draft, "t", "group");
        read_by(&mut draft, id, "member");
        draft.rename_role("group", "crowd").unwrap();
        let catalog = draft.catalog();
        let object = catalog.get(id).unwrap();
        assert_eq!(object.owner, "crowd");
        let acl: Vec<_> = object.acl.iter().flatten().map(AclItem::text).collect();
        assert_eq!(acl, ["crowd=arwdDxt/crowd", "member=r/crowd"]);
        assert!(catalog.is_member("member", "crowd"));
        assert_eq!(catalog.role("group").unwrap_err().sqlstate(), "42704");
    }

    #[test]
    fn names_of_roles_are_their_own_and_some_are_reserved() {
        let mut draft = Draft::new(&Catalog::new());
        role(&mut draft, "t", &[], true);
        table(&mut draft, "t", "t");
        for (name, code) in [("t", "42710"), ("pg_x", "42939"), ("public", "42939"), ("none", "42939")] {
            let id = draft.new_id();
            let object = Object::named(id, id, name, ObjectKind::Role(Role::default()));
            assert_eq!(draft.create(object).unwrap_err().sqlstate(), code, "{name}");
        }
    }

    #[test]
    fn new_objects_get_what_the_owner_grants_by_default() {
        let mut draft = Draft::new(&Catalog::new());
        role(&mut draft, "a", &[], true);
        role(&mut draft, "b", &[], true);
        let (object, role) = draft.catalog().role("a").unwrap();
        let item = AclItem { grantee: "b".into(), grantor: "a".into(), privileges: READ, grantable: Privileges::NONE };
        let default = DefaultPrivileges { schema: Some(ObjectId::PUBLIC), class: Class::Relation, acl: vec![item] };
        let role = Role { default_privileges: vec![default], ..role.clone() };
        let object = Object { kind: ObjectKind::Role(role), ..Object::clone(object) };
        draft.replace(object);
        let id = table(&mut draft, "t", "a");
        let acl = draft.catalog().get(id).unwrap().acl.clone().unwrap();
        assert_eq!(acl.iter().map(AclItem::text).collect::<Vec<_>>(), ["a=arwdDxt/a", "b=r/a"]);
    }
}
