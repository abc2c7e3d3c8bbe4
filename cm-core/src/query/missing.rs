//! What a unit needs of the machine that nothing declares and that is not there: a plan says so, though it cannot know
//! what a command that runs before will bring.

use units::kind::{Attributes, Spec};
use units::{Kind, Manifest};

use super::machine::Machine;

/// In words, each with what is missing; names without a slash depend on `PATH`, and are left out.
pub fn missing(machine: &mut Machine, desired: &Manifest, spec: &Spec) -> Vec<String> {
    let (mut program, mut users, mut groups) =
        (None::<&String>, Vec::<&String>::new(), Vec::<&String>::new());
    let mut attributes: Option<&Attributes> = None;
    match spec {
        Spec::Service(s) => {
            program = s.exec.first();
            users.extend(&s.user);
            groups.extend(s.group.iter().chain(&s.groups));
        }
        Spec::Exec(e) => {
            program = e.command.first();
            users.extend(&e.user);
            groups.extend(&e.group);
        }
        Spec::User(u) => groups.extend(u.group.iter().chain(&u.groups)),
        Spec::File(f) => attributes = Some(&f.attributes),
        Spec::Directory(d) => attributes = Some(&d.attributes),
        _ => {}
    }
    if let Some(attributes) = attributes {
        users.extend(&attributes.owner);
        groups.extend(&attributes.group);
    }
    let declared = |kind: Kind, name: &str| desired.find(kind, name).is_some();
    let number = |name: &str| name.bytes().all(|b| b.is_ascii_digit());
    let accounts = &machine.world.accounts;
    let mut out = Vec::new();
    for name in users {
        if !number(name) && !declared(Kind::User, name) && accounts.passwd.line(name).is_none() {
            out.push(format!("there is no user {name}"));
        }
    }
    for name in groups {
        // A user brings a group of his name.
        let comes = declared(Kind::Group, name) || declared(Kind::User, name);
        if !number(name) && !comes && accounts.group.line(name).is_none() {
            out.push(format!("there is no group {name}"));
        }
    }
    if let Some(path) = program.filter(|p| p.starts_with('/')) {
        let comes = [Kind::File, Kind::Symlink].into_iter().any(|kind| declared(kind, path));
        let above =
            std::path::Path::new(path.as_str()).ancestors().skip(1).filter_map(std::path::Path::to_str);
        let mounted = above.into_iter().any(|dir| declared(Kind::Mount, dir));
        if !comes && !mounted && !machine.is_there(path) {
            out.push(format!("there is no program {path}"));
        }
    }
    out
}
