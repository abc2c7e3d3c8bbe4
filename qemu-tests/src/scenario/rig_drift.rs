//! Drift in the fast rig: every kind of damage, what is repaired, what is kept of the other side, and who is left in
//! peace.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use serde_json::Value;

use super::Scenario;
use super::rig_mount::a_mount;
use crate::Result;
use crate::context::Context;
use crate::rig::{Lines, Rig, Setup, holds, tree, want, word};

const fn scenario(name: &'static str, run: fn(&Context) -> Result) -> Scenario {
    Scenario { name, group: "rig", limit: super::minutes(2), run }
}

/// See the module.
pub const ALL: &[Scenario] = &[
    scenario("rig-drift-files", files),
    scenario("rig-drift-directories", directories),
    scenario("rig-drift-links", links),
    scenario("rig-drift-purged-directory", purged),
    scenario("rig-drift-purged-mount", purged_mount),
    scenario("rig-drift-settings", settings),
    scenario("rig-drift-users", users),
    scenario("rig-drift-mount", mount),
    scenario("rig-drift-mount-hidden", hidden_mount),
    scenario("rig-drift-mount-options", mount_options),
    scenario("rig-drift-overflow", overflow),
];

/// What a damage does to the file at a path.
type Act = fn(&Path) -> std::io::Result<()>;

/// A damage to a file: its name, what it does, and the content that is replaced by the repair, if one is.
struct Damage {
    name: &'static str,
    act: Act,
    theirs: Option<&'static str>,
}

/// Each has a file of its own, so that none of them is a fight.
const FILES: &[Damage] = &[
    Damage { name: "edit", act: |p| std::fs::write(p, "an edit\n"), theirs: Some("an edit\n") },
    Damage {
        name: "equal-size",
        act: |p| {
            let time = std::fs::metadata(p)?.modified()?;
            std::fs::write(p, "sruo\n")?;
            std::fs::File::options().write(true).open(p)?.set_modified(time)
        },
        theirs: Some("sruo\n"),
    },
    Damage { name: "append", act: |p| append(p, "more\n"), theirs: Some("ours\nmore\n") },
    Damage { name: "truncate", act: |p| std::fs::write(p, ""), theirs: Some("") },
    Damage { name: "delete", act: |p| std::fs::remove_file(p), theirs: None },
    Damage {
        name: "chmod",
        act: |p| std::fs::set_permissions(p, std::fs::Permissions::from_mode(0o666)),
        theirs: None,
    },
    Damage { name: "chown", act: |p| std::os::unix::fs::chown(p, Some(7), Some(7)), theirs: None },
    Damage { name: "xattr", act: |p| xattr(p, b"theirs"), theirs: None },
    Damage {
        name: "link-in-its-place",
        act: |p| {
            std::fs::remove_file(p)?;
            symlink("/etc/passwd", p)
        },
        theirs: Some("/etc/passwd"),
    },
    Damage {
        name: "move-over",
        act: |p| {
            let other = p.with_file_name("other");
            std::fs::write(&other, "moved here\n")?;
            std::fs::rename(other, p)
        },
        theirs: Some("moved here\n"),
    },
    Damage {
        name: "hard-link",
        act: |p| std::fs::write(p.with_file_name("elsewhere"), "through another name\n"),
        theirs: Some("through another name\n"),
    },
];

fn append(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    std::fs::File::options().append(true).open(path)?.write_all(text.as_bytes())
}

fn xattr(path: &Path, value: &[u8]) -> std::io::Result<()> {
    cm_core::sys::set_xattr(std::fs::File::open(path)?, "user.note", value)
}

/// An instance whose generation 0 is this, with a service that requires all the named units.
fn with_dependent(context: &Context, state: &str, needs: &[String], etc: bool) -> Result<(Rig, i32)> {
    let state =
        format!("{state}\n[service.dependent]\nexec = [\"sleep\", \"infinity\"]\nrequires = {needs:?}\n");
    let rig = Rig::start(context, &Setup { first: Some(&state), etc, ..Setup::default() })?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let pid = rig.main_pid("service:dependent")?;
    Ok((rig, pid))
}

/// The dependent runs as before: not restarted, not reloaded, not asked anything.
fn in_peace(rig: &Rig, pid: i32) -> Result {
    let status = rig.status("service:dependent")?;
    let same = status.get("pid").and_then(Value::as_i64) == Some(i64::from(pid));
    want(same && word(&status, "state") == "ready", &format!("the dependent was bounced: {status}"), rig)?;
    want(
        status.get("restarts").and_then(Value::as_i64) == Some(0),
        &format!("it was restarted: {status}"),
        rig,
    )
}

/// A repair is told as one: by its event, by the unit's status, and in init's words.
fn repaired(rig: &Rig, events: &mut Lines, unit: &str) -> Result {
    rig.until_outcome(events, unit, "repaired")?;
    let status = rig.status(unit)?;
    want(word(&status, "outcome") == "repaired", &format!("not told as repaired: {status}"), rig)?;
    want(word(&status, "state") == "ready", &format!("not ready: {status}"), rig)?;
    rig.until_said(&format!("repaired {unit}"))
}

/// Each kind of damage to a file: content, mode, owner, attributes are right again, and their content is to be had.
fn files(context: &Context) -> Result {
    let mut state = String::new();
    let mut needs = Vec::new();
    for Damage { name, .. } in FILES {
        let path = format!("/srv/site/{name}/page");
        state += &format!(
            "[file.\"{path}\"]\ncontent = \"ours\\n\"\nmode = \"0640\"\nowner = \"root\"\ngroup = \"root\"\n\
             xattrs = {{ \"user.note\" = \"ours\" }}\n"
        );
        needs.push(format!("file:{path}"));
    }
    let (rig, pid) = with_dependent(context, &state, &needs, false)?;
    let site = rig.inside("/srv/site")?;
    // That it has another name is seen when the file is looked at the next time.
    let page = site.join("hard-link/page");
    std::fs::hard_link(&page, site.join("hard-link/elsewhere"))?;
    let mut events = rig.events()?;
    std::fs::set_permissions(&page, std::fs::Permissions::from_mode(0o600))?;
    rig.until_outcome(&mut events, "file:/srv/site/hard-link/page", "repaired")?;
    let others = |at: &Path| tree::lines(at).map(|l| tree::timeless(&l));
    for Damage { name, act, theirs } in FILES {
        let unit = format!("file:/srv/site/{name}/page");
        let page = site.join(name).join("page");
        let before = others(&site)?;
        let mut events = rig.events()?;
        act(&page).map_err(|e| format!("{name}: {e}"))?;
        repaired(&rig, &mut events, &unit)?;
        let about = std::fs::symlink_metadata(&page)?;
        let facts = (about.is_file(), about.mode() & 0o7777, about.uid(), about.gid());
        want(facts == (true, 0o640, 0, 0), &format!("{name}: {facts:?}"), &rig)?;
        want(holds(&page, "ours\n"), &format!("{name}: the content is another"), &rig)?;
        let note = cm_core::sys::xattr(std::fs::File::open(&page)?, "user.note")?;
        want(note.as_deref() == Some(b"ours"), &format!("{name}: the attribute is {note:?}"), &rig)?;
        let (expected, now) = if *name == "hard-link" {
            // What is not declared keeps what they wrote.
            want(holds(&site.join("hard-link/elsewhere"), "through another name\n"), "theirs is lost", &rig)?;
            (Vec::new(), Vec::new())
        } else {
            (before, others(&site)?)
        };
        want(expected == now, &format!("{name}:\n{}", tree::difference(&expected, &now)), &rig)?;
        let saved = rig.repaired_from(&unit)?;
        let wanted: Vec<&str> = theirs.iter().copied().collect();
        want(saved == wanted, &format!("{name}: the store has {saved:?}"), &rig)?;
        in_peace(&rig, pid)?;
        println!("{name}: repaired");
    }
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    Ok(())
}

const TREE: &str = r#"
[directory."/srv/a/deep"]
mode = "0750"

[file."/srv/a/deep/er/file"]
content = "deep\n"

[symlink."/srv/a/link"]
target = "deep"

[file."/srv/grand/parent/child"]
content = "child\n"
"#;

const TREE_UNITS: &[&str] = &[
    "directory:/srv/a/deep",
    "file:/srv/a/deep/er/file",
    "symlink:/srv/a/link",
    "file:/srv/grand/parent/child",
];

/// Damage to what lies above and around: a parent is removed or moved, a link points elsewhere.
fn directories(context: &Context) -> Result {
    let damage: &[(&str, &str, Act)] = &[
        ("a parent is removed", "file:/srv/a/deep/er/file", |s| std::fs::remove_dir_all(s.join("a/deep/er"))),
        ("the directory is removed", "directory:/srv/a/deep", |s| std::fs::remove_dir_all(s.join("a/deep"))),
        ("the whole tree is removed", "directory:/srv/a/deep", |s| std::fs::remove_dir_all(s.join("a"))),
        ("a directory's mode", "directory:/srv/a/deep", |s| {
            std::fs::set_permissions(s.join("a/deep"), std::fs::Permissions::from_mode(0o777))
        }),
        ("a parent is moved away", "file:/srv/grand/parent/child", |s| {
            std::fs::rename(s.join("grand/parent"), s.join("grand/gone"))
        }),
        ("a grandparent is moved away", "file:/srv/grand/parent/child", |s| {
            std::fs::rename(s.join("grand"), s.join("gone"))
        }),
        ("a link points elsewhere", "symlink:/srv/a/link", |s| {
            std::fs::remove_file(s.join("a/link"))?;
            symlink("elsewhere", s.join("a/link"))
        }),
        ("a file in the place of a link", "symlink:/srv/a/link", |s| {
            std::fs::remove_file(s.join("a/link"))?;
            std::fs::write(s.join("a/link"), "no link\n")
        }),
    ];
    let needs: Vec<String> = TREE_UNITS.iter().map(|u| (*u).to_owned()).collect();
    let (rig, pid) = with_dependent(context, TREE, &needs, false)?;
    let srv = rig.inside("/srv")?;
    let right = |s: &Path| {
        std::fs::symlink_metadata(s.join("a/deep")).is_ok_and(|m| m.is_dir() && m.mode() & 0o7777 == 0o750)
            && holds(&s.join("a/deep/er/file"), "deep\n")
            && std::fs::read_link(s.join("a/link")).is_ok_and(|t| t == Path::new("deep"))
            && holds(&s.join("grand/parent/child"), "child\n")
    };
    for (name, unit, act) in damage {
        let mut events = rig.events()?;
        act(&srv).map_err(|e| format!("{name}: {e}"))?;
        repaired(&rig, &mut events, unit)?;
        rig.until_true(name, || right(&srv))?;
        in_peace(&rig, pid)?;
        println!("{name}: repaired");
    }
    // What was moved away is theirs.
    want(holds(&srv.join("gone/parent/child"), "child\n"), "what was moved away is gone", &rig)?;
    let mut saved = rig.repaired_from("symlink:/srv/a/link")?;
    saved.sort();
    want(saved == ["elsewhere", "no link\n"], &format!("the store has {saved:?}"), &rig)
}

/// A link in the place of a parent. One that root has made is the machine's own way to the file; through one of
/// somebody else nothing is written, and when it is gone all is as declared.
fn links(context: &Context) -> Result {
    let unit = "file:/srv/grand/parent/child";
    let state = "[file.\"/srv/grand/parent/child\"]\ncontent = \"child\\n\"\nmode = \"0640\"\n";
    let (rig, pid) = with_dependent(context, state, &[unit.to_owned()], false)?;
    let srv = rig.inside("/srv")?;
    let (parent, moved, theirs) = (srv.join("grand/parent"), srv.join("moved"), srv.join("theirs"));
    let declared = tree::timeless(&tree::lines(&srv)?);

    // Root's own: the same file is found behind it, and stays untouched until somebody changes it there.
    let before = tree::lines(&parent)?;
    std::fs::rename(&parent, &moved)?;
    symlink("../moved", &parent)?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    rig.ok(&["verify"])?;
    let now = tree::lines(&moved)?;
    want(now == before, &format!("written behind the link:\n{}", tree::difference(&before, &now)), &rig)?;
    let mut events = rig.events()?;
    std::fs::write(moved.join("child"), "other\n")?;
    repaired(&rig, &mut events, unit)?;
    want(std::fs::read_link(&parent)? == Path::new("../moved"), "root's link is gone", &rig)?;
    want(holds(&moved.join("child"), "child\n"), "what lies behind root's link is not repaired", &rig)?;

    // What is mounted over what it leads to covers the file, and is mounted under another name.
    let mut events = rig.events()?;
    let cover = rig.run(&["mount", "-t", "tmpfs", "none", "/srv/moved"])?;
    want(cover.code == 0, &cover.err, &rig)?;
    repaired(&rig, &mut events, unit)?;
    let uncover = rig.run(&["umount", "/srv/moved"])?;
    want(uncover.code == 0, &uncover.err, &rig)?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    rig.ok(&["verify"])?;

    // Somebody else's: whoever owns it could lead us to any file of the machine.
    std::fs::create_dir(&theirs)?;
    std::fs::write(theirs.join("child"), "theirs\n")?;
    let before = tree::lines(&theirs)?;
    let mut events = rig.events()?;
    let link = parent.with_file_name("link");
    symlink("../theirs", &link)?;
    std::os::unix::fs::lchown(&link, Some(7), Some(7))?;
    std::fs::rename(&link, &parent)?;
    rig.until_outcome(&mut events, unit, "not-kept")?;
    let status = rig.status(unit)?;
    want(word(&status, "cause").contains("link of user 7"), &format!("it does not say why: {status}"), &rig)?;
    let now = tree::lines(&theirs)?;
    want(now == before, &format!("written through the link:\n{}", tree::difference(&before, &now)), &rig)?;
    in_peace(&rig, pid)?;

    let mut events = rig.events()?;
    for gone in [&theirs, &moved] {
        std::fs::remove_dir_all(gone)?;
    }
    std::fs::remove_file(&parent)?;
    rig.until_outcome(&mut events, unit, "repaired")?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let now = tree::timeless(&tree::lines(&srv)?);
    want(now == declared, &format!("not as declared:\n{}", tree::difference(&declared, &now)), &rig)?;
    rig.ok(&["verify"])?;
    in_peace(&rig, pid)
}

/// What nobody declared in a purged directory goes, and is to be had from the store.
fn purged(context: &Context) -> Result {
    let state = r#"
[directory."/srv/own"]
purge = true

[file."/srv/own/ours"]
content = "ours\n"
"#;
    let needs = ["directory:/srv/own".to_owned(), "file:/srv/own/ours".to_owned()];
    let (rig, pid) = with_dependent(context, state, &needs, false)?;
    let own = rig.inside("/srv/own")?;
    let only_ours =
        || std::fs::read_dir(&own).is_ok_and(|d| d.count() == 1) && holds(&own.join("ours"), "ours\n");
    let mut events = rig.events()?;
    std::fs::write(own.join("stranger"), "a stranger's\n")?;
    repaired(&rig, &mut events, "directory:/srv/own")?;
    rig.until_true("an extra file is removed", only_ours)?;
    let mut events = rig.events()?;
    std::fs::create_dir_all(own.join("new/sub"))?;
    std::fs::write(own.join("new/sub/file"), "in a new directory\n")?;
    repaired(&rig, &mut events, "directory:/srv/own")?;
    rig.until_true("a new directory is removed", only_ours)?;
    let mut saved = rig.repaired_from("directory:/srv/own")?;
    saved.sort();
    want(saved == ["a stranger's\n", "in a new directory\n"], &format!("the store has {saved:?}"), &rig)?;
    let listed = rig.ok(&["history", "directory:/srv/own"])?;
    for path in ["/srv/own/stranger", "/srv/own/new/sub/file"] {
        want(listed.contains(path), &format!("no word of {path}:\n{listed}"), &rig)?;
    }
    in_peace(&rig, pid)
}

/// What is mounted below a purged directory, or over it, is nobody's litter: a tmpfs, and a part of the same device.
fn purged_mount(context: &Context) -> Result {
    let state = "[directory.\"/srv/own\"]\npurge = true\n";
    let rig = Rig::start(context, &Setup { first: Some(state), ..Setup::default() })?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    let shell = |script: &str| -> Result {
        let said = rig.run(&["sh", "-ec", script])?;
        if said.code == 0 { Ok(()) } else { Err(format!("{script}: {}", said.err).into()) }
    };
    shell("mkdir -p /srv/disk/below && echo theirs > /srv/disk/file && echo theirs > /srv/disk/below/file")?;
    let (own, disk) = (rig.inside("/srv/own")?, rig.inside("/srv/disk")?);
    let whole = || holds(&disk.join("file"), "theirs\n") && holds(&disk.join("below/file"), "theirs\n");
    for mount in ["--bind /srv/disk", "-t tmpfs none"] {
        // Once more where a repair was faster than the mount.
        shell(&format!("until mkdir -p /srv/own/usb && mount {mount} /srv/own/usb; do :; done"))?;
        shell("cp -r /srv/disk/. /srv/own/usb 2>&1 || :")?;
        let why = "a file system is mounted at /srv/own/usb";
        rig.until("directory:/srv/own", "not kept", |s| s.to_string().contains(why))?;
        want(holds(&own.join("usb/below/file"), "theirs\n") && whole(), "what was mounted is gone", &rig)?;
        shell("umount /srv/own/usb")?;
        std::fs::write(own.join("stranger"), "")?;
        rig.until_true("it is purged again", || std::fs::read_dir(&own).is_ok_and(|d| d.count() == 0))?;
        want(whole(), "what was mounted is gone", &rig)?;
    }
    shell("mount --bind /srv/disk /srv/own")?;
    let next = rig.state_file("next.toml", &format!("{state}mode = \"0751\"\n"))?;
    let said = rig.initctl(&["apply", &next])?;
    let why = "a file system is mounted at /srv/own;";
    want(
        said.code != 0 && format!("{said:?}").contains(why),
        &format!("not because of the mount: {said:?}"),
        &rig,
    )?;
    want(whole(), "what was mounted over it is gone", &rig)
}

/// Kernel settings, the host name, one line of a file of somebody else's.
fn settings(context: &Context) -> Result {
    let state = r#"
[sysctl."net.ipv4.ip_default_ttl"]
value = 70

[hostname.machine]
value = "rig"

[sysctl."kernel.domainname"]
value = "ours"

[line.ours]
path = "/srv/theirs"
line = "ours"
create = true
"#;
    let needs = ["sysctl:net.ipv4.ip_default_ttl", "hostname:machine", "line:ours"].map(str::to_owned);
    let (rig, pid) = with_dependent(context, state, &needs, false)?;
    let shell = |script: &str| -> Result<String> {
        let said = rig.run(&["sh", "-c", script])?;
        if said.code == 0 { Ok(said.out) } else { Err(format!("{script}: {}", said.err).into()) }
    };
    let mut events = rig.events()?;
    shell("echo 99 > /proc/sys/net/ipv4/ip_default_ttl")?;
    repaired(&rig, &mut events, "sysctl:net.ipv4.ip_default_ttl")?;
    want(shell("cat /proc/sys/net/ipv4/ip_default_ttl")? == "70\n", "the setting is another", &rig)?;
    let saved = rig.repaired_from("sysctl:net.ipv4.ip_default_ttl")?;
    want(saved.iter().any(|v| v == "99"), &format!("the store has {saved:?}"), &rig)?;

    let mut events = rig.events()?;
    shell("echo other > /proc/sys/kernel/hostname")?;
    repaired(&rig, &mut events, "hostname:machine")?;
    want(shell("hostname")? == "rig\n", "the name is another", &rig)?;
    // No write to any file: sethostname(2), setdomainname(2).
    for (command, unit, name, ours) in [
        ("hostname evil", "hostname:machine", "hostname", "rig\n"),
        ("domainname evil", "sysctl:kernel.domainname", "domainname", "ours\n"),
    ] {
        let mut events = rig.events()?;
        shell(command)?;
        repaired(&rig, &mut events, unit)?;
        want(shell(&format!("cat /proc/sys/kernel/{name}"))? == ours, "the name is another", &rig)?;
        rig.ok(&["reexec"])?;
    }

    let file = rig.inside("/srv/theirs")?;
    for theirs in ["first\nlast\n", "first\nOURS\nlast\n"] {
        let mut events = rig.events()?;
        std::fs::write(&file, theirs)?;
        repaired(&rig, &mut events, "line:ours")?;
        let text = std::fs::read_to_string(&file)?;
        want(text == format!("{theirs}ours\n"), &format!("the file holds {text:?}"), &rig)?;
    }
    in_peace(&rig, pid)
}

/// An entry of /etc/passwd that was edited, one that was removed, and a home; everybody else's entries stay.
fn users(context: &Context) -> Result {
    let state = "[user.keeper]\nuid = 4321\nhome = \"/srv/keeper\"\nshell = \"/bin/sh\"\n\
                 create-home = true\n";
    let (rig, pid) = with_dependent(context, state, &["user:keeper".to_owned()], true)?;
    let passwd = rig.inside("/etc/passwd")?;
    let right = std::fs::read_to_string(&passwd)?;
    let entry = right.lines().find(|l| l.starts_with("keeper:")).ok_or("no entry")?.to_owned();
    let gone = right.replace(&format!("{entry}\n"), "");
    for damaged in [right.replace(&entry, &entry.replace("/bin/sh", "/bin/false")), gone] {
        let mut events = rig.events()?;
        std::fs::write(&passwd, format!("{damaged}stranger:x:4999:4999::/:/bin/sh\n"))?;
        repaired(&rig, &mut events, "user:keeper")?;
        let now = std::fs::read_to_string(&passwd)?;
        want(now.lines().any(|l| l == entry), &format!("the entry is not right again:\n{now}"), &rig)?;
        want(now.contains("stranger:x:4999"), "another entry is lost", &rig)?;
    }
    let home = rig.inside("/srv/keeper")?;
    let mut events = rig.events()?;
    std::fs::remove_dir_all(&home)?;
    repaired(&rig, &mut events, "user:keeper")?;
    let owner = std::fs::metadata(&home)?.uid();
    want(owner == 4321, &format!("the home is {owner}'s"), &rig)?;
    in_peace(&rig, pid)
}

/// A mount that somebody takes away comes back; who is bound to it goes and comes with it, others stay.
fn mount(context: &Context) -> Result {
    let state = format!("{}\n[file.\"/srv/beside\"]\ncontent = \"beside\\n\"\n", a_mount("/srv/disk"));
    let (rig, pid) = with_dependent(context, &state, &["file:/srv/beside".to_owned()], false)?;
    let bound = rig.main_pid("service:bound")?;
    let umount = rig.run(&["umount", "/srv/disk"])?;
    want(umount.code == 0, &umount.err, &rig)?;
    let file = rig.inside("/srv/disk/file")?;
    rig.until_true("it is mounted again, with what belongs on it", || holds(&file, "on it\n"))?;
    rig.until("service:bound", "running again", |s| {
        word(s, "state") == "ready" && s.get("pid").and_then(Value::as_i64) != Some(i64::from(bound))
    })?;
    // What somebody mounts over it is not what is declared: nothing is written on it, and nothing that needs it runs.
    let cover = rig.run(&["mount", "-t", "ramfs", "none", "/srv/disk"])?;
    want(cover.code == 0, &cover.err, &rig)?;
    rig.until("mount:/srv/disk", "lost", |s| {
        word(s, "state") == "backoff" && word(s, "cause").contains("another file system is mounted there")
    })?;
    rig.until("service:bound", "stopped", |s| word(s, "state") == "waiting")?;
    want(!file.exists(), "a file was put on what somebody has mounted", &rig)?;
    let uncover = rig.run(&["umount", "/srv/disk"])?;
    want(uncover.code == 0, &uncover.err, &rig)?;
    rig.until_state("service:bound", "ready")?;
    want(holds(&file, "on it\n"), "what was there before is not there", &rig)?;
    let table = rig.run(&["findmnt", "-n", "-o", "FSTYPE", "/srv/disk"])?;
    want(table.out.trim() == "tmpfs", &format!("mounted is {:?}", table.out), &rig)?;
    in_peace(&rig, pid)
}

/// A mount further up hides what is mounted below: it is lost as long as that lasts, nothing of ours gets on what hides
/// it, so that whoever put it there can take it away, and then everything is as it was.
fn hidden_mount(context: &Context) -> Result {
    let state = format!("{}\n[file.\"/srv/a/beside\"]\ncontent = \"beside\\n\"\n", a_mount("/srv/a/disk"));
    let (rig, pid) = with_dependent(context, &state, &[], false)?;
    let (file, beside) = (rig.inside("/srv/a/disk/file")?, rig.inside("/srv/a/beside")?);
    let number = std::fs::metadata(&file)?.ino();
    for over in ["/srv/a", "/srv"] {
        let cover = rig.run(&["mount", "-t", "ramfs", "theirs", over])?;
        want(cover.code == 0, &cover.err, &rig)?;
        rig.until("mount:/srv/a/disk", "lost", |s| {
            let why = format!("hidden by what is mounted at \"{over}\": type \"ramfs\", source \"theirs\"");
            word(s, "state") == "backoff" && word(s, "cause").contains(&why)
        })?;
        rig.until("service:bound", "stopped", |s| word(s, "state") == "waiting")?;
        // What is not on the mount is drift like any other.
        rig.until_true("what is beside is there again", || holds(&beside, "beside\n"))?;
        want(!file.exists(), "a file was put on what somebody has mounted", &rig)?;
        let uncover = rig.run(&["umount", over])?;
        want(uncover.code == 0, &uncover.err, &rig)?;
        rig.until_state("service:bound", "ready")?;
        want(holds(&file, "on it\n"), "what was there before is not there", &rig)?;
        want(std::fs::metadata(&file)?.ino() == number, "it is another file", &rig)?;
    }
    let table = rig.run(&["findmnt", "-n", "-o", "TARGET,SOURCE"])?;
    let count = table.out.lines().filter(|l| l.contains("/srv/a/disk")).count();
    want(count == 1, &format!("it is not mounted once: {}", table.out), &rig)?;
    in_peace(&rig, pid)
}

/// Options of a mount that somebody changes are given back in place, with nobody bounced; and one that stood there
/// first is given the options that it lacks.
fn mount_options(context: &Context) -> Result {
    let state = r#"
[mount."/srv/disk"]
fstype = "tmpfs"
options = ["size=1m", "noexec", "ro"]

[mount."/srv/early"]
fstype = "tmpfs"
options = ["size=1m", "noexec"]
"#;
    let needs = "[service.dependent]\nexec = [\"sleep\", \"infinity\"]\nbinds = [\"mount:/srv/disk\"]\n";
    let rig = Rig::start(context, &Setup::default())?;
    let sh = |words: &[&str]| {
        let said = rig.run(words)?;
        want(said.code == 0, &format!("{words:?}: {}", said.err), &rig)
    };
    std::fs::create_dir(rig.inside("/srv/early")?)?;
    sh(&["mount", "-t", "tmpfs", "-o", "size=2m", "none", "/srv/early"])?;
    rig.apply(&format!("{state}{needs}"))?;
    let shown = |path: &str| rig.run(&["findmnt", "-n", "-o", "OPTIONS", path]).map(|said| said.out);
    let has = |path: &str, words: &[&str]| {
        let options = shown(path)?;
        let all = words.iter().all(|w| options.trim().split(',').any(|o| o == *w));
        want(all, &format!("{path} is mounted with {options}, not {words:?}"), &rig)
    };
    has("/srv/early", &["noexec", "size=1024k", "rw"])?;
    has("/srv/disk", &["noexec", "size=1024k", "ro"])?;
    let pid = rig.main_pid("service:dependent")?;
    for (change, path) in [
        ("remount,rw,noexec", "/srv/disk"),
        ("remount,ro,exec", "/srv/disk"),
        ("remount,exec,size=3m", "/srv/early"),
    ] {
        let mut events = rig.events()?;
        sh(&["mount", "-o", change, path])?;
        repaired(&rig, &mut events, &format!("mount:{path}"))?;
        has(path, &["noexec", "size=1024k"])?;
    }
    has("/srv/disk", &["ro"])?;
    // What is lost while it is held is there again when the release is answered.
    rig.ok(&["hold", "/srv/disk"])?;
    sh(&["mount", "-o", "remount,rw,exec", "/srv/disk"])?;
    rig.ok(&["release", "/srv/disk"])?;
    has("/srv/disk", &["noexec", "ro"])?;
    let table = rig.run(&["findmnt", "-n", "-o", "TARGET", "/srv/early"])?;
    want(table.out.lines().count() == 1, &format!("it is mounted twice: {}", table.out), &rig)?;
    in_peace(&rig, pid)
}

/// More events than the kernel's queue takes: what was lost is found by a rescan.
fn overflow(context: &Context) -> Result {
    let state = "[file.\"/srv/busy/first\"]\ncontent = \"ours\\n\"\n[file.\"/srv/busy/last\"]\ncontent = \"ours\\n\"\n";
    let needs = ["file:/srv/busy/first".to_owned(), "file:/srv/busy/last".to_owned()];
    let (rig, pid) = with_dependent(context, state, &needs, false)?;
    let busy = rig.inside("/srv/busy")?;
    let queue: usize = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")?.trim().parse()?;
    let names = [busy.join("noise-a"), busy.join("noise-b")];
    for name in &names {
        std::fs::write(name, "")?;
    }
    let mut events = rig.events()?;
    // It cannot read while it is stopped. Equal events in a row would be one, so two names take turns.
    rig.signal(libc::SIGSTOP)?;
    let flooded = (0..=queue).zip(names.iter().cycle()).try_for_each(|(n, name)| {
        std::fs::set_permissions(name, std::fs::Permissions::from_mode(if n % 4 < 2 { 0o600 } else { 0o644 }))
    });
    let damaged = std::fs::write(busy.join("last"), "nobody hears of this\n");
    rig.signal(libc::SIGCONT)?;
    flooded?;
    damaged?;
    repaired(&rig, &mut events, "file:/srv/busy/last")?;
    rig.until_said("overflowed")?;
    want(holds(&busy.join("last"), "ours\n"), "the file is not right", &rig)?;
    println!("{} events, more than the {queue} of the queue: repaired", queue + 1);
    in_peace(&rig, pid)
}
