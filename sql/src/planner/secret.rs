//! `CREATE SECRET`: the name and the type; what its options mean is the server's to check.

use std::collections::BTreeMap;

use millstream_catalog::object::Secret;
use millstream_catalog::{ObjectId, Privilege};

use crate::context::PlanContext;
use crate::error::{Result, SqlError};
use crate::plan::{CreateSecretPlan, Plan};
use crate::statement::CreateSecret;
use crate::types::normalize;

/// The option of an external table, a `COPY` or a `read_…` function that names a secret.
pub const SECRET_OPTION: &str = "secret";

/// `CREATE SECRET`.
///
/// # Errors
/// 42710 if the name is taken and neither OR REPLACE nor IF NOT EXISTS is given, 22023 without a type.
pub(crate) fn create(s: &CreateSecret, ctx: &PlanContext<'_>) -> Result<Plan> {
    let name = normalize(&s.name);
    let there = ctx.catalog.secret(&name).ok();
    match there {
        Some(object) if s.or_replace => ctx.require_owner(object)?,
        Some(_) => {}
        None => ctx.require_in_database(Privilege::Create)?,
    }
    let there = there.map(|object| object.id);
    if there.is_some() && s.if_not_exists {
        let notice = format!("secret \"{name}\" already exists, skipping");
        return Ok(Plan::Nothing { tag: "CREATE SECRET", notice, sqlstate: "42710" });
    }
    if there.is_some() && !s.or_replace {
        return Err(SqlError::new("42710", format!("secret \"{name}\" already exists"))
            .with_hint("CREATE OR REPLACE SECRET changes its values")
            .with_span(s.name.span));
    }
    let mut options = s.options.clone();
    let secret_type = options.remove("type").map(|t| t.to_lowercase()).ok_or_else(|| {
        SqlError::new("22023", format!("secret \"{name}\" has no type")).with_hint("the types are: s3")
    })?;
    let secret = Secret { secret_type, scope: options.remove("scope"), options };
    Ok(Plan::CreateSecret(CreateSecretPlan { name, secret, replaces: there }))
}

/// The secret that options name, by the name as it is written there.
///
/// # Errors
/// 42704 if there is none of that name, 42501 if the role may not use it.
pub(crate) fn named(options: &BTreeMap<String, String>, ctx: &PlanContext<'_>) -> Result<BTreeMap<String, ObjectId>> {
    let Some(name) = options.get(SECRET_OPTION) else { return Ok(BTreeMap::new()) };
    let object = ctx.catalog.secret(name).map_err(|e| SqlError::from(e).with_hint("SHOW SECRETS lists them"))?;
    ctx.require(object, Privilege::Usage)?;
    Ok(BTreeMap::from([(name.clone(), object.id)]))
}
