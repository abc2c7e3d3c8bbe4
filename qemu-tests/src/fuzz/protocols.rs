//! What others say to PID 1: clients, services, the kernel, the worker, the log daemon.

use cm_core::proto::{Reply, Request};
use cm_core::varlink::{Frames, MAX_FRAME};
use init::control::request;
use init::log::protocol::{Order, Report};
use init::sys::{notify, uevent};

use super::Target;

/// One frame of a client of the control socket.
pub const CONTROL: Target = Target {
    name: "control",
    seeds: || {
        let call = |method: &str, parameters: &str| {
            format!("{{\"method\":\"{method}\",\"parameters\":{{{parameters}}},\"more\":true}}").into_bytes()
        };
        vec![
            call("io.holdfast.Apply", "\"path\":\"/etc/holdfast/state.toml\",\"only\":[\"service:a\"]"),
            call("io.holdfast.Rollback", "\"generation\":1"),
            call("io.holdfast.Command", "\"verb\":\"kill\",\"units\":[\"service:a\"],\"signal\":15"),
            call("io.holdfast.Status", "\"units\":[\"file:/etc/motd\"]"),
            call("io.holdfast.Wait", "\"converged\":true"),
            call("io.holdfast.Events", ""),
            call("org.varlink.service.GetInfo", ""),
        ]
    },
    words: &[
        "io.holdfast.",
        "\"more\":true",
        "\"upgrade\":true",
        "null",
        "[[[[[[[[",
        "1e999",
        "\\ud800",
        "-1",
    ],
    run: |bytes| {
        // An answer is made of it, whatever it is.
        if let Err(failure) = request::Request::parse(bytes) {
            let mut out = Vec::new();
            init::control::wire::failure(&mut out, &failure);
            assert_eq!(out.last(), Some(&0), "a failure is no frame");
            assert!(out.len() <= MAX_FRAME, "a failure of {} bytes", out.len());
        }
    },
};

/// A stream of frames, in pieces as they come.
pub const FRAMES: Target = Target {
    name: "frames",
    seeds: || vec![b"{}\0{\"method\":\"x\"}\0half".to_vec(), vec![b'x'; 5000]],
    words: &["\0"],
    run: |bytes| {
        let (mut frames, mut all) = (Frames::default(), Vec::new());
        for piece in bytes.chunks(7) {
            if frames.feed(piece).is_err() {
                return;
            }
            while let Some(frame) = frames.next_frame() {
                all.push(frame);
            }
            assert!(frames.len() <= MAX_FRAME, "{} bytes wait", frames.len());
        }
        let mut whole: Vec<&[u8]> = bytes.split(|b| *b == 0).collect();
        whole.pop();
        assert_eq!(all, whole, "pieces give other frames than the whole");
    },
};

/// One frame of a client of the query service.
pub const QUERY: Target = Target {
    name: "query",
    seeds: || {
        ["Plan", "Generations", "Explain", "History"]
            .map(|m| format!("{{\"method\":\"io.holdfast.store.{m}\",\"parameters\":{{}}}}").into_bytes())
            .to_vec()
    },
    words: &["io.holdfast.store.", "\"generation\":1", "null", "\"path\":\"/a\""],
    run: |bytes| {
        let _ = cm_core::query::wire::parse(bytes);
    },
};

/// A datagram of a service.
pub const NOTIFY: Target = Target {
    name: "notify",
    seeds: || {
        vec![
            b"READY=1\nSTATUS=up\nMAINPID=12\n".to_vec(),
            b"RELOADING=1\nMONOTONIC_USEC=12\n".to_vec(),
            b"WATCHDOG_USEC=3\nEXTEND_TIMEOUT_USEC=4\nERRNO=2\nBARRIER=1".to_vec(),
        ]
    },
    words: &["READY=1", "WATCHDOG=trigger", "18446744073709551616", "\n", "STATUS="],
    run: |bytes| {
        let said = notify::parse(bytes);
        let status = said.status.unwrap_or_default();
        assert!(status.len() <= notify::MAX_STATUS, "a status of {} bytes", status.len());
        assert!(!status.chars().any(char::is_control), "control characters in {status:?}");
        assert!(said.main_pid.is_none_or(|p| p > 0), "no process has the number {:?}", said.main_pid);
    },
};

/// A packet between PID 1 and the worker, either way.
pub const WORKER: Target = Target {
    name: "worker",
    seeds: || {
        let packets = [
            Reply::Hello { version: 1 },
            Reply::BatchDone { batch: 3 },
            Reply::Compiled { token: 1, result: Ok(3) },
            Reply::Log { warning: true, text: "text".to_owned() },
        ];
        packets.iter().filter_map(|p| postcard::to_allocvec(p).ok()).collect()
    },
    words: &[],
    run: |bytes| {
        if let Ok(reply) = postcard::from_bytes::<Reply>(bytes) {
            let again = postcard::to_allocvec(&reply).ok().and_then(|b| postcard::from_bytes(&b).ok());
            assert_eq!(again, Some(reply), "a reply reads other than it was written");
        }
        let _ = postcard::from_bytes::<Request>(bytes);
    },
};

/// A packet between PID 1 and the log daemon, either way.
pub const LOGS: Target = Target {
    name: "logs",
    seeds: || vec![vec![0; 8], vec![1, 1, 0, 0], vec![2, 3, b'a', b'b', b'c']],
    words: &[],
    run: |bytes| {
        let _ = (init::log::protocol::decode::<Order>(bytes), init::log::protocol::decode::<Report>(bytes));
    },
};

/// What the kernel multicasts; anybody with the right can send the same.
pub const UEVENT: Target = Target {
    name: "uevent",
    seeds: || {
        vec![
            b"add@/devices/a\0ACTION=add\0DEVPATH=/devices/a\0SUBSYSTEM=block\0MODALIAS=pci:1\0SEQNUM=4\0"
                .to_vec(),
        ]
    },
    words: &["ACTION=", "DEVPATH=", "\0", "@", "MODALIAS=", "libudev"],
    run: |bytes| drop(uevent::parse(bytes)),
};
