//! The demonstration of `cargo boot`: the web example boots, is changed, repairs itself, and is taken back.

use std::time::{Duration, Instant};

use crate::Result;
use crate::context::Context;
use crate::qemu::Qemu;

/// The image that is shown.
pub const IMAGE: &str = "examples/web/image.toml";
/// What the console says when somebody may type.
pub const PROMPT: &str = ":~#";

/// Prints what is done and how long it took.
struct Steps {
    started: Instant,
}

impl Steps {
    fn step<T>(&self, name: &str, run: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
        let started = Instant::now();
        let (value, told) = run().map_err(|e| format!("{name}: {e}"))?;
        let (at, took) = (self.started.elapsed().as_secs_f32(), started.elapsed().as_secs_f32());
        println!("[{at:6.2} s] {name} ({took:.2} s)");
        for line in told.lines() {
            println!("             {line}");
        }
        Ok(value)
    }
}

/// Plays the demonstration; prints every step with its time.
///
/// # Errors
/// At the first step that does not hold.
pub fn play(context: &Context) -> Result {
    let steps = Steps { started: Instant::now() };
    let image = steps.step("the image is built", || Ok((context.image(IMAGE)?, String::new())))?;
    let machine = context.machine(&image)?.limit(Duration::from_secs(60));
    let mut vm = machine.start()?;
    let vm = &mut vm;
    steps.step("power on, to a shell on the console", || Ok((vm.wait_for(PROMPT)?, String::new())))?;
    steps.step("the machine is converged and all is ready", || {
        vm.run("initctl wait --converged --timeout 120s")?;
        let status = plainly(vm, "initctl status")?;
        let head = status.lines().next().unwrap_or_default().to_owned();
        demand(
            head.contains(", converged,") && !head.contains("waiting") && !head.contains("failed"),
            &status,
        )?;
        demand(page(vm)?.contains("First edition"), "the first page is not served")?;
        Ok(((), head))
    })?;
    let nginx = main_pid(vm)?;
    steps.step(
        "apply the second edition: nginx is reloaded, not restarted, and a service is added",
        || {
            let said = plainly(vm, "initctl apply /etc/holdfast/state-2.toml")?;
            served(vm, "Second edition")?;
            demand(page(vm)?.contains("X-Edition: second"), "the new configuration's header is missing")?;
            same_process(nginx, main_pid(vm)?)?;
            demand(vm.run("redis-cli -p 6380 ping")?.contains("PONG"), "redis-cache does not answer")?;
            Ok(((), said))
        },
    )?;
    steps.step("damage a managed file: it is repaired", || {
        let before = vm.run("sha256sum /etc/motd")?;
        let told = vm.run("latency '*file:/etc/motd*repaired*' sh -c 'echo damaged > /etc/motd'")?;
        let after = vm.run("sha256sum /etc/motd")?;
        demand(before == after, &format!("the file is not as it was: {before}, {after}; {told}"))?;
        Ok(((), told))
    })?;
    steps.step("kill -9 redis: it is started again", || {
        let before = redis_pid(vm)?;
        let told = vm.run(&format!("latency '*service:redis ready*' kill -9 {before}"))?;
        let after = redis_pid(vm)?;
        demand(before != after, "redis has the same main process as before")?;
        demand(vm.run("redis-cli ping")?.contains("PONG"), "redis does not answer")?;
        Ok(((), told))
    })?;
    steps.step("roll back: the old page again, and the added service is gone", || {
        let said = plainly(vm, "initctl rollback")?;
        served(vm, "First edition")?;
        same_process(nginx, main_pid(vm)?)?;
        demand(vm.answer("redis-cli -p 6380 ping")?.code != 0, "redis-cache still answers")?;
        Ok(((), said))
    })?;
    steps.step("power off, in order", || {
        vm.type_line("initctl poweroff")?;
        vm.wait_for_power_off()?;
        Ok(((), String::new()))
    })
}

/// As in a pipe: without colours and moving progress.
fn plainly(vm: &mut Qemu, command: &str) -> Result<String> {
    vm.run(&format!("(set -o pipefail; {command} 2>&1 | cat)"))
}

fn demand(holds: bool, what: &str) -> Result {
    if holds { Ok(()) } else { Err(what.to_owned().into()) }
}

fn same_process(before: u32, after: u32) -> Result {
    demand(before == after, &format!("nginx's main process was {before} and is {after}"))
}

fn page(vm: &mut Qemu) -> Result<String> {
    vm.run("fetch /")
}

/// nginx takes a signal to reload and tells nobody when it has; so it is asked until it answers with the page.
fn served(vm: &mut Qemu, edition: &str) -> Result {
    vm.run(&format!("timeout 20 sh -c 'until fetch / | grep -q \"{edition}\"; do :; done'")).map(drop)
}

fn main_pid(vm: &mut Qemu) -> Result<u32> {
    number(&vm.run("cat /run/nginx.pid")?)
}

/// The line that is a number: the kernel may say something on the console in between.
fn number(output: &str) -> Result<u32> {
    let found = output.lines().find_map(|l| l.trim().parse().ok());
    found.ok_or_else(|| format!("no number in {output:?}").into())
}

/// The main process of the database, told from the cache by its port.
fn redis_pid(vm: &mut Qemu) -> Result<String> {
    let info = vm.run("redis-cli info server")?;
    let pid = info.lines().find_map(|l| l.trim().strip_prefix("process_id:").map(str::to_owned));
    Ok(pid.ok_or("redis does not tell its process id")?)
}
