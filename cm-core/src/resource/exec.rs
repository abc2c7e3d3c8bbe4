//! `exec`: whether a command has to run. The command itself is run by PID 1, like a one-shot service.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};
use units::kind::exec::{Exec, Once};

use super::op::Trouble;
use super::tree::{self, Found};
use super::world::World;
use crate::store::disk::now;
use crate::store::index::Run;
use crate::store::{Record, hex};

/// Why a command need not run; `None` when it must. A command that has run does so again when its inputs changed;
/// otherwise its guards decide.
///
/// # Errors
/// When the path of `creates` cannot be looked at.
pub fn guard(
    world: &mut World,
    unit: &str,
    spec: &Exec,
    digest: [u8; 16],
    inputs: u64,
) -> Result<Option<&'static str>, Trouble> {
    let run = last_run(world, unit, spec.once);
    if run.is_some_and(|r| r.inputs != inputs) {
        return Ok(None);
    }
    if let Some(path) = &spec.creates {
        world.mount_present(path)?;
        if let Ok(place) = world.places.entry(path)
            && !matches!(tree::find(&place)?, Found::Nothing)
        {
            return Ok(Some("what it creates is there"));
        }
    }
    Ok(match (spec.once, run) {
        (Some(Once::Boot), Some(run)) if run.digest == digest => Some("it has run since boot"),
        (Some(Once::Generation), Some(run)) if run.digest == digest => {
            Some("it has run for this declaration")
        }
        (Some(Once::Ever), Some(_)) => Some("it has run before"),
        _ => None,
    })
}

/// Remembers that a command has run.
///
/// # Errors
/// When that cannot be written down.
pub fn ran(
    world: &mut World,
    unit: &str,
    spec: &Exec,
    digest: [u8; 16],
    inputs: u64,
) -> Result<Option<Record>, Trouble> {
    if spec.once == Some(Once::Boot) {
        let Some((path, boot)) = boot_record(world, unit) else {
            return Err(Trouble::NotKept("there is no run-time directory".to_owned()));
        };
        let text = format!("{boot} {} {inputs}\n", hex(&digest));
        let temporary = path.with_extension("new");
        let written = path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::File::create(&temporary))
            .and_then(|mut f| f.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&temporary, &path));
        return written.map(|()| None).map_err(|e| Trouble::io("write", &path.to_string_lossy(), &e));
    }
    Ok(Some(Record::Ran { unit: unit.to_owned(), digest, inputs, when: now() }))
}

fn last_run(world: &World, unit: &str, once: Option<Once>) -> Option<Run> {
    if once != Some(Once::Boot) {
        return world.store.as_ref()?.index().runs.get(unit).copied();
    }
    let (path, boot) = boot_record(world, unit)?;
    let text = fs::read_to_string(path).ok()?;
    let mut words = text.split_whitespace();
    if words.next()? != boot {
        return None;
    }
    let digest_text = words.next()?;
    let mut digest = [0; 16];
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digest_text.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some(Run { digest, inputs: words.next()?.parse().ok()?, when: 0 })
}

/// Where a run since boot is written down, and the name of this boot: that of the kernel with the start of PID 1, so
/// that a container which is started again is booted again.
fn boot_record(world: &World, unit: &str) -> Option<(PathBuf, String)> {
    if world.setup.run.as_os_str().is_empty() {
        return None;
    }
    let kernel = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    // proc_pid_stat(5): the start time is the 20th word behind the name, which is in parentheses.
    let stat = fs::read_to_string("/proc/1/stat").ok()?;
    let started = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.to_owned();
    let name = hex(&Sha256::digest(unit.as_bytes()));
    Some((world.setup.run.join("ran").join(name), format!("{}-{started}", kernel.trim())))
}
