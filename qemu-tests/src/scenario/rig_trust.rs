//! Who may do what over the control sockets.

use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Command, Stdio};

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::rig::program::command;
use crate::rig::{Rig, Said, Setup, run, want, word};

/// See the module.
pub const ALL: &[Scenario] =
    &[Scenario { name: "rig-cli-strangers", group: "rig", limit: super::minutes(2), run: strangers }];

/// Nobody in particular.
const UID: u32 = 65534;

/// Who has no rights reads and changes nothing, neither directly nor through the worker or the log daemon; the owner of
/// the socket changes as root does.
fn strangers(context: &Context) -> Result {
    let first = format!(
        "[service.sleeper]\nexec = [\"sleep\", \"infinity\"]\n[service.flood]\nexec = {}\n",
        command("flood")?
    );
    let rig = Rig::start(context, &Setup { first: Some(&first), ..Setup::default() })?;
    let next = rig.state_file("next.toml", "[file.\"/srv/motd\"]\ncontent = \"theirs\\n\"\n")?;
    // The state is applied once, so that there is something to go back to, and the same again.
    rig.ok(&["apply", &rig.state_file("first.toml", &first)?])?;
    rig.until_state("service:sleeper", "ready")?;
    // The programs may lie where only root gets.
    let initctl = rig.directory().join("initctl");
    std::fs::copy(context.programs()?.join("initctl"), &initctl)?;
    std::fs::set_permissions(&initctl, PermissionsExt::from_mode(0o755))?;
    let stranger = |words: &[&str]| -> Result<Said> {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", &UID.to_string(), "--regid", &UID.to_string(), "--clear-groups"])
            .arg(&initctl);
        command.arg("--socket").arg(rig.socket()).args(words).stdin(Stdio::null()).current_dir("/");
        run(command)
    };
    let pid = rig.main_pid("service:sleeper")?;
    let generation = rig.ok(&["--json", "generations"])?;

    for words in [&["status"][..], &["status", "service:sleeper"], &["tree"], &["wait", "--converged"]] {
        let said = stranger(words)?;
        want(said.code == 0, &format!("{words:?} is refused: {said:?}"), &rig)?;
    }
    let changes: [&[&str]; 15] = [
        &["apply", &next],
        &["apply", "--only", "file:/srv/motd", &next],
        &["rollback"],
        &["stop", "service:sleeper"],
        &["start", "service:sleeper"],
        &["restart", "service:sleeper"],
        &["reload", "service:sleeper"],
        &["kill", "service:sleeper"],
        &["pause", "service:sleeper"],
        &["hold", "service:sleeper"],
        &["reexec"],
        &["poweroff"],
        &["reboot"],
        &["halt"],
        &["logs", "service:flood"],
    ];
    for words in changes {
        let said = stranger(words)?;
        want(said.code != 0, &format!("{words:?} is carried out: {said:?}"), &rig)?;
        let told = said.err.to_lowercase();
        let why = told.contains("permission") || told.contains("may not") || told.contains("root");
        want(why, &format!("{words:?} does not say why it is refused: {said:?}"), &rig)?;
    }
    want(rig.main_pid("service:sleeper")? == pid, "a stranger has reached the service", &rig)?;
    want(rig.ok(&["--json", "generations"])? == generation, "a stranger has made a generation", &rig)?;
    want(!rig.inside("/srv/motd")?.exists(), "a stranger has made a file", &rig)?;
    let held = rig.status("service:sleeper")?;
    want(held.get("held").is_none_or(serde_json::Value::is_null), &format!("it is held: {held}"), &rig)?;
    want(word(&held, "state") == "ready", &format!("{held}"), &rig)?;

    // What may be done is the owner's of the socket, not that of a number.
    chown(rig.socket(), Some(UID), None)?;
    let said = stranger(&["restart", "service:sleeper"])?;
    want(said.code == 0, &format!("the socket's owner is refused: {said:?}"), &rig)?;
    want(rig.main_pid("service:sleeper")? != pid, "nothing was restarted", &rig)
}
