//! Who connects and owns: roles, which are users and groups at once.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::ObjectId;
use crate::privilege::{AclItem, Class};

/// Reads every relation, as in PostgreSQL.
pub const READ_ALL_DATA: &str = "pg_read_all_data";
/// Writes every relation.
pub const WRITE_ALL_DATA: &str = "pg_write_all_data";
/// Sees what the server and all sessions do.
pub const MONITOR: &str = "pg_monitor";
/// Reads files of the server's machine.
pub const READ_SERVER_FILES: &str = "pg_read_server_files";
/// Writes files of the server's machine.
pub const WRITE_SERVER_FILES: &str = "pg_write_server_files";
/// Cancels statements of others, unless they are superusers.
pub const SIGNAL_BACKEND: &str = "pg_signal_backend";

/// A role. Roles have a name space of their own.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Role {
    pub superuser: bool,
    /// Whether it has the privileges of the roles that it is a member of without SET ROLE.
    pub inherit: bool,
    pub create_role: bool,
    pub create_database: bool,
    pub login: bool,
    pub replication: bool,
    pub bypass_rls: bool,
    /// Sessions at one time; negative: no limit of its own.
    pub connection_limit: i32,
    /// What its password is checked against: a SCRAM-SHA-256 verifier in PostgreSQL's form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Until when its password is taken, microseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until_us: Option<i64>,
    /// The roles that it is a member of.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub member_of: BTreeMap<String, Membership>,
    /// What is granted on the objects that it will make.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub default_privileges: Vec<DefaultPrivileges>,
    /// What its sessions begin with, by the names of the settings in lower case.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

/// That a role is in another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Whether it may take others in.
    pub admin: bool,
    pub grantor: String,
}

/// `ALTER DEFAULT PRIVILEGES`: what is granted on objects of a class, all of them or those in one schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultPrivileges {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<ObjectId>,
    pub class: Class,
    /// Without a schema the whole list that objects get; with one, what they get on top.
    pub acl: Vec<AclItem>,
}

impl Default for Role {
    /// As CREATE ROLE makes it.
    fn default() -> Self {
        Self {
            superuser: false,
            inherit: true,
            create_role: false,
            create_database: false,
            login: false,
            replication: false,
            bypass_rls: false,
            connection_limit: -1,
            password: None,
            valid_until_us: None,
            member_of: BTreeMap::new(),
            default_privileges: Vec::new(),
            settings: BTreeMap::new(),
        }
    }
}

impl fmt::Debug for Role {
    /// The password is no part of it: an object's debug text may end up in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Role")
            .field("superuser", &self.superuser)
            .field("login", &self.login)
            .field("member_of", &self.member_of)
            .finish_non_exhaustive()
    }
}
