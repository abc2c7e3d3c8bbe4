//! `Adopt`: the other way out of drift. What is on the machine is looked at by a process that can only read; the state
//! file is read by one that can open nothing but what the caller may.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::FileStat;
use nix::sys::wait::{WaitStatus, waitpid};
use serde::{Deserialize, Serialize};
use units::kind::file::Ownership;
use units::kind::user::User;
use units::kind::{Attributes, Spec};
use units::nearest::nearest_address;
use units::source::STANDARD_INPUT;
use units::{Address, Manifest, UnitId};

use super::answer::{Asked, Replies, Stop, confine};
use super::difference::MAX_TEXT;
use super::edit::{self, Theirs};
use super::machine::Machine;
use super::shape::{Adopted, OneUnit};
use super::wire::{self, Fault};
use crate::resource::accounts::members;
use crate::resource::{hostname, line, sysctl, tree};
use crate::sys::{Forked, fork};
use crate::worker::compile::{self, Job};

/// What the look at the machine gives.
#[derive(Debug, Serialize, Deserialize)]
enum Look {
    /// The unit as it is, and the state file that declares it.
    Seen { theirs: Theirs, file: String },
    /// No such unit; the most similar one.
    NoSuchUnit(Option<String>),
    /// It cannot be adopted, and why.
    Failed(String),
}

/// `Adopt`.
///
/// # Errors
/// When there is no such unit, or its state file cannot be read or edited.
pub fn adopt(asked: &Asked<'_>, replies: &mut Replies) -> Result<(), Stop> {
    let OneUnit { unit } = wire::parameters(asked.call)?;
    let Some(address) = Address::parse(&unit) else {
        return Err(Fault::NoSuchUnit { unit, nearest: None }.into());
    };
    let (theirs, file) = match look_apart(asked, &address)? {
        Look::Seen { theirs, file } => (theirs, file),
        Look::NoSuchUnit(nearest) => return Err(Fault::NoSuchUnit { unit, nearest }.into()),
        Look::Failed(why) => return Err(Fault::Failed(why).into()),
    };
    if theirs.is_empty() {
        let mut notes = theirs.notes;
        notes.insert(0, format!("{unit} is as it is declared"));
        return replies.send(&Adopted { patch: String::new(), note: notes.join("; ") });
    }
    let (uid, gid) = (asked.caller.uid, asked.caller.gid);
    let job = Job::alone(file.clone(), None, (uid, gid), asked.staging.to_owned());
    let bytes = compile::read_apart(&job, |loader| {
        let adopted = edit::adopt(loader, &file, &address, &theirs).map_err(|e| e.to_string());
        serde_json::to_vec(&adopted).unwrap_or_default()
    });
    let bytes = bytes.map_err(|e| Fault::Failed(e.to_string()))?;
    let adopted: Result<Adopted, String> =
        serde_json::from_slice(&bytes).map_err(|e| Fault::Failed(format!("cannot make a patch: {e}")))?;
    replies.send(&adopted.map_err(Fault::Failed)?)
}

/// Looks in a process of its own, since this one has to start others afterwards.
fn look_apart(asked: &Asked<'_>, address: &Address) -> Result<Look, Fault> {
    let failed = |e: &dyn std::fmt::Display| Fault::Failed(format!("cannot look at {address}: {e}"));
    let mut paper = File::from(memfd_create("look", MFdFlags::MFD_CLOEXEC).map_err(|e| failed(&e))?);
    match fork().map_err(|e| failed(&e))? {
        Forked::Child => {
            let seen = confine().and_then(|()| look(asked, address));
            let look = seen.unwrap_or_else(|fault| Look::Failed(fault.to_string()));
            let bytes = serde_json::to_vec(&look).unwrap_or_default();
            crate::sys::leave(i32::from(paper.write_all(&bytes).is_err()))
        }
        Forked::Parent(pid) => {
            let status = waitpid(pid, None).map_err(|e| failed(&e))?;
            if !matches!(status, WaitStatus::Exited(_, 0)) {
                return Err(failed(&format!("{status:?}")));
            }
        }
    }
    let mut bytes = Vec::new();
    let read = paper.seek(SeekFrom::Start(0)).and_then(|_| paper.read_to_end(&mut bytes));
    read.map_err(|e| failed(&e))?;
    serde_json::from_slice(&bytes).map_err(|e| failed(&e))
}

fn look(asked: &Asked<'_>, address: &Address) -> Result<Look, Fault> {
    let mut machine = Machine::new(asked.options, None, None)?;
    let (_, manifest) = machine.current()?;
    machine.begin(&[&manifest]);
    let Some(id) = manifest.find(address.kind, &address.name) else {
        return Ok(Look::NoSuchUnit(nearest(&manifest, address)));
    };
    let view = manifest.unit(id);
    let file = view.origin.rsplit_once(':').map(|(file, _)| file.to_owned()).unwrap_or_default();
    if file.ends_with(&format!("/{STANDARD_INPUT}")) {
        let how = "it was declared on standard input; apply it from a file, and adopt it then";
        return Ok(Look::Failed(format!("cannot adopt {address}: {how}")));
    }
    if !file.starts_with('/') {
        return Ok(Look::Failed(format!(
            "cannot adopt {address}: it was declared in {}, which is not on this machine",
            view.origin
        )));
    }
    Ok(match theirs(&mut machine, &manifest, id) {
        Ok(theirs) => Look::Seen { theirs, file },
        Err(why) => Look::Failed(format!("cannot adopt {address}: {why}")),
    })
}

/// The unit that may have been meant.
pub(super) fn nearest(manifest: &Manifest, address: &Address) -> Option<String> {
    let all = manifest.ids().map(|id| manifest.address(id));
    nearest_address(&address.to_string(), all).map(|a| a.to_string())
}

fn theirs(machine: &mut Machine, manifest: &Manifest, id: UnitId) -> Result<Theirs, String> {
    let mut out = Theirs::default();
    let Some(spec) = manifest.spec(id) else { return Err("its declaration cannot be read".to_owned()) };
    match &spec {
        Spec::File(spec) => {
            let (mut file, stat) = match place(machine, &spec.path)? {
                Some(tree::Found::File(file, stat)) => (file, stat),
                None => return Ok(gone(out)),
                Some(other) => return Err(tree::in_the_way(&spec.path, &other).to_string()),
            };
            attributes(machine, &spec.attributes, &stat, &mut out);
            let Some(content) = spec.content.filter(|_| spec.ownership == Ownership::Whole) else {
                return Ok(out);
            };
            let mut bytes = Vec::new();
            let read = (&mut file).take(MAX_TEXT.saturating_add(1)).read_to_end(&mut bytes);
            read.map_err(|e| format!("cannot read {}: {e}", spec.path))?;
            if units::load::content_of(&bytes) == content {
                return Ok(out);
            }
            if spec.secret {
                out.notes
                    .push("its content is secret and not shown: change the state file by hand".to_owned());
            } else if bytes.len() as u64 > MAX_TEXT {
                out.notes.push(format!(
                    "its content is larger than {MAX_TEXT} bytes: copy {} yourself",
                    spec.path
                ));
            } else {
                out.content = Some(bytes);
            }
        }
        Spec::Directory(spec) => match place(machine, &spec.path)? {
            Some(tree::Found::Directory(stat)) => attributes(machine, &spec.attributes, &stat, &mut out),
            None => out.gone = true,
            Some(other) => return Err(tree::in_the_way(&spec.path, &other).to_string()),
        },
        Spec::Symlink(spec) => match place(machine, &spec.path)? {
            Some(tree::Found::Link(stat)) => {
                let place = machine.world.places.entry(&spec.path).map_err(|e| e.to_string())?;
                let target = tree::link_target(&place).map_err(|e| e.to_string())?;
                match String::from_utf8(target) {
                    Ok(target) if target == spec.target => {}
                    Ok(target) => out.values.push(("target".to_owned(), edit::string(&target))),
                    Err(_) => out.notes.push("what it points to is not UTF-8".to_owned()),
                }
                let owners = Attributes {
                    owner: spec.owner.clone(),
                    group: spec.group.clone(),
                    ..Attributes::default()
                };
                attributes(machine, &owners, &stat, &mut out);
            }
            None => out.gone = true,
            Some(other) => return Err(tree::in_the_way(&spec.path, &other).to_string()),
        },
        Spec::Sysctl(spec) => setting(machine, &spec.key, &spec.value, &mut out)?,
        Spec::Hostname(spec) => setting(machine, hostname::KEY, &spec.value, &mut out)?,
        Spec::Line(spec) => {
            let text = line::read(&mut machine.world, &spec.path).map_err(|e| e.to_string())?;
            if line::edit(text.as_deref(), spec).map_err(|e| e.to_string())?.is_some() {
                out.values.push(("present".to_owned(), (!spec.present).to_string()));
            }
        }
        Spec::User(spec) => user(machine, spec, &mut out),
        Spec::Group(spec) => match machine.world.accounts.gid(&spec.name) {
            None => out.gone = true,
            Some(gid) if spec.gid.is_some_and(|g| g != gid) => {
                out.values.push(("gid".to_owned(), gid.to_string()))
            }
            Some(_) => {}
        },
        Spec::Service(_) => {
            return Err(
                "what runs is what was declared; change its table in the state file, or leave it alone \
                        as it is now with `initctl hold`"
                    .to_owned(),
            );
        }
        Spec::Mount(spec) => {
            return Err(format!(
                "the kernel does not tell options as they were written; `findmnt {}` shows how it is mounted: \
                 write that into `source`, `fstype` and `options`",
                spec.path
            ));
        }
        Spec::Exec(_) => {
            return Err(
                "a command leaves nothing that could be declared; adopt the files that it made".to_owned()
            );
        }
        Spec::Module(_) => {
            return Err("a module is loaded or not; take its table out of the state file if it shall not be"
                .to_owned());
        }
        Spec::Target(_) => return Err("a target is only a name for others; adopt those".to_owned()),
    }
    Ok(out)
}

fn gone(theirs: Theirs) -> Theirs {
    Theirs { gone: true, ..theirs }
}

fn place(machine: &mut Machine, path: &str) -> Result<Option<tree::Found>, String> {
    use crate::resource::place::PlaceError;
    machine.world.mount_present(path).map_err(|e| e.to_string())?;
    match machine.world.places.entry(path) {
        Ok(place) => match tree::find(&place).map_err(|e| e.to_string())? {
            tree::Found::Nothing => Ok(None),
            found => Ok(Some(found)),
        },
        Err(PlaceError::Missing(_)) => Ok(None),
        Err(e) => Err(e.to_string()),
    }
}

/// Declared attributes that are others on the machine.
fn attributes(machine: &Machine, declared: &Attributes, stat: &FileStat, out: &mut Theirs) {
    let accounts = &machine.world.accounts;
    if let Some(mode) = declared.mode
        && stat.st_mode & 0o7777 != mode
    {
        out.values.push(("mode".to_owned(), format!("\"{:04o}\"", stat.st_mode & 0o7777)));
    }
    for (key, is, who, database) in [
        ("owner", stat.st_uid, &declared.owner, &accounts.passwd),
        ("group", stat.st_gid, &declared.group, &accounts.group),
    ] {
        let Some(who) = who else { continue };
        let declared = if key == "owner" { accounts.uid(who) } else { accounts.gid(who) };
        if declared != Some(is) {
            let name = database.numbers().find(|(_, n)| *n == is).map(|(name, _)| name.to_owned());
            out.values.push((key.to_owned(), edit::string(&name.unwrap_or_else(|| is.to_string()))));
        }
    }
    if !declared.xattrs.is_empty() {
        out.notes.push("extended attributes are not compared".to_owned());
    }
}

fn setting(machine: &Machine, key: &str, declared: &str, out: &mut Theirs) -> Result<(), String> {
    let is = sysctl::read(&machine.world, key).map_err(|e| e.to_string())?;
    if !sysctl::same(&is, declared) {
        let words: Vec<&str> = is.split_whitespace().collect();
        let text = words.join(" ");
        let value = if text.parse::<i64>().is_ok() { text } else { edit::string(&text) };
        out.values.push(("value".to_owned(), value));
    }
    Ok(())
}

fn user(machine: &Machine, spec: &User, out: &mut Theirs) {
    let accounts = &machine.world.accounts;
    let Some(fields) = accounts.passwd.fields(&spec.name) else {
        out.gone = true;
        return;
    };
    let field = |i: usize| fields.get(i).copied().unwrap_or_default();
    if spec.uid.is_some_and(|uid| uid.to_string() != field(2)) {
        out.values.push(("uid".to_owned(), field(2).to_owned()));
    }
    if let Some(group) = &spec.group
        && accounts.gid(group).map(|g| g.to_string()).as_deref() != Some(field(3))
    {
        let name = accounts.group.numbers().find(|(_, n)| n.to_string() == field(3));
        out.values.push(("group".to_owned(), edit::string(name.map_or(field(3), |(n, _)| n))));
    }
    for (key, index, declared) in
        [("comment", 4, &spec.comment), ("home", 5, &spec.home), ("shell", 6, &spec.shell)]
    {
        if declared.as_deref().is_some_and(|d| d != field(index)) {
            out.values.push((key.to_owned(), edit::string(field(index))));
        }
    }
    let is_in = |group: &String| {
        accounts.group.field(group, 3).is_some_and(|f| members(f).contains(&spec.name.as_str()))
    };
    if !spec.groups.iter().all(is_in) {
        let left: Vec<String> = spec.groups.iter().filter(|g| is_in(g)).map(|g| edit::string(g)).collect();
        out.values.push(("groups".to_owned(), format!("[{}]", left.join(", "))));
    }
    let hash = accounts.shadow.field(&spec.name, 1);
    if spec.password_hash.as_deref().is_some_and(|h| hash.is_some_and(|is| is != h)) {
        out.notes.push("its password hash differs and is not shown: change it by hand".to_owned());
    }
}
