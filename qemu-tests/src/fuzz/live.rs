//! What a PID 1 leaves to the next one, and what happens to it meanwhile.

use std::io::Write;

use cm_core::engine::event::{Event, Exit, Swap, Verb};
use cm_core::engine::{Engine, Mono, Node};
use cm_core::proto::ManifestRef;
use init::event_loop::live::{Class, Key, Live};
use nix::sys::memfd::{MFdFlags, memfd_create};
use units::Manifest;

use super::{Target, language};

const STATE: &[u8] = br#"
[service.a]
exec = ["a"]
ready = "notify"
requires = ["service:b", "file:/a"]
[service.b]
exec = ["b"]
[file."/a"]
content = "a"
[mount."/m"]
source = "tmpfs"
type = "tmpfs"
[exec.e]
command = ["e"]
once = "boot"
"#;

fn manifest() -> Manifest {
    language::compiled(STATE).manifest.unwrap_or_else(Manifest::empty)
}

/// An engine in the middle of its boot.
fn engine() -> Engine {
    let mut engine = Engine::new();
    let number = engine.install(manifest());
    let mut out = Vec::new();
    engine.step(Mono(1), swapped(number), &mut out);
    engine
}

const fn swapped(manifest: ManifestRef) -> Event {
    Event::Swapped { request: 0, manifest, generation: 1, kind: Swap::Boot, release: false }
}

/// The bytes of the memfd.
pub const TABLE: Target = Target {
    name: "live-table",
    seeds: || {
        let Ok(mut live) = Live::create() else { return Vec::new() };
        for (id, content) in [(1, &b"one"[..]), (2, b"two"), (1, b"one again")] {
            live.put(Key::new(Class::Unit, id), content);
        }
        live.remove(Key::new(Class::Unit, 2));
        let _ = live.flush();
        live.fd()
            .try_clone_to_owned()
            .ok()
            .and_then(|fd| {
                use std::os::unix::fs::FileExt;
                let file = std::fs::File::from(fd);
                let mut bytes = vec![0; usize::try_from(file.metadata().ok()?.len()).ok()?];
                file.read_exact_at(&mut bytes, 0).ok()?;
                Some(bytes)
            })
            .into_iter()
            .collect()
    },
    words: &[],
    run: |bytes| {
        let Ok(fd) = memfd_create(c"holdfast-fuzz", MFdFlags::empty()) else { return };
        let mut file = std::fs::File::from(fd);
        if file.write_all(bytes).is_err() {
            return;
        }
        let Ok((mut live, records)) = Live::adopt(file.into()) else { return };
        // It goes on with what it found.
        let key = Key::new(Class::Unit, 77);
        live.put(key, b"new");
        live.flush().expect("a memfd takes what is written");
        let fd = live.fd().try_clone_to_owned().expect("one more descriptor");
        let (_, again) = Live::adopt(fd).expect("a table that was adopted can be adopted again");
        assert_eq!(again.get(&key).map(Vec::as_slice), Some(&b"new"[..]), "what was written last is lost");
        for (key, content) in records.iter().filter(|(k, _)| **k != key) {
            assert_eq!(again.get(key), Some(content), "what was found is lost");
        }
    },
};

/// The engine's records: its common one, a length, and one a unit.
pub const RECORDS: Target = Target {
    name: "live-records",
    seeds: || {
        let engine = engine();
        let records: Vec<(u32, Vec<u8>)> =
            engine.nodes().filter_map(|n| Some((n.0, engine.record(n)?))).collect();
        vec![postcard::to_allocvec(&(engine.globals(), records)).unwrap_or_default()]
    },
    words: &[],
    run: |bytes| {
        type Records = (Vec<u8>, Vec<(u32, Vec<u8>)>);
        let Ok((globals, records)) = postcard::from_bytes::<Records>(bytes) else { return };
        let manifests = vec![(ManifestRef(0), Manifest::empty()), (ManifestRef(1), manifest())];
        // Numbers of units are slots; PID 1 never hands out so many.
        let records = records.into_iter().filter(|(n, _)| *n < 1 << 16).map(|(n, r)| (Node(n), r));
        if let Ok(engine) = Engine::restore(manifests, &globals, records) {
            look(&engine);
        }
    },
};

/// Any events in any order, as a confused shell might tell them.
pub const EVENTS: Target = Target {
    name: "events",
    seeds: || {
        let boot = vec![
            (1, Event::StoreOpened),
            (2, Event::Spawned { serial: 1 }),
            (3, Event::Ready { serial: 1 }),
            (4, Event::Mounted { node: Node(3) }),
            (5, Event::BatchDone { batch: 1 }),
            (6, Event::Touched { nodes: vec![Node(2)] }),
            (7, Event::Exited { serial: 1, exit: Exit::Code(1) }),
            (8, Event::CgroupEmpty { serial: 1 }),
            (9, Event::Tick),
        ];
        let hand =
            |verb| Event::Asked { request: 1, verb, node: Node(0), note: "me".to_owned(), until: None };
        let hands = vec![
            (1, hand(Verb::Stop)),
            (1, hand(Verb::Start)),
            (1, hand(Verb::Kill(9))),
            (1, Event::WorkerLost),
            (1, Event::Overflowed),
            (1, Event::ShutdownAsked { down: cm_core::engine::event::Down::Poweroff }),
        ];
        [boot, hands].iter().filter_map(|events| postcard::to_allocvec(events).ok()).collect()
    },
    words: &[],
    run: |bytes| {
        let Ok(events) = postcard::from_bytes::<Vec<(u16, Event)>>(bytes) else { return };
        let (mut engine, mut now, mut out) = (engine(), 1u64, Vec::new());
        for (delay, event) in events {
            now += u64::from(delay);
            engine.step(Mono(now), event, &mut out);
            out.clear();
        }
        look(&engine);
    },
};

/// What is asked of an engine while it runs.
fn look(engine: &Engine) {
    for node in engine.nodes() {
        let _ = (engine.status(node), engine.glance(node), engine.gates(node), engine.address(node));
    }
    let _ = (engine.not_down(), engine.next_deadline(), engine.sizes());
}
