//! Whether this process may become somebody else: who parses what people wrote is nobody, where there is one.

use std::fs;

use nix::unistd::geteuid;

use super::compile::NOBODY;

/// Whether there is another user to become: an ordinary user's container has one only, and so may a user namespace.
pub(super) fn somebody_else() -> bool {
    let mapped = |map: &str| {
        fs::read_to_string(map).is_ok_and(|text| {
            text.lines().any(|line| {
                let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
                let (first, _, count) = (numbers.next(), numbers.next(), numbers.next());
                matches!((first, count), (Some(Ok(first)), Some(Ok(count)))
                    if first <= NOBODY && NOBODY - first < count)
            })
        })
    };
    let may = || fs::read_to_string("/proc/self/status").map_or(true, |status| may_become_another(&status));
    geteuid().is_root() && mapped("/proc/self/uid_map") && mapped("/proc/self/gid_map") && may()
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
    use super::may_become_another;

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
}
