//! What a state compiles to: edges with their reasons, claims, flags, layers, trees.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use units::kind::Spec;
use units::kind::service::{Ready, Restart};
use units::load::{EntryKind, MemoryLoader};
use units::manifest::flags;
use units::{Compiled, EdgeKind, Kind, Layer, Manifest, Where, compile, compile_layers, diagnostic};

fn compiled(mut loader: MemoryLoader) -> Compiled {
    compile("state.toml", &mut loader)
}

fn manifest(state: &str) -> Manifest {
    finished(compiled(MemoryLoader::new().file("state.toml", state)))
}

fn finished(c: Compiled) -> Manifest {
    let said: String = c.diagnostics.iter().map(|d| diagnostic::render(d, &c.sources)).collect();
    c.manifest.unwrap_or_else(|| panic!("{said}"))
}

/// The edges of a unit: `kind target (reason)`, sorted.
fn deps(m: &Manifest, kind: Kind, name: &str) -> Vec<String> {
    let id = m.find(kind, name).unwrap_or_else(|| panic!("no {kind}:{name}"));
    let mut all: Vec<String> =
        m.deps(id).map(|e| format!("{} {} ({})", e.kind.word(), m.address(e.unit), e.reason)).collect();
    all.sort();
    all
}

#[test]
fn a_program_is_looked_for_where_the_service_will_look() {
    let m = manifest(
        r#"
[service.own]
exec        = ["web"]
environment = { PATH = "/opt/bin/:/usr/bin" }
[service.usual]
exec = ["web"]
[file."/opt/bin/web"]
content = "x"
[file."/usr/bin/web"]
content = "x"
"#,
    );
    assert_eq!(deps(&m, Kind::Service, "own"), ["requires file:/opt/bin/web (program)"]);
    assert_eq!(deps(&m, Kind::Service, "usual"), ["requires file:/usr/bin/web (program)"]);
}

#[test]
fn edges_that_go_without_saying() {
    let m = manifest(
        r#"
[service.web]
exec      = ["/opt/web/bin/web"]
ready     = "path=/run/web/pid"
user      = "web"
groups    = ["log"]
directory = "/srv/site"
writes    = ["/data/web"]
reload-on = ["file:/srv/site/index.html"]

[file."/opt/web/bin/web"]
content = "x"
[directory."/srv"]
[symlink."/run/web"]
target = "/tmp"
[file."/srv/site/index.html"]
content = "hello"
owner   = "web"
[mount."/data"]
source = "/dev/vdb"
fstype = "xfs"
[mount."/data/deep"]
fstype = "tmpfs"
[module.xfs]
[user.web]
home        = "/srv/home/web"
create-home = true
groups      = ["log"]
[group.web]
[group.log]
[line.x]
path = "/srv/lines"
line = "x"
[exec.init]
command = ["/opt/web/bin/web", "--init"]
creates = "/data/deep/db"
user    = "web"
[sysctl."net.core.somaxconn"]
value = 1
[mount."/proc"]
fstype = "proc"
"#,
    );
    assert_eq!(
        deps(&m, Kind::Service, "web"),
        [
            "binds mount:/data (mount that holds it)",
            "reload-on file:/srv/site/index.html ()",
            "requires directory:/srv (parent directory)",
            "requires file:/opt/web/bin/web (program)",
            "requires file:/srv/site/index.html (its input)",
            "requires group:log (group of the service)",
            "requires symlink:/run/web (the way to it)",
            "requires user:web (user of the service)",
        ]
    );
    assert_eq!(
        deps(&m, Kind::File, "/srv/site/index.html"),
        ["requires directory:/srv (parent directory)", "requires user:web (owner)"]
    );
    assert_eq!(deps(&m, Kind::Mount, "/data"), ["requires module:xfs (driver of the file system)"]);
    assert_eq!(deps(&m, Kind::Mount, "/data/deep"), ["requires mount:/data (mount that holds it)"]);
    assert_eq!(
        deps(&m, Kind::User, "web"),
        [
            "requires directory:/srv (parent directory)",
            "requires group:log (group of the user)",
            "requires group:web (primary group of the user)",
        ]
    );
    assert_eq!(deps(&m, Kind::Line, "x"), ["requires directory:/srv (parent directory)"]);
    assert_eq!(
        deps(&m, Kind::Exec, "init"),
        [
            "requires file:/opt/web/bin/web (program)",
            "requires mount:/data/deep (mount that holds it)",
            "requires user:web (user of the command)",
        ]
    );
    assert_eq!(deps(&m, Kind::Sysctl, "net.core.somaxconn"), ["requires mount:/proc (mount that holds it)"]);
}

/// Of a review: without `home` it is made in /home, which is not there before its mount is.
#[test]
fn a_home_that_goes_without_saying_waits_for_its_mount() {
    let m = manifest(
        "[mount.'/home']\nfstype = 'tmpfs'\n[user.carl]\ncreate-home = true\n[user.dora]\n\
         [user.eve]\nhome = '/home/of/eve'\ncreate-home = true\n",
    );
    let waits = ["requires mount:/home (mount that holds it)"];
    assert_eq!(deps(&m, Kind::User, "carl"), waits);
    assert_eq!(deps(&m, Kind::User, "eve"), waits);
    assert!(deps(&m, Kind::User, "dora").is_empty(), "nothing of hers lies there for us");
}

#[test]
fn written_edges_of_every_kind() {
    let m = manifest(
        r#"
[service.a]
exec       = ["a"]
requires   = ["target:b"]
binds      = ["target:c"]
wants      = ["target:d"]
after      = ["target:e", "target:absent"]
restart-on = ["file:/f"]
[target.b]
before = ["target:c"]
[target.c]
[target.d]
[target.e]
[file."/f"]
content = ""
"#,
    );
    assert_eq!(
        deps(&m, Kind::Service, "a"),
        [
            "after target:e ()",
            "binds target:c ()",
            "requires file:/f (its input)",
            "requires target:b ()",
            "restart-on file:/f ()",
            "wants target:d ()",
        ]
    );
    assert_eq!(deps(&m, Kind::Target, "c"), ["after target:b ()"]);
}

#[test]
fn defaults_follow_the_readiness() {
    let m = manifest("[service.a]\nexec = 'a b'\n[service.b]\nexec = ['b']\nready = 'exited'\n");
    let a = m.service(m.find(Kind::Service, "a").unwrap()).unwrap();
    let b = m.service(m.find(Kind::Service, "b").unwrap()).unwrap();
    assert_eq!(
        (a.exec, a.ready, a.restart, a.start_timeout),
        (vec!["a".into(), "b".into()], Ready::Started, Restart::Always, 30_000)
    );
    assert_eq!((b.restart, b.start_timeout, b.stop_timeout, b.umask), (Restart::OnFailure, 0, 10_000, 0o022));
    assert_eq!((b.log_size, b.log_keep, b.stop_signal, b.healthy), (8 << 20, 4, 15, 10_000));
}

#[test]
fn flags_claims_origins() {
    let m = manifest(
        r#"
[file."/x"]
content    = "1"
drift      = "report"
ownership  = "seed"
secret     = true
settle     = 0
on-removal = "keep"
description = "an x"
[user.a]
uid = 7
password-hash = "!"
[service.m]
exec  = ["m"]
start = "manual"
[service.d]
exec  = ["d"]
start = "on-demand"
tty   = "/dev/tty1"
"#,
    );
    let x = m.unit(m.find(Kind::File, "/x").unwrap());
    assert_eq!(x.flags, flags::REPORT | flags::SEED | flags::SECRET | flags::KEEP_ON_REMOVAL);
    assert_eq!((x.settle, x.layer, x.origin, x.description), (0, "main", "state.toml:2", "an x"));
    assert_ne!(x.claim, 0);
    let a = m.unit(m.find(Kind::User, "a").unwrap());
    assert_eq!((a.flags, a.settle), (flags::SECRET, 50));
    assert_ne!(a.claim, 0);
    assert_eq!(m.flags(m.find(Kind::Service, "m").unwrap()), flags::MANUAL);
    assert_eq!(m.flags(m.find(Kind::Service, "d").unwrap()), flags::ON_DEMAND);
    let other = manifest("[directory.\"/x\"]\n");
    assert_eq!(other.claim(other.find(Kind::Directory, "/x").unwrap()), x.claim);
}

#[test]
fn a_directory_with_a_source_is_many_units() {
    let mut loader = MemoryLoader::new()
        .file(
            "etc/state.toml",
            r#"
[directory."/srv/www"]
source = "www"
owner  = "web"
purge  = true
[file."/srv/www/own.html"]
content = "declared by itself"
[file."/srv/www/extra/deep/x"]
content = "makes `extra` an entry"
[service.web]
exec      = ["web"]
reload-on = ["directory:/srv/www"]
"#,
        )
        .entry("etc/www/bin/tool", EntryKind::File, 0o755, "#!")
        .entry("etc/www/link", EntryKind::Symlink("bin/tool".into()), 0o777, "")
        .file("etc/www/own.html", "loses")
        .file("etc/www/index.html", "hello");
    let c = compile("etc/state.toml", &mut loader);
    let contents = c.contents.clone();
    let m = finished(c);
    let names: Vec<String> = m.ids().map(|i| m.address(i).to_string()).collect();
    assert_eq!(
        names,
        [
            "service:web",
            "file:/srv/www/bin/tool",
            "file:/srv/www/extra/deep/x",
            "file:/srv/www/index.html",
            "file:/srv/www/own.html",
            "directory:/srv/www",
            "directory:/srv/www/bin",
            "symlink:/srv/www/link",
        ]
    );
    let Some(Spec::Directory(d)) = m.spec(m.find(Kind::Directory, "/srv/www").unwrap()) else { panic!() };
    assert_eq!(d.entries, ["bin", "extra", "index.html", "link", "own.html"]);
    let Some(Spec::File(f)) = m.spec(m.find(Kind::File, "/srv/www/bin/tool").unwrap()) else { panic!() };
    assert_eq!((f.attributes.mode, f.attributes.owner.as_deref()), (Some(0o755), Some("web")));
    let source = contents.iter().find(|(c, _)| Some(*c) == f.content).map(|(_, w)| w.clone());
    assert_eq!(source, Some(Where::Source("etc/www/bin/tool".into())));
    let Some(Spec::File(own)) = m.spec(m.find(Kind::File, "/srv/www/own.html").unwrap()) else { panic!() };
    let inline = contents.iter().find(|(c, _)| Some(*c) == own.content).map(|(_, w)| w.clone());
    assert_eq!(inline, Some(Where::Inline(b"declared by itself".to_vec())));
    let web = deps(&m, Kind::Service, "web");
    assert!(
        web.contains(&"reload-on file:/srv/www/index.html (part of directory:/srv/www)".to_owned()),
        "{web:?}"
    );
    assert!(web.contains(&"requires file:/srv/www/index.html (its input)".to_owned()), "{web:?}");
    assert_eq!(
        deps(&m, Kind::File, "/srv/www/bin/tool"),
        ["requires directory:/srv/www/bin (parent directory)"]
    );
}

/// Of a review: the home of a declared user was purged, with all that was in it.
#[test]
fn a_purge_leaves_every_path_that_the_state_names() {
    let m = manifest(
        r#"
[directory."/srv"]
purge = true
[user.bob]
home = "/srv/bob"
[user.carl]
home  = "/srv/homes/carl"
shell = "/srv/shell"
[service.web]
exec      = ["/srv/bin/web"]
ready     = "path=/srv/ready"
pid-file  = "/srv/pids/web"
directory = "/srv/site"
writes    = ["/srv/logs/web"]
reload    = ["/srv/reloader/bin/x"]
[exec.once]
command   = ["/srv/tool//once"]
creates   = "/srv/made"
directory = "/srv/work"
undo      = ["/srv/undo"]
[mount."/srv/m"]
source = "/srv/disk.img"
fstype = "ext4"
[line.x]
path = "/srv/lines"
line = "x"
[directory."/home"]
purge = true
[user.dora]
"#,
    );
    let entries = |path: &str| match m.spec(m.find(Kind::Directory, path).unwrap()) {
        Some(Spec::Directory(d)) => d.entries,
        _ => panic!("no {path}"),
    };
    assert_eq!(
        entries("/srv"),
        [
            "bin", "bob", "disk.img", "homes", "lines", "logs", "m", "made", "pids", "ready", "reloader",
            "shell", "site", "tool", "undo", "work",
        ]
    );
    assert_eq!(entries("/home"), ["dora"], "also a home that goes without saying");
}

#[test]
fn layers_lie_on_top_of_each_other() {
    let mut loader = MemoryLoader::new()
        .file(
            "main.toml",
            "[vars]\nx = 'main'\n[file.'/a']\ncontent = '${vars.x}'\n[file.'/b']\ncontent = '1'\n",
        )
        .file("local.toml", "[vars]\nx = 'local'\n[file.'/b']\ncontent = '2'\noverride = true\n");
    let layer = |name: &str, entry: &str| Layer { name: name.into(), entry: entry.into() };
    let c = compile_layers(&[layer("main", "main.toml"), layer("local", "local.toml")], &mut loader);
    let texts: Vec<Where> = c.contents.iter().map(|(_, w)| w.clone()).collect();
    assert!(texts.contains(&Where::Inline(b"local".to_vec())));
    let m = finished(c);
    let b = m.unit(m.find(Kind::File, "/b").unwrap());
    assert_eq!((b.layer, b.origin), ("local", "local.toml:3"));
    assert_eq!(m.unit(m.find(Kind::File, "/a").unwrap()).layer, "main");
}

#[test]
fn includes_are_read_once_and_in_order() {
    let loader = MemoryLoader::new()
        .file("state.toml", "include = ['conf.d/*.toml', 'conf.d/10.toml']\n[target.a]\n")
        .file("conf.d/10.toml", "[target.b]\nrequires = ['target:a']\n")
        .file("conf.d/20.toml", "include = ['../more.toml']\n")
        .file("conf.d/.hidden.toml", "broken")
        .file("conf.d/readme", "broken")
        .file("conf.d/../more.toml", "[vars]\nv = '${vars.w}'\nw = 5\n[sysctl.'a.b']\nvalue = '${vars.v}'\n");
    let m = finished(compiled(loader));
    let names: Vec<String> = m.ids().map(|i| m.address(i).to_string()).collect();
    assert_eq!(names, ["sysctl:a.b", "target:a", "target:b"]);
    let Some(Spec::Sysctl(s)) = m.spec(units::UnitId(0)) else { panic!() };
    assert_eq!((s.key.as_str(), s.value.as_str()), ("a/b", "5"));
}

#[test]
fn numbers_may_come_from_variables() {
    let m =
        manifest("[vars]\nuid = 1500\nyes = true\n[user.a]\nuid = '${vars.uid}'\nsystem = '${vars.yes}'\n");
    let Some(Spec::User(u)) = m.spec(units::UnitId(0)) else { panic!() };
    assert_eq!((u.uid, u.system), (Some(1500), true));
}

#[test]
fn a_variable_with_blanks_stays_one_word() {
    let m = manifest("[vars]\nv = 'a b; c'\n[service.x]\nexec = \"run '${vars.v}' ${vars.v}\"\n");
    let s = m.service(units::UnitId(0)).unwrap();
    assert_eq!(s.exec, ["run", "a b; c", "a b; c"]);
}

#[test]
fn a_compiled_state_reads_back() {
    let state =
        "[service.a]\nexec = ['a']\n[file.'/x']\ncontent = 'x'\n[target.t]\nrequires = ['service:a']\n";
    let m = manifest(state);
    assert!(m.verify_digest());
    assert_eq!(Manifest::from_vec(m.as_bytes().to_vec()).unwrap(), m);
    assert_eq!(manifest(state).as_bytes(), m.as_bytes());
    let edge = m.deps(m.find(Kind::Target, "t").unwrap()).next().unwrap();
    assert_eq!((edge.kind, m.name(edge.unit)), (EdgeKind::Requires, "a"));
}
