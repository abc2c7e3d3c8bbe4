//! Mounts in the fast rig: where their paths lead, what they cover, and what hangs.

use std::os::unix::fs::{PermissionsExt, lchown, symlink};

use serde_json::Value;

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::rig::{Rig, Setup, holds, want, word};

const fn scenario(name: &'static str, run: fn(&Context) -> Result) -> Scenario {
    Scenario { name, group: "rig", limit: super::minutes(2), run }
}

/// See the module.
pub const ALL: &[Scenario] = &[
    scenario("rig-mount-link", link),
    scenario("rig-mount-over", over),
    scenario("rig-mount-hangs", hangs),
    scenario("rig-mount-leaves", leaves),
    scenario("rig-mount-free", free),
];

/// A mount, a file on it, and a service that is bound to it.
pub(super) fn a_mount(path: &str) -> String {
    format!(
        "[mount.\"{path}\"]\nfstype = \"tmpfs\"\noptions = [\"size=1m\"]\n\n\
         [file.\"{path}/file\"]\ncontent = \"on it\\n\"\n\n\
         [service.bound]\nexec = [\"sleep\", \"infinity\"]\nbinds = [\"mount:{path}\"]\n"
    )
}

/// How many mounts are listed at or below a path.
fn listed(rig: &Rig, path: &str) -> Result<usize> {
    let table = std::fs::read_to_string(format!("/proc/{}/mountinfo", rig.pid()?))?;
    let points = table.lines().filter_map(|l| l.split(' ').nth(4));
    Ok(points.filter(|p| *p == path || p.strip_prefix(path).is_some_and(|r| r.starts_with('/'))).count())
}

/// A path that leads to its mount point through links of root: the mount stands once, is known where it stands, and goes
/// where it stands, wherever the path leads by then. Links of others are not followed.
fn link(context: &Context) -> Result {
    let state = format!("{}\n[mount.\"/srv/last\"]\nfstype = \"tmpfs\"\n", a_mount("/srv/link/m"));
    let state = state.as_str();
    let rig = Rig::start(context, &Setup::default())?;
    let srv = rig.inside("/srv")?;
    std::fs::create_dir_all(srv.join("real/last"))?;
    symlink("real", srv.join("link"))?;
    symlink("/srv/real/last", srv.join("last"))?;
    rig.apply("[file.\"/srv/before\"]\ncontent = \"before\\n\"\n")?;
    rig.apply(state)?;
    let once = |what: &str| {
        let counts =
            (listed(&rig, "/srv/real/m")?, listed(&rig, "/srv/real/last")?, listed(&rig, "/srv/real")?);
        want(counts == (1, 1, 2), &format!("{what}, mounted are {counts:?}"), &rig)
    };
    once("at first")?;
    let file = srv.join("real/m/file");
    want(holds(&file, "on it\n"), "what belongs on it is not there", &rig)?;
    let planned = rig.ok(&["plan", &rig.state_file("same.toml", state)?])?;
    want(!planned.contains("mount:"), &format!("it is not seen where it stands:\n{planned}"), &rig)?;

    for turn in ["by this init", "by the next one"] {
        let bound = rig.main_pid("service:bound")?;
        let umount = rig.run(&["umount", "/srv/real/m"])?;
        want(umount.code == 0, &umount.err, &rig)?;
        rig.until_true("it is mounted again, with what belongs on it", || holds(&file, "on it\n"))?;
        rig.until("service:bound", "running again", |s| {
            word(s, "state") == "ready" && s.get("pid").and_then(Value::as_i64) != Some(i64::from(bound))
        })?;
        once(turn)?;
        rig.ok(&["reexec"])?;
        rig.until_said("has taken over")?;
        rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    }
    let lost = rig.init_said().matches("mount:/srv/link/m is lost").count();
    want(lost == 2, &format!("it was lost {lost} times"), &rig)?;

    // The way to it is another one by now.
    std::fs::remove_file(srv.join("link"))?;
    std::fs::create_dir_all(srv.join("elsewhere/m"))?;
    symlink("elsewhere", srv.join("link"))?;
    rig.ok(&["stop", "mount:/srv/link/m"])?;
    want(listed(&rig, "/srv/real/m")? == 0, "it is not unmounted where it stands", &rig)?;
    std::fs::remove_file(srv.join("link"))?;
    symlink("real", srv.join("link"))?;
    rig.ok(&["start", "mount:/srv/link/m"])?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    once("after it was stopped and started")?;
    rig.ok(&["rollback"])?;
    want(listed(&rig, "/srv/real")? == 0, "it stays mounted after the rollback", &rig)?;
    want(!srv.join("real/m").exists(), "the mount point that was made stays after the rollback", &rig)?;
    want(srv.join("real/last").exists(), "a mount point that was there before is gone", &rig)?;

    lchown(srv.join("link"), Some(1234), None)?;
    let path = rig.state_file("foreign.toml", "[mount.\"/srv/link/m\"]\nfstype = \"tmpfs\"\n")?;
    let refused = rig.initctl(&["apply", &path])?;
    let why = "/srv/link is a link of user 1234; only links that root owns are followed";
    want(refused.code == 5 && refused.out.contains(why), &format!("{refused:?}"), &rig)?;
    want(listed(&rig, "/srv/real")? == 0, "it was mounted where somebody's link leads", &rig)
}

/// What somebody mounts over what units own that no path names is noticed: a line, and an entry of the user database.
fn over(context: &Context) -> Result {
    let state = r#"
[line.greeting]
path   = "/srv/sub/lines"
line   = "hello"
create = true

[user.keeper]
uid = 4321
"#;
    let rig = Rig::start(context, &Setup { etc: true, ..Setup::default() })?;
    rig.apply(state)?;
    let line = rig.inside("/srv/sub/lines")?;
    want(holds(&line, "hello\n"), "the line is not there", &rig)?;
    let script = "cp -a /etc /srv/etc && mount -t tmpfs none /srv/sub && sed -i /^keeper:/d /srv/etc/passwd && \
                  mount --bind /srv/etc /etc";
    let covered = rig.run(&["sh", "-c", script])?;
    want(covered.code == 0, &covered.err, &rig)?;
    rig.until_true("the line is on what was mounted", || holds(&line, "hello\n"))?;
    let passwd = rig.inside("/etc/passwd")?;
    let has = || std::fs::read_to_string(&passwd).is_ok_and(|text| text.contains("\nkeeper:"));
    rig.until_true("the user is in what was mounted", has)
}

/// A program that mounts and does not end is killed with all that it has started when its time is over, and tried again; an
/// apply does not wait for it for ever, but returns and says why.
fn hangs(context: &Context) -> Result {
    const PROGRAM: &str =
        "#!/bin/sh\n[ -e /srv/hang ] && { sleep infinity & wait; }\nexec mount -t tmpfs tmpfs \"$2\"\n";
    let state = |name: &str| {
        format!("[mount.\"/srv/{name}\"]\nfstype = \"hang\"\nsource = \"server:/x\"\ntimeout = \"1s\"\n")
    };
    let rig = Rig::start(context, &Setup::default())?;
    let srv = rig.inside("/srv")?;
    let program = srv.join("sbin/mount.hang");
    std::fs::create_dir(srv.join("sbin"))?;
    std::fs::write(&program, PROGRAM)?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    let bind = rig.run(&["mount", "--bind", "/srv/sbin", "/sbin"])?;
    want(bind.code == 0, &bind.err, &rig)?;
    rig.apply(&state("m"))?;

    std::fs::write(srv.join("hang"), "")?;
    let umount = rig.run(&["umount", "/srv/m"])?;
    want(umount.code == 0, &umount.err, &rig)?;
    rig.until("mount:/srv/m", "given up", |s| {
        word(s, "state") == "backoff" && word(s, "cause") == "did not end in time"
    })?;
    let path = rig.state_file("more.toml", &format!("{}{}", state("m"), state("n")))?;
    let left = rig.initctl(&["apply", &path])?;
    let why = "mount:/srv/n: cannot be mounted: did not end in time";
    want(left.code == 5 && left.out.contains(why), &format!("{left:?}"), &rig)?;
    let look = ["sh", "-c", "grep -qsx sleep /proc/[0-9]*/comm"];
    rig.until_true("nothing of it is left between two tries", || rig.run(&look).is_ok_and(|s| s.code > 0))?;

    std::fs::remove_file(srv.join("hang"))?;
    rig.until_state("mount:/srv/m", "ready")?;
    want(listed(&rig, "/srv/m")? == 1 && listed(&rig, "/srv/n")? == 0, "not that alone is mounted", &rig)
}

/// What was made to mount something there goes with the mount, and with it what was made on the way, whoever of the units
/// that lie in there made it; what was there before stays, and so does what somebody uses.
fn leaves(context: &Context) -> Result {
    let mount = |path: &str| format!("[mount.\"{path}\"]\nfstype = \"tmpfs\"\n");
    let file = |path: &str| format!("[file.\"{path}\"]\ncontent = \"text\\n\"\n");
    let both = format!("{}{}", mount("/srv/app/deep/data"), file("/srv/app/config"));
    let nothing = file("/srv/other");
    let rig = Rig::start(context, &Setup::default())?;
    let app = rig.inside("/srv/app")?;
    let there = |what: &str| app.join(what).exists();
    let gone = |when: &str| want(!app.exists(), &format!("what was made stays {when}"), &rig);

    rig.apply(&nothing)?;
    let bad = format!("{nothing}[mount.\"/srv/app/bad\"]\nfstype = \"tmpfs\"\noptions = [\"nonesuch=1\"]\n");
    let bad = rig.initctl(&["apply", &rig.state_file("bad.toml", &bad)?])?;
    want(bad.code == 5, &format!("{bad:?}"), &rig)?;
    gone("after a mount that failed")?;
    for made_by in ["file first", "mount first"] {
        let first =
            if made_by == "file first" { file("/srv/app/config") } else { mount("/srv/app/deep/data") };
        rig.apply(&first)?;
        rig.apply(&both)?;
        want(there("config") && there("deep/data"), "it is not there", &rig)?;
        rig.apply(&nothing)?;
        gone(&format!("after a purge, {made_by}"))?;
        rig.ok(&["rollback"])?;
        want(there("config") && there("deep/data"), "it does not come back", &rig)?;
        rig.apply(&nothing)?;
        gone(&format!("after another purge, {made_by}"))?;
    }
    rig.apply(&both)?;
    rig.ok(&["rollback"])?;
    gone("after a rollback")?;

    std::fs::create_dir_all(app.join("deep"))?;
    rig.apply(&both)?;
    rig.apply(&nothing)?;
    want(there("deep") && !there("deep/data"), "what was there before is gone", &rig)?;
    rig.apply(&both)?;
    std::fs::write(app.join("deep/theirs"), "theirs")?;
    rig.apply(&nothing)?;
    want(there("deep/theirs") && !there("deep/data"), "what somebody put there is gone", &rig)
}

/// What has managed files on a mount holds it no longer when it is to be unmounted: an open directory keeps it busy, and
/// whether it is still open is a matter of milliseconds, so that it takes some rounds.
fn free(context: &Context) -> Result {
    let on_it = "[mount.\"/srv/m\"]\nfstype = \"tmpfs\"\n\
                 [directory.\"/srv/m/d\"]\n[file.\"/srv/m/d/f\"]\ncontent = \"text\\n\"\n";
    let bind = "[mount.\"/srv/b\"]\nsource = \"/srv/m/d\"\nfstype = \"none\"\noptions = [\"bind\"]\n\
                [file.\"/srv/b/g\"]\ncontent = \"text\\n\"\n";
    let nothing = "[file.\"/srv/other\"]\ncontent = \"text\\n\"\n";
    let rig = Rig::start(context, &Setup::default())?;
    for _ in 0..12 {
        rig.apply(&format!("{on_it}{bind}"))?;
        rig.apply(on_it)?;
        rig.apply(nothing)?;
    }
    Ok(())
}
