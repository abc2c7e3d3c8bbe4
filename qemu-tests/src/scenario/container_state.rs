//! `init --state FILE` in containers under runc: a whole state as the container's init, without the set-up of a
//! machine; on read-only roots, behind Docker's filter, as an ordinary user.

use std::time::Duration;

use serde_json::Value;

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::oci::{self, Container, Running, Spec, Stream};

const LIMIT: Duration = Duration::from_secs(180);

const fn scenario(name: &'static str, run: fn(&Context) -> Result) -> Scenario {
    Scenario { name, group: "container", limit: LIMIT, run }
}

/// See the module.
pub const ALL: &[Scenario] = &[
    scenario("container-state", |c| web(c, &Spec::default())),
    scenario("container-state-read-only", |c| {
        web(c, &Spec { read_only: true, filter: true, tmpfs: &["/run"], ..Spec::default() })
    }),
    scenario("container-state-user", |c| {
        web(
            c,
            &Spec { uid: 1000, read_only: true, filter: true, tmpfs: &["/run", "/tmp"], ..Spec::default() },
        )
    }),
    scenario("container-state-code", code_of_main),
    scenario("container-state-stop", stop_in_order),
    scenario("container-state-broken", broken),
];

/// Where everything lies that init writes: a container has nothing else that is its own.
const PLACES: [&str; 4] = ["--store", "/run/store", "--logs", "/run/log"];

fn command(file: &str) -> Vec<&str> {
    [&["/sbin/init", "--state", file][..], &PLACES].concat()
}

/// A command in the container that must exit with 0.
fn ok(container: &Container, running: &mut Running, words: &[&str]) -> Result<String> {
    let said = container.exec(words)?;
    if said.code == 0 {
        return Ok(said.out);
    }
    Err(format!("{words:?} ended with {}: {}{}\ninit: {}", said.code, said.out, said.err, running.text())
        .into())
}

fn converge(container: &Container, running: &mut Running) -> Result {
    ok(container, running, &["initctl", "wait", "--converged", "--timeout", "25s"]).map(drop)
}

fn status(container: &Container, running: &mut Running, unit: &str) -> Result<Value> {
    let text = ok(container, running, &["initctl", "--json", "status", unit])?;
    let value: Value = serde_json::from_str(&text)?;
    let units = value.get("units").and_then(Value::as_array).cloned().unwrap_or_default();
    units.into_iter().next().ok_or_else(|| format!("no status of {unit}: {text}").into())
}

/// The example: it comes up, answers, is controlled by initctl, repairs itself, stops in order.
fn web(context: &Context, spec: &Spec<'_>) -> Result {
    let root = oci::root(context)?;
    let own = if spec.read_only { None } else { Some(oci::writable_root(&root)?) };
    let root = own.as_ref().map_or(root.as_path(), |o| o.path());
    let words = command("/etc/holdfast/state.toml");
    let container = Container::new(root, &Spec { arguments: &words, ..spec.clone() })?;
    let mut running = container.start()?;
    running.until(Stream::Error, "")?;
    converge(&container, &mut running)?;

    let fetch = "exec 3<>/dev/tcp/127.0.0.1/8080; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
    let page = ok(&container, &mut running, &["bash", "-c", fetch])?;
    if !page.contains("200 OK") || !page.contains("kept as its state file says") {
        return Err(format!("the web server answers:\n{page}").into());
    }
    // What it prints is the container's output.
    running.until_said(Stream::Output, "GET / HTTP/1.0")?;
    no_set_up(&container, root, spec)?;

    // A damaged file is repaired, and a killed service runs again.
    let page = "/run/web/site/index.html";
    ok(&container, &mut running, &["sh", "-c", &format!("echo oops > {page}")])?;
    ok(&container, &mut running, &["sh", "-c", &format!("until grep -q kept {page}; do sleep 0.05; done")])?;
    let pid = |v: &Value| v.get("pid").and_then(Value::as_i64);
    let before = pid(&status(&container, &mut running, "service:redis")?).ok_or("redis has no process")?;
    ok(&container, &mut running, &["sh", "-c", &format!("kill -9 {before}")])?;
    converge(&container, &mut running)?;
    ok(&container, &mut running, &["initctl", "wait", "--ready", "service:redis", "--timeout", "20s"])?;
    let after = pid(&status(&container, &mut running, "service:redis")?);
    if after.is_none() || after == Some(before) {
        return Err(format!("redis was process {before} and is {after:?}").into());
    }

    container.kill("TERM")?;
    let said = running.ended()?;
    if said.code != 0 {
        return Err(format!("the container ended with {}:\n{}{}", said.code, said.out, said.err).into());
    }
    // Who may not write to a cgroup is told what that means, once.
    let told = said.err.matches("there are no cgroups for services: cannot ").count();
    if said.err.lines().filter(|l| l.contains("cgroup")).count() != told || (spec.uid != 0 && told != 1) {
        return Err(format!("that there are no cgroups is told {told} times:\n{}", said.err).into());
    }
    Ok(())
}

/// Init mounts nothing, and the host name and kernel settings are the runtime's.
fn no_set_up(container: &Container, root: &std::path::Path, spec: &Spec<'_>) -> Result {
    let look = ["sh", "-c", "cut -d ' ' -f 4-6 /proc/self/mountinfo; cat /proc/sys/kernel/hostname"];
    let with = container.exec(&look)?;
    let plain = Container::new(root, &Spec { arguments: &look, ..spec.clone() })?.run()?;
    let lines = |text: &str| -> Vec<String> {
        // A container's cgroup and directory have its name.
        text.lines().filter(|l| !l.contains("holdfast-")).map(str::to_owned).collect()
    };
    if lines(&with.out) == lines(&plain.out) {
        Ok(())
    } else {
        Err(format!("mounts with init:\n{}\nand without:\n{}", with.out, plain.out).into())
    }
}

/// A container with this state, on a read-only root.
fn with_state(context: &Context, state: &str, run: impl FnOnce(&Container) -> Result) -> Result {
    let root = oci::root(context)?;
    let file = tempfile::Builder::new().suffix(".toml").tempfile()?;
    std::fs::write(file.path(), state)?;
    std::fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    let words = command("/run/state.toml");
    let spec = Spec {
        arguments: &words,
        read_only: true,
        filter: true,
        tmpfs: &["/run"],
        binds: &[(file.path(), "/run/state.toml")],
        ..Spec::default()
    };
    run(&Container::new(&root, &spec)?)
}

/// When `main` ends for good, the rest is stopped and the container has its code, though one service never gets ready and
/// a command runs. `other` says that it is ready when its trap stands: a shell that is asked to stop before that ends
/// without a word.
fn code_of_main(context: &Context) -> Result {
    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -KILL $$", 137)] {
        let state = format!(
            "[service.main]\nexec = [\"sh\", \"-c\", \"{script}\"]\nrestart = \"never\"\nafter = [\"service:other\"]\n\
             [service.silent]\nexec = [\"sleep\", \"1000\"]\nready = \"notify\"\nstart-timeout = \"1h\"\n\
             [exec.long]\ncommand = [\"sleep\", \"1000\"]\nonce = \"boot\"\ntimeout = \"1h\"\n\
             [service.other]\nlog = \"console\"\nready = \"fd=3\"\n\
             exec = [\"bash\", \"-c\", \"\"\"trap 'echo other stops; kill $!; exit' TERM
             sleep 1000 3>&- &
             echo >&3
             wait $!\"\"\"]\n"
        );
        with_state(context, &state, |container| {
            let said = container.run()?;
            if said.code != code {
                return Err(format!("{script:?} gives {}:\n{}{}", said.code, said.out, said.err).into());
            }
            if !said.out.contains("other stops") {
                return Err(
                    format!("the other service was not asked to stop:\n{}{}", said.out, said.err).into()
                );
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// On SIGTERM what requires others stops first; then the container ends with the code of `main`.
fn stop_in_order(context: &Context) -> Result {
    let service = |name: &str, more: &str| {
        format!(
            "[service.{name}]\nlog = \"console\"\nready = \"fd=3\"\n{more}\nexec = [\"bash\", \"-c\", \"\"\"
             trap 'echo {name} stops; kill $!; exit 5' TERM
             sleep 1000 3>&- &
             echo {name} starts
             echo >&3
             wait $!\"\"\"]\n"
        )
    };
    let state = [
        service("base", ""),
        service("middle", "requires = [\"service:base\"]"),
        service("main", "requires = [\"service:middle\"]"),
    ]
    .concat();
    for signal in ["TERM", "INT"] {
        with_state(context, &state, |container| {
            let mut running = container.start()?;
            running.until(Stream::Output, "main starts")?;
            container.kill(signal)?;
            let said = running.ended()?;
            let order: Vec<&str> = said.out.lines().filter(|l| l.contains("stops")).collect();
            if order != ["main stops", "middle stops", "base stops"] || said.code != 5 {
                return Err(format!("ended with {} after {order:?}:\n{}", said.code, said.err).into());
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// A state file with a mistake: the container says what and where, and ends.
fn broken(context: &Context) -> Result {
    with_state(context, "[service.main]\nexce = [\"true\"]\n", |container| {
        let said = container.run()?;
        if said.code == 2 && said.err.contains("exce") && said.err.contains("exec") {
            return Ok(());
        }
        Err(format!("ended with {}:\n{}{}", said.code, said.out, said.err).into())
    })
}
