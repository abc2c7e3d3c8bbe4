//! The query service as a process, on real sockets, with a store that the committer made.
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod accounts;
#[path = "../common/mod.rs"]
mod common;
mod connections;
mod missing;

use std::fs;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use cm_core::proto::{Action, Intent, ManifestRef, Outcome};
use cm_core::store::{Record, hex};
use cm_core::sys::{Forked, fork};
use cm_core::worker::compile::sealed;
use cm_core::worker::confine;
use common::{Bench, Decl, fingerprint};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};
use units::compile::Where;
use units::kind::Spec;
use units::kind::group::Group;
use units::load::MemoryLoader;
use units::{Kind, Manifest, compile};

/// A machine below a directory, and a query service on its store.
struct Host {
    bench: Bench,
    running: Option<(u64, Manifest)>,
    listener: UnixListener,
    child: Option<Child>,
}

impl Host {
    fn new() -> Host {
        let bench = Bench::new();
        let listener = UnixListener::bind(bench.dir.path().join("run/control.store")).unwrap();
        Host { bench, running: None, listener, child: None }
    }

    fn state(&self) -> PathBuf {
        self.bench.dir.path().join("state.toml")
    }

    /// Writes the state file and makes it the current generation, as PID 1 and the worker do.
    fn apply(&mut self, text: &str) -> u64 {
        fs::write(self.state(), text).unwrap();
        let path = self.state().to_string_lossy().into_owned();
        let mut loader = MemoryLoader::new().file(&path, text);
        for entry in fs::read_dir(self.bench.dir.path()).unwrap().flatten().filter(|e| e.path().is_file()) {
            loader = loader.file(&entry.path().to_string_lossy(), fs::read(entry.path()).unwrap());
        }
        let compiled = compile(&path, &mut loader);
        let render = |d| units::diagnostic::render(d, &compiled.sources);
        let manifest = compiled
            .manifest
            .unwrap_or_else(|| panic!("{}", compiled.diagnostics.iter().map(render).collect::<String>()));
        let boot = self.bench.dir.path().join("boot");
        for (content, place) in &compiled.contents {
            let bytes = match place {
                Where::Inline(bytes) => bytes.clone(),
                Where::Source(path) => fs::read(path).unwrap(),
            };
            fs::write(boot.join(hex(&content.digest)), bytes).unwrap();
        }
        let store = self.bench.store();
        store.lock().unwrap();
        let n = store.prepare(&manifest, &[boot], "root: apply", false).unwrap();
        store.unlock();
        self.bench.switching(n);
        let mut steps = Vec::new();
        if let Some((generation, old)) = self.running.take() {
            let name = ManifestRef(u32::try_from(generation).unwrap() + 100);
            self.bench.manifests.insert(name, (generation, old));
            let gone = self.bench.steps(name, Action::Remove);
            let old = self.bench.manifest(name).clone();
            steps.extend(
                gone.into_iter().filter(|s| manifest.find(old.kind(s.unit), old.name(s.unit)).is_none()),
            );
        }
        let name = ManifestRef(u32::try_from(n).unwrap() + 200);
        self.bench.manifests.insert(name, (n, manifest.clone()));
        steps.extend(self.bench.steps(name, Action::Converge));
        self.bench.run(n, Intent::Apply, steps);
        self.bench.commit(n);
        self.running = Some((n, manifest));
        n
    }

    /// Starts the service, unless it runs.
    fn serve(&mut self) {
        if self.child.as_mut().is_some_and(|c| c.try_wait().unwrap().is_none()) {
            return;
        }
        let dir = self.bench.dir.path();
        let mut command = Command::new("sh");
        // The listening socket is descriptor 3, as PID 1 hands it over.
        command.args(["-c", "exec \"$0\" \"$@\" 3<&0 </dev/null", env!("CARGO_BIN_EXE_cm-worker"), "query"]);
        for (flag, sub) in [
            ("--store", "store"),
            ("--run", "run"),
            ("--root", "root"),
            ("--proc-sys", "proc_sys"),
            ("--boot", "gone"),
        ] {
            command.arg(flag).arg(dir.join(sub));
        }
        let listener: std::os::fd::OwnedFd = self.listener.try_clone().unwrap().into();
        self.child = Some(command.stdin(listener).spawn().unwrap());
    }

    fn connect(&mut self) -> Client {
        self.serve();
        let stream = UnixStream::connect(self.bench.dir.path().join("run/control.store")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Client { stream, buffer: Vec::new() }
    }

    /// Calls with `more`, and gives the parameters of every reply; an error as its name and parameters.
    fn call(&mut self, method: &str, parameters: Value) -> Result<Vec<Value>, (String, Value)> {
        self.connect().call(&format!("io.holdfast.Store.{method}"), parameters)
    }

    fn plan(&mut self, parameters: Value) -> (Vec<Value>, Value) {
        let mut replies = self.call("Plan", parameters).unwrap();
        let summary = replies.pop().unwrap()["summary"].clone();
        (replies.into_iter().map(|r| r["change"].clone()).collect(), summary)
    }

    /// Plans another text for the state file.
    fn plan_of(&mut self, text: &str) -> (Vec<Value>, Value) {
        let path = self.bench.dir.path().join("next.toml");
        fs::write(&path, text).unwrap();
        self.plan(json!({ "path": path }))
    }

    fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        let status = self.child.take().unwrap().wait().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(20));
        status
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

struct Client {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Client {
    fn send(&mut self, method: &str, parameters: &Value, more: bool) {
        let call = json!({ "method": method, "parameters": parameters, "more": more });
        self.stream.write_all(format!("{call}\0").as_bytes()).unwrap();
    }

    fn reply(&mut self) -> Option<Value> {
        loop {
            if let Some(at) = self.buffer.iter().position(|b| *b == 0) {
                let frame: Vec<u8> = self.buffer.drain(..=at).collect();
                return Some(serde_json::from_slice(&frame[..at]).unwrap());
            }
            let mut chunk = [0; 8192];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(e) => panic!("{e}"),
            }
        }
    }

    fn answers(&mut self) -> Result<Vec<Value>, (String, Value)> {
        let mut out = Vec::new();
        loop {
            let reply = self.reply().expect("an answer");
            if let Some(error) = reply["error"].as_str() {
                return Err((error.to_owned(), reply["parameters"].clone()));
            }
            out.push(reply["parameters"].clone());
            if reply["continues"] != true {
                return Ok(out);
            }
        }
    }

    fn call(&mut self, method: &str, parameters: Value) -> Result<Vec<Value>, (String, Value)> {
        self.send(method, &parameters, true);
        self.answers()
    }
}

fn lines(changes: &[Value]) -> Vec<String> {
    let word = |v: &Value| v.as_str().unwrap().to_owned();
    changes
        .iter()
        .map(|c| format!("{} {}: {}", word(&c["verb"]), word(&c["unit"]), word(&c["reason"])))
        .collect()
}

const FIRST: &str = r#"
[file."/etc/motd"]
content = "hello\n"
mode = "0644"
[file."/etc/key"]
content = "hush one\n"
secret = true
[file."/etc/old"]
content = "old\n"
[symlink."/etc/link"]
target = "motd"
[service.web]
exec = ["/bin/web"]
reload = "HUP"
requires = ["file:/etc/motd"]
reload-on = ["file:/etc/motd"]
"#;

#[test]
fn a_plan_names_each_change_with_its_diff() {
    let mut host = Host::new();
    host.bench.program("/usr/bin/true", "", 0o755);
    host.apply(FIRST);
    let (changes, summary) = host.plan_of(FIRST);
    assert_eq!(lines(&changes), [""; 0]);
    assert_eq!((&summary["generation"], &summary["units"]), (&json!(1), &json!(5)));

    let second = FIRST
        .replace("hello", "goodbye")
        .replace("hush one", "hush two")
        .replace("[file.\"/etc/old\"]\ncontent = \"old\\n\"\n", "")
        .replace("target = \"motd\"", "target = \"other\"")
        + "[file.\"/etc/new\"]\ncontent = \"new\\n\"\n[exec.once]\ncommand = [\"true\"]\nonce = \"ever\"\n";
    // What the first plan staged may be on its way out still.
    host.ended();
    let before = fingerprint(host.bench.dir.path());
    let (changes, summary) = host.plan_of(&second);
    assert_eq!(
        lines(&changes),
        [
            "remove file:/etc/old: no longer declared",
            "change file:/etc/key: content differs",
            "change file:/etc/motd: content differs",
            "reload service:web: file:/etc/motd changed",
            "create file:/etc/new: it is not there",
            "change symlink:/etc/link: points elsewhere",
            "start exec:once: newly declared; no guard keeps it from running",
        ]
    );
    assert_eq!(summary, json!({ "generation": 1, "units": 6, "same": false, "held": 0 }));
    let diff = |unit: &str| {
        let found = changes.iter().find(|c| c["unit"] == unit).unwrap();
        found["diff"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(diff("file:/etc/motd"), "--- /etc/motd\n+++ /etc/motd\n@@ -1 +1 @@\n-hello\n+goodbye\n");
    assert_eq!(diff("file:/etc/new"), "--- /dev/null\n+++ /etc/new\n@@ -0,0 +1 @@\n+new\n");
    assert_eq!(diff("symlink:/etc/link"), "-motd\n+other\n");
    assert_eq!(diff("file:/etc/key"), "secret: not shown\n");
    assert_eq!(changes.last().unwrap()["oneWay"], true);
    assert!(!format!("{changes:?}").contains("hush"));
    let (changes, _) = host.plan_of(&FIRST.replace("secret = true", "").replace("hush one", "public"));
    assert_eq!(lines(&changes), ["change file:/etc/key: content differs"]);
    assert!(!format!("{changes:?}").contains("hush"), "it was secret: {changes:?}");
    // Asking changes nothing: neither the machine nor the store, and what was staged is gone.
    drop(host.connect());
    host.ended();
    let after = fingerprint(host.bench.dir.path());
    let differ = |l: &&String| !l.starts_with("next.toml") && !l.starts_with("run");
    assert_eq!(
        before.iter().filter(differ).collect::<Vec<_>>(),
        after.iter().filter(differ).collect::<Vec<_>>()
    );
    assert!(fs::read_dir(host.bench.dir.path().join("run/query")).unwrap().next().is_none());
}

#[test]
fn drift_is_planned_and_verified() {
    let mut host = Host::new();
    host.apply(FIRST);
    let all = host.call("Verify", json!({ "all": true })).unwrap();
    assert_eq!(all.len(), 6);
    assert_eq!(all[5]["summary"], json!({ "generation": 1, "units": 5, "wrong": 0, "storeDamaged": [] }));
    host.bench.write("/etc/motd", "edited\n");
    fs::remove_file(host.bench.path("/etc/link")).unwrap();
    let (changes, summary) = host.plan(json!({ "path": host.state() }));
    assert_eq!(summary["same"], true);
    assert_eq!(
        lines(&changes),
        [
            "change file:/etc/motd: drifted: content differs",
            "create symlink:/etc/link: drifted: it is not there"
        ]
    );
    assert!(changes[0]["diff"].as_str().unwrap().contains("-edited\n+hello\n"));
    let blob =
        fs::read_dir(host.bench.dir.path().join("store/blobs")).unwrap().flatten().next().unwrap().path();
    let blob = fs::read_dir(blob).unwrap().flatten().next().unwrap().path();
    fs::write(&blob, "damaged").unwrap();
    let wrong = host.call("Verify", json!({})).unwrap();
    let units: Vec<_> = wrong.iter().filter_map(|r| r["unit"]["unit"].as_str()).collect();
    assert_eq!(units, ["file:/etc/motd", "symlink:/etc/link"]);
    assert_eq!(wrong[0]["unit"]["outcome"], "drifted");
    let summary = &wrong[2]["summary"];
    assert_eq!(summary["wrong"], 2);
    assert!(summary["storeDamaged"][0].as_str().unwrap().contains(&*blob.to_string_lossy()), "{summary}");
}

#[test]
fn generations_and_their_differences() {
    let mut host = Host::new();
    assert_eq!(host.call("Generations", json!({})).unwrap(), [json!({ "generations": [] })]);
    assert_eq!(host.call("Diff", json!({})).unwrap_err().0, "io.holdfast.Store.NoSuchGeneration");
    host.apply(FIRST);
    let second = FIRST.replace("hello", "goodbye").replace("0644", "0600").replace("hush one", "hush two");
    host.apply(&second.replace("secret = true", "secret = true\nmode = \"0600\""));
    let list = host.call("Generations", json!({})).unwrap();
    let list = list[0]["generations"].as_array().unwrap();
    let short: Vec<_> =
        list.iter().map(|g| (g["number"].as_u64().unwrap(), g["state"].as_str().unwrap())).collect();
    assert_eq!(short, [(2, "current"), (1, "kept")]);
    assert_eq!((&list[0]["units"], &list[0]["note"]), (&json!(5), &json!("root: apply")));
    assert!(list[0]["time"].as_u64().unwrap() > 1_000_000_000_000_000_000);

    let diff = host.call("Diff", json!({})).unwrap();
    assert_eq!((&diff[0]["from"], &diff[0]["to"]), (&json!(1), &json!(2)));
    let changes = diff[0]["changes"].as_array().unwrap();
    assert_eq!(
        lines(changes),
        ["changed file:/etc/key: content, mode", "changed file:/etc/motd: content, mode"]
    );
    assert_eq!(changes[0]["diff"], "secret: not shown (mode)\n");
    let motd = changes[1]["diff"].as_str().unwrap();
    assert!(motd.starts_with("-mode = \"0644\"\n+mode = \"0600\"\n--- /etc/motd\n"), "{motd}");
    assert!(motd.ends_with("-hello\n+goodbye\n"), "{motd}");
    assert!(!changes[0].to_string().contains("hush"));
    let back = host.call("Diff", json!({ "from": 2, "to": 1 })).unwrap();
    assert!(back[0]["changes"][1]["diff"].as_str().unwrap().ends_with("-goodbye\n+hello\n"));
    assert_eq!(host.call("Diff", json!({ "from": 7 })).unwrap_err().0, "io.holdfast.Store.NoSuchGeneration");
}

#[test]
fn earlier_versions_are_listed_and_read() {
    let mut host = Host::new();
    host.bench.write("/etc/motd", "before holdfast\n");
    host.apply(FIRST);
    let versions = host.call("History", json!({ "unit": "file:/etc/motd" })).unwrap();
    let versions = versions[0]["versions"].as_array().unwrap().clone();
    assert_eq!(versions.len(), 1, "{versions:?}");
    assert_eq!((&versions[0]["size"], &versions[0]["why"]), (&json!(16), &json!("apply")));
    let digest = versions[0]["digest"].clone();
    let content = host.call("Content", json!({ "unit": "file:/etc/motd", "digest": digest })).unwrap();
    assert_eq!(content[0]["data"], "YmVmb3JlIGhvbGRmYXN0Cg==");
    let other = host.call("Content", json!({ "unit": "file:/etc/old", "digest": digest }));
    assert_eq!(other.unwrap_err().0, "io.holdfast.Store.InvalidParameter");
}

#[test]
fn history_says_who_replaced_what_and_nothing_of_secrets() {
    let mut host = Host::new();
    host.bench.write("/etc/key", "their hush\n");
    host.apply(FIRST);
    host.bench.write("/etc/motd", "theirs\n");
    host.bench.write("/etc/key", "their other hush\n");
    let name = ManifestRef(201);
    let steps = host.bench.steps(name, Action::Converge);
    host.bench.run(1, Intent::Correct, steps);
    let versions = host.call("History", json!({})).unwrap();
    let versions = versions[0]["versions"].as_array().unwrap().clone();
    let of = |unit: &str| -> Vec<Value> { versions.iter().filter(|v| v["unit"] == unit).cloned().collect() };
    let motd = of("file:/etc/motd");
    let told: Vec<String> = motd
        .iter()
        .map(|v| format!("{} {} {}", v["why"], v["generation"], v["was"]).replace('"', ""))
        .collect();
    assert!(told.iter().any(|t| t.starts_with("repair null file, mode 0644")), "{told:?}");
    // Where nothing was, nothing was replaced.
    assert_eq!(told.len(), 1, "{told:?}");
    let theirs = motd.iter().find(|v| v["why"] == "repair").unwrap()["digest"].clone();
    let content = host.call("Content", json!({ "unit": "file:/etc/motd", "digest": theirs })).unwrap();
    assert_eq!(content[0]["data"], "dGhlaXJzCg==");
    let key = of("file:/etc/key");
    assert_eq!(key.len(), 2, "{key:?}");
    for version in key {
        assert_eq!(
            (&version["secret"], &version["digest"], &version["size"]),
            (&json!(true), &json!(""), &json!(0))
        );
    }
    // Who knows the digest from elsewhere is told no more; that it is no longer declared secret does not help.
    host.apply(&FIRST.replace("secret = true", ""));
    let digest = hex(&units::load::content_of(b"their hush\n").digest);
    let asked = host.call("Content", json!({ "unit": "file:/etc/key", "digest": digest }));
    assert!(asked.unwrap_err().1["text"].as_str().unwrap().contains("it is secret"));
}

/// What was not replaced is not told, and what was is told once: with why and when, whatever became of it since.
#[test]
fn history_tells_exactly_what_was_replaced() {
    let mut host = Host::new();
    let told = |host: &mut Host| -> Vec<String> {
        let versions = host.call("History", json!({ "unit": "file:/etc/motd" })).unwrap();
        let versions = versions[0]["versions"].as_array().unwrap().clone();
        assert!(versions.iter().all(|v| v["time"].as_u64().unwrap() > 1_000_000_000_000_000_000));
        versions
            .iter()
            .map(|v| format!("{} {} {}", v["why"], v["generation"], v["size"]).replace('"', ""))
            .collect()
    };
    host.bench.write("/etc/motd", "before holdfast\n");
    let one = Decl::new().file("/etc/motd", "one");
    let two = Decl::new().file("/etc/motd", "two two");
    let (none, bench) = (Decl::new(), &mut host.bench);
    let (n0, _) = bench.apply(None, &none);
    let (n1, _) = bench.apply(Some((n0, &none)), &one);
    let (n2, _) = bench.apply(Some((n1, &one)), &two);
    bench.switching(n1);
    bench.swap(Some((n2, &two)), (n1, &one), Intent::Return);
    bench.commit(n1);
    // Newest first, although they are of one second.
    assert_eq!(told(&mut host), ["return 2 7", "apply 3 3", "apply 2 16"]);
    let (name, parameters) = host.call("History", json!({ "unit": "file:/etc/modt" })).unwrap_err();
    assert_eq!(
        (name.as_str(), &parameters["nearest"]),
        ("io.holdfast.Store.NoSuchUnit", &json!("file:/etc/motd"))
    );
}

/// What an apply purged that was then returned from is on the machine as before; what was purged for good is told.
#[test]
fn history_tells_nothing_of_purges_that_were_undone() {
    let mut host = Host::new();
    let told = |host: &mut Host| -> Vec<String> {
        let versions = host.call("History", json!({})).unwrap();
        let versions = versions[0]["versions"].as_array().unwrap().clone();
        versions
            .iter()
            .map(|v| format!("{} {} {}", v["why"], v["unit"], v["generation"]).replace('"', ""))
            .collect()
    };
    let none = Decl::new();
    let all = Decl::new().file("/etc/a", "a").directory("/etc/d", None).symlink("/etc/l", "a");
    let bench = &mut host.bench;
    let (n0, _) = bench.apply(None, &none);
    let (n1, _) = bench.apply(Some((n0, &none)), &all);
    for _ in 0..2 {
        let bench = &mut host.bench;
        let failing = bench.prepare(&Decl::new().file("/etc/b", "b"));
        bench.switching(failing);
        bench.swap(Some((n1, &all)), (failing, &none), Intent::Apply);
        assert!(!bench.path("/etc/a").exists() && !bench.path("/etc/d").exists());
        let gone = [format!("purge symlink:/etc/l {failing}"), format!("purge file:/etc/a {failing}")];
        let now = told(&mut host);
        assert!(gone.iter().all(|line| now.contains(line)), "{now:?}");
        let bench = &mut host.bench;
        bench.switching(n1);
        bench.swap(Some((failing, &none)), (n1, &all), Intent::Return);
        bench.store().record(&[Record::Returned { generation: failing, to: n1 }]).unwrap();
        assert_eq!(bench.read("/etc/a"), "a");
        assert_eq!(told(&mut host), [""; 0]);
    }
    let (n3, _) = host.bench.apply(Some((n1, &all)), &none);
    let now = told(&mut host);
    assert_eq!(now.len(), 3, "{now:?}");
    assert!(now.iter().all(|line| line.starts_with("purge ") && line.ends_with(&n3.to_string())), "{now:?}");
}

/// A change that fails, and what waits for it, have replaced nothing, however often it is tried.
#[test]
fn history_tells_nothing_of_repairs_that_failed() {
    let mut host = Host::new();
    let bench = &mut host.bench;
    bench.write("/etc/motd", "theirs");
    bench.write("/etc/after", "theirs too");
    let mut decl =
        Decl::new().file("/etc/after", "ours").edge((Kind::File, "/etc/after"), (Kind::File, "/etc/motd"));
    let mut spec = decl.file_spec("/etc/motd", Some("ours"), None);
    spec.attributes.owner = Some("nobody-of-that-name".to_owned());
    decl = decl.unit(Kind::File, "/etc/motd", Spec::File(spec));
    // Since the batch changes the databases, owners are looked up only when the file is put in its place.
    let group = |name: &str| Spec::Group(Group { name: name.to_owned(), gid: None, system: false });
    for n in 0..2 {
        let name = format!("group{n}");
        let decl = decl.clone().unit(Kind::Group, &name, group(&name));
        let manifest = bench.install(&decl, 1);
        bench.put_contents(&decl);
        let mut steps = bench.steps(manifest, Action::Converge);
        let last = bench.manifest(manifest).find(Kind::File, "/etc/after").unwrap();
        steps.sort_by_key(|s| s.unit == last);
        let results = bench.run(1, Intent::Correct, steps);
        let results = bench.by_name(results);
        assert_eq!(results[&format!("group:{name}")].0, Outcome::Changed, "{results:?}");
        assert_eq!(results["file:/etc/motd"].0, Outcome::NotKept, "{results:?}");
        assert_eq!(results["file:/etc/after"].0, Outcome::Blocked, "{results:?}");
    }
    assert_eq!(
        (bench.read("/etc/motd").as_str(), bench.read("/etc/after").as_str()),
        ("theirs", "theirs too")
    );
    assert_eq!(host.call("History", json!({})).unwrap(), [json!({ "versions": [] })]);
}

#[test]
fn a_state_file_with_mistakes_is_told_in_full_and_one_from_a_memfd_is_as_good() {
    let mut host = Host::new();
    fs::write(host.state(), "[service.a]\nexce = [\"a\"]\n").unwrap();
    let (name, parameters) = host.call("Plan", json!({ "path": host.state() })).unwrap_err();
    assert_eq!(name, "io.holdfast.Store.CompileFailed");
    let diagnostics = parameters["diagnostics"].as_array().unwrap();
    assert!(
        diagnostics.iter().any(|d| d["id"] == "unknown-key" && d["places"][0]["line"] == 2),
        "{parameters}"
    );
    for (method, parameters) in [
        ("Plan", json!({})),
        ("Check", json!({ "path": "relative.toml" })),
        ("Plan", json!({ "path": 7 })),
        ("Plan", json!({ "nonsense": true })),
    ] {
        assert_eq!(host.call(method, parameters).unwrap_err().0, "io.holdfast.Store.InvalidParameter");
    }
    let mut client = host.connect();
    let file = sealed("state", FIRST.as_bytes()).unwrap();
    let call = json!({ "method": "io.holdfast.Store.Check", "parameters": { "directory": "/srv" } });
    let bytes = format!("{call}\0");
    let fds = [file.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(
        client.stream.as_raw_fd(),
        &[IoSlice::new(bytes.as_bytes())],
        &rights,
        MsgFlags::empty(),
        None,
    )
    .unwrap();
    let answers = client.answers().unwrap();
    assert_eq!(answers, [json!({ "units": 5, "warnings": [] })]);
}

/// What patch(1) does with the option `-p1` in `/`.
fn apply_patch(patch: &str) {
    let mut lines = patch.lines();
    let name = lines.next().unwrap().strip_prefix("--- a").unwrap();
    assert_eq!(lines.next().unwrap().strip_prefix("+++ b").unwrap(), name);
    let old = fs::read_to_string(name).unwrap();
    let mut old = old.lines();
    let (mut new, mut at) = (String::new(), 1);
    for line in lines {
        let (sign, text) = line.split_at(1);
        match sign {
            "@" => {
                let start: usize = text.split(['-', ',', ' ']).nth(2).unwrap().parse().unwrap();
                while at < start {
                    new += &format!("{}\n", old.next().unwrap());
                    at += 1;
                }
            }
            "+" => new += &format!("{text}\n"),
            _ => {
                assert_eq!(old.next(), Some(text));
                at += 1;
                if sign == " " {
                    new += &format!("{text}\n");
                }
            }
        }
    }
    new.extend(old.map(|l| format!("{l}\n")));
    fs::write(name, new).unwrap();
}

#[test]
fn what_is_on_the_machine_can_be_adopted() {
    let mut host = Host::new();
    let state = format!("{FIRST}[file.\"/etc/web.conf\"]\nsource = \"web.conf\"\n");
    fs::write(host.bench.dir.path().join("web.conf"), "a\nb\n").unwrap();
    host.apply(&state);
    let nothing = host.call("Adopt", json!({ "unit": "file:/etc/motd" })).unwrap();
    assert_eq!(nothing, [json!({ "patch": "", "note": "file:/etc/motd is as it is declared" })]);
    host.bench.write("/etc/motd", "mine\nnow\n");
    fs::set_permissions(host.bench.path("/etc/motd"), fs::Permissions::from_mode(0o600)).unwrap();
    host.bench.write("/etc/web.conf", "a\nc\n");
    host.bench.write("/etc/key", "hush three\n");
    fs::remove_file(host.bench.path("/etc/link")).unwrap();
    let mut patches = String::new();
    for unit in ["file:/etc/motd", "file:/etc/web.conf", "symlink:/etc/link"] {
        let adopted = host.call("Adopt", json!({ "unit": unit })).unwrap();
        patches = adopted[0]["patch"].as_str().unwrap().to_owned();
        assert!(!patches.is_empty(), "{unit}");
        apply_patch(&patches);
    }
    assert!(patches.contains("-[symlink."), "{patches}");
    let now = fs::read_to_string(host.state()).unwrap();
    assert!(now.contains("content = \"\"\"\nmine\nnow\n\"\"\"\nmode = \"0600\""), "{now}");
    assert_eq!(fs::read_to_string(host.bench.dir.path().join("web.conf")).unwrap(), "a\nc\n");
    let (changes, _) = host.plan(json!({ "path": host.state() }));
    // The service reads the adopted file only when it is told to.
    let left = [
        "remove symlink:/etc/link: no longer declared; it is gone already",
        "change file:/etc/key: drifted: content differs",
        "reload service:web: file:/etc/motd changed",
    ];
    assert_eq!(lines(&changes), left);
    let secret = host.call("Adopt", json!({ "unit": "file:/etc/key" })).unwrap();
    assert_eq!(secret[0]["patch"], "");
    assert!(!secret[0].to_string().contains("hush"));
    let (name, parameters) = host.call("Adopt", json!({ "unit": "file:/etc/modt" })).unwrap_err();
    assert_eq!(
        (name.as_str(), &parameters["nearest"]),
        ("io.holdfast.Store.NoSuchUnit", &json!("file:/etc/motd"))
    );
    let (name, why) = host.call("Adopt", json!({ "unit": "service:web" })).unwrap_err();
    assert_eq!(name, "io.holdfast.Store.Failed");
    // Why not, and what to do instead.
    assert!(why["text"].as_str().unwrap().contains("change its table in the state file"), "{why}");
}

/// A PID 1 that tells the states of some units, page by page, to everybody who asks.
fn pid1(host: &Host, pages: Vec<Value>) {
    let listener = UnixListener::bind(host.bench.dir.path().join("run/control")).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut call = vec![0; 4096];
            let read = stream.read(&mut call).unwrap_or(0);
            assert!(String::from_utf8_lossy(&call[..read]).contains("io.holdfast.Status"));
            for (n, page) in pages.iter().enumerate() {
                let reply = json!({ "parameters": { "units": page }, "continues": n + 1 < pages.len() });
                let _ = stream.write_all(format!("{reply}\0").as_bytes());
            }
        }
    });
}

#[test]
fn what_pid1_knows_is_in_plans_and_verifications() {
    let mut host = Host::new();
    let state = format!(
        "{FIRST}[service.down]\nexec = [\"/bin/down\"]\n[service.idle]\nexec = [\"/bin/idle\"]\nstart = \"manual\"\n\
         [service.job]\nexec = [\"/bin/job\"]\nready = \"exited\"\n"
    );
    host.apply(&state);
    let unit = |unit: &str, state: &str, cause: &str| json!({ "unit": unit, "state": state, "cause": cause, "ready": state == "ready" });
    let mut held = unit("file:/etc/motd", "ready", "");
    held["held"] = json!({ "by": "root", "when": 0, "why": "", "verb": "hold" });
    pid1(
        &host,
        vec![
            json!([unit("service:web", "ready", ""), unit("service:down", "failed", "exit code 1")]),
            json!([
                held,
                unit("service:idle", "down", "not wanted"),
                unit("service:job", "done", "exited with 0")
            ]),
        ],
    );
    host.bench.program("/bin/up", "", 0o755);
    host.bench.program("/bin/new", "", 0o755);
    let next = state.replace("/bin/down", "/bin/up").replace("hello", "other")
        + "[service.new]\nexec = [\"/bin/new\"]\n";
    let (changes, _) = host.plan_of(&next);
    assert_eq!(
        lines(&changes),
        [
            "start service:down: its declaration changed: exec; it was failed: exit code 1",
            "start service:new: newly declared",
            // Not the reload of service:web: what it would load is held, and stays as it is.
        ]
    );
    let (all, _) = host.plan(json!({ "path": host.bench.dir.path().join("next.toml"), "all": true }));
    assert!(lines(&all).contains(&"nothing file:/etc/motd: held by root (hold): left alone".to_owned()));
    let wrong = host.call("Verify", json!({})).unwrap();
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    let failed = json!({ "unit": "service:down", "outcome": "not-kept", "detail": "failed: exit code 1" });
    assert_eq!(wrong[0]["unit"], failed);
}
