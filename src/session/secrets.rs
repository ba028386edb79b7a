//! CREATE SECRET and SHOW SECRETS: what opens stores of the outside, whose values nothing shows.

use std::collections::BTreeMap;

use millstream_catalog::{Object, ObjectId, ObjectKind};
use millstream_sql::Parsed;
use millstream_sql::plan::{CreateSecretPlan, NewName};

use super::api::Response;
use super::ddl::gone;
use super::{Scope, Session, complete};
use crate::batch::stores::s3::S3;
use crate::error::Result;

/// Columns of SHOW SECRETS, and of `millstream.secrets`.
pub const COLUMNS: [&str; 5] = ["name", "type", "scope", "endpoint", "region"];

impl Session {
    pub(super) async fn create_secret(
        &mut self,
        p: CreateSecretPlan,
        parsed: &Parsed,
        scope: &Scope,
    ) -> Result<Response> {
        S3::new(&p.name, &p.secret)?;
        let name = NewName { schema: ObjectId::PUBLIC, schema_name: "public".into(), name: p.name };
        let kind = ObjectKind::Secret(p.secret);
        let mut draft = self.draft(scope);
        match p.replaces {
            Some(id) => {
                let old = draft.catalog().get(id).cloned().ok_or_else(|| gone(id))?;
                let new = self.object(id, &name, parsed, kind, BTreeMap::new());
                draft.replace(new.in_place_of(&old));
            }
            None => {
                let id = draft.new_id();
                draft.create(self.object(id, &name, parsed, kind, BTreeMap::new()))?;
            }
        }
        self.apply(draft, Vec::new(), Vec::new(), parsed).await?;
        Ok(complete("CREATE SECRET"))
    }
}

/// What may be shown of a secret, in the order of [`COLUMNS`].
pub fn shown(object: &Object) -> Option<[Option<String>; 5]> {
    let ObjectKind::Secret(secret) = &object.kind else { return None };
    let option = |key: &str| secret.options.get(key).cloned();
    Some([
        Some(object.name.clone()),
        Some(secret.secret_type.clone()),
        secret.scope.clone(),
        option("endpoint"),
        option("region"),
    ])
}
