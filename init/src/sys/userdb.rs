//! `/etc/passwd` and `/etc/group`: a parser over bytes, which never allocates.
//!
//! glibc's own functions are not used: statically linked they would load NSS modules of another C library. The
//! child of a spawn reads the files itself, so that PID 1 never waits for the disk they are on.

/// Where users are.
pub const PASSWD: &std::ffi::CStr = c"/etc/passwd";
/// Where groups are.
pub const GROUP: &std::ffi::CStr = c"/etc/group";

/// One line of passwd(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User<'a> {
    /// Login name.
    pub name: &'a [u8],
    /// User number.
    pub uid: u32,
    /// Number of the primary group.
    pub gid: u32,
    /// Home directory.
    pub home: &'a [u8],
    /// Login shell; empty means `/bin/sh`.
    pub shell: &'a [u8],
}

/// One line of group(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group<'a> {
    /// Name.
    pub name: &'a [u8],
    /// Group number.
    pub gid: u32,
    /// Members, separated by commas.
    members: &'a [u8],
}

impl<'a> Group<'a> {
    /// Whether `user` is listed.
    pub fn has_member(&self, user: &[u8]) -> bool {
        self.members().any(|m| m == user)
    }

    /// The listed users.
    pub fn members(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.members.split(|b| *b == b',').filter(|m| !m.is_empty())
    }
}

/// A decimal number without sign, as the databases and the state file write ids.
pub fn number(text: &[u8]) -> Option<u32> {
    if text.is_empty() || text.len() > 10 {
        return None;
    }
    text.iter().try_fold(0_u32, |n, b| {
        let digit = b.checked_sub(b'0').filter(|d| *d < 10)?;
        n.checked_mul(10)?.checked_add(u32::from(digit))
    })
}

/// The users of a passwd file; lines that are not one are skipped.
pub fn users(file: &[u8]) -> impl Iterator<Item = User<'_>> {
    file.split(|b| *b == b'\n').filter_map(|line| {
        let mut field = line.split(|b| *b == b':');
        let name = field.next().filter(|n| !n.is_empty() && n.first() != Some(&b'#'))?;
        let (_password, uid, gid) = (field.next()?, number(field.next()?)?, number(field.next()?)?);
        let (_gecos, home, shell) = (field.next()?, field.next()?, field.next().unwrap_or_default());
        Some(User { name, uid, gid, home, shell })
    })
}

/// The groups of a group file; lines that are not one are skipped.
pub fn groups(file: &[u8]) -> impl Iterator<Item = Group<'_>> {
    file.split(|b| *b == b'\n').filter_map(|line| {
        let mut field = line.split(|b| *b == b':');
        let name = field.next().filter(|n| !n.is_empty() && n.first() != Some(&b'#'))?;
        let (_password, gid, members) =
            (field.next()?, number(field.next()?)?, field.next().unwrap_or_default());
        Some(Group { name, gid, members })
    })
}

/// The user with this name, or with this number when no name matches.
pub fn find_user<'a>(passwd: &'a [u8], wanted: &[u8]) -> Option<User<'a>> {
    users(passwd).find(|u| u.name == wanted).or_else(|| {
        let uid = number(wanted)?;
        users(passwd).find(|u| u.uid == uid)
    })
}

/// The group with this name, else the number that `wanted` is.
pub fn find_gid(group: &[u8], wanted: &[u8]) -> Option<u32> {
    groups(group).find(|g| g.name == wanted).map(|g| g.gid).or_else(|| number(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = b"root:x:0:0:root:/root:/bin/bash\n# comment\n\n+::::::\nwww-data:x:33:33::/var/www:/usr/sbin/nologin\n\
        broken:x:many:1::/:/bin/sh\n1000:x:5:6::/odd:\nlast:x:7:8:,,,:/home/last:/bin/sh";

    #[test]
    fn finds_by_name_then_by_number() {
        let www = find_user(SAMPLE, b"www-data").unwrap();
        assert_eq!((www.uid, www.gid, www.home), (33, 33, &b"/var/www"[..]));
        assert_eq!(find_user(SAMPLE, b"33").unwrap().name, b"www-data");
        assert_eq!(find_user(SAMPLE, b"1000").unwrap().uid, 5, "a name of digits wins over a number");
        assert_eq!(find_user(SAMPLE, b"last").unwrap().shell, b"/bin/sh");
        assert_eq!(find_user(SAMPLE, b"broken"), None);
        assert_eq!(find_user(SAMPLE, b"+"), None);
    }

    #[test]
    fn groups_and_members() {
        let file = b"root:x:0:\nadm:x:4:syslog,debian\nsudo:x:27:debian,\n";
        assert_eq!(find_gid(file, b"adm"), Some(4));
        assert_eq!(find_gid(file, b"12345"), Some(12345));
        assert_eq!(find_gid(file, b"nobody"), None);
        let of: Vec<_> = groups(file).filter(|g| g.has_member(b"debian")).map(|g| g.gid).collect();
        assert_eq!(of, [4, 27]);
        assert_eq!(groups(file).last().unwrap().members().count(), 1);
    }

    #[test]
    fn numbers_do_not_overflow() {
        assert_eq!(number(b"4294967295"), Some(u32::MAX));
        assert_eq!(number(b"4294967296"), None);
        assert_eq!(number(b"-1"), None);
        assert_eq!(number(b""), None);
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = (users(&bytes).count(), groups(&bytes).map(|g| g.members().count()).sum::<usize>());
        }
    }
}
