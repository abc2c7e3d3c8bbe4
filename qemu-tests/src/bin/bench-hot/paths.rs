//! What is walked: each path with an amount of work, checked to have been done.
#![allow(
    clippy::panic,
    clippy::expect_used,
    reason = "a path that does not do its work is a defect of this program"
)]

use std::fmt::Write as _;
use std::hint::black_box;

use cm_core::engine::Node;
use cm_core::engine::event::Swap;
use cm_core::plan::{Found, Observation, Verb, plan};
use cm_core::varlink::Frames;
use init::control::request::Request;
use init::log::lines;
use init::sys::{notify, uevent};
use units::Manifest;
use units::load::{Entry, LoadError, Loader};

use super::world::World;

/// See the module.
pub struct Path {
    /// Its name on the command line.
    pub name: &'static str,
    /// What one more is, in words.
    pub what: &'static str,
    /// The two amounts.
    pub amounts: [u64; 2],
    /// Does that much.
    pub walk: fn(u64),
    /// What has to be there before, which is not counted.
    pub before: fn(u64),
}

/// All paths.
pub const PATHS: &[Path] = &[
    Path {
        name: "compile",
        what: "file of a state file that is compiled",
        amounts: [200, 2200],
        walk: |n| assert!(files(n).len() as u64 > n),
        before: |_| (),
    },
    Path {
        name: "boot-services",
        what: "service that is started at boot, the engine's part",
        amounts: [100, 1100],
        walk: |n| assert_eq!(World::booted(services(n)).started, n),
        before: |n| drop(black_box(services(n))),
    },
    Path {
        name: "boot-files",
        what: "file that is found right at boot, the engine's part",
        amounts: [200, 2200],
        walk: |n| drop(black_box(World::booted(files(n)))),
        before: |n| drop(black_box(files(n))),
    },
    Path {
        name: "apply-same",
        what: "file in an apply of the same state, the engine's part",
        amounts: [200, 2200],
        walk: |n| {
            let mut world = World::booted(files(n));
            world.swap(files(n), 2, Swap::Apply);
            assert_eq!(world.done, 2);
        },
        before: |n| drop(black_box((World::booted(files(n)), files(n)))),
    },
    Path {
        name: "plan-same",
        what: "file in a plan of the same state",
        amounts: [200, 2200],
        walk: |n| {
            let (running, desired) = (files(n), files(n));
            let seen = |_| Observation { found: Found::Right, ..Observation::default() };
            let planned = plan(&running, &desired, &seen);
            assert!(planned.iter().all(|p| p.verb == Verb::Nothing) && planned.len() as u64 > n);
        },
        before: |n| drop(black_box((files(n), files(n)))),
    },
    Path {
        name: "repair",
        what: "edited file among 1,000, the engine's part",
        amounts: [10, 510],
        walk: |n| {
            let mut world = World::booted(files(1000));
            let nodes: Vec<Node> = world.files();
            let edited = usize::try_from(n).unwrap_or(usize::MAX);
            nodes.into_iter().take(edited).for_each(|node| world.edit(node));
            assert_eq!(world.repaired, n);
        },
        before: |_| (),
    },
    Path {
        name: "restart",
        what: "service among 1,000 that is killed and started again, the engine's part",
        amounts: [10, 510],
        walk: |n| {
            let mut world = World::booted(services(1000));
            (0..n).for_each(|_| world.crash());
            assert_eq!(world.started, 1000 + n);
        },
        before: |_| (),
    },
    Path {
        name: "notify",
        what: "notify datagram that is read",
        amounts: [1000, 21_000],
        walk: |n| {
            for _ in 0..n {
                let said = notify::parse(black_box(b"READY=1\nSTATUS=Accepting connections\nMAINPID=4711\n"));
                assert_eq!(black_box(said).main_pid, Some(4711));
            }
        },
        before: |_| (),
    },
    Path {
        name: "uevent",
        what: "device event of the kernel that is read",
        amounts: [1000, 21_000],
        walk: |n| {
            const EVENT: &[u8] = b"add@/devices/virtual/block/loop0\0ACTION=add\0DEVPATH=/devices/virtual/block/loop0\0\
                                   SUBSYSTEM=block\0MAJOR=7\0MINOR=0\0DEVNAME=loop0\0DEVTYPE=disk\0SEQNUM=4711\0";
            for _ in 0..n {
                assert!(uevent::parse(black_box(EVENT)).is_some());
            }
        },
        before: |_| (),
    },
    Path {
        name: "log-line",
        what: "line of 80 bytes that a service prints",
        amounts: [1000, 21_000],
        walk: |n| {
            let line = [&[b'x'; 79][..], b"\n"].concat().repeat(100);
            let mut out = Vec::new();
            for _ in 0..n.div_ceil(100) {
                out.clear();
                let used = lines::stamp(
                    black_box(&line),
                    "2026-01-01T00:00:00.000000Z",
                    false,
                    4096,
                    1 << 20,
                    &mut out,
                );
                assert_eq!(used, line.len());
            }
        },
        before: |_| (),
    },
    Path {
        name: "request",
        what: "request of a client that is read",
        amounts: [1000, 11_000],
        walk: |n| {
            const CALL: &[u8] =
                b"{\"method\":\"io.holdfast.Status\",\"parameters\":{\"units\":[\"file:/etc/motd\"]}}\0";
            let mut frames = Frames::default();
            for _ in 0..n {
                frames.feed(black_box(CALL)).expect("a short frame");
                let frame = frames.next_frame().expect("a whole frame");
                assert!(Request::parse(&frame).is_ok());
            }
        },
        before: |_| (),
    },
];

/// A state file in memory.
struct Text(String);

impl Loader for Text {
    fn read(&mut self, _path: &str) -> Result<Vec<u8>, LoadError> {
        Ok(self.0.clone().into_bytes())
    }

    fn list(&mut self, _directory: &str) -> Result<Vec<Entry>, LoadError> {
        Err(LoadError::NotFound)
    }
}

fn compiled(text: String) -> Manifest {
    units::compile("/etc/holdfast/state.toml", &mut Text(text)).manifest.expect("a state without mistakes")
}

/// A directory and so many files in it.
fn files(n: u64) -> Manifest {
    let mut text = "[directory.\"/srv/site\"]\n".to_owned();
    for i in 0..n {
        let _ =
            write!(text, "[file.\"/srv/site/page-{i}.html\"]\ncontent = \"page {i}\\n\"\nmode = \"0644\"\n");
    }
    compiled(text)
}

fn services(n: u64) -> Manifest {
    let mut text = String::new();
    for i in 0..n {
        let _ =
            write!(text, "[service.s{i}]\nexec = [\"/usr/bin/s{i}\", \"--serve\"]\nrestart = \"always\"\n");
    }
    compiled(text)
}
