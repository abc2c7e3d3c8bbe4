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

/// Whether a value that the kernel gives is what was asked for. It writes tabs where people write blanks, a list of numbers
/// as ranges, a mask in groups of eight digits, and numbers in decimal; and who writes only the first of several numbers
/// leaves the others as they are.
pub fn same(is: &str, asked: &str) -> bool {
    let (is, asked): (Vec<&str>, Vec<&str>) =
        (is.split_whitespace().collect(), asked.split_whitespace().collect());
    let numbers = || is.len() > 1 && is.iter().all(|word| word.parse::<i64>().is_ok());
    (is.len() == asked.len() || (!asked.is_empty() && is.len() > asked.len() && numbers()))
        && is.iter().zip(&asked).all(|(is, asked)| same_word(is, asked))
}

fn same_word(is: &str, asked: &str) -> bool {
    is == asked
        || number(asked).is_some_and(|n| is.parse() == Ok(n))
        || ranges(is).is_some_and(|list| Some(list) == ranges(asked))
        || mask(is).is_some_and(|digits| Some(digits) == mask_asked(asked))
}

/// A number as kernel and C take it: hexadecimal behind 0x, octal behind 0.
fn number(word: &str) -> Option<i64> {
    let (sign, digits) = word.strip_prefix('-').map_or((1, word), |rest| (-1, rest));
    let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hexadecimal) => i64::from_str_radix(hexadecimal, 16),
        None if digits.len() > 1 && digits.starts_with('0') => i64::from_str_radix(digits, 8),
        None => digits.parse(),
    };
    value.ok()?.checked_mul(sign)
}

/// A list of numbers and of ranges of them, in order and joined where they meet.
fn ranges(word: &str) -> Option<Vec<(u32, u32)>> {
    let range = |part: &str| match part.split_once('-') {
        Some((from, to)) => Some((from.parse().ok()?, to.parse().ok()?)),
        None => part.parse().ok().map(|one| (one, one)),
    };
    let mut all: Vec<(u32, u32)> = word.split(',').map(range).collect::<Option<_>>()?;
    all.sort_unstable();
    let mut out: Vec<(u32, u32)> = Vec::new();
    for (from, to) in all {
        match out.last_mut() {
            Some((_, last)) if from <= last.saturating_add(1) => *last = to.max(*last),
            _ => out.push((from, to)),
        }
    }
    Some(out)
}

/// The digits of a mask that the kernel has written: groups of eight. One group alone may be any number.
fn mask(word: &str) -> Option<String> {
    let groups = word.contains(',') && word.split(',').all(|g| g.len() == 8);
    groups.then(|| mask_asked(word)).flatten()
}

fn mask_asked(word: &str) -> Option<String> {
    let digits: String = word.chars().filter(|c| *c != ',').collect();
    let whole = word.split(',').skip(1).all(|group| group.len() == 8);
    (whole && digits.chars().all(|c| c.is_ascii_hexdigit()))
        .then(|| digits.trim_start_matches('0').to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_prints_otherwise_is_the_same() {
        for (is, asked) in [
            ("8080-8081\n", "8080,8081"),
            ("1-3,7", "7,3,1-2"),
            ("4\t4\t1\t7\n", "4 4 1 7"),
            ("3\t4\t1\t7\n", "3"),
            ("255", "0xff"),
            ("8", "010"),
            ("00000000,000000ff", "ff"),
            ("00000000,0000000f", "0,0000000f"),
            ("", ""),
            ("cubic reno", "cubic reno"),
            ("-1", "-1"),
        ] {
            assert!(same(is, asked), "{is:?} {asked:?}");
        }
        for (is, asked) in [
            ("8080-8082", "8080,8081"),
            ("10,20", "1020"),
            ("1020", "10,20"),
            ("cubic reno", "cubic"),
            ("3 4 1 7", "4"),
            ("3", "3 4"),
            ("3 4", ""),
            ("1", ""),
            ("00000000,000000ff", "fe"),
            ("10", "0x10"),
            ("web", "web-1"),
        ] {
            assert!(!same(is, asked), "{is:?} {asked:?}");
        }
    }
}
