//! What a unit needs of the machine that nothing declares and that is not there: a plan says so, though it cannot know
//! what a command that runs before will bring.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use units::kind::mount::Mount;
use units::kind::service::{DEFAULT_PATH, Reload};
use units::kind::{Attributes, Spec};
use units::{Kind, Manifest};

use super::difference::Body;
use super::machine::Machine;

/// In words, each with what is missing.
pub fn missing(machine: &mut Machine, desired: &Manifest, spec: &Spec) -> Vec<String> {
    let mut look = Look { machine, desired, out: Vec::new() };
    match spec {
        Spec::Service(s) => {
            look.users(&s.user);
            look.groups(s.group.iter().chain(&s.groups));
            let reload = match &s.reload {
                Some(Reload::Command(command)) => Some(command),
                Some(Reload::Signal(_)) | None => None,
            };
            look.commands([Some(&s.exec), reload, s.stop.as_ref()], &s.environment);
            look.directory(s.directory.as_deref());
        }
        Spec::Exec(e) => {
            look.users(&e.user);
            look.groups(&e.group);
            look.commands([Some(&e.command), e.unless.as_ref(), e.undo.as_ref()], &e.environment);
            look.directory(e.directory.as_deref());
        }
        Spec::User(u) => {
            look.groups(u.group.iter().chain(&u.groups));
            if let Some(shell) = u.shell.as_deref().filter(|shell| !look.is_there(shell)) {
                look.out.push(format!("there is no shell {shell}"));
            }
        }
        Spec::File(f) => look.attributes(&f.attributes),
        Spec::Directory(d) => look.attributes(&d.attributes),
        Spec::Symlink(l) => {
            look.users(&l.owner);
            look.groups(&l.group);
        }
        Spec::Mount(mount) => look.mount(mount),
        Spec::Module(module) => {
            let kernel = look.machine.kernel();
            if !kernel.has_module(&module.name) {
                let text = format!("there is no module {} for kernel {}", module.name, kernel.release);
                look.out.push(text);
            }
        }
        Spec::Line(_) | Spec::Sysctl(_) | Spec::Hostname(_) | Spec::Group(_) | Spec::Target(_) => {}
    }
    look.out
}

struct Look<'a> {
    machine: &'a mut Machine,
    desired: &'a Manifest,
    out: Vec<String>,
}

/// What stands at the beginning of a program.
enum Program {
    /// Nothing is there, and nothing will be.
    Missing,
    /// It cannot be executed: its permission bits.
    Inert(u32),
    /// Its first bytes, as far as they are known.
    Begins(Vec<u8>),
}

/// Bytes in which the kernel looks for the interpreter: BINPRM_BUF_SIZE.
const FIRST_LINE: usize = 256;

impl Look<'_> {
    fn attributes(&mut self, attributes: &Attributes) {
        self.users(&attributes.owner);
        self.groups(&attributes.group);
    }

    fn declares(&self, kind: Kind, name: &str) -> bool {
        self.desired.find(kind, name).is_some()
    }

    fn users<'n>(&mut self, names: impl IntoIterator<Item = &'n String>) {
        for name in names.into_iter().filter(|n| !is_number(n)) {
            let known = self.machine.world.accounts.passwd.line(name).is_some();
            if !known && !self.declares(Kind::User, name) {
                self.out.push(format!("there is no user {name}"));
            }
        }
    }

    fn groups<'n>(&mut self, names: impl IntoIterator<Item = &'n String>) {
        for name in names.into_iter().filter(|n| !is_number(n)) {
            // A user brings a group of his name.
            let comes = self.declares(Kind::Group, name) || self.declares(Kind::User, name);
            if !comes && self.machine.world.accounts.group.line(name).is_none() {
                self.out.push(format!("there is no group {name}"));
            }
        }
    }

    /// Whether something declared will be at a path, or what is mounted above may bring it.
    fn comes(&self, path: &str) -> bool {
        let kinds = [Kind::File, Kind::Symlink, Kind::Directory, Kind::Mount];
        let above = Path::new(path).ancestors().skip(1).filter_map(Path::to_str);
        spellings(path).any(|p| kinds.into_iter().any(|kind| self.declares(kind, &p)))
            || above
                .into_iter()
                .any(|dir| self.declares(Kind::Mount, dir) || self.declares(Kind::Symlink, dir))
            || self.is_made_home(path)
    }

    /// Whether a user's home is made there.
    fn is_made_home(&self, path: &str) -> bool {
        self.desired.of_kind(Kind::User, "").any(|id| match self.desired.spec(id) {
            Some(Spec::User(user)) if user.create_home => {
                let home = user.home_directory();
                spellings(path).any(|p| p == *home)
            }
            _ => false,
        })
    }

    fn is_there(&mut self, path: &str) -> bool {
        self.comes(path) || self.machine.is_there(path)
    }

    fn directory(&mut self, path: Option<&str>) {
        if let Some(path) = path.filter(|path| !self.is_there(path)) {
            self.out.push(format!("there is no directory {path}"));
        }
    }

    /// The programs of commands that all get this environment.
    fn commands<'c>(
        &mut self,
        commands: impl IntoIterator<Item = Option<&'c Vec<String>>>,
        environment: &[(String, String)],
    ) {
        let path =
            environment.iter().find(|(name, _)| name == "PATH").map_or(DEFAULT_PATH, |(_, value)| value);
        for name in commands.into_iter().flatten().filter_map(|command| command.first()) {
            let before = self.out.len();
            self.program(name, path);
            let said = self.out.split_off(before);
            let news = said.into_iter().filter(|text| !self.out.contains(text)).collect::<Vec<_>>();
            self.out.extend(news);
        }
    }

    /// A program, and the interpreter that its first line names.
    fn program(&mut self, name: &str, path: &str) {
        let Some((found, program)) = self.find(name, path) else {
            return self.out.push(match name.starts_with('/') {
                true => format!("there is no program {name}"),
                false => format!("there is no program {name} in {}", searched(path)),
            });
        };
        let first = match program {
            Program::Missing => return,
            Program::Inert(mode) => {
                return self.out.push(format!("{found} is not executable (mode {:04o})", mode & 0o7777));
            }
            Program::Begins(bytes) => bytes,
        };
        let Some((interpreter, argument)) = interpreter(&first) else { return };
        match self.find(&interpreter, path) {
            None => {
                self.out.push(format!(
                    "there is no program {interpreter}, which {found} names in its first line"
                ));
            }
            Some(_) if interpreter.ends_with("/env") => {
                let Some(name) = argument else { return };
                if self.find(&name, path).is_none() {
                    let place = searched(path);
                    let text = format!(
                        "there is no program {name} in {place}, which {found} names in its first line"
                    );
                    self.out.push(text);
                }
            }
            Some(_) => {}
        }
    }

    /// Where a program is, and what; `None` where it is nowhere. One whose name is relative to a working directory is not
    /// looked for.
    fn find(&mut self, name: &str, path: &str) -> Option<(String, Program)> {
        if name.starts_with('/') {
            return match self.look(name) {
                Program::Missing => None,
                found => Some((name.to_owned(), found)),
            };
        }
        if name.contains('/') {
            return Some((name.to_owned(), Program::Missing));
        }
        let mut inert = None;
        for directory in path.split(':').filter(|d| d.starts_with('/')) {
            let place = format!("{}/{name}", directory.trim_end_matches('/'));
            match self.look(&place) {
                Program::Missing => {}
                // execvp(3): the next one is tried.
                found @ Program::Inert(_) => inert = inert.or(Some((place, found))),
                found @ Program::Begins(_) => return Some((place, found)),
            }
        }
        inert
    }

    fn look(&mut self, path: &str) -> Program {
        for spelled in spellings(path) {
            let declared = self.desired.find(Kind::File, &spelled).and_then(|id| self.desired.spec(id));
            let Some(Spec::File(file)) = declared else { continue };
            let (Some(content), Some(mode)) = (&file.content, file.attributes.mode) else { break };
            if mode & 0o111 == 0 {
                return Program::Inert(mode);
            }
            return Program::Begins(match self.machine.content(content) {
                Body::Text(text) => text.bytes().take(FIRST_LINE).collect(),
                _ => Vec::new(),
            });
        }
        let on_machine = self.machine.is_there(path);
        if !on_machine {
            return if self.comes(path) { Program::Begins(Vec::new()) } else { Program::Missing };
        }
        // What cannot be read is not known to be wrong. A pipe that nobody writes would be waited for.
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits());
        let Ok(file) = options.open(self.machine.world.outside(path)) else {
            return Program::Begins(Vec::new());
        };
        let Ok(metadata) = file.metadata() else { return Program::Begins(Vec::new()) };
        if !metadata.is_file() || metadata.mode() & 0o111 == 0 {
            return Program::Inert(metadata.mode());
        }
        let mut bytes = Vec::new();
        // What could be read counts.
        let _ = file.take(FIRST_LINE as u64).read_to_end(&mut bytes);
        Program::Begins(bytes)
    }

    fn mount(&mut self, mount: &Mount) {
        let says =
            |words: &[&str]| mount.options.iter().flat_map(|o| o.split(',')).any(|w| words.contains(&w));
        let by_path = mount.source.starts_with('/') && mount.source != mount.path;
        if by_path && !self.is_there(&mount.source) {
            self.out.push(match mount.source.starts_with("/dev/") {
                true => format!("there is no device {} yet", mount.source),
                false => format!("there is nothing at {} that could be mounted", mount.source),
            });
        }
        if says(&["bind", "rbind", "move", "remount"]) || mount.fstype == "auto" {
            return;
        }
        let checker = format!("fsck.{}", mount.fstype);
        if mount.check && self.find(&checker, DEFAULT_PATH).is_none() {
            self.out.push(format!("there is no program {checker}, so that it is mounted unchecked"));
        }
        // Some types bring a program that mounts them: `fuse.sshfs`, `nfs`.
        let helper = ["/sbin", "/usr/sbin"].map(|d| format!("{d}/mount.{}", mount.fstype));
        if helper.iter().any(|path| self.is_there(path)) || self.declares(Kind::Module, &mount.fstype) {
            return;
        }
        let kernel = self.machine.kernel();
        if !kernel.has_file_system(&mount.fstype) {
            let text = format!("there is no file system {} for kernel {}", mount.fstype, kernel.release);
            self.out.push(text);
        }
    }
}

/// A search path in words: the default one is known.
fn searched(path: &str) -> String {
    if path == DEFAULT_PATH { "PATH".to_owned() } else { format!("its PATH, {path}") }
}

fn is_number(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_digit())
}

/// A path, and its other name where `/bin`, `/sbin` and `/lib` are links into `/usr`.
fn spellings(path: &str) -> impl Iterator<Item = String> {
    let merged = |p: &str| ["/bin/", "/sbin/", "/lib/"].iter().any(|d| p.starts_with(d));
    let other = match path.strip_prefix("/usr") {
        Some(rest) if merged(rest) => Some(rest.to_owned()),
        None if merged(path) => Some(format!("/usr{path}")),
        _ => None,
    };
    std::iter::once(path.to_owned()).chain(other)
}

/// The interpreter that a first line names, and what `env` is to look for.
fn interpreter(bytes: &[u8]) -> Option<(String, Option<String>)> {
    let line = bytes.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.split_ascii_whitespace();
    let interpreter = words.next()?.to_owned();
    // env(1): options and variables come before the command.
    let command = words.find(|w| !w.starts_with('-') && !w.contains('='));
    Some((interpreter, command.map(str::to_owned)))
}
