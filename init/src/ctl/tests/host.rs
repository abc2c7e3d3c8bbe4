//! Servers that a run of `initctl` talks to: the control server that PID 1 uses, on a machine with a web server, a
//! database that cannot start, and a file that somebody edits; and scripted ones for the store and the logs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use expect_test::Expect;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;
use units::Address;

use crate::control::answer::{
    Counts, EdgeStatus, Explanation, Held, Need, Outcome, State, TreeNode, UnitStatus,
};
use crate::control::server::{Incoming, SOCKET_MODE, Server, Source};
use crate::control::{Failure, Info, name};
use crate::ctl::time::Clock;
use crate::ctl::{Environment, Exit, run};

pub const SECOND: u64 = 1_000_000_000;

/// A machine with a web server, a database that cannot start, and a file that somebody edits.
#[derive(Clone)]
pub struct Machine {
    /// The mount that the store waits for.
    pub store_waits: Option<String>,
    pub units: Vec<UnitStatus>,
}

pub fn status(unit: &str, state: State, age: u64) -> UnitStatus {
    UnitStatus::new(unit, state, (1000 - age) * SECOND)
}

impl Machine {
    pub fn new() -> Machine {
        let mut nginx = status("service:nginx", State::Ready, 123);
        nginx.pid = Some(812);
        nginx.readiness = "path=/run/nginx.pid".to_owned();
        nginx.origin = "state.toml:3".to_owned();
        let mut db = status("service:db", State::Failed, 5);
        db.cause = "exit code 1, restart limit reached".to_owned();
        db.restarts = 5;
        let mut app = status("service:app", State::Waiting, 60);
        app.cause = "waiting: service:db".to_owned();
        let mut redis = status("service:redis", State::Down, 40);
        redis.held = Some(Held {
            by: "root".to_owned(),
            when: 960 * SECOND,
            why: "memory test".to_owned(),
            until: None,
            verb: "stop".to_owned(),
        });
        redis.cause = "held: root: memory test".to_owned();
        let mut motd = status("file:/etc/motd", State::Ready, 3);
        motd.outcome = Some(Outcome::Repaired);
        motd.detail = "content differed".to_owned();
        let quiet = ["file:/etc/a", "file:/etc/b", "user:nginx", "user:redis"];
        let mut units = vec![nginx, db, app, redis, motd];
        units.extend(quiet.map(|u| {
            let mut unit = status(u, State::Ready, 900);
            unit.outcome = Some(Outcome::Kept);
            unit
        }));
        Machine { units, store_waits: None }
    }
}

impl Source for Machine {
    fn info(&self) -> Info {
        Info {
            version: "0.1.0".to_owned(),
            protocol: 1,
            pid: 1,
            generation: 3,
            converged: false,
            at_rest: true,
            store_open: self.store_waits.is_none(),
            store_waits: self.store_waits.clone(),
            time: 1000 * SECOND,
            shutdown: None,
            units: Counts {
                total: 9,
                ready: 6,
                waiting: 1,
                failed: 1,
                down: 1,
                held: 1,
                ..Counts::default()
            },
        }
    }

    fn resolve(&self, text: &str) -> Result<Address, Failure> {
        let all = || self.units.iter().filter_map(|u| Address::parse(&u.unit));
        name::resolve(text, |k, n| all().any(|a| a.kind == k && a.name == n), all)
    }

    fn status(&self, unit: &Address) -> Option<UnitStatus> {
        self.units.iter().find(|u| u.unit == unit.to_string()).cloned()
    }

    fn status_from(&self, cursor: u64) -> Option<(UnitStatus, u64)> {
        self.units.get(usize::try_from(cursor).ok()?).map(|u| (u.clone(), cursor + 1))
    }

    fn tree_from(&self, cursor: u64) -> Option<(TreeNode, u64)> {
        let unit = self.units.get(usize::try_from(cursor).ok()?)?;
        let needs = match unit.unit.as_str() {
            "service:app" => vec![("requires", "service:db"), ("wants", "service:redis")],
            "service:nginx" => vec![("requires", "file:/etc/a"), ("requires", "user:nginx")],
            "service:redis" => vec![("requires", "user:redis")],
            "file:/etc/motd" => vec![("after", "service:redis")],
            _ => vec![],
        };
        let needs = needs.into_iter().map(|(e, u)| Need { edge: e.to_owned(), unit: u.to_owned() }).collect();
        Some((TreeNode { unit: unit.unit.clone(), state: unit.state, needs }, cursor + 1))
    }

    fn explain(&self, unit: &Address) -> Option<Explanation> {
        let edge = |edge: &str, unit: &str, state, reason: &str| EdgeStatus {
            edge: edge.to_owned(),
            unit: unit.to_owned(),
            state,
            reason: reason.to_owned(),
        };
        Some(Explanation {
            status: self.status(unit)?,
            desired: "up".to_owned(),
            generation: 3,
            layer: "main".to_owned(),
            needs: vec![
                edge("requires", "service:db", State::Failed, ""),
                edge("requires", "user:app", State::Ready, "user of the service"),
            ],
            needs_total: 2,
            needed_by: vec![edge("wants", "target:web", State::Ready, "")],
            needed_by_total: 7,
        })
    }
}

/// What is done with a call that the loop has to answer.
pub type Script = Box<dyn FnMut(&mut Server, Incoming) + Send>;

/// A control server with its own thread, and the directory of its socket.
pub struct Host {
    pub directory: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    pub fn new(script: Script) -> Host {
        Host::with(Machine::new(), script)
    }

    /// For verbs that never reach the loop.
    pub fn quiet() -> Host {
        Host::new(Box::new(|_, incoming| panic!("{incoming:?}")))
    }

    /// Nobody listens.
    pub fn absent() -> Host {
        let directory = tempfile::tempdir().unwrap();
        Host { directory, stop: Arc::new(AtomicBool::new(true)), thread: None }
    }

    pub fn with(machine: Machine, mut script: Script) -> Host {
        let directory = tempfile::tempdir().unwrap();
        let mut server = Server::bind(&directory.path().join("control"), SOCKET_MODE).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut clients: BTreeMap<u64, i32> = BTreeMap::new();
            while !stopped.load(Ordering::Relaxed) {
                let ids: Vec<u64> = clients.keys().copied().collect();
                let ready: Vec<bool> = {
                    let open = clients.values().map(|fd| borrowed(*fd));
                    let mut fds = vec![PollFd::new(server.listener().as_fd(), PollFlags::POLLIN)];
                    fds.extend(open.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
                    poll(&mut fds, PollTimeout::from(20u8)).unwrap();
                    fds.iter().map(|f| f.any().unwrap_or(true)).collect()
                };
                clients.extend(server.accept().0);
                let mut incoming = Vec::new();
                for (id, ready) in ids.into_iter().zip(ready.into_iter().skip(1)) {
                    if ready {
                        incoming.extend(server.readable(id, &machine));
                    }
                    incoming.extend(server.writable(id, &machine));
                }
                incoming.extend(server.resume(&machine));
                for call in incoming {
                    script(&mut server, call);
                }
                clients.retain(|id, _| server.has_client(*id));
            }
        });
        Host { directory, stop, thread: Some(thread) }
    }

    /// Serves one call on a socket beside: answers these replies, and hands the call to the test.
    pub fn script(&self, socket: &str, replies: Vec<Value>) -> JoinHandle<Value> {
        let listener = UnixListener::bind(self.directory.path().join(socket)).unwrap();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut stream = BufReader::new(stream);
            let mut call = Vec::new();
            stream.read_until(0, &mut call).unwrap();
            call.pop();
            for reply in replies {
                stream.get_mut().write_all(format!("{reply}\0").as_bytes()).unwrap();
            }
            serde_json::from_slice(&call).unwrap()
        })
    }

    pub fn run(&self, line: &str) -> (Exit, String) {
        self.run_on(line, false)
    }

    pub fn run_on(&self, line: &str, terminal: bool) -> (Exit, String) {
        let socket = self.directory.path().join("control");
        let environment = Environment {
            directory: self.directory.path().to_owned(),
            socket: Some(socket.into_os_string()),
            store: None,
            terminal,
            colour: terminal,
            clock: Clock { boot: 1000 * SECOND, wall: 1_763_640_000 * SECOND },
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let args = std::iter::once("initctl").chain(line.split_whitespace()).map(OsString::from);
        let exit = run(args, &environment, &mut out, &mut err);
        let mut text = String::from_utf8(out).unwrap();
        if !err.is_empty() {
            text.push_str(&format!("[stderr]\n{}", String::from_utf8(err).unwrap()));
        }
        (exit, text.replace(&self.directory.path().display().to_string(), "DIR"))
    }

    pub fn shows(&self, line: &str, exit: Exit, screen: &Expect) {
        let (got, text) = self.run(line);
        screen.assert_eq(&text);
        assert_eq!(got, exit, "{text}");
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

#[allow(unsafe_code)]
pub fn borrowed<'a>(fd: i32) -> BorrowedFd<'a> {
    // SAFETY: poll(2) answers POLLNVAL for a descriptor that is closed, and the test's server is the only one
    // that closes it.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            if !std::thread::panicking() {
                result.unwrap();
            }
        }
    }
}
