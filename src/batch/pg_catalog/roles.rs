//! Roles, who is in which, and who may do what: tables of `pg_catalog` and `information_schema`.

use millstream_catalog::SqlType::{self, Bool, Int4, InternalChar, Name, Oid, Text, Timestamptz, Varchar};
use millstream_catalog::privilege::{AclItem, Class, Privilege, Privileges};
use millstream_catalog::role::Role;
use millstream_catalog::{DEFAULT_DATABASE, Object, ObjectId, ObjectKind};

use super::rows::{Cell, NULL, row};
use super::tables::Made;
use super::view::{CatalogView, ROLE_OID};

const TEXT: SqlType = Varchar(None);
/// What stands for a password, which nobody is shown.
const HIDDEN: &str = "********";
const GRANTS: super::rows::Columns = &[
    ("grantor", Name),
    ("grantee", Name),
    ("table_catalog", Name),
    ("table_schema", Name),
    ("table_name", Name),
    ("privilege_type", TEXT),
    ("is_grantable", TEXT),
    ("with_hierarchy", TEXT),
];

/// Tables of this file.
pub const TABLES: &[Made] = &[
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_roles",
        columns: &[
            ("rolname", Name),
            ("rolsuper", Bool),
            ("rolinherit", Bool),
            ("rolcreaterole", Bool),
            ("rolcreatedb", Bool),
            ("rolcanlogin", Bool),
            ("rolreplication", Bool),
            ("rolconnlimit", Int4),
            ("rolpassword", Text),
            ("rolvaliduntil", Timestamptz),
            ("rolbypassrls", Bool),
            ("rolconfig", Text),
            ("oid", Oid),
        ],
        rows: |view| {
            let of = |object: &Object, r: &Role| {
                row![
                    object.name.clone(),
                    r.superuser,
                    r.inherit,
                    r.create_role,
                    r.create_database,
                    r.login,
                    r.replication,
                    i64::from(r.connection_limit),
                    HIDDEN,
                    r.valid_until_us,
                    r.bypass_rls,
                    settings(r),
                    object.id.0
                ]
            };
            view.catalog.roles().map(|(object, role)| of(object, role)).collect()
        },
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_authid",
        columns: &[
            ("oid", Oid),
            ("rolname", Name),
            ("rolsuper", Bool),
            ("rolinherit", Bool),
            ("rolcreaterole", Bool),
            ("rolcreatedb", Bool),
            ("rolcanlogin", Bool),
            ("rolreplication", Bool),
            ("rolbypassrls", Bool),
            ("rolconnlimit", Int4),
            ("rolpassword", Text),
            ("rolvaliduntil", Timestamptz),
        ],
        rows: |view| {
            let of = |object: &Object, r: &Role| {
                row![
                    object.id.0,
                    object.name.clone(),
                    r.superuser,
                    r.inherit,
                    r.create_role,
                    r.create_database,
                    r.login,
                    r.replication,
                    r.bypass_rls,
                    i64::from(r.connection_limit),
                    password(r),
                    r.valid_until_us
                ]
            };
            view.catalog.roles().map(|(object, role)| of(object, role)).collect()
        },
    },
    Made { schema: ObjectId::PG_CATALOG, name: "pg_user", columns: USERS, rows: users },
    Made { schema: ObjectId::PG_CATALOG, name: "pg_shadow", columns: USERS, rows: users },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_group",
        columns: &[("groname", Name), ("grosysid", Oid), ("grolist", Text)],
        rows: |view| {
            let groups = view.catalog.roles().filter(|(_, role)| !role.login);
            let list = |group: &str| {
                let members = view.catalog.roles().filter(|(_, r)| r.member_of.contains_key(group));
                let oids: Vec<String> = members.map(|(object, _)| object.id.to_string()).collect();
                format!("{{{}}}", oids.join(","))
            };
            groups.map(|(object, _)| row![object.name.clone(), object.id.0, list(&object.name)]).collect()
        },
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_auth_members",
        columns: &[
            ("oid", Oid),
            ("roleid", Oid),
            ("member", Oid),
            ("grantor", Oid),
            ("admin_option", Bool),
            ("inherit_option", Bool),
            ("set_option", Bool),
        ],
        rows: |view| {
            let mut rows = Vec::new();
            for (object, role) in view.catalog.roles() {
                for (group, membership) in &role.member_of {
                    let oid = |name: &str| view.role_oid(name);
                    // The pair is its identity; no record has it.
                    let own = oid(group).wrapping_mul(31).wrapping_add(object.id.0);
                    let grantor = oid(&membership.grantor);
                    rows.push(row![own, oid(group), object.id.0, grantor, membership.admin, role.inherit, true]);
                }
            }
            rows
        },
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_db_role_setting",
        columns: &[("setdatabase", Oid), ("setrole", Oid), ("setconfig", Text)],
        rows: |view| {
            let set = view.catalog.roles().filter(|(_, role)| !role.settings.is_empty());
            set.map(|(object, role)| row![0, object.id.0, settings(role)]).collect()
        },
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_default_acl",
        columns: &[
            ("oid", Oid),
            ("defaclrole", Oid),
            ("defaclnamespace", Oid),
            ("defaclobjtype", InternalChar),
            ("defaclacl", Text),
        ],
        rows: |view| {
            let mut rows = Vec::new();
            for (object, role) in view.catalog.roles() {
                for (i, default) in role.default_privileges.iter().enumerate() {
                    let kind = match default.class {
                        Class::Relation => 'r',
                        Class::Function => 'f',
                        Class::Schema => 'n',
                        Class::Database | Class::Task | Class::Secret => continue,
                    };
                    let oid = object.id.0.wrapping_mul(31).wrapping_add(i as u32);
                    let schema = default.schema.map_or(0, |s| s.0);
                    rows.push(row![oid, object.id.0, schema, kind, acl_text(&default.acl)]);
                }
            }
            rows
        },
    },
    Made { schema: ObjectId::INFORMATION_SCHEMA, name: "table_privileges", columns: GRANTS, rows: grants },
    Made { schema: ObjectId::INFORMATION_SCHEMA, name: "role_table_grants", columns: GRANTS, rows: grants },
    Made {
        schema: ObjectId::INFORMATION_SCHEMA,
        name: "enabled_roles",
        columns: &[("role_name", Name)],
        rows: |view| {
            let enabled = view.catalog.roles().filter(|(o, _)| view.catalog.has_privileges_of(&view.user, &o.name));
            enabled.map(|(object, _)| row![object.name.clone()]).collect()
        },
    },
    Made {
        schema: ObjectId::INFORMATION_SCHEMA,
        name: "applicable_roles",
        columns: &[("grantee", Name), ("role_name", Name), ("is_grantable", TEXT)],
        rows: |view| {
            let mut rows = Vec::new();
            for (object, role) in view.catalog.roles() {
                if view.catalog.is_member(&view.user, &object.name) {
                    let granted = role.member_of.iter();
                    rows.extend(granted.map(|(g, m)| row![object.name.clone(), g.clone(), yes(m.admin)]));
                }
            }
            rows
        },
    },
];

const USERS: super::rows::Columns = &[
    ("usename", Name),
    ("usesysid", Oid),
    ("usecreatedb", Bool),
    ("usesuper", Bool),
    ("userepl", Bool),
    ("usebypassrls", Bool),
    ("passwd", Text),
    ("valuntil", Timestamptz),
    ("useconfig", Text),
];

fn users(view: &CatalogView) -> Vec<Vec<Cell>> {
    let of = |object: &Object, r: &Role| {
        row![
            object.name.clone(),
            object.id.0,
            r.create_database,
            r.superuser,
            r.replication,
            r.bypass_rls,
            HIDDEN,
            r.valid_until_us,
            settings(r)
        ]
    };
    view.catalog.roles().filter(|(_, role)| role.login).map(|(object, role)| of(object, role)).collect()
}

/// Whether there is a password, and no more of it.
fn password(role: &Role) -> Cell {
    role.password.as_ref().map(|_| HIDDEN.to_string()).into()
}

fn settings(role: &Role) -> Cell {
    if role.settings.is_empty() {
        return NULL;
    }
    let set: Vec<String> = role.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{{{}}}", set.join(",")).into()
}

fn yes(b: bool) -> &'static str {
    if b { "YES" } else { "NO" }
}

/// What is granted on relations to, or by, roles that the session has.
fn grants(view: &CatalogView) -> Vec<Vec<Cell>> {
    let mut rows = Vec::new();
    for object in view.catalog.objects().filter(|o| o.class() == Some(Class::Relation)) {
        for item in object.granted() {
            let is_own = |role: &str| view.catalog.has_privileges_of(&view.user, role);
            if !item.grantee.is_empty() && !is_own(&item.grantee) && !is_own(&item.grantor) {
                continue;
            }
            let grantee = if item.grantee.is_empty() { "PUBLIC" } else { &item.grantee };
            for privilege in item.privileges.iter() {
                let grantable = item.grantable.has(privilege) || item.grantee == object.owner;
                let hierarchy = yes(privilege == Privilege::Select);
                rows.push(row![
                    item.grantor.clone(),
                    grantee,
                    DEFAULT_DATABASE,
                    view.catalog.schema_name(object),
                    object.name.clone(),
                    privilege.name(),
                    yes(grantable),
                    hierarchy
                ]);
            }
        }
    }
    rows
}

/// The list of grants as PostgreSQL prints its array.
fn acl_text(acl: &[AclItem]) -> String {
    let items: Vec<String> = acl.iter().map(AclItem::text).collect();
    format!("{{{}}}", items.join(","))
}

/// What is granted on an object, for the `acl` columns; NULL where nothing was changed.
pub fn acl(object: &Object) -> Cell {
    object.acl.as_deref().map(acl_text).into()
}

impl CatalogView {
    /// OID of a role; that of the first role for one that is gone.
    pub fn role_oid(&self, name: &str) -> u32 {
        self.catalog.find_role(name).map_or(ROLE_OID, |(object, _)| object.id.0)
    }

    /// Name of a role by its OID.
    pub fn role_name(&self, oid: u32) -> Option<&str> {
        let object = self.catalog.get(ObjectId(oid))?;
        matches!(object.kind, ObjectKind::Role(_)).then_some(object.name.as_str())
    }

    /// What a role may do with a relation; everybody may read those of the system.
    pub fn privileges_on(&self, role: &str, object: Option<&Object>) -> Privileges {
        match object {
            Some(object) => self.catalog.privileges(role, object),
            None if self.catalog.is_superuser(role) => Class::Relation.all(),
            None => Privileges::of(&[Privilege::Select]),
        }
    }
}
