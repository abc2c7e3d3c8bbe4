//! Connections to who answers for the store: who may ask, how much, and what ends when somebody goes.

use super::*;

#[test]
fn several_replies_need_more_and_a_connection_takes_several_calls() {
    let mut host = Host::new();
    host.apply(FIRST);
    let mut client = host.connect();
    client.send("io.holdfast.Store.Verify", &json!({ "all": true }), false);
    assert_eq!(client.answers().unwrap_err().0, "org.varlink.service.ExpectedMore");
    // Two at once, one behind the other.
    client.send("io.holdfast.Store.Generations", &json!({}), false);
    client.send("org.varlink.service.GetInfo", &json!({}), false);
    assert_eq!(client.answers().unwrap()[0]["generations"][0]["number"], 1);
    assert_eq!(client.answers().unwrap()[0]["interfaces"][1], "io.holdfast.Store");
    let asked = json!({ "interface": "io.holdfast.Store" });
    let description = client.call("org.varlink.service.GetInterfaceDescription", asked).unwrap();
    assert!(description[0]["description"].as_str().unwrap().contains("method Plan("));
    assert_eq!(
        client.call("io.holdfast.Store.Nope", json!({})).unwrap_err().0,
        "org.varlink.service.MethodNotFound"
    );
    assert_eq!(client.call("nope", json!({})).unwrap_err().0, "org.varlink.service.InterfaceNotFound");
}

#[test]
fn it_ends_when_nobody_is_there_and_not_before() {
    let mut host = Host::new();
    host.apply(FIRST);
    let mut client = host.connect();
    client.call("io.holdfast.Store.Generations", json!({})).unwrap();
    // Longer than an idle worker stays: an end of the stream, for which this waits, must not come.
    client.stream.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
    let nothing = client.stream.read(&mut [0]).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    client.stream.set_read_timeout(None).unwrap();
    assert!(host.child.as_mut().unwrap().try_wait().unwrap().is_none());
    client.call("io.holdfast.Store.Generations", json!({})).unwrap();
    drop(client);
    assert!(host.ended().success());
    // Whoever comes afterwards is served by the next one.
    assert!(host.call("Generations", json!({})).is_ok());
}

#[test]
fn garbage_half_messages_and_endless_ones_harm_nobody() {
    let mut host = Host::new();
    host.apply(FIRST);
    let mut half = host.connect();
    half.stream.write_all(b"{\"method\":\"io.hold").unwrap();
    let mut garbage = host.connect();
    garbage.stream.write_all(b"\xff\xfe garbage\0[1,2]\0{}\0").unwrap();
    for _ in 0..3 {
        assert_eq!(garbage.reply().unwrap()["error"], "io.holdfast.Store.InvalidParameter");
    }
    assert!(garbage.call("io.holdfast.Store.Generations", json!({})).is_ok());
    let mut endless = host.connect();
    let flood = vec![b'x'; 80 << 10];
    let _ = endless.stream.write_all(&flood);
    let reply = endless.reply();
    assert!(reply.is_none_or(|r| r["error"] == "io.holdfast.Store.InvalidParameter"));
    assert!(endless.reply().is_none());
    assert!(host.call("Generations", json!({})).is_ok());
    half.stream.write_all(b"fast.Store.Generations\"}\0").unwrap();
    assert!(half.answers().is_ok());
}

#[test]
fn who_does_not_read_is_dropped_and_holds_up_nobody() {
    let mut host = Host::new();
    let files: String =
        (0..2000).map(|n| format!("[file.\"/etc/many/{n}\"]\ncontent = \"{}\"\n", "x".repeat(400))).collect();
    host.apply(FIRST);
    fs::write(host.bench.dir.path().join("next.toml"), &files).unwrap();
    let path = host.bench.dir.path().join("next.toml");
    let mut lazy: Vec<Client> = (0..3).map(|_| host.connect()).collect();
    for client in &mut lazy {
        client.send("io.holdfast.Store.Plan", &json!({ "path": path }), true);
    }
    let begun = Instant::now();
    assert!(host.call("Generations", json!({})).is_ok());
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    // After ten seconds without taking anything they are cut off before the end.
    for client in &mut lazy {
        let mut gone = [PollFd::new(client.stream.as_fd(), PollFlags::empty())];
        assert_eq!(poll(&mut gone, PollTimeout::from(30_000u16)), Ok(1));
        let mut all = Vec::new();
        let _ = client.stream.read_to_end(&mut all);
        let all = String::from_utf8_lossy(&all);
        assert!(all.contains("change") && !all.contains("summary"), "{} bytes", all.len());
    }
    drop(lazy);
    assert!(host.ended().success());
}

#[test]
fn a_client_that_goes_away_takes_its_call_along() {
    let mut host = Host::new();
    host.apply(FIRST);
    for _ in 0..20 {
        let mut client = host.connect();
        client.send("io.holdfast.Store.Plan", &json!({ "path": host.state() }), true);
    }
    assert!(host.call("Generations", json!({})).is_ok());
    assert!(host.ended().success());
    let left: Vec<_> =
        fs::read_dir(host.bench.dir.path().join("run/query")).into_iter().flatten().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_call_that_hangs_ends_with_its_client() {
    let mut host = Host::new();
    host.apply(FIRST);
    let files: String =
        (0..2000).map(|n| format!("[file.\"/etc/many/{n}\"]\ncontent = \"{}\"\n", "x".repeat(400))).collect();
    let path = host.bench.dir.path().join("next.toml");
    fs::write(&path, &files).unwrap();
    let mut client = host.connect();
    client.send("io.holdfast.Store.Plan", &json!({ "path": path }), true);
    // It has begun to answer, more than the socket takes.
    assert_eq!(poll(&mut [PollFd::new(client.stream.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE), Ok(1));
    let server = host.child.as_ref().unwrap().id();
    let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children")).unwrap();
    let call: i32 = children.trim().parse().unwrap();
    // As if a disk did not answer any more.
    let pid = nix::unistd::Pid::from_raw(call);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    drop(client);
    assert!(host.ended().success());
    assert!(!std::path::Path::new(&format!("/proc/{call}")).exists(), "the call is left behind");
}

#[test]
fn only_root_and_the_owner_of_the_socket_may_ask() {
    let mut host = Host::new();
    host.apply(FIRST);
    host.serve();
    let run = host.bench.dir.path().join("run");
    fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(run.join("control.store"), fs::Permissions::from_mode(0o666)).unwrap();
    let somebody = std::thread::spawn(move || {
        let (keep, nobody) = (u32::MAX, 65_534u32);
        // SAFETY: only numbers are passed; the raw call changes the user of this thread alone, which then ends.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, keep, nobody, keep) }, 0);
        let stream = UnixStream::connect(run.join("control.store")).unwrap();
        let mut client = Client { stream, buffer: Vec::new() };
        let refused = client.call("io.holdfast.Store.Generations", json!({})).unwrap_err();
        assert!(client.call("org.varlink.service.GetInfo", json!({})).is_ok());
        refused
    });
    let (name, parameters) = somebody.join().unwrap();
    assert_eq!(name, "io.holdfast.Store.PermissionDenied");
    assert_eq!(parameters["what"], "call io.holdfast.Store.Generations");
}

#[test]
fn who_answers_can_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "kept").unwrap();
    let open = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    match fork().unwrap() {
        Forked::Child => {
            let confined = confine::reader().is_ok();
            let tries = [
                fs::read(&path).is_ok_and(|b| b == b"kept"),
                fs::write(&path, "x").is_err(),
                fs::write(dir.path().join("new"), "x").is_err(),
                fs::remove_file(&path).is_err(),
                fs::rename(&path, dir.path().join("other")).is_err(),
                fs::create_dir(dir.path().join("sub")).is_err(),
                fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).is_err(),
                open.set_permissions(fs::Permissions::from_mode(0o777)).is_err(),
                open.set_len(0).is_err(),
                std::os::unix::fs::fchown(&open, Some(1), Some(1)).is_err(),
                UnixStream::pair().is_err(),
                fork().is_err(),
            ];
            let failed = tries.iter().position(|good| !good).map_or(0, |at| at + 1);
            std::process::exit(if confined { i32::try_from(failed).unwrap_or(99) } else { 98 });
        }
        Forked::Parent(pid) => {
            let status = nix::sys::wait::waitpid(pid, None).unwrap();
            assert_eq!(status, nix::sys::wait::WaitStatus::Exited(pid, 0));
        }
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
}
