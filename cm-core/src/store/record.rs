//! What the journal says: one record a fact. Pure.
//!
//! Numbers of variants are written to disk: new ones are added at the end, none is ever removed.

use serde::{Deserialize, Serialize};

/// SHA-256 of a content, which is also its name in the store.
pub type Digest = [u8; 32];

/// Owner, group, mode, time of change of the content and extended attributes of a file or directory, exactly.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Metadata {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds and nanoseconds of the last change of the content.
    pub mtime: (i64, i64),
    /// Every extended attribute that can be read, sorted by name.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// What a thing was before somebody changed it. A thing is named by its path, or by `sysctl:KEY`,
/// `hostname:`, `user:NAME`, `group:NAME`, `line:NAME`; `names:PATH` are the names that a file had of which a line was
/// edited, and `member:GROUP:USER` is that a user was made a member of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prior {
    /// Not there.
    Absent,
    /// A regular file.
    File {
        /// Its content, which lies in the store.
        digest: Digest,
        /// Length in bytes.
        size: u64,
        /// The rest.
        metadata: Metadata,
    },
    /// A directory.
    Directory(Metadata),
    /// A symbolic link.
    Symlink {
        /// What it pointed to.
        target: Vec<u8>,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Time of change.
        mtime: (i64, i64),
    },
    /// A value: sysctl, host name.
    Text(String),
    /// Lines of a user or group database: (file name below /etc, line without newline), those that were there.
    Entries(Vec<(String, String)>),
    /// What an edit of one line did, so that it can be turned round.
    Edit(LineEdit),
    /// Only its ownership is touched.
    Untouched,
    /// A device, a socket or a pipe; never replaced nor removed, so never put back.
    Special,
    /// A regular file whose content was not touched: only the rest is put back.
    Attributes(Metadata),
    /// A regular file that had other names: hard links.
    Linked {
        /// Its content, which lies in the store.
        digest: Digest,
        /// Length in bytes.
        size: u64,
        /// The rest.
        metadata: Metadata,
        /// Where the other names are, as far as they were found.
        others: Vec<String>,
    },
    /// A regular file that held more than is kept of what was never declared; never put back.
    Large {
        /// Length in bytes.
        size: u64,
        /// The rest.
        metadata: Metadata,
    },
}

const NAMES: &str = "names:";
const MEMBER: &str = "member:";

/// The thing that the names of a file are, of which a line is edited.
pub fn names_of(path: &str) -> String {
    format!("{NAMES}{path}")
}

/// The thing that a membership is.
pub fn membership(group: &str, user: &str) -> String {
    format!("{MEMBER}{group}:{user}")
}

/// The group and the user of such a thing.
pub fn member_of(thing: &str) -> Option<(&str, &str)> {
    thing.strip_prefix(MEMBER)?.split_once(':')
}

/// The path of such a thing.
pub fn path_of_names(thing: &str) -> Option<&str> {
    thing.strip_prefix(NAMES)
}

/// Why something was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// Somebody had changed what is declared.
    Repair,
    /// A generation declares something else.
    Apply,
    /// A generation does not declare it any more.
    Purge,
    /// An earlier generation was returned to.
    Return,
}

/// What an edit of one line did to a file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LineEdit {
    /// Path of the file.
    pub path: String,
    /// Whether the file was made for the line.
    pub created: bool,
    /// Index at which the line was put in.
    pub inserted: Option<u32>,
    /// The line that was put in.
    pub line: String,
    /// Lines that went, with their index in the file as it was.
    pub removed: Vec<(u32, String)>,
    /// Whether the last line had no newline before.
    pub open_end: bool,
}

/// Who made a thing, and what it is supposed to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Own {
    /// The unit that manages it, as an address.
    pub unit: String,
    /// Whether it was made by Holdfast; otherwise it was there and was adopted.
    pub created: bool,
    /// Digest of what was last written into it, for files and links; of a line, that of the path and the line.
    pub digest: Option<Digest>,
    /// Number of the file system on which it lies (statfs(2)), where that lies below a managed mount; else 0.
    pub fs: u64,
}

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A generation exists; its manifest and contents are durable.
    Prepared {
        /// Its number.
        generation: u64,
        /// Digest of its manifest.
        digest: Digest,
        /// Seconds since 1970.
        when: u64,
        /// Who asked and how.
        note: String,
    },
    /// From here on things of both generations may be on the machine.
    Switching {
        /// The one that is made or returned to.
        generation: u64,
        /// Number of this transition; never reused.
        transition: u64,
    },
    /// Everything is changed; it must prove itself.
    Trial {
        /// The new generation.
        generation: u64,
    },
    /// It is the current one.
    Committed {
        /// The new generation.
        generation: u64,
    },
    /// `to` is the current one again.
    Returned {
        /// The one that failed or was left.
        generation: u64,
        /// The current one.
        to: u64,
    },
    /// A thing has an owner.
    Own {
        /// The thing.
        thing: String,
        /// Its owner.
        own: Own,
    },
    /// A thing has none any more.
    Disown {
        /// The thing.
        thing: String,
    },
    /// What a thing was before a transition touched it.
    Undo {
        /// The transition.
        transition: u64,
        /// The unit that touched it.
        unit: String,
        /// The thing.
        thing: String,
        /// What it was.
        prior: Prior,
        /// Who owned it.
        own: Option<Own>,
    },
    /// Somebody else's version, saved before it was repaired or purged; written by versions before [`Record::Replaced`].
    History {
        /// The unit.
        unit: String,
        /// The thing.
        thing: String,
        /// Seconds since 1970.
        when: u64,
        /// What it was.
        prior: Prior,
    },
    /// An exec unit has run.
    Ran {
        /// The unit.
        unit: String,
        /// Digest of its declaration.
        digest: [u8; 16],
        /// Hash of its inputs.
        inputs: u64,
        /// Seconds since 1970.
        when: u64,
    },
    /// An exec unit is forgotten.
    Forgot {
        /// The unit.
        unit: String,
    },
    /// A number that must not be given to anybody again.
    Retired {
        /// Whether it is a group's.
        group: bool,
        /// The number.
        id: u32,
        /// Whose it was.
        name: String,
    },
    /// A generation's manifest was thrown away.
    Dropped {
        /// Its number.
        generation: u64,
    },
    /// What was there and is about to be replaced.
    Replaced {
        /// The unit.
        unit: String,
        /// The thing.
        thing: String,
        /// Seconds since 1970.
        when: u64,
        /// What for.
        why: Why,
        /// The generation that is made or returned to; 0 for a repair.
        generation: u64,
        /// What it was.
        prior: Prior,
    },
    /// It was not, after all: the last one of this thing is no more true.
    NotReplaced {
        /// The unit.
        unit: String,
        /// The thing.
        thing: String,
    },
}
