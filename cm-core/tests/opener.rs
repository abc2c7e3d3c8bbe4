//! A compiler that somebody has taken over asks the opener for what it wants.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::Path;

use cm_core::worker::compile::{Job, read_apart};
use units::load::Loader;

/// What the opener answers to a compiler that has read the state file as it should: a line an attempt.
fn asked(dir: &Path, text: &str, attempts: &[(&str, String)]) -> Vec<String> {
    let entry = dir.join("state.toml");
    fs::write(&entry, text).unwrap();
    let job = Job::alone(entry.to_string_lossy().into_owned(), None, (0, 0), dir.join("staging"));
    let said = read_apart(&job, |loader: &mut dyn Loader| {
        let mut out = String::new();
        let read = loader.read(&job.entry).is_ok();
        out.push_str(&format!("state {read}\n"));
        for (how, path) in attempts {
            let got = match *how {
                "read" => loader.read(path).map(|b| String::from_utf8_lossy(&b).into_owned()),
                "source" => loader.source(path).map(|c| format!("{} bytes", c.size)),
                _ => loader.list(path).map(|l| format!("{} names", l.len())),
            };
            out.push_str(&match got {
                Ok(text) => format!("{how}: {}\n", text.trim()),
                Err(e) => format!("{how}: {e}\n"),
            });
        }
        out.into_bytes()
    });
    String::from_utf8(said.unwrap()).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_compiler_that_was_taken_over_gets_only_what_the_state_names() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    for (name, text) in [("hidden", "hush"), ("motd", "hello"), ("page", "page"), ("more", "[target.a]")] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    fs::create_dir(dir.path().join("site")).unwrap();
    fs::write(dir.path().join("site/index"), "index").unwrap();
    std::os::unix::fs::symlink("../hidden", dir.path().join("site/out")).unwrap();
    // A source is no state file: that it names something opens nothing.
    fs::write(dir.path().join("motd"), format!("source = \"{}\"\n", at("hidden"))).unwrap();
    let state = "include = [\"more\"]\n[file.\"/etc/shadow\"]\nmode = \"0600\"\n\
                 [file.\"/etc/motd\"]\nsource = \"motd\"\n[directory.\"/srv\"]\nsource = \"site\"\n";
    let attempts = [
        ("source", "/etc/shadow".to_owned()),
        ("read", "/etc/shadow".to_owned()),
        ("list", "/etc".to_owned()),
        ("read", at("hidden")),
        ("source", at("motd")),
        ("read", at("motd")),
        ("source", at("hidden")),
        ("source", at("site/../hidden")),
        ("source", at("site/out")),
        ("list", at("site")),
        ("source", at("site/index")),
        ("read", at("more")),
    ];
    let said = asked(dir.path(), state, &attempts);
    assert_eq!(said[0], "state true");
    for (line, (how, path)) in said[1..].iter().zip(&attempts) {
        let refused = line.contains("no state file names it");
        let wanted = match (*how, path.strip_prefix(&format!("{}/", dir.path().display()))) {
            ("source" | "read", Some("motd")) | ("list", Some("site")) => {
                !refused && !line.contains("cannot")
            }
            ("source", Some("site/index")) => line == "source: 5 bytes",
            ("source", Some("site/out")) => line.contains("it leads out of"),
            ("read", Some("more")) => line == "read: [target.a]",
            _ => refused,
        };
        assert!(wanted, "{how} {path}: {line}");
    }
}
