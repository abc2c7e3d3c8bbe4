//! `file`: what a regular file should be.

use std::os::fd::OwnedFd;

use units::kind::Content;
use units::kind::file::{File, Ownership};

use super::Context;
use super::attributes::differences;
use super::op::{Finding, Op, OwnChange, Put, Trouble, Want};
use super::place::PlaceError;
use super::tree::{self, Found};
use super::world::{Stamp, World};
use crate::store::Prior;

/// What is wrong with a file, and what would make it right.
///
/// # Errors
/// When it cannot be looked at.
pub fn check(world: &mut World, spec: &File, context: &Context) -> Result<Finding, Trouble> {
    let path = spec.path.as_str();
    world.mount_present(path)?;
    let mut want = Want::declared(&spec.attributes);
    // What a secret is made with; one that is there keeps what it has.
    let mode = want.mode.or(spec.secret.then_some(0o600));
    let mut content = spec.content;
    let mut others = Vec::new();
    match &context.backing {
        Some(Prior::File { digest, size, metadata } | Prior::Linked { digest, size, metadata, .. }) => {
            let old = Content { digest: *digest, size: *size };
            // What is declared may be just what was there.
            if *content.get_or_insert(old) == old {
                want.mtime = Some(metadata.mtime);
                others = world.other_names(path);
            }
            want = want.or(metadata);
        }
        Some(Prior::Attributes(metadata) | Prior::Large { metadata, .. }) => want = want.or(metadata),
        _ => {}
    }
    let mut finding = Finding::default();
    if context.cleared {
        return missing(finding, path, content, Want { mode: want.mode.or(mode), ..want }, others);
    }
    let place = match world.places.entry(path) {
        Ok(place) => place,
        Err(PlaceError::Missing(_)) => {
            return missing(finding, path, content, Want { mode: want.mode.or(mode), ..want }, others);
        }
        Err(PlaceError::NotDirectory(what)) => {
            finding.wrong.push(format!("{what} is not a directory"));
            finding.ops.push(write(path, content, want, others, true));
            return Ok(finding);
        }
        Err(e) => return Err(e.into()),
    };
    // What we know to be right needs no more than a look at the inode.
    let mut seen = None;
    let look = || {
        seen = place.stat().ok().flatten();
        seen
    };
    if let Some(content) = content
        && want.xattrs.is_empty()
        && !want.exact
        && world.knows(path, &content.digest, look)
        && let Some(stat) = seen
    {
        differences(&stat, &never, &want, &world.accounts, &mut finding.wrong)?;
        if !finding.wrong.is_empty() && spec.ownership != Ownership::Seed {
            finding.ops.push(write(path, None, want, others, false));
        }
        return Ok(finding);
    }
    let (mut file, stat) = match tree::find(&place)? {
        Found::File(file, stat) => (file, stat),
        Found::Nothing => return missing(finding, path, content, want, others),
        _ if spec.ownership == Ownership::Seed => return Ok(finding),
        other => {
            finding.wrong.push(match &other {
                Found::Link(_) => "is a symbolic link".to_owned(),
                Found::Directory(_) => "is a directory".to_owned(),
                Found::Special(what) => format!("is a {what}"),
                _ => String::new(),
            });
            finding.ops.push(write(path, content, want, others, true));
            return Ok(finding);
        }
    };
    if spec.ownership == Ownership::Seed {
        return Ok(finding);
    }
    let mut rewrite = false;
    if let Some(content) = content {
        if u64::try_from(stat.st_size).ok() == Some(content.size) {
            let (digest, _) = world.digest(&mut file).map_err(|e| Trouble::io("read", path, &e))?;
            world.stamps.insert(path.to_owned(), Stamp::of(&stat, digest));
            rewrite = digest != content.digest;
        } else {
            rewrite = true;
        }
    }
    if rewrite {
        finding.wrong.push("content differs".to_owned());
    }
    let open = || -> Result<OwnedFd, Trouble> {
        file.try_clone().map(OwnedFd::from).map_err(|e| Trouble::io("open", path, &e))
    };
    differences(&stat, &open, &want, &world.accounts, &mut finding.wrong)?;
    if !finding.wrong.is_empty() {
        finding.ops.push(write(path, content.filter(|_| rewrite), want, others, rewrite));
    }
    Ok(finding)
}

fn never() -> Result<OwnedFd, Trouble> {
    Err(Trouble::NotKept("extended attributes are not looked at".to_owned()))
}

fn missing(
    mut finding: Finding,
    path: &str,
    content: Option<Content>,
    want: Want,
    others: Vec<String>,
) -> Result<Finding, Trouble> {
    if content.is_none() {
        return Err(Trouble::NotKept(format!("{path} is missing, and no content is declared")));
    }
    finding.wrong.push("missing".to_owned());
    finding.ops.push(write(path, content, want, others, true));
    Ok(finding)
}

fn write(path: &str, content: Option<Content>, want: Want, others: Vec<String>, content_changes: bool) -> Op {
    let own = OwnChange::Take { digest: content.map(|c| c.digest) };
    Op::put(path, Put::File { content, want, others }, content_changes, own)
}
