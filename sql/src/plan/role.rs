//! Plans about roles and what they may do; roles are looked up when they are carried out.

use millstream_catalog::privilege::Class;
use millstream_catalog::{ObjectId, Privileges};

use crate::statement::DropKind;
use crate::statement::role::{GrantChange, RoleName};

/// `GRANT … ON`, `REVOKE … ON`.
#[derive(Debug, Clone)]
pub struct GrantPlan {
    pub objects: Vec<ObjectId>,
    pub privileges: Privileges,
    pub change: GrantChange,
}

/// `ALTER DEFAULT PRIVILEGES`.
#[derive(Debug, Clone)]
pub struct DefaultPrivilegesPlan {
    pub roles: Vec<RoleName>,
    pub schemas: Vec<ObjectId>,
    /// `None`: of what there is none.
    pub class: Option<Class>,
    pub privileges: Privileges,
    pub change: GrantChange,
}

/// `ALTER … OWNER TO`.
#[derive(Debug, Clone)]
pub struct AlterOwnerPlan {
    pub id: ObjectId,
    pub kind: DropKind,
    pub to: RoleName,
}
