//! The log daemon as a process of its own, with services that write into its pipes.

#![allow(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]
#![allow(clippy::indexing_slicing, missing_docs)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use init::log::link::{LogLink, LogPipe};
use init::log::protocol::{Order, Report, Target};
use init::log::words::{self, Words};
use init::log::{self, daemon, lines};
use init::sys::raw;
use init::sys::reap::{self, ExitStatus};
use init::sys::spawn::{Launch, Output, Spawned, Status, spawn};
use serde_json::{Value, json};
use support::{changed, eventually, outcome, over, readable};

support::tests! {
    Process: lines_arrive_stamped_and_whole,
    Process: killed_in_a_flood_loses_nothing,
    Process: rotates_and_keeps,
    Pid1: a_full_disk_holds_lines_back,
    Process: a_flood_starves_nobody,
    Process: reads_and_follows,
    Process: reading_needs_a_right,
    Process: garbage_clients_cost_nothing,
    Process: moves_to_the_kernel_log,
    Process: last_lines_of_a_shutdown_are_in_the_files,
    Process: ends_with_its_parent_after_the_last_line,
    Process: asleep_at_rest,
    Process: last_lines_are_there_before_the_pipe_is_empty,
}

struct Rig {
    dir: tempfile::TempDir,
    link: LogLink,
    daemon: Spawned,
    pipes: Vec<(String, LogPipe)>,
}

fn start(logs: &Path) -> (LogLink, Spawned) {
    let (link, theirs) = LogLink::pair().unwrap();
    let argv = [daemon::NAME.to_owned(), "--logs".to_owned(), logs.to_str().unwrap().to_owned()];
    let mut daemon = spawn(&Launch {
        argv: &argv,
        program: Some("/proc/self/exe"),
        descriptors: &[(daemon::SOCKET, theirs.as_fd())],
        output: Output::Inherit,
        ..Launch::default()
    })
    .unwrap();
    assert_eq!(outcome(&mut daemon), Status::Executed);
    (link, daemon)
}

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let (link, daemon) = start(&dir.path().join("logs"));
        Rig { dir, link, daemon, pipes: Vec::new() }
    }

    fn logs(&self) -> PathBuf {
        self.dir.path().join("logs")
    }

    fn open(&mut self, unit: &str, size: u64, keep: u32) -> u32 {
        let pipe = LogPipe::new().unwrap();
        let stream = u32::try_from(self.pipes.len()).unwrap();
        let order = Order::Open { stream, unit: unit.to_owned(), size, keep };
        self.link.send(&order, Some(pipe.reader.as_fd())).unwrap();
        self.pipes.push((unit.to_owned(), pipe));
        stream
    }

    fn write(&self, stream: u32, text: &str) {
        let writer = self.pipes[stream as usize].1.writer.try_clone().unwrap();
        fs::File::from(writer).write_all(text.as_bytes()).unwrap();
    }

    /// A process that writes into the stream's pipe, as a service does.
    fn service(&self, stream: u32, script: &str) -> Spawned {
        let argv = ["python3".to_owned(), "-c".to_owned(), script.to_owned()];
        let output = Output::Descriptor(self.pipes[stream as usize].1.writer.as_fd());
        spawn(&Launch { argv: &argv, output, ..Launch::default() }).unwrap()
    }

    /// Kills the daemon and starts another one with the same pipes, as PID 1 does.
    fn kill_and_restart(&mut self) {
        raw::kill(self.daemon.pid, libc::SIGKILL).unwrap();
        over(self.daemon.pid);
        reap::reap(self.daemon.pid).unwrap().unwrap();
        let (link, daemon) = start(&self.logs());
        self.link = link;
        self.daemon = daemon;
        for (stream, (unit, pipe)) in (0..).zip(&self.pipes) {
            let order = Order::Open { stream, unit: unit.clone(), size: 0, keep: 1 };
            self.link.send(&order, Some(pipe.reader.as_fd())).unwrap();
        }
    }

    /// Lets go of the stream and waits until it is written.
    fn drain(&mut self, stream: u32) {
        let (_, pipe) = &mut self.pipes[stream as usize];
        let (_, null) = std::io::pipe().unwrap();
        pipe.writer = null.into();
        while self.report() != (Report::Drained { stream }) {}
    }

    fn report(&mut self) -> Report {
        loop {
            readable(self.link.as_fd());
            if let Some(report) = self.link.receive().unwrap() {
                return report;
            }
        }
    }

    /// The text of a unit's lines, oldest first, in all files.
    fn text(&self, unit: &str) -> Vec<String> {
        let directory = self.logs().join(unit);
        let mut names: Vec<PathBuf> =
            fs::read_dir(&directory).into_iter().flatten().flatten().map(|e| e.path()).collect();
        names.sort();
        let mut out = Vec::new();
        // A file may be rotated away between its name and its text; who waits for lines asks again.
        for name in names {
            let bytes = fs::read(name).unwrap_or_default();
            // A reader may see a write(2) half done; a line is one when its end is there.
            let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
            for line in std::str::from_utf8(&bytes[..whole]).unwrap().lines() {
                let (time, text) = lines::split(line.as_bytes());
                assert_eq!(time.len(), lines::STAMP, "{line}");
                out.push(String::from_utf8(text.to_vec()).unwrap());
            }
        }
        out
    }

    fn listen(&mut self) -> PathBuf {
        let path = self.dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        self.link.send(&Order::Listen, Some(listener.as_fd())).unwrap();
        path
    }
}

/// A client: calls, and reads replies one by one.
struct Reader {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Reader {
    fn call(path: &Path, parameters: Value) -> Reader {
        let mut stream = UnixStream::connect(path).unwrap();
        let call = json!({ "method": "io.holdfast.Logs.Read", "parameters": parameters, "more": true });
        stream.write_all(format!("{call}\0").as_bytes()).unwrap();
        Reader { stream, buffer: Vec::new() }
    }

    fn next(&mut self) -> Value {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == 0) {
                let reply: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&reply[..end]).unwrap();
            }
            readable(self.stream.as_fd());
            let mut part = [0; 4096];
            let n = self.stream.read(&mut part).unwrap();
            assert!(n > 0, "closed");
            self.buffer.extend_from_slice(&part[..n]);
        }
    }

    fn line(&mut self) -> String {
        let reply = self.next();
        assert_eq!(reply["continues"], true, "{reply}");
        format!(
            "{}:{}",
            reply["parameters"]["unit"].as_str().unwrap(),
            reply["parameters"]["line"].as_str().unwrap()
        )
    }

    fn rest(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        loop {
            let reply = self.next();
            if reply.get("continues").is_none() {
                assert_eq!(reply, json!({ "parameters": {} }));
                return out;
            }
            out.push(reply["parameters"]["line"].as_str().unwrap().to_owned());
        }
    }
}

fn lines_arrive_stamped_and_whole() {
    let mut rig = Rig::new();
    let a = rig.open("service:a", 0, 1);
    rig.write(a, "one\ntwo\nhal");
    changed(rig.dir.path(), "two lines", || rig.text("service:a").len() == 2);
    rig.write(a, "f\nprompt> ");
    changed(rig.dir.path(), "the half became whole", || rig.text("service:a").len() == 3);
    rig.link.send(&Order::Flush { stream: a }, None).unwrap();
    changed(rig.dir.path(), "the rest", || rig.text("service:a").len() == 4);
    rig.write(a, &"x".repeat(lines::MAX_LINE + 5));
    changed(rig.dir.path(), "a long one is split", || rig.text("service:a").len() == 5);
    rig.drain(a);
    let text = rig.text("service:a");
    assert_eq!(text[..4], ["one", "two", "half", "prompt> "]);
    assert_eq!((text[4].len(), text[5].as_str()), (lines::MAX_LINE, "xxxxx"));
}

/// Whoever finds nothing in the pipe finds it in the memory, and a later memory has what the earlier had.
fn last_lines_are_there_before_the_pipe_is_empty() {
    let mut rig = Rig::new();
    let words = Words::new().unwrap();
    rig.link.send(&Order::Words, Some(words.as_fd())).unwrap();
    let a = rig.open("exec:a", 0, 1);
    let b = rig.open("service:b", 0, 1);
    for n in 0..2000 {
        rig.write(a, &format!("line {n}\n"));
        let waiting = log::peek(rig.pipes[a as usize].1.reader.as_fd());
        let line = words::last_line(&waiting).map_or_else(|| words.get(a), <[u8]>::to_vec);
        assert_eq!(String::from_utf8(line).unwrap(), format!("line {n}"));
    }
    rig.write(b, "of a service\n");
    changed(rig.dir.path(), "all is written", || {
        rig.text("exec:a").len() == 2000 && rig.text("service:b").len() == 1
    });
    assert_eq!((words.get(a), words.get(b).len()), (b"line 1999".to_vec(), 0));
    let later = Words::new().unwrap();
    rig.link.send(&Order::Words, Some(later.as_fd())).unwrap();
    eventually("it is in the later one", || later.get(a) == b"line 1999");
    rig.write(a, "and on\n");
    eventually("it is written on there", || later.get(a) == b"and on");
    assert_eq!(words.get(a), b"line 1999");
}

fn killed_in_a_flood_loses_nothing() {
    let mut rig = Rig::new();
    let a = rig.open("flood", 0, 1);
    let count = 300_000;
    let service = rig.service(
        a,
        &format!("import sys\nfor i in range({count}): sys.stdout.write('line %d of the flood\\n' % i)"),
    );
    let size =
        |rig: &Rig| fs::metadata(rig.logs().join("flood/current")).map(|m| m.len()).unwrap_or_default();
    for round in 1..=6 {
        changed(rig.dir.path(), "the flood runs", || size(&rig) > round * 700_000);
        rig.kill_and_restart();
    }
    over(service.pid);
    reap::reap(service.pid).unwrap();
    rig.drain(a);
    let (mut next, mut repeated, mut torn) = (0, 0, 0);
    for line in fs::read_to_string(rig.logs().join("flood/current")).unwrap().lines() {
        let (_, text) = lines::split(line.as_bytes());
        let text = std::str::from_utf8(text).unwrap();
        // A kill in the middle of write(2) leaves the start of a line, which is written again as a whole.
        let Some(number) = text.strip_prefix("line ").and_then(|t| t.strip_suffix(" of the flood")) else {
            torn += 1;
            continue;
        };
        let number: u32 = number.parse().unwrap();
        assert!(number <= next, "line {next} is lost: {line}");
        repeated += u32::from(number < next);
        next = number + 1;
    }
    assert!(torn <= 6, "{torn}");
    assert_eq!(next, count);
    println!("{repeated} lines repeated, {torn} torn");
}

fn rotates_and_keeps() {
    let mut rig = Rig::new();
    let a = rig.open("r", 2000, 3);
    for i in 0..500 {
        rig.write(a, &format!("number {i}\n"));
    }
    rig.drain(a);
    let files: Vec<u64> =
        fs::read_dir(rig.logs().join("r")).unwrap().flatten().map(|e| e.metadata().unwrap().len()).collect();
    assert_eq!(files.len(), 4, "{files:?}");
    assert!(files.iter().all(|s| *s < 2050), "{files:?}");
    assert_eq!(rig.text("r").last().unwrap(), "number 499");
}

fn a_full_disk_holds_lines_back() {
    let mut rig = Rig::new();
    let logs = rig.logs();
    fs::create_dir(&logs).unwrap();
    nix::mount::mount(Some("tmpfs"), &logs, Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=6m"))
        .unwrap();
    // The daemon was started in this mount namespace, and opens its files by path.
    fs::write(logs.join("filler"), vec![0; 5500 << 10]).unwrap();
    let a = rig.open("full", 0, 1);
    let service = rig.service(
        a,
        // More than the disk and the pipe take together: 1.5 MB.
        "import sys\nfor i in range(120000): sys.stdout.write('number %d\\n' % i); sys.stdout.flush()",
    );
    let Report::Trouble { stream, text } = rig.report() else { panic!("no trouble") };
    assert_eq!(stream, a);
    let place = format!("cannot write the log of full in {}: No space left", logs.display());
    assert!(text.starts_with(&place), "{text}");
    assert!(reap::peek().unwrap().is_none(), "the service waits");
    let partial = rig.text("full");
    assert!(partial.len() < 120_000 && partial.iter().enumerate().all(|(i, l)| *l == format!("number {i}")));
    fs::remove_file(logs.join("filler")).unwrap();
    assert_eq!(rig.report(), Report::Recovered { stream: a });
    over(service.pid);
    rig.drain(a);
    let text = rig.text("full");
    assert_eq!(text.len(), 120_000);
    assert!(text.iter().enumerate().all(|(i, l)| *l == format!("number {i}")));
}

fn a_flood_starves_nobody() {
    let mut rig = Rig::new();
    let path = rig.listen();
    let mut floods = Vec::new();
    for i in 0..4 {
        let stream = rig.open(&format!("flood{i}"), 1 << 20, 1);
        floods.push(rig.service(stream, "while True: print('x' * 100)"));
    }
    let quiet = rig.open("quiet", 0, 1);
    let mut reader = Reader::call(&path, json!({ "unit": "quiet", "follow": true }));
    for i in 0..20 {
        rig.write(quiet, &format!("{i}\n"));
        assert_eq!(reader.line(), format!("quiet:{i}"));
    }
    for flood in floods {
        raw::kill(flood.pid, libc::SIGKILL).unwrap();
    }
    let status = fs::read_to_string(format!("/proc/{}/status", rig.daemon.pid)).unwrap();
    let anonymous = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap().trim().to_owned();
    let kilobytes: u32 = anonymous.split(' ').next().unwrap().parse().unwrap();
    assert!(kilobytes < 4000, "memory is bounded: {anonymous}");
}

fn reads_and_follows() {
    let mut rig = Rig::new();
    let path = rig.listen();
    let (a, b) = (rig.open("service:a", 100, 20), rig.open("service:b", 0, 1));
    for i in 0..10 {
        rig.write(a, &format!("a{i}\n"));
        changed(rig.dir.path(), "written", || rig.text("service:a").len() == i + 1);
        rig.write(b, &format!("b{i}\n"));
        changed(rig.dir.path(), "written", || rig.text("service:b").len() == i + 1);
    }
    assert!(fs::read_dir(rig.logs().join("service:a")).unwrap().count() > 1, "rotated");
    let mut one = Reader::call(&path, json!({ "unit": "service:a" }));
    assert_eq!(one.rest(), (0..10).map(|i| format!("a{i}")).collect::<Vec<_>>());
    let mut last = Reader::call(&path, json!({ "lines": 3 }));
    assert_eq!(last.rest(), ["b8", "a9", "b9"]);
    let mut all = Reader::call(&path, json!({ "unit": null }));
    assert_eq!(all.rest().len(), 20);
    let mut none = Reader::call(&path, json!({ "unit": "service:c" }));
    assert_eq!(none.next()["error"], "io.holdfast.Logs.NoSuchUnit");

    let mut follow = Reader::call(&path, json!({ "unit": "service:a", "follow": true, "lines": 1 }));
    let mut follow_all = Reader::call(&path, json!({ "follow": true, "lines": 1 }));
    let mut early = Reader::call(&path, json!({ "unit": "service:c", "follow": true }));
    // Who has got the last line follows: from here on nothing passes by.
    assert_eq!((follow.line(), follow_all.line()), ("service:a:a9".to_owned(), "service:b:b9".to_owned()));
    let c = rig.open("service:c", 0, 1);
    rig.write(c, "hello\n");
    assert_eq!(early.line(), "service:c:hello");
    for i in 10..40 {
        rig.write(a, &format!("a{i}\n"));
        assert_eq!(follow.line(), format!("service:a:a{i}"));
    }
    assert_eq!(follow_all.line(), "service:c:hello");
    assert_eq!(follow_all.line(), "service:a:a10");
}

fn reading_needs_a_right() {
    let mut rig = Rig::new();
    let path = rig.listen();
    let a = rig.open("a", 0, 1);
    rig.write(a, "secret\n");
    changed(rig.dir.path(), "written", || rig.text("a").len() == 1);
    fs::set_permissions(rig.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let script = format!(
        "import socket\ns=socket.socket(socket.AF_UNIX)\ns.connect('{}')\n\
         s.send(b'{{\"method\":\"io.holdfast.Logs.Read\",\"more\":true}}\\0')\nprint(s.recv(1000))",
        path.display()
    );
    let ask = |user: &str, groups: &[String]| {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let argv = ["python3".to_owned(), "-c".to_owned(), script.clone()];
        let launch = Launch {
            argv: &argv,
            user: Some(user),
            groups,
            output: Output::Descriptor(writer.as_fd()),
            ..Launch::default()
        };
        let spawned = spawn(&launch).unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        over(spawned.pid);
        reap::reap(spawned.pid).unwrap();
        text
    };
    assert!(ask("nobody", &[]).contains("PermissionDenied"));
    assert!(ask("nobody", &["adm".to_owned()]).contains("secret"));
    assert!(ask("root", &[]).contains("secret"));
}

fn garbage_clients_cost_nothing() {
    let mut rig = Rig::new();
    let path = rig.listen();
    let a = rig.open("a", 0, 1);
    let mut stay = Vec::new();
    for garbage in
        [&b"\0"[..], b"{}\0", b"half a mess", &[b'x'; 10_000], b"[[[[[[[[[[\0", b"{\"method\":5}\0"]
    {
        let mut stream = UnixStream::connect(&path).unwrap();
        // The daemon may hang up in the middle of it.
        let _ = stream.write_all(garbage);
        stay.push(stream);
    }
    // One who asks for everything and reads nothing.
    let _lazy = Reader::call(&path, json!({ "follow": true }));
    for _ in 0..20 {
        rig.write(a, &"much text\n".repeat(5000));
    }
    rig.write(a, "end\n");
    rig.drain(a);
    assert_eq!(rig.text("a").len(), 100_001);
    let mut good = Reader::call(&path, json!({ "unit": "a" }));
    assert_eq!(good.rest().len(), 100_001);
    let mut plain = UnixStream::connect(&path).unwrap();
    plain
        .write_all(b"{\"method\":\"org.varlink.service.GetInfo\"}\0{\"method\":\"io.holdfast.Logs.Read\"}\0")
        .unwrap();
    let mut reader = Reader { stream: plain, buffer: Vec::new() };
    assert_eq!(reader.next()["parameters"]["product"], "log daemon");
    assert_eq!(reader.next()["error"], "org.varlink.service.ExpectedMore");
    assert!(reap::peek().unwrap().is_none(), "the daemon lives");
}

fn moves_to_the_kernel_log() {
    let mut rig = Rig::new();
    let a = rig.open("a", 0, 1);
    rig.write(a, "to the file\n");
    changed(rig.dir.path(), "written", || rig.text("a").len() == 1);
    let holds = |rig: &Rig| {
        fs::read_dir(format!("/proc/{}/fd", rig.daemon.pid))
            .unwrap()
            .flatten()
            .any(|e| fs::read_link(e.path()).is_ok_and(|t| t.starts_with(rig.logs())))
    };
    assert!(holds(&rig));
    rig.link.send(&Order::Target(Target::Kernel), None).unwrap();
    assert_eq!(rig.report(), Report::Moved(Target::Kernel));
    assert!(!holds(&rig));
    rig.write(a, "elsewhere\n");
    rig.link.send(&Order::Target(Target::Files), None).unwrap();
    assert_eq!(rig.report(), Report::Moved(Target::Files));
    rig.write(a, "back\n");
    rig.drain(a);
    assert_eq!(rig.text("a").last().unwrap(), "back");
}

/// A daemon that is started for last lines gets them, their end and the way to the kernel in one go.
fn last_lines_of_a_shutdown_are_in_the_files() {
    let mut rig = Rig::new();
    raw::kill(rig.daemon.pid, libc::SIGSTOP).unwrap();
    let a = rig.open("a", 2000, 300);
    let b = rig.open("b", 0, 1);
    // Short lines that fill the pipe, and files of which each takes a part of them.
    let count = 8000;
    rig.write(a, &"line 1\n".repeat(count));
    rig.write(b, "stopped\nfor good");
    rig.link.send(&Order::Flush { stream: b }, None).unwrap();
    rig.link.send(&Order::Target(Target::Kernel), None).unwrap();
    raw::kill(rig.daemon.pid, libc::SIGCONT).unwrap();
    assert_eq!(rig.report(), Report::Moved(Target::Kernel));
    assert_eq!(rig.text("b"), ["stopped", "for good"]);
    assert_eq!(rig.text("a").len(), count);
}

fn ends_with_its_parent_after_the_last_line() {
    let mut rig = Rig::new();
    let a = rig.open("a", 0, 1);
    for i in 0..1000 {
        rig.write(a, &format!("{i}\n"));
    }
    let Rig { dir, link, daemon, pipes } = rig;
    drop(link);
    over(daemon.pid);
    assert_eq!(reap::reap(daemon.pid).unwrap().unwrap().status, ExitStatus::Code(0));
    assert_eq!(fs::read_to_string(dir.path().join("logs/a/current")).unwrap().lines().count(), 1000);
    drop(pipes);
}

fn asleep_at_rest() {
    let mut rig = Rig::new();
    let a = rig.open("a", 0, 1);
    rig.write(a, "x\nand a half");
    changed(rig.dir.path(), "written", || rig.text("a").len() == 1);
    let switches = |rig: &Rig| {
        let status = fs::read_to_string(format!("/proc/{}/status", rig.daemon.pid)).unwrap();
        status.lines().filter(|l| l.contains("ctxt_switches")).map(str::to_owned).collect::<Vec<_>>()
    };
    // What it still does after that line is nothing that goes on: sooner or later it is not woken for so long.
    let mut none = [nix::poll::PollFd::new(rig.link.as_fd(), nix::poll::PollFlags::POLLIN)];
    eventually("asleep with half a line in a pipe", || {
        let before = switches(&rig);
        assert_eq!(nix::poll::poll(&mut none, 700_u16), Ok(0));
        switches(&rig) == before
    });
}
