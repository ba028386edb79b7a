//! What roles may do with objects: privileges, and the list of who gave which of them to whom, as PostgreSQL has them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing that a role may do with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Privilege {
    Insert,
    Select,
    Update,
    Delete,
    Truncate,
    References,
    Trigger,
    Execute,
    Usage,
    Create,
    Temporary,
    Connect,
}

impl Privilege {
    /// All of them, in the order in which PostgreSQL prints them.
    pub const ALL: [Self; 12] = [
        Self::Insert,
        Self::Select,
        Self::Update,
        Self::Delete,
        Self::Truncate,
        Self::References,
        Self::Trigger,
        Self::Execute,
        Self::Usage,
        Self::Create,
        Self::Temporary,
        Self::Connect,
    ];

    /// The letter that stands for it in an `aclitem`.
    pub fn letter(self) -> char {
        match self {
            Self::Insert => 'a',
            Self::Select => 'r',
            Self::Update => 'w',
            Self::Delete => 'd',
            Self::Truncate => 'D',
            Self::References => 'x',
            Self::Trigger => 't',
            Self::Execute => 'X',
            Self::Usage => 'U',
            Self::Create => 'C',
            Self::Temporary => 'T',
            Self::Connect => 'c',
        }
    }

    /// The word in GRANT, in upper case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Select => "SELECT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Truncate => "TRUNCATE",
            Self::References => "REFERENCES",
            Self::Trigger => "TRIGGER",
            Self::Execute => "EXECUTE",
            Self::Usage => "USAGE",
            Self::Create => "CREATE",
            Self::Temporary => "TEMPORARY",
            Self::Connect => "CONNECT",
        }
    }

    /// The privilege of that name, in any case; `TEMP` is short for one.
    pub fn of_name(name: &str) -> Option<Self> {
        let name = if name.eq_ignore_ascii_case("TEMP") { "TEMPORARY" } else { name };
        Self::ALL.into_iter().find(|p| p.name().eq_ignore_ascii_case(name))
    }
}

/// A set of privileges. Stored as its letters.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Privileges(u16);

impl Privileges {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// These.
    pub const fn of(privileges: &[Privilege]) -> Self {
        let (mut bits, mut i) = (0, 0);
        while i < privileges.len() {
            bits |= 1 << privileges[i] as u16;
            i += 1;
        }
        Self(bits)
    }

    /// Whether it has one.
    pub fn has(self, privilege: Privilege) -> bool {
        self.0 & (1 << privilege as u16) != 0
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// Those that are in either.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Those that are in both.
    #[must_use]
    pub fn within(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    /// Those that are not in the other.
    #[must_use]
    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Each of them, in PostgreSQL's order.
    pub fn iter(self) -> impl Iterator<Item = Privilege> {
        Privilege::ALL.into_iter().filter(move |p| self.has(*p))
    }
}

impl fmt::Debug for Privileges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|p| write!(f, "{}", p.letter()))
    }
}

impl Serialize for Privileges {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{self:?}"))
    }
}

impl<'de> Deserialize<'de> for Privileges {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let letters = String::deserialize(deserializer)?;
        letters.chars().try_fold(Self::NONE, |all, letter| {
            let known = Privilege::ALL.into_iter().find(|p| p.letter() == letter);
            let unknown = || serde::de::Error::custom(format!("unknown privilege '{letter}'"));
            known.map(|p| all.and(Self::of(&[p]))).ok_or_else(unknown)
        })
    }
}

/// Kinds of objects that have the same privileges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    Relation,
    Function,
    Schema,
    Database,
    Task,
    Secret,
}

impl Class {
    /// The word in errors and in GRANT, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Relation => "relation",
            Self::Function => "function",
            Self::Schema => "schema",
            Self::Database => "database",
            Self::Task => "task",
            Self::Secret => "secret",
        }
    }

    /// All privileges that there are on objects of the class, which their owner begins with.
    pub fn all(self) -> Privileges {
        use Privilege::{
            Connect, Create, Delete, Execute, Insert, References, Select, Temporary, Trigger, Truncate, Update, Usage,
        };
        const RELATION: Privileges = Privileges::of(&[Insert, Select, Update, Delete, Truncate, References, Trigger]);
        match self {
            Self::Relation => RELATION,
            Self::Function | Self::Task => const { Privileges::of(&[Execute]) },
            Self::Schema => const { Privileges::of(&[Usage, Create]) },
            Self::Database => const { Privileges::of(&[Create, Temporary, Connect]) },
            Self::Secret => const { Privileges::of(&[Usage]) },
        }
    }

    /// What everybody begins with.
    fn of_everybody(self) -> Privileges {
        match self {
            Self::Function => const { Privileges::of(&[Privilege::Execute]) },
            Self::Database => const { Privileges::of(&[Privilege::Temporary, Privilege::Connect]) },
            Self::Relation | Self::Schema | Self::Task | Self::Secret => Privileges::NONE,
        }
    }
}

/// What one role gave to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AclItem {
    /// Empty: everybody (PUBLIC).
    pub grantee: String,
    pub grantor: String,
    pub privileges: Privileges,
    /// Those of them that the grantee may give on.
    #[serde(default, skip_serializing_if = "Privileges::is_empty")]
    pub grantable: Privileges,
}

impl AclItem {
    /// As PostgreSQL prints it: `bob=r*w/alice`.
    pub fn text(&self) -> String {
        let letters: String = self
            .privileges
            .iter()
            .flat_map(|p| [Some(p.letter()), self.grantable.has(p).then_some('*')])
            .flatten()
            .collect();
        format!("{}={letters}/{}", quoted(&self.grantee), quoted(&self.grantor))
    }
}

/// A role's name as an `aclitem` has it.
fn quoted(name: &str) -> String {
    let is_plain = name.chars().all(|c| c.is_alphanumeric() || c == '_');
    if is_plain { name.to_string() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// What is granted on an object, the system's own or another, where no GRANT or REVOKE has been.
pub fn initial_acl(class: Class, owner: &str, is_system: bool) -> Vec<AclItem> {
    let item = |grantee: &str, privileges| AclItem {
        grantee: grantee.into(),
        grantor: owner.into(),
        privileges,
        grantable: Privileges::NONE,
    };
    // The schemas of the system, and `public`, are there for everybody to look into.
    let everybody = match class {
        Class::Schema if is_system => Privileges::of(&[Privilege::Usage]),
        _ => class.of_everybody(),
    };
    let mut acl = vec![item(owner, class.all())];
    if !everybody.is_empty() {
        acl.push(item("", everybody));
    }
    acl
}

/// Adds a grant to a list.
pub fn grant(acl: &mut Vec<AclItem>, given: AclItem) {
    match acl.iter_mut().find(|i| i.grantee == given.grantee && i.grantor == given.grantor) {
        Some(item) => {
            item.privileges = item.privileges.and(given.privileges);
            item.grantable = item.grantable.and(given.grantable);
        }
        None if given.privileges.is_empty() => {}
        None => acl.push(given),
    }
}

/// Takes back what `grantor` gave to `grantee`: the privileges, or with `option_only` just the right to give them on. With
/// `cascade` also what the grantee gave on by that right.
///
/// # Errors
/// The names of those who hold what the grantee gave on, if `cascade` is not asked for.
pub fn revoke(
    acl: &mut Vec<AclItem>,
    grantee: &str,
    grantor: &str,
    privileges: Privileges,
    option_only: bool,
    cascade: bool,
) -> Result<(), Vec<String>> {
    let Some(item) = acl.iter_mut().find(|i| i.grantee == grantee && i.grantor == grantor) else { return Ok(()) };
    let lost = item.grantable.within(privileges);
    item.grantable = item.grantable.without(privileges);
    if !option_only {
        item.privileges = item.privileges.without(privileges);
    }
    acl.retain(|i| !i.privileges.is_empty());
    // Another grant may give the same right.
    let kept = acl.iter().filter(|i| i.grantee == grantee).fold(Privileges::NONE, |all, i| all.and(i.grantable));
    let lost = lost.without(kept);
    if lost.is_empty() {
        return Ok(());
    }
    let dependents: Vec<String> = acl
        .iter()
        .filter(|i| i.grantor == grantee && i.grantee != grantee && !i.privileges.within(lost).is_empty())
        .map(|i| i.grantee.clone())
        .collect();
    if !dependents.is_empty() && !cascade {
        return Err(dependents);
    }
    for dependent in dependents {
        revoke(acl, &dependent, grantee, lost, false, true)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Privileges = Privileges::of(&[Privilege::Select]);

    fn item(grantee: &str, grantor: &str, grantable: Privileges) -> AclItem {
        AclItem { grantee: grantee.into(), grantor: grantor.into(), privileges: READ, grantable }
    }

    #[test]
    fn items_print_as_in_postgresql_and_are_stored_by_their_letters() {
        let privileges = Privileges::of(&[Privilege::Update, Privilege::Insert, Privilege::Select]);
        let item = AclItem { privileges, ..item("Bob B", "", READ) };
        assert_eq!(item.text(), "\"Bob B\"=ar*w/");
        let stored = serde_json::to_string(&item).unwrap();
        assert_eq!(stored, r#"{"grantee":"Bob B","grantor":"","privileges":"arw","grantable":"r"}"#);
        assert_eq!(serde_json::from_str::<AclItem>(&stored).unwrap(), item);
        assert!(serde_json::from_str::<AclItem>(&stored.replace("arw", "q")).is_err());
    }

    #[test]
    fn what_was_given_on_is_taken_back_only_with_cascade() {
        let mut acl = initial_acl(Class::Relation, "a", false);
        grant(&mut acl, item("b", "a", READ));
        grant(&mut acl, item("c", "b", READ));
        grant(&mut acl, item("d", "c", Privileges::NONE));
        let before = acl.clone();
        assert_eq!(revoke(&mut acl.clone(), "b", "a", READ, true, false), Err(vec!["c".to_string()]));
        // Who has the right from another too may keep what it gave.
        grant(&mut acl, item("b", "x", READ));
        assert_eq!(revoke(&mut acl, "b", "a", READ, false, false), Ok(()));
        let mut acl = before;
        assert_eq!(revoke(&mut acl, "b", "a", READ, false, true), Ok(()));
        assert_eq!(acl, initial_acl(Class::Relation, "a", false));
    }

    #[test]
    fn everybody_may_call_functions_and_look_into_public() {
        let text = |class, is_system| {
            initial_acl(class, "o", is_system).iter().map(AclItem::text).collect::<Vec<_>>().join(",")
        };
        assert_eq!(text(Class::Function, false), "o=X/o,=X/o");
        assert_eq!(text(Class::Schema, true), "o=UC/o,=U/o");
        assert_eq!(text(Class::Schema, false), "o=UC/o");
        assert_eq!(text(Class::Relation, false), "o=arwdDxt/o");
    }
}
