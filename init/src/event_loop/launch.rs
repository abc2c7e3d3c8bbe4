//! What to execute for a job of a unit: from the checked specification to [`crate::sys::spawn::Launch`].
//!
//! Only words are put together here; every path in them is opened in the child.

use std::sync::Arc;

use units::kind::Spec;
use units::kind::service::{Log, Ready, Reload, Service};

use cm_core::engine::effect::Job;

/// Words for a process, owned, so that a launch can borrow from them.
#[derive(Debug, Clone, Default)]
pub struct Command {
    /// Command and arguments.
    pub argv: Vec<String>,
    /// `holdfast-helper`: this executable under that name does it.
    pub helper: bool,
    /// Environment.
    pub environment: Vec<(String, String)>,
    /// User.
    pub user: Option<String>,
    /// Group.
    pub group: Option<String>,
    /// Directory.
    pub directory: Option<String>,
    /// Where output goes.
    pub log: Log,
    /// Whether it speaks the notify protocol.
    pub notify: bool,
    /// Readiness descriptor.
    pub ready_fd: Option<u32>,
    /// The whole service, for what only its main process gets: limits, terminal, priority.
    pub service: Option<Arc<Service>>,
}

/// A specification, as it is had where it stands.
#[derive(Debug, Clone)]
pub enum Declared {
    /// That of a service, which others read too.
    Service(Arc<Service>),
    /// Any other.
    Other(Spec),
}

/// Why there is nothing to execute.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NothingToRun {
    /// The specification cannot be read.
    #[error("cannot read the specification")]
    Unreadable,
    /// The unit has no such command.
    #[error("cannot run {0:?}: the unit declares no such command")]
    Undeclared(Job),
}

/// The descriptor on which a helper says why it fails.
const WHY: u32 = 3;

/// The command for a job. `since` is a moment before the service's process was there, by the clock of `helper::tick`:
/// `ready = "path=…"` means a path that is younger. `place` is where a mount stands, if that is not its declared path.
///
/// # Errors
/// When the unit declares none.
pub fn command(
    spec: Option<&Declared>,
    job: Job,
    since: u64,
    place: Option<&str>,
) -> Result<Command, NothingToRun> {
    let nothing = || NothingToRun::Undeclared(job);
    // What these cannot do, somebody is told who asks for the unit's status.
    let explaining = |verb: &str, mut rest: Vec<String>| {
        rest.insert(0, verb.to_owned());
        rest.insert(0, WHY.to_string());
        Command { ready_fd: Some(WHY), ..helper("--why", rest) }
    };
    let spec = match spec.ok_or(NothingToRun::Unreadable)? {
        Declared::Service(s) => return of(s, job, since).ok_or_else(nothing),
        Declared::Other(spec) => spec,
    };
    Ok(match (spec, job) {
        (Spec::Mount(m), Job::Mount) => {
            let options = m.options.join(",");
            let timeout = m.device_timeout.to_string();
            let check = if m.check { "check" } else { "-" }.to_owned();
            let path = place.unwrap_or(&m.path).to_owned();
            explaining("mount", vec![m.source.clone(), path, m.fstype.clone(), options, timeout, check])
        }
        (Spec::Mount(m), Job::Unmount) => explaining("umount", vec![place.unwrap_or(&m.path).to_owned()]),
        (Spec::Module(m), Job::Module) => {
            let mut words = vec![m.name.clone()];
            words.extend(m.parameters.iter().cloned());
            explaining("module", words)
        }
        (Spec::Exec(e), Job::Exec | Job::Unless | Job::Undo) => Command {
            argv: match job {
                Job::Unless => e.unless.clone().ok_or_else(nothing)?,
                Job::Undo => e.undo.clone().ok_or_else(nothing)?,
                _ => e.command.clone(),
            },
            environment: e.environment.clone(),
            user: e.user.clone(),
            group: e.group.clone(),
            directory: e.directory.clone(),
            log: if job == Job::Unless { Log::Null } else { Log::File },
            ..Command::default()
        },
        _ => return Err(nothing()),
    })
}

fn helper(verb: &str, rest: Vec<String>) -> Command {
    let mut argv = vec!["holdfast-helper".to_owned(), verb.to_owned()];
    argv.extend(rest);
    Command { argv, helper: true, log: Log::Null, ..Command::default() }
}

/// A command of a service.
fn of(s: &Arc<Service>, job: Job, since: u64) -> Option<Command> {
    let argv = match (job, &s.reload, &s.ready) {
        (Job::Main, _, _) => s.exec.clone(),
        (Job::Reload, Some(Reload::Command(argv)), _) => argv.clone(),
        (Job::Stop, _, _) => s.stop.clone()?,
        (Job::AwaitPath, _, Ready::Path(path)) => {
            return Some(helper("await-path", vec![path.clone(), since.to_string()]));
        }
        _ => return None,
    };
    let mut command = Command { argv, ..of_service(s) };
    if job == Job::Main {
        command.notify = s.ready == Ready::Notify || s.watchdog > 0;
        command.ready_fd = match s.ready {
            Ready::Fd(n) => Some(n),
            _ => None,
        };
        command.service = Some(Arc::clone(s));
    }
    Some(command)
}

fn of_service(s: &Service) -> Command {
    Command {
        environment: s.environment.clone(),
        user: s.user.clone(),
        group: s.group.clone(),
        directory: s.directory.clone(),
        log: s.log,
        ..Command::default()
    }
}

/// The cgroup's name: a unit's own for what it runs, one beside it for what acts on it.
pub fn cgroup_name(address: &str, job: Job) -> String {
    match job {
        Job::Main | Job::Exec => address.to_owned(),
        Job::Reload => format!("{address}.reload"),
        Job::Stop => format!("{address}.stop"),
        Job::AwaitPath => format!("{address}.await"),
        Job::Mount | Job::Unmount => format!("{address}.mount"),
        Job::Module => format!("{address}.module"),
        Job::Unless => format!("{address}.unless"),
        Job::Undo => format!("{address}.undo"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use units::kind::module::Module;

    #[test]
    fn helpers_and_refusals() {
        let module = Module { name: "loop".into(), parameters: vec!["max_loop=8".into()] };
        let module = Declared::Other(Spec::Module(module));
        let made = command(Some(&module), Job::Module, 0, None).unwrap();
        assert_eq!(made.argv, ["holdfast-helper", "--why", "3", "module", "loop", "max_loop=8"]);
        assert!(made.helper && made.ready_fd == Some(3));
        assert_eq!(
            command(Some(&module), Job::Main, 0, None).unwrap_err(),
            NothingToRun::Undeclared(Job::Main)
        );
        assert_eq!(command(None, Job::Main, 0, None).unwrap_err(), NothingToRun::Unreadable);
    }
}
