//! Files of a machine that others write too.

use cm_core::mountinfo::Tree;
use cm_core::resource::accounts::Database;
use cm_core::resource::line;
use init::early::kernel_word;
use init::sys::{mount, reap, userdb};
use units::kind::line::Line;

use super::{Target, lossy};

/// passwd(5), group(5), shadow(5), as the worker edits them and as a service's child reads them.
pub const ACCOUNTS: Target = Target {
    name: "accounts",
    seeds: || {
        vec![
            b"root:x:0:0:root:/root:/bin/bash\nwww:x:33:33::/var/www:/usr/sbin/nologin\n".to_vec(),
            b"root:x:0:\nadm:x:4:www,root\n+::::::\n#comment\n".to_vec(),
            b"root:*:19000:0:99999:7:::\nhalf".to_vec(),
        ]
    },
    words: &[":", "\n", "root", "4294967295", "4294967296", ",", "-1", "\r\n"],
    run: |bytes| {
        let mut database = Database::parse(bytes);
        assert_eq!(database.bytes(), bytes, "a database reads other than it was written");
        let _ = database.numbers().count();
        let others: Vec<String> = database.names().filter(|n| *n != "added").map(str::to_owned).collect();
        let lines: Vec<Option<String>> = others.iter().map(|n| database.line(n).map(str::to_owned)).collect();
        database.put("added", "added:x:1:1::/:/bin/sh".to_owned());
        database.set_field("added", 6, "/bin/false");
        database.remove("added");
        for (name, line) in others.iter().zip(lines) {
            assert_eq!(
                database.line(name).map(str::to_owned),
                line,
                "{name} has changed beside an entry of ours"
            );
        }
        let _ = (userdb::find_user(bytes, b"root"), userdb::find_gid(bytes, b"adm"));
        let _ =
            (userdb::users(bytes).count(), userdb::groups(bytes).map(|g| g.members().count()).sum::<usize>());
    },
};

/// `/proc/cmdline`.
pub const COMMAND_LINE: Target = Target {
    name: "command-line",
    seeds: || vec![b"console=ttyS0 quiet holdfast.state=/etc/state.toml init=/init -- single\n".to_vec()],
    words: &["holdfast.state=", "holdfast.", "\"", "="],
    run: |bytes| {
        let text = lossy(bytes);
        if let Some(value) = kernel_word(&text, "holdfast.state") {
            assert!(!value.is_empty() && !value.contains(char::is_whitespace), "{value:?} is no word");
        }
    },
};

/// `/proc/self/mountinfo`, and options of a mount.
pub const MOUNTINFO: Target = Target {
    name: "mountinfo",
    seeds: || {
        vec![
            b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n".to_vec(),
            b"25 30 0:23 / /a\\040b\\134 rw shared:7 - tmpfs tmpfs rw,size=1k\n".to_vec(),
            b"1 0 8:1 / / rw - ext4 x rw\n2 1 0:2 / /a rw - tmpfs a rw\n3 2 0:3 / /a/b rw - tmpfs b rw\n\
              4 2 0:4 / /a rw - ramfs c rw\n"
                .to_vec(),
            b"ro,nosuid,rshared,size=10%,bind".to_vec(),
        ]
    },
    words: &[" - ", "\\040", "\\", "\\777", "\n", ",", "rbind", "rshared"],
    run: |bytes| {
        let text = lossy(bytes);
        let _ = (mount::mounted(&text), mount::options(&text));
        let tree = Tree::read(&text);
        for (point, line) in tree.seen() {
            assert_eq!((tree.at(&point), tree.lists(&point)), (Some(line), true), "{point:?}");
        }
    },
};

/// A file of which one line is ours: the first line of the input is that, the rest the file.
pub const LINE: Target = Target {
    name: "line",
    seeds: || {
        vec![
            b"net.a = 1\nfirst\nnet.a = 0\nlast\n".to_vec(),
            b"x\n".to_vec(),
            b"x\nx\nx\nx".to_vec(),
            b"PermitRootLogin no\n#PermitRootLogin yes\n\n".to_vec(),
        ]
    },
    words: &["\n", "net.a", "x", "\r"],
    run: |bytes| {
        let text = lossy(bytes);
        let (ours, file) = text.split_once('\n').unwrap_or((&text, ""));
        // The language refuses them.
        if ours.ends_with('\r') || ours.contains('\0') {
            return;
        }
        for present in [true, false] {
            for matches in [None, Some("^net\\.a".to_owned()), Some("x".to_owned())] {
                let what =
                    Line { path: "/f".to_owned(), line: ours.to_owned(), matches, present, create: true };
                let Ok(Some((new, done))) = line::edit(Some(file), &what) else { continue };
                let again = line::edit(Some(&new), &what).ok().flatten();
                assert_eq!(
                    again, None,
                    "an edited file is not as declared: {file:?} to {new:?} for {what:?}"
                );
                let back = line::undo(&new, &done);
                assert_eq!(
                    back.as_deref().unwrap_or_default(),
                    file,
                    "undone it is another: {new:?} for {what:?}"
                );
            }
        }
    },
};

/// `/proc/PID/stat`, of which a process writes a part: its name.
pub const STAT: Target = Target {
    name: "stat",
    seeds: || vec![b"12 (a) b) R 1 12 12 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 1\n".to_vec()],
    words: &[")", "(", " ", "-1", "18446744073709551616"],
    run: |bytes| {
        let _ = reap::parse_stat(bytes);
    },
};
