//! `sysctl`: a kernel setting below /proc/sys.

use std::path::PathBuf;

use units::kind::sysctl::Sysctl;

use super::Context;
use super::op::{Finding, Op, OwnChange, Trouble, What};
use super::world::World;

/// What is wrong with a setting, and what would make it right.
///
/// # Errors
/// When the kernel has no such setting, or it cannot be read.
pub fn check(world: &mut World, spec: &Sysctl, _: &Context) -> Result<Finding, Trouble> {
    differs(world, &spec.key, &spec.value, &format!("sysctl:{}", spec.key))
}

/// The same for any file below /proc/sys.
///
/// # Errors
/// As [`check`].
pub fn differs(world: &World, key: &str, value: &str, thing: &str) -> Result<Finding, Trouble> {
    let is = read(world, key)?;
    let mut finding = Finding::default();
    if !same(&is, value) {
        finding.wrong.push(format!("is {}, should be {value}", is.trim_end()));
        let what = What::Text { key: key.to_owned(), value: value.to_owned() };
        finding.ops.push(Op { thing: thing.to_owned(), what, own: OwnChange::Take { digest: None } });
    }
    Ok(finding)
}

fn path(world: &World, key: &str) -> Result<PathBuf, Trouble> {
    if key.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(Trouble::NotKept(format!("{key} is no kernel setting")));
    }
    Ok(world.setup.proc_sys.join(key))
}

/// The value as the kernel writes it.
///
/// # Errors
/// When there is no such setting.
pub fn read(world: &World, key: &str) -> Result<String, Trouble> {
    let path = path(world, key)?;
    std::fs::read(&path)
        .map(|b| String::from_utf8_lossy(&b).into_owned())
        .map_err(|e| Trouble::io("read", &path.to_string_lossy(), &e))
}

/// Writes a value in one write, as the kernel wants it.
///
/// # Errors
/// When the kernel refuses the value.
pub fn write(world: &World, key: &str, value: &str) -> Result<(), Trouble> {
    let path = path(world, key)?;
    let failed =
        |e: std::io::Error| Trouble::io(&format!("write \"{value}\" to"), &path.to_string_lossy(), &e);
    let mut file = std::fs::OpenOptions::new().write(true).truncate(true).open(&path).map_err(failed)?;
    std::io::Write::write_all(&mut file, format!("{}\n", value.trim_end_matches('\n')).as_bytes())
        .map_err(failed)
}

/// Whether two values mean the same: the kernel writes tabs where people write blanks.
pub fn same(one: &str, other: &str) -> bool {
    one.split_whitespace().eq(other.split_whitespace())
}
