//! `symlink`: what a symbolic link should be.

use units::kind::symlink::Symlink;

use super::Context;
use super::op::{Finding, Op, OwnChange, Put, Trouble};
use super::place::PlaceError;
use super::tree::{self, Found};
use super::world::World;
use crate::store::Prior;

/// What is wrong with a link, and what would make it right.
///
/// # Errors
/// When it cannot be looked at.
pub fn check(world: &mut World, spec: &Symlink, context: &Context) -> Result<Finding, Trouble> {
    let path = spec.path.as_str();
    world.mount_present(path)?;
    let (mut owner, mut group) = (spec.owner.clone(), spec.group.clone());
    if let Some(Prior::Symlink { uid, gid, .. }) = &context.backing {
        owner = owner.or_else(|| Some(uid.to_string()));
        group = group.or_else(|| Some(gid.to_string()));
    }
    let mut finding = Finding::default();
    match world.places.entry(path) {
        Ok(_) if context.cleared => finding.wrong.push("missing".to_owned()),
        Ok(place) => match tree::find(&place)? {
            Found::Link(stat) => {
                if tree::link_target(&place)? != spec.target.as_bytes() {
                    finding.wrong.push("points elsewhere".to_owned());
                }
                for (word, is, who, id) in [
                    ("owner", stat.st_uid, &owner, owner.as_deref().and_then(|w| world.accounts.uid(w))),
                    ("group", stat.st_gid, &group, group.as_deref().and_then(|w| world.accounts.gid(w))),
                ] {
                    if let Some(who) = who
                        && id != Some(is)
                    {
                        finding.wrong.push(format!("{word} {is}, should be {who}"));
                    }
                }
            }
            Found::Nothing => finding.wrong.push("missing".to_owned()),
            Found::File(..) => finding.wrong.push("is a file".to_owned()),
            Found::Directory(_) => finding.wrong.push("is a directory".to_owned()),
            Found::Special(what) => finding.wrong.push(format!("is a {what}")),
        },
        Err(PlaceError::Missing(_)) => finding.wrong.push("missing".to_owned()),
        Err(PlaceError::NotDirectory(what)) => finding.wrong.push(format!("{what} is not a directory")),
        Err(e) => return Err(e.into()),
    }
    if !finding.wrong.is_empty() {
        use sha2::Digest;
        let digest = sha2::Sha256::digest(spec.target.as_bytes()).into();
        let put = Put::Symlink { target: spec.target.clone().into_bytes(), owner, group, mtime: None };
        finding.ops.push(Op::put(path, put, true, OwnChange::Take { digest: Some(digest) }));
    }
    Ok(finding)
}
