//! Who parses what people wrote: a user that is nobody else, where there is one.

use std::fs;

use nix::unistd::geteuid;

/// The user and the group that the compiler is. No database knows it and none gives it away: Debian's tools give numbers below
/// 60000, and to containers below 600100000; systemd's containers end at 1879048191 and its images of others begin at
/// 2147352576; directories of an organisation are given numbers up to 2000200000 (FreeIPA, sssd); from 2147483648 on some
/// programs take it for negative. `nobody`, whom daemons and NFS share, could signal and trace it.
const COMPILER: u32 = 0x7d48_4f4c;
/// Who it is in a user namespace that does not know that number.
const NOBODY: u32 = 65_534;

/// Another user to become, and the group of the same number: an ordinary user's container has none, and so may a user
/// namespace.
pub(super) fn another_user() -> Option<u32> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let may = || fs::read_to_string("/proc/self/status").map_or(true, |status| may_become_another(&status));
    let id = mapped(&read("/proc/self/uid_map"), &read("/proc/self/gid_map"))?;
    (geteuid().is_root() && may()).then_some(id)
}

/// Who of these there is in a user namespace with these maps.
fn mapped(users: &str, groups: &str) -> Option<u32> {
    let is_in = |map: &str, id: u32| {
        map.lines().any(|line| {
            let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
            let (first, _, count) = (numbers.next(), numbers.next(), numbers.next());
            matches!((first, count), (Some(Ok(first)), Some(Ok(count))) if first <= id && id - first < count)
        })
    };
    [COMPILER, NOBODY].into_iter().find(|id| is_in(users, *id) && is_in(groups, *id))
}

/// Whether a process with this status has CAP_CHOWN, CAP_SETGID and CAP_SETUID: runtimes of containers leave root without
/// them. One that tells nothing has all.
fn may_become_another(status: &str) -> bool {
    const NEEDED: u64 = 1 | 1 << 6 | 1 << 7;
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    effective.is_none_or(|set| set & NEEDED == NEEDED)
}

#[cfg(test)]
mod tests {
    use super::{COMPILER, NOBODY, mapped, may_become_another};

    #[test]
    fn root_may_be_without_its_capabilities() {
        let with =
            |set: &str| may_become_another(&format!("Name:\tx\nUid:\t0\nCapEff:\t{set}\nSeccomp:\t0\n"));
        assert!(with("000001ffffffffff"), "a machine's");
        assert!(with("00000000a80425fb"), "Docker's");
        assert!(!with("0000000020000420"), "runc's own");
        assert!(!with("0000000000000000"));
        assert!(may_become_another(""), "a kernel that tells nothing");
    }

    #[test]
    fn a_namespace_that_does_not_know_the_compilers_user_has_nobody_at_most() {
        let (machine, container, one) = ("0 0 4294967295\n", "0 100000 65536\n", "0 1000 1\n");
        assert_eq!(mapped(machine, machine), Some(COMPILER));
        assert_eq!(mapped(container, container), Some(NOBODY));
        assert_eq!(mapped(machine, container), Some(NOBODY));
        assert_eq!((mapped(one, one), mapped(machine, one), mapped("", "")), (None, None, None));
        assert_eq!(mapped("0 1000 1\n1 100000 65535\n", container), Some(NOBODY));
    }
}
