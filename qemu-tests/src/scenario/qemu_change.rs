//! Apply and rollback on a real ext4, compared as whole trees.

use super::{Scenario, minutes};
use crate::Result;
use crate::context::Context;
use crate::guest::{BASE, DISK, Guest, demand, left_clean, same};

/// See the module.
pub const ALL: &[Scenario] = &[
    Scenario { name: "qemu-apply", group: "qemu", limit: minutes(4), run: apply },
    Scenario { name: "qemu-rollback", group: "qemu", limit: minutes(4), run: rollback },
];

/// What stands below `/var/site` before anything is declared there, made by the machine's own shell: owners, modes,
/// attributes, hard links.
pub const FURNISH: &str = "mkdir -p /var/site/theirs/open && cd /var/site && \
    echo old > conf && chown daemon:nogroup conf && chmod 640 conf && setfattr -n user.note -v keep conf && \
    touch -d '2001-02-03 04:05:06' conf && echo shared > theirs/a && ln theirs/a theirs/b && chmod 4755 theirs/a && echo whole > theirs/whole && chmod 2711 theirs/whole && \
    echo twins > theirs/twin && ln theirs/twin theirs/other && chmod 604 theirs/twin && \
    ln -s theirs/a link && chmod 1777 theirs/open && echo one > theirs/lines && echo two >> theirs/lines && \
    setfattr -n user.dir -v 1 theirs/open && cd /";

/// Takes over some of what is there, and adds much.
pub fn second(files: usize) -> String {
    let mut out = format!(
        "{BASE}{DISK}{}",
        r#"
[file."/var/site/conf"]
content = "new\n"
mode    = "0600"
owner   = "root"
group   = "root"

[file."/var/site/conf".xattrs]
"user.note"  = "changed"
"user.other" = "added"

[file."/var/site/theirs/a"]
mode = "0600"

[file."/var/site/theirs/whole"]
content = "ours\n"

[file."/var/site/theirs/twin"]
content = "no twin\n"

[symlink."/var/site/link"]
target = "new/deep/x"

[directory."/var/site/theirs/open"]
mode = "0750"
owner = "daemon"

[line.three]
path = "/var/site/theirs/lines"
line = "three"

[file."/var/site/new/deep/x"]
content = "deep\n"
"#
    );
    for n in 0..files {
        out.push_str(&format!("[file.\"/var/site/many/{}/{n}\"]\ncontent = \"page {n}\\n\"\n", n % 5));
    }
    out
}

/// Declares little of what [`second`] does, and a file of its own.
pub fn third() -> String {
    format!(
        "{BASE}{DISK}\n[file.\"/var/site/conf\"]\ncontent = \"third\\n\"\n\n[file.\"/var/site/many/0/0\"]\ncontent = \"page 0\\n\"\n"
    )
}

/// The state that the machine boots to.
pub fn first() -> String {
    format!("{BASE}{DISK}\n[file.\"/var/site/mine\"]\ncontent = \"mine\\n\"\n")
}

/// A guest that boots to [`first`] and has the others at hand.
pub fn guest(context: &Context, files: usize) -> Result<Guest> {
    let states = [
        ("/etc/holdfast/state.toml", &*first()),
        ("/root/second.toml", &*second(files)),
        ("/root/third.toml", &*third()),
    ];
    Guest::new(context, DISK, &states)
}

/// Every attribute is as declared, what is not declared is left alone, the same state again does nothing, and after a
/// reboot all of it is kept.
fn apply(context: &Context) -> Result {
    let guest = guest(context, 20)?;
    let disk = guest.disk("disk", 32)?;
    let mut vm = guest.machine(context)?.disk(&disk).start()?;
    vm.converged()?;
    vm.ok(FURNISH)?;
    let planned = vm.ok("initctl plan /root/second.toml")?;
    demand(
        planned.contains("create   file:/var/site/many/0/0"),
        format!("no create in the plan:\n{planned}"),
    )?;
    demand(planned.contains("change   file:/var/site/conf"), format!("no change in the plan:\n{planned}"))?;
    println!("{}", vm.ok("initctl apply /root/second.toml 2>&1")?);
    let found = vm
        .ok("cd /var/site; stat -c '%n %a %u:%g' conf theirs/a theirs/whole theirs/open new new/deep/x; \
        cat conf theirs/a theirs/whole theirs/lines; readlink link; getfattr -d conf | grep .; cd /")?;
    let wanted = "conf 600 0:0\ntheirs/a 600 0:0\ntheirs/whole 2711 0:0\ntheirs/open 750 1:0\nnew 755 0:0\nnew/deep/x 644 0:0\n\
        new\nshared\nours\none\ntwo\nthree\nnew/deep/x\n# file: conf\nuser.note=\"changed\"\nuser.other=\"added\"";
    same("what was applied", wanted, &found)?;
    let tree = vm.tree("/var/site")?;
    let again = vm.ok("initctl apply /root/second.toml 2>&1")?;
    demand(again.contains("generation 2"), format!("the same state is another generation: {again}"))?;
    let times = "find /var/site | sort | xargs stat -c '%n %i %z'";
    let before = vm.ok(times)?;
    vm.type_power("reboot")?;
    vm.wait_for_power_off()?;
    let mut vm = guest.machine(context)?.disk(&disk).start()?;
    vm.converged()?;
    let status = vm.ok("initctl status --all")?;
    demand(status.starts_with("generation 2, converged"), format!("it is another generation:\n{status}"))?;
    demand(vm.units("")?.len() > 25, "units are missing")?;
    demand(vm.not_just_kept()?.is_empty(), format!("not kept: {:?}", vm.not_just_kept()?))?;
    same("the tree after a reboot", &tree, &vm.tree("/var/site")?)?;
    same("inodes and times after a reboot", &before, &vm.ok(times)?)?;
    vm.power_off()?;
    left_clean(&disk)
}

/// A rollback makes the whole tree what it was: contents, owners, modes, attributes, links; also one of a generation
/// that an earlier boot applied.
fn rollback(context: &Context) -> Result {
    let guest = guest(context, 20)?;
    let disk = guest.disk("disk", 32)?;
    let mut vm = guest.machine(context)?.disk(&disk).start()?;
    vm.converged()?;
    vm.ok(FURNISH)?;
    let before = vm.tree("/var/site")?;
    vm.ok("initctl apply /root/second.toml")?;
    let applied = vm.tree("/var/site")?;
    demand(before != applied, "the apply changed nothing")?;
    println!("{}", vm.ok("initctl rollback 2>&1")?);
    same("the tree after a rollback", &before, &vm.tree("/var/site")?)?;
    vm.ok("initctl apply /root/second.toml")?;
    same("the tree after applying again", &applied, &vm.tree("/var/site")?)?;
    vm.type_power("reboot")?;
    vm.wait_for_power_off()?;
    let mut vm = guest.machine(context)?.disk(&disk).start()?;
    vm.converged()?;
    same("the tree after a reboot", &applied, &vm.tree("/var/site")?)?;
    vm.ok("initctl rollback 1")?;
    same("the tree after a rollback past a reboot", &before, &vm.tree("/var/site")?)?;
    vm.power_off()?;
    left_clean(&disk)
}
