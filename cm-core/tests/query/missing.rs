//! What a plan says of what is needed, declared nowhere and not there.

use std::fs;

use super::{Host, lines};

/// What nothing declares and nobody has is said before the apply fails for it.
#[test]
fn a_plan_says_what_is_not_there() {
    let mut host = Host::new();
    for (path, text, mode) in [
        ("/usr/bin/there", "", 0o755),
        ("/usr/bin/inert", "", 0o644),
        ("/opt/bin/special", "", 0o755),
        ("/usr/bin/old.py", "#!/usr/bin/python2.7 -O\n", 0o755),
        ("/usr/bin/env.py", "#!/usr/bin/env -S A=b ruby -w\n", 0o755),
        ("/usr/bin/env", "", 0o755),
    ] {
        host.bench.program(path, text, mode);
    }
    host.apply("[file.\"/etc/x\"]\ncontent = \"x\"\n");
    let state = r##"
[file."/etc/x"]
content = "x"
[file."/etc/y"]
content = "y"
owner = "nobody-knows"
group = "0"
[file."/usr/bin/mine"]
content = "mine"
mode = "0755"
[user.ann]
home = "/srv/ann"
create-home = true
[service.a]
exec = ["/usr/bin/gone"]
user = "zoe"
group = "ann"
groups = ["staff-of-none"]
[service.b]
exec = ["/usr/bin/mine"]
user = "ann"
directory = "/srv/ann"
[service.c]
exec = ["/usr/bin/there"]
user = "1000"
[service.d]
exec = ["there", "x"]
stop = ["nowhere"]
reload = ["nowhere"]
directory = "/srv/nothing"
[service.e]
exec = "special"
[service.f]
exec = "special"
stop = "nowhere"
environment = { PATH = "/usr/bin:/opt/bin/" }
[service.g]
exec = ["inert"]
[service.h]
exec = ["mine"]
[service.i]
exec = ["/bin/mine"]
stop = ["old.py"]
[service.j]
exec = ["/usr/bin/env.py"]
[file."/usr/bin/script"]
content = "#!/bin/nosh\necho\n"
mode = "0755"
[file."/usr/bin/flat"]
content = "#!/bin/sh\n"
mode = "0644"
[exec.k]
command = ["script"]
undo = ["/usr/bin/flat"]
once = "ever"
[user.bob]
shell = "/bin/zzsh"
[mount."/mnt/a"]
fstype = "nosuchfs"
source = "/dev/nowhere"
check = true
[mount."/mnt/b"]
fstype = "none"
source = "/srv/nothing"
options = ["bind"]
[mount."/mnt/c"]
fstype = "tmpfs"
[module.no-such-module]
[sysctl."kernel.no_such_setting"]
value = 1
"##;
    let (changes, _) = host.plan_of(state);
    let lines = lines(&changes);
    let said = |unit: &str| {
        let line = lines.iter().find(|l| l.contains(&format!(" {unit}: "))).unwrap();
        let from = ["; there is", "; /"].iter().filter_map(|w| line.find(w)).min();
        from.map(|at| line[at + 2..].to_owned()).unwrap_or_default()
    };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let expected = [
        ("file:/etc/y", "there is no user nobody-knows".to_owned()),
        (
            "service:a",
            "there is no user zoe; there is no group staff-of-none; there is no program /usr/bin/gone"
                .to_owned(),
        ),
        ("service:b", String::new()),
        ("service:c", String::new()),
        ("service:d", "there is no program nowhere in PATH; there is no directory /srv/nothing".to_owned()),
        ("service:e", "there is no program special in PATH".to_owned()),
        ("service:f", "there is no program nowhere in its PATH, /usr/bin:/opt/bin/".to_owned()),
        ("service:g", "/usr/bin/inert is not executable (mode 0644)".to_owned()),
        ("service:h", String::new()),
        (
            "service:i",
            "there is no program /usr/bin/python2.7, which /usr/bin/old.py names in its first line"
                .to_owned(),
        ),
        (
            "service:j",
            "there is no program ruby in PATH, which /usr/bin/env.py names in its first line".to_owned(),
        ),
        (
            "exec:k",
            "there is no program /bin/nosh, which /usr/bin/script names in its first line; \
             /usr/bin/flat is not executable (mode 0644)"
                .to_owned(),
        ),
        ("user:bob", "there is no shell /bin/zzsh".to_owned()),
        (
            "mount:/mnt/a",
            format!(
                "there is no device /dev/nowhere yet; there is no program fsck.nosuchfs, so that it is mounted \
                 unchecked; there is no file system nosuchfs for kernel {}",
                release.trim()
            ),
        ),
        ("mount:/mnt/b", "there is nothing at /srv/nothing that could be mounted".to_owned()),
        ("mount:/mnt/c", String::new()),
        ("module:no_such_module", format!("there is no module no_such_module for kernel {}", release.trim())),
    ];
    for (unit, missing) in expected {
        assert_eq!(said(unit), missing, "{unit}");
    }
    let setting = lines.iter().find(|l| l.contains("no_such_setting")).unwrap();
    assert!(setting.contains("no such file or directory"), "{setting}");
}
