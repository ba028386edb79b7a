//! Statements about roles and what they may do.

use std::fmt;

use datafusion_sql::sqlparser::ast;
use millstream_catalog::privilege::Class;

use super::{DropKind, Existing};

/// A role as a statement names it.
#[derive(Debug, Clone, PartialEq)]
pub enum RoleName {
    Named(ast::Ident),
    CurrentUser,
    SessionUser,
    /// PUBLIC, which is everybody and no role.
    Everybody,
}

/// Statements that are about roles themselves.
#[derive(Debug, Clone, PartialEq)]
pub enum RoleStatement {
    /// `CREATE ROLE`; `CREATE USER` has LOGIN among its options.
    Create {
        name: ast::Ident,
        options: Vec<RoleOption>,
    },
    Alter {
        role: RoleName,
        options: Vec<RoleOption>,
    },
    Rename {
        role: ast::Ident,
        to: ast::Ident,
    },
    /// `ALTER ROLE … SET name = value`, or RESET with `None`; RESET ALL has no name.
    Setting {
        role: RoleName,
        name: Option<String>,
        value: Option<String>,
    },
    Drop {
        names: Vec<RoleName>,
        if_exists: bool,
    },
    /// `GRANT role TO role`.
    Grant {
        roles: Vec<ast::Ident>,
        members: Vec<RoleName>,
        admin: bool,
    },
    /// `REVOKE role FROM role`.
    Revoke {
        roles: Vec<ast::Ident>,
        members: Vec<RoleName>,
        /// Just the right to take others in.
        admin_only: bool,
    },
    ReassignOwned {
        from: Vec<RoleName>,
        to: RoleName,
    },
    DropOwned {
        by: Vec<RoleName>,
        cascade: bool,
    },
    /// `SET [LOCAL] ROLE`; `None` is NONE and RESET ROLE.
    Set {
        role: Option<String>,
        local: bool,
    },
    /// `SET SESSION AUTHORIZATION`; `None` is DEFAULT.
    SetSession(Option<String>),
}

/// What CREATE and ALTER ROLE say of a role.
#[derive(Clone, PartialEq)]
pub enum RoleOption {
    Superuser(bool),
    CreateDatabase(bool),
    CreateRole(bool),
    Inherit(bool),
    Login(bool),
    Replication(bool),
    BypassRls(bool),
    ConnectionLimit(i32),
    /// `None` takes the password away.
    Password(Option<String>),
    /// As written.
    ValidUntil(String),
    InRole(Vec<ast::Ident>),
    Members {
        roles: Vec<ast::Ident>,
        admin: bool,
    },
}

impl fmt::Debug for RoleOption {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl RoleOption {
    /// The word for it, in upper case: an option may be given once.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Superuser(_) => "SUPERUSER",
            Self::CreateDatabase(_) => "CREATEDB",
            Self::CreateRole(_) => "CREATEROLE",
            Self::Inherit(_) => "INHERIT",
            Self::Login(_) => "LOGIN",
            Self::Replication(_) => "REPLICATION",
            Self::BypassRls(_) => "BYPASSRLS",
            Self::ConnectionLimit(_) => "CONNECTION LIMIT",
            Self::Password(_) => "PASSWORD",
            Self::ValidUntil(_) => "VALID UNTIL",
            Self::InRole(_) => "IN ROLE",
            Self::Members { admin: false, .. } => "ROLE",
            Self::Members { admin: true, .. } => "ADMIN",
        }
    }
}

/// `GRANT … ON` and `REVOKE … ON`.
#[derive(Debug, Clone, PartialEq)]
pub struct GrantStatement {
    pub change: GrantChange,
    pub on: GrantTarget,
}

/// Which privileges are given or taken, and whose they are.
#[derive(Debug, Clone, PartialEq)]
pub struct GrantChange {
    pub is_revoke: bool,
    /// `None`: ALL.
    pub privileges: Option<Vec<ast::Ident>>,
    pub roles: Vec<RoleName>,
    /// WITH GRANT OPTION; of REVOKE: just GRANT OPTION FOR.
    pub option: bool,
    pub cascade: bool,
    /// GRANTED BY.
    pub granted_by: Option<RoleName>,
}

/// What privileges are on.
#[derive(Debug, Clone, PartialEq)]
pub enum GrantTarget {
    /// Relations of any kind, as ON TABLE names them.
    Relations(Vec<ast::ObjectName>),
    /// Objects of one kind.
    Objects(DropKind, Vec<Existing>),
    Databases(Vec<ast::Ident>),
    /// `ALL … IN SCHEMA`: of one kind, or with `None` of every kind of the class.
    AllIn {
        class: Class,
        kind: Option<DropKind>,
        schemas: Vec<ast::Ident>,
    },
    /// What there is none of: sequences.
    Nothing,
}

/// `ALTER DEFAULT PRIVILEGES`.
#[derive(Debug, Clone, PartialEq)]
pub struct DefaultPrivilegesStatement {
    /// Empty: those of the current role.
    pub roles: Vec<RoleName>,
    /// Empty: everywhere.
    pub schemas: Vec<ast::Ident>,
    pub class: Option<Class>,
    pub change: GrantChange,
}

/// `ALTER kind name OWNER TO role`.
#[derive(Debug, Clone, PartialEq)]
pub struct AlterOwner {
    pub kind: DropKind,
    pub name: Existing,
    pub if_exists: bool,
    pub to: RoleName,
}
