//! Compiled steps: what the committer carries out, in order, and nothing else. Checks make them; `tree` and the
//! kinds' own files execute them.

use nix::errno::Errno;
use units::kind::group::Group;
use units::kind::user::User;
use units::kind::{Attributes, Content};

use crate::store::record::LineEdit;
use crate::store::{Digest, Metadata, Own};

/// Attributes that a file or directory should have; what is `None` stays as it is, or is the default of a new one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Want {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner, by name or number.
    pub owner: Option<String>,
    /// Group, by name or number.
    pub group: Option<String>,
    /// Extended attributes.
    pub xattrs: Vec<(String, Vec<u8>)>,
    /// Whether it should have no others.
    pub exact: bool,
    /// Time of the last change of the content.
    pub mtime: Option<(i64, i64)>,
}

impl Want {
    /// What a declaration says.
    pub fn declared(attributes: &Attributes) -> Want {
        Want {
            mode: attributes.mode,
            owner: attributes.owner.clone(),
            group: attributes.group.clone(),
            xattrs: attributes.xattrs.clone(),
            ..Want::default()
        }
    }

    /// Exactly what was there.
    pub fn exactly(metadata: &Metadata, with_time: bool) -> Want {
        Want {
            mode: Some(metadata.mode),
            owner: Some(metadata.uid.to_string()),
            group: Some(metadata.gid.to_string()),
            xattrs: metadata.xattrs.clone(),
            exact: true,
            mtime: with_time.then_some(metadata.mtime),
        }
    }

    /// Fills what is not declared with what was there.
    pub fn or(mut self, metadata: &Metadata) -> Want {
        self.mode = self.mode.or(Some(metadata.mode));
        self.owner = self.owner.or_else(|| Some(metadata.uid.to_string()));
        self.group = self.group.or_else(|| Some(metadata.gid.to_string()));
        for (name, value) in &metadata.xattrs {
            if !self.xattrs.iter().any(|(n, _)| n == name) {
                self.xattrs.push((name.clone(), value.clone()));
            }
        }
        self.exact = true;
        self
    }
}

/// What is put at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// Nothing. A directory that is not empty stays; that is no failure.
    Absent,
    /// Nothing, as long as no mount lies between it and the directory that is purged.
    Purged {
        /// That directory.
        top: String,
    },
    /// A regular file; without content the one that is there keeps its own.
    File {
        /// What it holds.
        content: Option<Content>,
        /// The rest.
        want: Want,
        /// Paths that were names of the same file: if one of them still is such a file, this becomes a name of it.
        others: Vec<String>,
    },
    /// A directory.
    Directory {
        /// Its attributes.
        want: Want,
        /// Whether a link that is there may be replaced: it took the place of a directory that was ours.
        over_link: bool,
    },
    /// A symbolic link.
    Symlink {
        /// What it points to.
        target: Vec<u8>,
        /// Owner, by name or number.
        owner: Option<String>,
        /// Group, by name or number.
        group: Option<String>,
        /// Time of change.
        mtime: Option<(i64, i64)>,
    },
}

impl Put {
    /// Whether nothing is to be there afterwards.
    pub const fn is_absent(&self) -> bool {
        matches!(self, Put::Absent | Put::Purged { .. })
    }
}

/// A change of the user databases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// The declared fields of a user.
    User {
        /// The declaration.
        spec: Box<User>,
        /// Whether a password hash that differs is written too.
        password: bool,
        /// Groups that he is taken out of: Holdfast has put him in, and they are not declared any more.
        leave: Vec<String>,
    },
    /// A group.
    Group(Group),
    /// Nobody can log in as this user any more.
    Lock {
        /// Whose entry.
        name: String,
        /// Groups that he is taken out of.
        leave: Vec<String>,
    },
    /// A user stays, but not in these groups.
    Leave {
        /// Who.
        name: String,
        /// The groups.
        leave: Vec<String>,
    },
    /// The user is gone; his number is not given again.
    RemoveUser(String),
    /// The group is gone, unless it is somebody's primary group.
    RemoveGroup(String),
    /// The group that is made along with a user: it becomes his, and nothing else is done here.
    GroupOfUser(String),
    /// That group is gone, unless somebody else is in it.
    RemoveGroupOfUser(String),
    /// Lines exactly as they were.
    Restore {
        /// Whether it is a group's.
        group: bool,
        /// Whose.
        name: String,
        /// The lines.
        entries: Vec<(String, String)>,
    },
}

impl Account {
    /// Whether it is a group that is changed.
    pub const fn is_group(&self) -> bool {
        match self {
            Account::Group(_)
            | Account::RemoveGroup(_)
            | Account::GroupOfUser(_)
            | Account::RemoveGroupOfUser(_) => true,
            Account::User { .. } | Account::Lock { .. } | Account::Leave { .. } | Account::RemoveUser(_) => {
                false
            }
            Account::Restore { group, .. } => *group,
        }
    }

    /// Who is changed.
    pub fn name(&self) -> &str {
        match self {
            Account::User { spec, .. } => &spec.name,
            Account::Group(spec) => &spec.name,
            Account::Lock { name, .. } | Account::Leave { name, .. } | Account::Restore { name, .. } => name,
            Account::RemoveUser(name)
            | Account::RemoveGroup(name)
            | Account::GroupOfUser(name)
            | Account::RemoveGroupOfUser(name) => name,
        }
    }
}

/// What happens to the ownership of a thing with an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnChange {
    /// The unit owns it: as its creator, if it was not there.
    Take {
        /// Digest of what is written.
        digest: Option<Digest>,
    },
    /// Nobody owns it.
    Drop,
    /// As it was.
    Back(Option<Own>),
}

/// One compiled step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Something at a path.
    Put {
        /// The path, as declared.
        path: String,
        /// What.
        put: Put,
        /// Whether content is written or removed that has to be saved before.
        content_changes: bool,
        /// Where the new content waits: (staging area, name).
        staged: Option<(usize, String)>,
    },
    /// A value below /proc/sys.
    Text {
        /// Path below /proc/sys.
        key: String,
        /// The value.
        value: String,
    },
    /// One line of a file.
    Line(units::kind::line::Line),
    /// The reverse of one line's edit.
    Unline(LineEdit),
    /// The user databases.
    Account(Account),
    /// Runs of an exec unit are forgotten.
    Forget,
    /// Only the ownership changes.
    Nothing,
}

/// One compiled step with the thing that it touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// The thing, as it is named in the store.
    pub thing: String,
    /// What is done.
    pub what: What,
    /// What becomes of its ownership.
    pub own: OwnChange,
}

impl Op {
    /// Something at a path.
    pub fn put(path: &str, put: Put, content_changes: bool, own: OwnChange) -> Op {
        let what = What::Put { path: path.to_owned(), put, content_changes, staged: None };
        Op { thing: path.to_owned(), what, own }
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Finding {
    /// What is wrong, in words; empty when all is right.
    pub wrong: Vec<String>,
    /// What makes it right.
    pub ops: Vec<Op>,
    /// What differs but is only reported.
    pub reported: Vec<String>,
}

/// Why a unit could not be checked or made right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It lies below a managed mount that is not there.
    #[error("{0} is not mounted")]
    MountAbsent(String),
    /// Anything else.
    #[error("{0}")]
    NotKept(String),
}

impl Trouble {
    /// `cannot <verb> <object>: <cause>`.
    pub fn cannot(verb: &str, object: &str, errno: Errno) -> Trouble {
        Trouble::NotKept(format!("cannot {verb} {object}: {}", words(errno)))
    }

    /// The same for errors of std.
    pub fn io(verb: &str, object: &str, error: &std::io::Error) -> Trouble {
        match error.raw_os_error() {
            Some(number) => Trouble::cannot(verb, object, Errno::from_raw(number)),
            None => Trouble::NotKept(format!("cannot {verb} {object}: {error}")),
        }
    }
}

impl From<super::place::PlaceError> for Trouble {
    fn from(error: super::place::PlaceError) -> Trouble {
        Trouble::NotKept(error.to_string())
    }
}

impl From<crate::store::StoreError> for Trouble {
    fn from(error: crate::store::StoreError) -> Trouble {
        Trouble::NotKept(error.to_string())
    }
}

/// An error number as text: `no such file or directory (ENOENT)`.
pub fn words(errno: Errno) -> String {
    format!("{} ({errno:?})", errno.desc().to_lowercase())
}
