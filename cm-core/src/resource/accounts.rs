//! The user and group databases as text: parsers that keep what they do not understand byte for byte. Pure.

use std::collections::BTreeMap;

use crate::bytes;

/// One database file: its lines without newlines, and whether the last one has its newline.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Database {
    lines: Vec<String>,
    open_end: bool,
}

impl Database {
    /// Takes the text apart.
    pub fn parse(bytes: impl AsRef<[u8]>) -> Database {
        let text = bytes::text_of(bytes.as_ref());
        let open_end = !text.is_empty() && !text.ends_with('\n');
        let body = text.strip_suffix('\n').unwrap_or(&text);
        let lines = if text.is_empty() { Vec::new() } else { body.split('\n').map(str::to_owned).collect() };
        Database { lines, open_end }
    }

    /// Puts the text together again: the same bytes, if nothing was changed.
    pub fn bytes(&self) -> Vec<u8> {
        bytes::bytes_of(&self.text()).into_owned()
    }

    pub(super) fn text(&self) -> String {
        let mut out = self.lines.join("\n");
        if !self.lines.is_empty() && !self.open_end {
            out.push('\n');
        }
        out
    }

    /// The entries: lines with a name and a colon; comments and NIS lines are none.
    fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.lines.iter().filter_map(|line| {
            let (name, _) = line.split_once(':')?;
            (!name.is_empty() && !name.starts_with(['#', '+', '-'])).then_some((name, line.as_str()))
        })
    }

    /// Names of all entries.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries().map(|(name, _)| name)
    }

    /// The line of an entry.
    pub fn line(&self, name: &str) -> Option<&str> {
        self.entries().find(|(n, _)| *n == name).map(|(_, line)| line)
    }

    /// The fields of an entry, the name first.
    pub fn fields(&self, name: &str) -> Option<Vec<&str>> {
        Some(self.line(name)?.split(':').collect())
    }

    /// One field of an entry.
    pub fn field(&self, name: &str, index: usize) -> Option<&str> {
        self.line(name)?.split(':').nth(index)
    }

    /// Every entry's name and number (the third field).
    pub fn numbers(&self) -> impl Iterator<Item = (&str, u32)> {
        self.entries().filter_map(|(name, line)| Some((name, line.split(':').nth(2)?.parse().ok()?)))
    }

    /// Replaces an entry's line, or adds it: before the NIS lines that must stay last.
    pub fn put(&mut self, name: &str, line: String) {
        let has = |l: &String| l.split_once(':').is_some_and(|(n, _)| n == name);
        if let Some(at) = self.lines.iter().position(has) {
            if let Some(slot) = self.lines.get_mut(at) {
                *slot = line;
            }
            return;
        }
        let end = self.lines.iter().position(|l| l.starts_with('+')).unwrap_or(self.lines.len());
        if end == self.lines.len() {
            self.open_end = false;
        }
        self.lines.insert(end, line);
    }

    /// Removes an entry.
    pub fn remove(&mut self, name: &str) {
        self.lines.retain(|l| l.split_once(':').is_none_or(|(n, _)| n != name));
    }

    /// Changes one field of an entry; an entry that is not there stays so.
    pub fn set_field(&mut self, name: &str, index: usize, value: &str) {
        if let Some(mut fields) =
            self.fields(name).map(|f| f.into_iter().map(str::to_owned).collect::<Vec<_>>())
        {
            while fields.len() <= index {
                fields.push(String::new());
            }
            if let Some(slot) = fields.get_mut(index) {
                *slot = value.to_owned();
            }
            self.put(name, fields.join(":"));
        }
    }
}

/// Members in the last field of a group entry.
pub fn members(field: &str) -> Vec<&str> {
    field.split(',').filter(|m| !m.is_empty()).collect()
}

/// All four databases. Those that are missing are empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accounts {
    /// name:x:uid:gid:comment:home:shell
    pub passwd: Database,
    /// name:x:gid:members
    pub group: Database,
    /// name:hash:changed:min:max:warn:inactive:expire:
    pub shadow: Database,
    /// name:hash:administrators:members
    pub gshadow: Database,
}

/// File names of the databases below /etc, in the order in which they are written: who looks somebody up in the
/// first must find him in the others.
pub const FILES: [&str; 4] = ["gshadow", "group", "shadow", "passwd"];

impl Accounts {
    /// One of them by its file name.
    pub fn database(&self, file: &str) -> Option<&Database> {
        match file {
            "passwd" => Some(&self.passwd),
            "group" => Some(&self.group),
            "shadow" => Some(&self.shadow),
            "gshadow" => Some(&self.gshadow),
            _ => None,
        }
    }

    /// The same, to change it.
    pub fn database_mut(&mut self, file: &str) -> Option<&mut Database> {
        match file {
            "passwd" => Some(&mut self.passwd),
            "group" => Some(&mut self.group),
            "shadow" => Some(&mut self.shadow),
            "gshadow" => Some(&mut self.gshadow),
            _ => None,
        }
    }

    /// Number of a user given by name or number.
    pub fn uid(&self, who: &str) -> Option<u32> {
        match who.parse() {
            Ok(number) => Some(number),
            Err(_) => self.passwd.field(who, 2)?.parse().ok(),
        }
    }

    /// Number of a group given by name or number.
    pub fn gid(&self, who: &str) -> Option<u32> {
        match who.parse() {
            Ok(number) => Some(number),
            Err(_) => self.group.field(who, 2)?.parse().ok(),
        }
    }

    /// The lowest free number of the range that is neither used nor retired.
    pub fn free(&self, group: bool, system: bool, retired: &BTreeMap<(bool, u32), String>) -> Option<u32> {
        let database = if group { &self.group } else { &self.passwd };
        let mut used: Vec<u32> = database.numbers().map(|(_, n)| n).collect();
        used.extend(retired.keys().filter(|(g, _)| *g == group).map(|(_, n)| *n));
        used.sort_unstable();
        // Debian policy 9.2.2: system 100–999, given from the top; people 1000–59999, from below.
        let is_free = |n: &u32| used.binary_search(n).is_err();
        if system { (100..=999).rev().find(is_free) } else { (1000..=59_999).find(is_free) }
    }

    /// Groups that list a user as a member.
    pub fn groups_of(&self, user: &str) -> Vec<String> {
        let listed = |name: &&str| self.group.field(name, 3).is_some_and(|f| members(f).contains(&user));
        self.group.names().filter(listed).map(str::to_owned).collect()
    }

    /// The same and those that list him in the other database of groups only: a loss of power may have left that.
    pub fn named_in(&self, user: &str) -> Vec<String> {
        let mut groups = self.groups_of(user);
        for name in self.gshadow.names() {
            let listed = self.gshadow.field(name, 3).is_some_and(|f| members(f).contains(&user));
            if listed && !groups.iter().any(|known| known == name) {
                groups.push(name.to_owned());
            }
        }
        groups
    }

    /// Makes a user a member of a group, or takes him out, in both group databases.
    pub fn set_member(&mut self, group: &str, user: &str, member: bool) {
        for database in [&mut self.group, &mut self.gshadow] {
            let Some(field) = database.field(group, 3) else { continue };
            let mut list: Vec<String> = members(field).into_iter().map(str::to_owned).collect();
            let is_in = list.iter().any(|m| m == user);
            if is_in == member {
                continue;
            }
            if member {
                list.push(user.to_owned());
            } else {
                list.retain(|m| m != user);
            }
            database.set_field(group, 3, &list.join(","));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn foreign_lines_stay() {
        let text = "root:x:0:0:root:/root:/bin/bash\n# note\nbroken\n+::::::\n";
        let mut db = Database::parse(text);
        assert_eq!(db.text(), text);
        db.put("bob", "bob:x:1000:1000::/home/bob:/bin/sh".into());
        assert_eq!(
            db.text(),
            "root:x:0:0:root:/root:/bin/bash\n# note\nbroken\nbob:x:1000:1000::/home/bob:/bin/sh\n+::::::\n"
        );
        db.remove("bob");
        assert_eq!(db.text(), text);
        assert_eq!(db.names().collect::<Vec<_>>(), ["root"]);
    }

    #[test]
    fn numbers_are_not_given_twice() {
        let passwd = Database::parse("a:x:1000:1::/:/\nb:x:1002:1::/:/\nc:x:999:1::/:/\n");
        let a = Accounts { passwd, ..Accounts::default() };
        let mut retired = BTreeMap::new();
        retired.insert((false, 1001), "gone".to_owned());
        assert_eq!(a.free(false, false, &retired), Some(1003));
        assert_eq!(a.free(false, true, &retired), Some(998));
    }

    #[test]
    fn members_are_kept_in_order() {
        let mut a = Accounts {
            group: Database::parse("www:x:33:x,y\n"),
            gshadow: Database::parse("www:!::x,y\n"),
            ..Accounts::default()
        };
        a.set_member("www", "bob", true);
        assert_eq!(a.group.text(), "www:x:33:x,y,bob\n");
        assert_eq!(a.gshadow.text(), "www:!::x,y,bob\n");
        a.set_member("www", "x", false);
        assert_eq!(a.group.text(), "www:x:33:y,bob\n");
        assert_eq!(a.groups_of("bob"), ["www"]);
    }

    proptest! {
        #[test]
        fn any_bytes_survive(parts in proptest::collection::vec(
            prop_oneof![
                "[a-z:#+\n]{1,9}|é|\u{10feff}|\u{10ff00}|\u{10ffe9}|\u{10ffff}".prop_map(String::into_bytes),
                any::<u8>().prop_map(|byte| vec![byte]),
            ],
            0..30,
        )) {
            let bytes = parts.concat();
            prop_assert_eq!(Database::parse(&bytes).bytes(), bytes);
        }
    }
}
