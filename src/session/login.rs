//! Who is let in, and what a role may do outside of what statements name.

use chrono::Utc;
use millstream_catalog::role::SIGNAL_BACKEND;
use millstream_catalog::{Catalog, DEFAULT_DATABASE, Object, ObjectId, Privilege};

use super::Session;
use super::api::{ClientInfo, Login};
use super::database::Database;
use super::roles::{IS_SUPERUSER, SESSION_AUTHORIZATION};
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::scram::Verifier;

const INVALID_AUTHORIZATION: &str = "28000";
const TOO_MANY_CONNECTIONS: &str = "53300";
const DENIED: &str = "42501";

impl Database {
    /// How a client of that name proves who it is. Until a superuser has a password, clients of this machine need none and
    /// others cannot; from then on everybody needs one.
    ///
    /// # Errors
    /// 28000 for a role that there is not, to clients that need no password anyway.
    pub(super) fn login_of(&self, user: &str, is_local: bool) -> Result<Login> {
        let catalog = &self.engine.published().catalog;
        let is_trusted = is_local && !catalog.is_protected();
        let Some((_, role)) = catalog.find_role(user) else {
            return match is_trusted {
                true => Err(Error::new(INVALID_AUTHORIZATION, format!("role \"{user}\" does not exist"))
                    .with_hint("connect as user \"millstream\", and make roles with CREATE ROLE")),
                false => Ok(Login::Never),
            };
        };
        let has_expired = role.valid_until_us.is_some_and(|until| until < Utc::now().timestamp_micros());
        Ok(match &role.password {
            None if is_trusted => Login::Trusted,
            Some(_) if has_expired => Login::Never,
            Some(password) => Verifier::parse(password).map_or(Login::Never, Login::Password),
            None => Login::Never,
        })
    }

    /// Refuses a role that is who it says, but may not have this session.
    ///
    /// # Errors
    /// 28000, 42501 and 53300.
    pub(super) fn check_login(&self, client: &ClientInfo) -> Result<()> {
        let catalog = &self.engine.published().catalog;
        let missing = || Error::new(INVALID_AUTHORIZATION, format!("role \"{}\" does not exist", client.user));
        let (_, role) = catalog.find_role(&client.user).ok_or_else(missing)?;
        if !role.login {
            return Err(Error::new(
                INVALID_AUTHORIZATION,
                format!("role \"{}\" is not permitted to log in", client.user),
            )
            .with_hint("ALTER ROLE ... LOGIN lets it"));
        }
        let database = catalog.get(ObjectId::DATABASE);
        if database.is_some_and(|d| !catalog.privileges(&client.user, d).has(Privilege::Connect)) {
            return Err(Error::new(DENIED, format!("permission denied for database \"{DEFAULT_DATABASE}\""))
                .with_detail("User does not have CONNECT privilege."));
        }
        let of_role = self.sessions().iter().filter(|s| s.user == client.user).count();
        if usize::try_from(role.connection_limit).is_ok_and(|limit| of_role >= limit) && !role.superuser {
            return Err(Error::new(TOO_MANY_CONNECTIONS, format!("too many connections for role \"{}\"", client.user))
                .with_hint("ALTER ROLE ... CONNECTION LIMIT changes how many it may have"));
        }
        Ok(())
    }
}

impl Session {
    /// The settings of a session that nothing was set in.
    pub(super) fn initial_settings(&self) -> Settings {
        let mut settings = Settings::new();
        let catalog = &self.database.engine.published().catalog;
        settings.put(SESSION_AUTHORIZATION, &self.client.user);
        settings.put(IS_SUPERUSER, if catalog.is_superuser(&self.client.user) { "on" } else { "off" });
        settings
    }

    /// Has the client told who it is.
    pub(super) fn tell_identity(&mut self) {
        let superuser = self.settings.value(IS_SUPERUSER).unwrap_or("off").to_string();
        let user = self.client.user.clone();
        self.settings.put(SESSION_AUTHORIZATION, &user);
        self.settings.put(IS_SUPERUSER, &superuser);
    }

    /// Refuses what the session's role may not do with an object.
    ///
    /// # Errors
    /// 42501 naming the object.
    pub(super) fn require(&self, object: &Object, privilege: Privilege, catalog: &Catalog) -> Result<()> {
        match catalog.privileges(self.role(), object).has(privilege) {
            true => Ok(()),
            false => Err(Error::new(DENIED, format!("permission denied for {} {}", object.kind_name(), object.name))
                .with_hint(format!("GRANT {} lets role \"{}\"", privilege.name(), self.role()))),
        }
    }

    /// Refuses what is for an object's owner.
    ///
    /// # Errors
    /// 42501 naming the object.
    pub(super) fn require_owner(&self, object: &Object, catalog: &Catalog) -> Result<()> {
        match catalog.is_owner(self.role(), object) {
            true => Ok(()),
            false => Err(Error::new(DENIED, format!("must be owner of {} {}", object.kind_name(), object.name))
                .with_hint(format!("it belongs to role \"{}\"", object.owner))),
        }
    }

    /// Refuses what the session's role may not do in the database as a whole.
    ///
    /// # Errors
    /// 42501.
    pub(super) fn require_in_database(&self, privilege: Privilege, catalog: &Catalog) -> Result<()> {
        match catalog.get(ObjectId::DATABASE) {
            Some(database) => self.require(database, privilege, catalog),
            None => Ok(()),
        }
    }

    /// Refuses ending a statement of somebody else.
    ///
    /// # Errors
    /// 42501 naming the role whose it is.
    pub(super) fn check_may_cancel(&self, job: u32) -> Result<()> {
        let Some(process_id) = self.database.batch.jobs().process_id(job) else { return Ok(()) };
        let sessions = self.database.sessions();
        let Some(other) = sessions.iter().find(|s| s.process_id == process_id) else { return Ok(()) };
        check_may_end(&self.database.engine.published().catalog, self.role(), &other.user, "cancel query")
    }
}

/// Refuses ending what another role does to those without its rights; with those of `pg_signal_backend` all but superusers'
/// can be ended.
///
/// # Errors
/// 42501 naming the role whose it is.
pub(super) fn check_may_end(catalog: &Catalog, own: &str, user: &str, what: &str) -> Result<()> {
    let is_allowed = catalog.has_privileges_of(own, user)
        || (!catalog.is_superuser(user) && catalog.has_privileges_of(own, SIGNAL_BACKEND));
    match is_allowed {
        true => Ok(()),
        false => Err(Error::new(DENIED, format!("permission denied to {what}"))
            .with_detail(format!("It is of role \"{user}\"."))
            .with_hint(format!("roles with the privileges of \"{SIGNAL_BACKEND}\" can end what others do"))),
    }
}
