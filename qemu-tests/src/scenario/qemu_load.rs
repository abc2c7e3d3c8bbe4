//! Limits by cgroup, PID 1's survival under load, and orphans in great number, on the real kernel.

use super::{Scenario, minutes};
use crate::Result;
use crate::context::Context;
use crate::guest::{BASE, DISK, Guest, demand, same};
use crate::qemu::Qemu;

/// See the module.
pub const ALL: &[Scenario] = &[
    Scenario { name: "qemu-limits", group: "qemu", limit: minutes(4), run: limits },
    Scenario { name: "qemu-reexec-under-load", group: "qemu", limit: minutes(6), run: under_load },
    Scenario { name: "qemu-orphans", group: "qemu", limit: minutes(15), run: orphans },
];

/// KiB of memory that init itself occupies.
fn memory(vm: &mut Qemu) -> Result<u64> {
    Ok(vm.ok("awk '/^RssAnon/ { print $2 }' /proc/1/status")?.trim().parse()?)
}

/// What a service's cgroup allows holds: one that eats memory is killed and started again, one that forks without end
/// gets no further than its limit, and neither makes init grow or hinders others.
fn limits(context: &Context) -> Result {
    let state = r#"
[service.steady]
exec = ["sleep", "infinity"]

[service.hog]
exec          = ["tail", "/dev/zero"]
restart-limit = 0
restart-delay = "200ms"
restart-max   = "200ms"
start         = "manual"
cgroup        = { "memory.max" = "16M" }

[service.bomb]
exec   = ["sh", "-c", "b() { while :; do sleep 1000 & done; }; b 2>/dev/null & b 2>/dev/null & exec sleep infinity"]
start  = "manual"
cgroup = { "pids.max" = "50" }
"#;
    let guest = Guest::new(context, state, &[])?;
    let mut vm = guest.machine(context)?.start()?;
    vm.wait_for_shell()?;
    vm.ok("initctl wait --ready service:steady --timeout 60s")?;
    let controllers = vm.ok("cat /sys/fs/cgroup/cgroup.controllers")?;
    demand(
        controllers.contains("memory") && controllers.contains("pids"),
        format!("no controllers: {controllers}"),
    )?;
    let steady = vm.unit("service:steady")?.get("pid").cloned();
    let before = memory(&mut vm)?;

    vm.ok("initctl start service:bomb")?;
    let cgroup = "/sys/fs/cgroup$(sed 's/^0:://' /proc/$(initctl --json status service:bomb | sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/')/cgroup)";
    vm.ok(&format!("bomb={cgroup}; echo $bomb; timeout 60 sh -c \"until grep -q '^max [1-9]' $bomb/pids.events; do :; done\""))?;
    same("the limit", "50", &vm.ok("cat $bomb/pids.max")?)?;
    let count: u32 = vm.ok("cat $bomb/pids.current")?.trim().parse()?;
    demand((2..=50).contains(&count), format!("{count} processes"))?;
    vm.ok("initctl status service:bomb")?;
    vm.ok("initctl stop service:bomb")?;
    vm.ok("! test -d $bomb || grep -q 'populated 0' $bomb/cgroup.events")?;

    vm.answer("initctl start service:hog")?;
    vm.until("initctl --json status service:hog | grep -q '\"restarts\":[3-9]'")?;
    let killed = vm.ok("dmesg | grep -c 'Memory cgroup out of memory: Killed process'")?;
    println!("killed for want of memory: {killed} times");
    demand(killed.trim().parse::<u32>()? >= 3, "the kernel killed nobody")?;
    vm.ok("initctl stop service:hog")?;
    demand(vm.unit("service:steady")?.get("pid").cloned() == steady, "another service was hit")?;
    let after = memory(&mut vm)?;
    println!("memory of init: {before} KiB before, {after} KiB after");
    demand(after <= before + 256, format!("init has grown from {before} to {after} KiB"))?;
    vm.power_off()
}

const FILES: usize = 500;

fn many(text: &str) -> String {
    let mut out = format!("{BASE}{DISK}{LOAD}");
    for n in 0..FILES {
        out.push_str(&format!("[file.\"/var/site/many/{}/{n}\"]\ncontent = \"{text} {n}\\n\"\n", n % 10));
    }
    out
}

const LOAD: &str = r#"
[service.steady]
exec = ["sleep", "infinity"]

[service.told]
exec   = ["sh", "-c", "trap 'echo again >> /run/told' HUP; echo up >&3; exec 3>&-; while :; do sleep 0.1; done"]
ready  = "fd=3"
reload = "HUP"

[service.idle]
exec = ["sleep", "infinity"]

[service.churn]
exec = ["sleep", "infinity"]

[service.writer]
exec     = ["sh", "-c", "n=0; while :; do echo $n; n=$((n+1)); sleep 0.01; done"]
log-size = "64K"
"#;

/// init is executed again, panics, and faults, each in the middle of an apply of many files while services start,
/// stop, crash and are reloaded: each apply ends, and no service notices.
fn under_load(context: &Context) -> Result {
    let states: Vec<(String, String)> =
        ["one", "two", "three"].iter().map(|t| (format!("/root/{t}.toml"), many(t))).collect();
    let usual = format!("{BASE}{DISK}{LOAD}");
    let mut files = vec![("/etc/holdfast/state.toml", &*usual)];
    files.extend(states.iter().map(|(path, text)| (&**path, &**text)));
    let guest = Guest::new(context, DISK, &files)?;
    let disk = guest.disk("disk", 32)?;
    let mut vm = guest.machine(context)?.disk(&disk).append("HOLDFAST_TEST=1").processors(2).start()?;
    vm.wait_for_shell()?;
    for unit in ["told", "steady", "writer"] {
        vm.until_state(&format!("service:{unit}"), "ready")?;
    }
    let pids = |vm: &mut Qemu| -> Result<Vec<i64>> {
        let pid = |vm: &mut Qemu, unit: &str| -> Result<i64> {
            let told = vm.unit(&format!("service:{unit}"))?;
            Ok(told
                .get("pid")
                .and_then(serde_json::Value::as_i64)
                .ok_or_else(|| format!("no pid: {told}"))?)
        };
        ["shell", "steady", "told", "writer"].iter().map(|u| pid(vm, u)).collect()
    };
    let before = pids(&mut vm)?;
    vm.ok("(while test ! -e /run/enough; do initctl restart service:churn; initctl stop service:idle; initctl reload service:told; initctl start service:idle; done > /dev/null 2>&1 &)")?;
    for (turn, (text, blow)) in
        [("one", "initctl reexec"), ("two", "kill -s RTMIN+20 1 || kill -54 1"), ("three", "kill -SEGV 1")]
            .iter()
            .enumerate()
    {
        let taken = format!("test $(dmesg | grep -c 'has taken over') -gt {turn}");
        // In the middle: some contents are staged, and not one is in its place.
        let middle =
            "timeout 60 sh -c 'until test $(ls /var/lib/holdfast/staging | wc -l) -gt 50; do :; done'";
        vm.ok(&format!("(initctl apply /root/{text}.toml > /run/apply.{text} 2>&1; echo $? > /run/code.{text}) & {middle}; {blow}"))?;
        vm.until(&taken)?;
        println!("{}", vm.ok(&format!("wait; tail -n 3 /run/apply.{text}; cat /run/code.{text}"))?);
        vm.ok("timeout 100 initctl wait --converged --timeout 90s; true")?;
        let status = vm.ok("initctl status | head -n 1")?;
        println!("{status}");
        if !status.starts_with(&format!("generation {}", turn + 2)) {
            let all = vm.ok(&format!("initctl generations; cat /run/apply.{text}; dmesg | grep holdfast"))?;
            return Err(format!("another generation: {status}\n{all}").into());
        }
        let found = vm.ok(&format!("cat /var/site/many/*/* | grep -c '^{text} '"))?;
        same("the files of the apply", &FILES.to_string(), found.trim())?;
        demand(pids(&mut vm)? == before, format!("a service has another process after {blow:?}"))?;
    }
    vm.ok("touch /run/enough; test -s /run/told")?;
    // It still is everybody's parent.
    vm.ok("kill -9 $(initctl --json status service:steady | sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/') && initctl wait --ready service:steady --timeout 60s")?;
    vm.power_off()?;
    crate::guest::left_clean(&disk)
}

/// Ten thousand orphans are buried, and init is as small as before.
fn orphans(context: &Context) -> Result {
    let count: usize = if context.full { 50_000 } else { 10_000 };
    let guest = Guest::new(context, "", &[])?;
    let mut vm = guest.machine(context)?.start()?;
    vm.wait_for_shell()?;
    let before = memory(&mut vm)?;
    let forks = "awk '/^processes/ { print $2 }' /proc/stat";
    let earlier: usize = vm.ok(forks)?.trim().parse()?;
    // Their parents end while they wait at a pipe; then 500 end at once. A shell copies what it knows of its children
    // into each of them, so that one with 500 would take most of its time for that.
    let family = "(n=0; while [ $n -lt 20 ]; do : < /run/gate & n=$((n+1)); done)";
    let crowd = format!("m=0; while [ $m -lt 25 ]; do {family}; m=$((m+1)); done");
    let begun = std::time::Instant::now();
    vm.ok("mkfifo /run/gate")?;
    for _ in 0..count / 10_000 {
        vm.ok(&format!("t=0; while [ $t -lt 20 ]; do {crowd}; : <> /run/gate; t=$((t+1)); done"))?;
    }
    vm.ok("exec 5<>/run/gate")?;
    println!("{count} orphans after {:?}", begun.elapsed());
    let made = vm.ok(forks)?.trim().parse::<usize>()? - earlier;
    demand(made >= count, format!("there were {made} processes only"))?;
    vm.ok("initctl status")?;
    let zombies = vm.ok("timeout 60 sh -c 'while grep -sq \"^State:.Z\" /proc/[0-9]*/status; do sleep 0.1; done'; grep -s '^State:.Z' /proc/[0-9]*/status | wc -l")?;
    same("processes that are not buried", "0", zombies.trim())?;
    let after = memory(&mut vm)?;
    println!("memory of init: {before} KiB before, {after} KiB after {count} orphans");
    demand(after <= before + 256, format!("init has grown from {before} to {after} KiB"))?;
    vm.power_off()
}
