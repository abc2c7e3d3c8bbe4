use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use units::{Address, Kind};

use super::super::answer::{Explanation, Info, StatusPage, TreeNode, UnitStatus};
use super::super::answer::{Finished, State, Tally, Verdict};
use super::super::connection::MAX_MISSED;
use super::super::name;
use super::super::request::{self, Command, Empty, Verb};
use super::super::wire::Reply;
use super::*;
use crate::sys::message;

/// A machine with so many services, named `service:0` and so on.
struct Machine(u64);

impl Source for Machine {
    fn info(&self) -> Info {
        Info { version: "1".to_owned(), ..Info::default() }
    }

    fn resolve(&self, text: &str) -> Result<Address, Failure> {
        let exists =
            |k: Kind, n: &str| k == Kind::Service && n.parse().is_ok_and(|number: u64| number < self.0);
        name::resolve(text, exists, || (0..self.0).map(|n| Address::new(Kind::Service, n.to_string())))
    }

    fn status(&self, unit: &Address) -> Option<UnitStatus> {
        Some(UnitStatus::new(unit.to_string(), State::Ready, 7))
    }

    fn status_from(&self, cursor: u64) -> Option<(UnitStatus, u64)> {
        (cursor < self.0).then(|| (UnitStatus::new(format!("service:{cursor}"), State::Ready, 7), cursor + 1))
    }

    fn tree_from(&self, cursor: u64) -> Option<(TreeNode, u64)> {
        let node = TreeNode { unit: format!("service:{cursor}"), state: State::Ready, needs: vec![] };
        (cursor < self.0).then_some((node, cursor + 1))
    }

    fn explain(&self, _unit: &Address) -> Option<Explanation> {
        None
    }
}

struct Rig {
    server: Server,
    machine: Machine,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new(units: u64) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let server = Server::bind(&path, SOCKET_MODE).unwrap();
        Rig { server, machine: Machine(units), path, _dir: dir }
    }

    fn connect(&mut self) -> (u64, UnixStream) {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let (new, _) = self.server.accept();
        (new.last().unwrap().0, stream)
    }

    /// Turns until nothing can be done without an event.
    fn turn(&mut self, id: u64) -> Vec<Incoming> {
        let mut incoming = self.server.readable(id, &self.machine);
        incoming.extend(self.server.writable(id, &self.machine));
        for _ in 0..10_000 {
            if !self.server.has_work() {
                return incoming;
            }
            incoming.extend(self.server.resume(&self.machine));
        }
        panic!("the server never comes to rest");
    }
}

fn reply<P: serde::de::DeserializeOwned>(stream: &mut impl BufRead) -> Reply<P> {
    let mut bytes = Vec::new();
    stream.read_until(0, &mut bytes).unwrap();
    assert_eq!(bytes.pop(), Some(0));
    serde_json::from_slice(&bytes).unwrap()
}

#[test]
fn descriptors_that_nobody_asked_for_are_closed() {
    let mut rig = Rig::new(1);
    let (mut reader, writer) = std::io::pipe().unwrap();
    for count in [1, 4, 5, 253] {
        let (id, stream) = rig.connect();
        let many = vec![writer.as_fd(); count];
        assert!(message::send(stream.as_fd(), b"{", &many).unwrap());
        rig.turn(id);
        drop(stream);
        rig.turn(id);
        assert!(!rig.server.has_client(id));
    }
    drop(writer);
    let flags = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
    nix::fcntl::fcntl(&reader, flags).unwrap();
    assert_eq!(reader.read(&mut [0]).unwrap(), 0, "somebody still holds the other end");
}

#[test]
fn newcomers_are_taken_in_turns() {
    let mut rig = Rig::new(1);
    let _crowd: Vec<UnixStream> = (0..100).map(|_| UnixStream::connect(&rig.path).unwrap()).collect();
    let mut turns = Vec::new();
    while let (new, true) = rig.server.accept() {
        turns.push(new.len());
    }
    assert_eq!(turns, [NEWCOMERS; 3], "others have their turn in between");
    assert_eq!(rig.server.clients(), MAX_CLIENTS);
}

#[test]
fn who_came_and_went_in_one_turn_is_not_watched() {
    let mut rig = Rig::new(1);
    let mut busy = Vec::new();
    for _ in 1..MAX_CLIENTS {
        let (id, mut stream) = rig.connect();
        stream.write_all(&Request::Events(Empty {}).frame(true)).unwrap();
        rig.turn(id);
        busy.push(stream);
    }
    let _crowd: Vec<UnixStream> = (0..3).map(|_| UnixStream::connect(&rig.path).unwrap()).collect();
    let (new, _) = rig.server.accept();
    // The first two made room for the last, who may have got their descriptor.
    assert_eq!(new.len(), 1);
    assert!(rig.server.has_client(new[0].0));
}

#[test]
fn a_long_listing_is_made_as_it_is_read() {
    const UNITS: u64 = 10_000;
    let mut rig = Rig::new(UNITS);
    let (id, mut stream) = rig.connect();
    stream.write_all(&Request::Status(request::Status::default()).frame(true)).unwrap();
    assert!(rig.turn(id).is_empty());
    let held = rig.server.clients[&id].connection.outbox.pending().len();
    assert!(held <= 2 * LOW_WATER, "{held} bytes wait for a client that does not read");
    assert!(matches!(rig.server.clients[&id].serving, Serving::Status(_)), "not everything is made yet");
    let reader = std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut units = Vec::new();
        loop {
            let page: Reply<StatusPage> = reply(&mut stream);
            units.extend(page.parameters.unwrap().units);
            if !page.continues {
                return units;
            }
        }
    });
    while !reader.is_finished() {
        rig.turn(id);
        std::thread::yield_now();
    }
    let units = reader.join().unwrap();
    assert_eq!(units.len() as u64, UNITS);
    assert!(units.iter().enumerate().all(|(i, u)| u.unit == format!("service:{i}")));
}

#[test]
fn a_listing_for_one_reply_must_fit_it() {
    let mut rig = Rig::new(100);
    let (id, stream) = rig.connect();
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(&Request::Status(request::Status::default()).frame(false)).unwrap();
    let few = request::Status { units: Some(vec!["3".to_owned(), "4".to_owned()]) };
    stream.get_mut().write_all(&Request::Status(few).frame(false)).unwrap();
    rig.turn(id);
    let refused: Reply<serde_json::Value> = reply(&mut stream);
    assert_eq!(refused.error.as_deref(), Some("org.varlink.service.ExpectedMore"));
    let page: Reply<StatusPage> = reply(&mut stream);
    let units: Vec<_> = page.parameters.unwrap().units.into_iter().map(|u| u.unit).collect();
    assert_eq!(units, ["service:3", "service:4"]);
}

#[test]
fn a_command_reaches_the_loop_and_streams_back() {
    let mut rig = Rig::new(2);
    let (id, stream) = rig.connect();
    let mut stream = BufReader::new(stream);
    let command = Command {
        verb: Verb::Restart,
        units: vec!["1".to_owned()],
        signal: None,
        for_seconds: None,
        note: None,
    };
    stream.get_mut().write_all(&Request::Command(command).frame(true)).unwrap();
    let incoming = rig.turn(id);
    let [call] = incoming.as_slice() else { panic!("{incoming:?}") };
    let Request::Command(got) = &call.request else { panic!("{call:?}") };
    assert_eq!(got.units, ["service:1"]);
    let progress = Progress {
        unit: "service:1".to_owned(),
        state: Some(State::Stopping),
        outcome: None,
        text: "why".to_owned(),
    };
    rig.server.progress(call.call, &progress);
    let finished =
        Finished { verdict: Verdict::Done, generation: 1, tally: Tally::default(), text: String::new() };
    rig.server.answer(call.call, &Answer::Finished(finished));
    rig.server.answer(call.call, &Answer::Begun);
    let first: Reply<Change> = reply(&mut stream);
    assert!(first.continues);
    assert_eq!(first.parameters.unwrap().progress, [progress]);
    let last: Reply<Change> = reply(&mut stream);
    assert!(!last.continues);
    assert_eq!(last.parameters.unwrap().finished.unwrap().verdict, Verdict::Done);
}

#[test]
fn who_never_reads_events_is_dropped_with_a_note() {
    let mut rig = Rig::new(1);
    let (id, mut stream) = rig.connect();
    stream.write_all(&Request::Events(Empty {}).frame(true)).unwrap();
    rig.turn(id);
    assert!(rig.server.has_listeners());
    let event = Event {
        time: 1,
        about: "log".to_owned(),
        unit: None,
        state: None,
        outcome: None,
        text: "x".repeat(4000),
    };
    for _ in 0..1000 {
        rig.server.publish(&event);
    }
    let pending = rig.server.clients[&id].connection.outbox.pending().len();
    assert!(pending <= MAX_PENDING + 5000, "{pending}");
    for _ in 0..MAX_MISSED {
        rig.server.publish(&event);
    }
    assert!(!rig.server.has_listeners());
    assert_eq!(rig.server.clients(), 0);
    let notes = rig.server.take_notes();
    assert!(notes[0].contains("does not read its replies"), "{notes:?}");
}

#[test]
fn who_reads_late_is_told_what_it_missed() {
    let mut rig = Rig::new(1);
    let (id, stream) = rig.connect();
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(&Request::Events(Empty {}).frame(true)).unwrap();
    rig.turn(id);
    let event = |about: &str| Event {
        time: 1,
        about: about.to_owned(),
        unit: None,
        state: None,
        outcome: None,
        text: "x".repeat(4000),
    };
    const BURST: usize = 1000;
    for _ in 0..BURST {
        rig.server.publish(&event("log"));
    }
    let first: Reply<EventReply> = reply(&mut stream);
    assert_eq!(first.parameters.unwrap().event.about, "generation");
    let mut seen = 0;
    loop {
        let got: Reply<EventReply> = reply(&mut stream);
        let event = got.parameters.unwrap().event;
        rig.turn(id);
        match event.about.as_str() {
            "log" => seen += 1,
            _ => {
                assert_eq!(event.about, "missed");
                let missed: usize = event.text.split(' ').next().unwrap().parse().unwrap();
                assert_eq!(seen + missed, BURST);
                assert!(missed > 0);
                break;
            }
        }
    }
    rig.server.publish(&event("converged"));
    let got: Reply<EventReply> = reply(&mut stream);
    assert_eq!(got.parameters.unwrap().event.about, "converged");
}

#[test]
fn a_burst_of_ten_thousand_changes_loses_no_answer() {
    const CHANGES: usize = 10_000;
    let mut rig = Rig::new(1);
    let (id, stream) = rig.connect();
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(&Request::Rollback(request::Rollback::default()).frame(true)).unwrap();
    let incoming = rig.turn(id);
    for outcome in [Outcome::Kept, Outcome::Changed] {
        for n in 0..CHANGES {
            let unit = format!("file:/srv/site/{n}");
            let progress =
                Progress { unit, state: Some(State::Ready), outcome: Some(outcome), text: String::new() };
            rig.server.progress(incoming[0].call, &progress);
        }
    }
    let tally = Tally::default();
    let finished = Finished { verdict: Verdict::Done, generation: 1, tally, text: String::new() };
    rig.server.answer(incoming[0].call, &Answer::Finished(finished));
    let mut changed = 0;
    loop {
        let got: Reply<Change> = reply(&mut stream);
        rig.turn(id);
        if !got.continues {
            break;
        }
        let news = got.parameters.unwrap().progress;
        changed += news.iter().filter(|p| p.outcome == Some(Outcome::Changed)).count();
    }
    assert_eq!(changed, CHANGES);
}

#[test]
fn garbage_is_told_and_closed_and_half_a_message_costs_one_frame() {
    let mut rig = Rig::new(1);
    let (id, mut stream) = rig.connect();
    stream.write_all(b"\x7fELF garbage\0").unwrap();
    rig.turn(id);
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.contains("io.holdfast.InvalidFrame"), "{said}");
    assert_eq!(rig.server.clients(), 0);

    let (id, mut half) = rig.connect();
    half.write_all(b"{\"method\":\"io.holdfast.").unwrap();
    assert!(rig.turn(id).is_empty());
    half.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while let Ok(count) = half.write(&[b'x'; 8192]) {
        sent += count;
        rig.turn(id);
        if rig.server.clients() == 0 {
            break;
        }
    }
    assert_eq!(rig.server.clients(), 0);
    assert!(sent <= 2 * super::super::wire::MAX_FRAME, "{sent}");
}

#[test]
fn a_client_that_leaves_abandons_its_call() {
    let mut rig = Rig::new(1);
    let (id, mut stream) = rig.connect();
    stream.write_all(&Request::Reexec(Empty {}).frame(false)).unwrap();
    let incoming = rig.turn(id);
    drop(stream);
    rig.turn(id);
    assert_eq!(rig.server.take_abandoned(), [incoming[0].call]);
    rig.server.answer(incoming[0].call, &Answer::Begun);
}

#[test]
fn the_oldest_idle_client_makes_room() {
    let mut rig = Rig::new(1);
    let all: Vec<_> = (0..MAX_CLIENTS).map(|_| rig.connect()).collect();
    let (first, mut stream) = (all[0].0, &all[0].1);
    stream.write_all(&Request::Events(Empty {}).frame(true)).unwrap();
    rig.turn(first);
    let (new, _stream) = rig.connect();
    assert_eq!(rig.server.clients(), MAX_CLIENTS);
    assert!(rig.server.clients.contains_key(&first), "it is busy");
    assert!(!rig.server.clients.contains_key(&all[1].0), "it was the oldest idle one");
    assert!(rig.server.clients.contains_key(&new));
    assert_eq!(rig.server.take_notes().len(), 1);
}

/// Nothing in PID 1 waits with a clock for the rest of a message: what it costs is bounded, and it keeps nobody out.
#[test]
fn halves_of_messages_keep_nobody_out() {
    let mut rig = Rig::new(1);
    let mut half = Vec::new();
    for _ in 0..MAX_CLIENTS {
        let (id, mut stream) = rig.connect();
        stream.write_all(b"{\"method\":\"io.holdfast.Control.In").unwrap();
        assert!(rig.turn(id).is_empty());
        half.push(stream);
    }
    let (id, stream) = rig.connect();
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(&Request::Info(Empty {}).frame(false)).unwrap();
    rig.turn(id);
    let info: Reply<Info> = reply(&mut stream);
    assert_eq!(info.parameters.unwrap().version, "1");
    assert_eq!(rig.server.clients(), MAX_CLIENTS);
    let gone = half[0].read(&mut [0]);
    assert!(matches!(gone, Ok(0) | Err(_)), "the first of them had to go: {gone:?}");
    let notes = rig.server.take_notes();
    assert!(notes[0].contains("there are too many clients"), "{notes:?}");
}

#[test]
fn thousands_of_calls_at_once_are_served_within_the_bound() {
    let mut rig = Rig::new(1);
    let (id, stream) = rig.connect();
    const CALLS: usize = 5000;
    let mut writer = stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        for _ in 0..CALLS {
            writer.write_all(&Request::Info(Empty {}).frame(false)).unwrap();
        }
    });
    let reading = std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        for _ in 0..CALLS {
            let info: Reply<Info> = reply(&mut stream);
            assert_eq!(info.parameters.unwrap().version, "1");
        }
    });
    while !reading.is_finished() {
        rig.turn(id);
        std::thread::yield_now();
    }
    sending.join().unwrap();
    reading.join().unwrap();
    assert!(rig.server.take_notes().is_empty());
}

#[test]
fn the_interface_can_be_introspected() {
    let mut rig = Rig::new(1);
    let (id, stream) = rig.connect();
    let mut stream = BufReader::new(stream);
    for (call, expected) in [
        (r#"{"method":"org.varlink.service.GetInfo"}"#, "io.holdfast"),
        (
            r#"{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"io.holdfast"}}"#,
            "method Apply(",
        ),
        (
            r#"{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"org.varlink.service"}}"#,
            "method GetInfo(",
        ),
        (
            r#"{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"a.b"}}"#,
            "InterfaceNotFound",
        ),
    ] {
        stream.get_mut().write_all(call.as_bytes()).unwrap();
        stream.get_mut().write_all(b"\0").unwrap();
        rig.turn(id);
        let got: Reply<serde_json::Value> = reply(&mut stream);
        assert!(format!("{got:?}").contains(expected), "{got:?}");
    }
}

#[test]
fn what_happens_in_one_round_is_one_reply() {
    let mut rig = Rig::new(1);
    let (id, stream) = rig.connect();
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(&Request::Rollback(request::Rollback::default()).frame(true)).unwrap();
    let call = rig.turn(id)[0].call;
    let news = |n: usize| Progress {
        unit: format!("file:/srv/{n}"),
        state: Some(State::Ready),
        outcome: Some(Outcome::Changed),
        text: String::new(),
    };
    for round in [0..3, 3..103] {
        let all: Vec<Progress> = round.map(news).collect();
        for one in &all {
            rig.server.progress(call, one);
        }
        rig.server.tell_news();
        rig.server.tell_news();
        let mut got = Vec::new();
        // A reply has its bound, so that it is sent while others are still made.
        for most in all.chunks(super::NEWS) {
            let next: Reply<Change> = reply(&mut stream);
            let next = next.parameters.unwrap().progress;
            assert_eq!(next.len(), most.len());
            got.extend(next);
        }
        assert_eq!(got, all);
    }
}

#[test]
fn who_begins_a_call_has_so_much_time_to_end_it() {
    let mut rig = Rig::new(1);
    let (quiet, _kept) = rig.connect();
    let (half, mut stream) = rig.connect();
    rig.turn(quiet);
    rig.server.time_halves(Mono(1));
    assert_eq!(rig.server.half_deadline(), None, "nobody has begun anything");
    let call = Request::Info(Empty {}).frame(false);
    stream.write_all(&call[..7]).unwrap();
    rig.turn(half);
    rig.server.time_halves(Mono(2));
    assert_eq!(rig.server.half_deadline(), Some(Mono(2).after_ms(HALF_MS)));
    // Its end, and the beginning of the next: the clock starts anew.
    stream.write_all(&call[7..]).unwrap();
    stream.write_all(&call[..7]).unwrap();
    rig.turn(half);
    rig.server.time_halves(Mono(3));
    assert_eq!(rig.server.half_deadline(), Some(Mono(3).after_ms(HALF_MS)));
    rig.server.time_halves(Mono(2).after_ms(HALF_MS));
    assert!(rig.server.has_client(half));
    rig.server.time_halves(Mono(3).after_ms(HALF_MS));
    assert!(!rig.server.has_client(half) && rig.server.has_client(quiet));
    assert_eq!(rig.server.take_notes().len(), 1);
}

/// Another server goes on with the clients: what they wait for, what they have begun to say, what they have not read.
#[test]
fn clients_are_handed_over() {
    let mut rig = Rig::new(1);
    let apply = Request::Apply(request::Apply { path: Some("/x".into()), ..request::Apply::default() });
    let (waits, mut waiting) = rig.connect();
    waiting.write_all(&apply.frame(true)).unwrap();
    let call = rig.turn(waits)[0].call;
    let (listens, mut listening) = rig.connect();
    listening.write_all(&Request::Events(Empty {}).frame(true)).unwrap();
    rig.turn(listens);
    let (half, mut beginning) = rig.connect();
    let info = Request::Info(Empty {}).frame(false);
    beginning.write_all(&info[..9]).unwrap();
    rig.turn(half);

    let bytes = postcard::to_allocvec(&rig.server.hand_over()).unwrap();
    let numbers: Vec<RawFd> = rig.server.clients.values().map(|c| c.stream.as_raw_fd()).collect();
    let streams = rig.server.clients.values().map(|c| c.stream.try_clone().unwrap());
    let mut open: BTreeMap<RawFd, OwnedFd> = numbers.into_iter().zip(streams.map(OwnedFd::from)).collect();
    rig.server.clients.clear();
    rig.server = Server::bind(&rig.path, SOCKET_MODE).unwrap();
    let handed = postcard::from_bytes(&bytes).unwrap();
    let taken = rig.server.take_over(handed, &mut |number| open.remove(&number));
    assert_eq!(taken.len(), 3);

    let finished =
        Finished { verdict: Verdict::Done, generation: 4, tally: Tally::default(), text: String::new() };
    rig.server.answer(call, &Answer::Finished(finished));
    let said: Reply<Change> = reply(&mut BufReader::new(&waiting));
    assert_eq!(said.parameters.unwrap().finished.unwrap().generation, 4);
    assert!(rig.server.has_listeners());
    beginning.write_all(&info[9..]).unwrap();
    rig.turn(half);
    let said: Reply<Info> = reply(&mut BufReader::new(&beginning));
    assert_eq!(said.parameters.unwrap().version, "1");
    waiting.write_all(&Request::Reexec(Empty {}).frame(false)).unwrap();
    assert!(rig.turn(waits)[0].call > call, "no number comes twice");
}

#[test]
fn who_listens_is_known_without_a_call() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control");
    assert!(!socket::is_served(&path));
    let server = Server::bind(&path, SOCKET_MODE).unwrap();
    // However many wait to be taken.
    for _ in 0..5000 {
        assert!(socket::is_served(&path));
    }
    drop(server);
    assert!(path.exists() && !socket::is_served(&path));
}
