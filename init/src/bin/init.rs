//! `init`: PID 1. Under other names the same executable is the log daemon or a helper, and before `--` stands what it is as the
//! init of one command.

#[cfg(panic = "abort")]
#[path = "../../../cm-core/link/without_stdio.rs"]
mod without_stdio;
#[cfg(panic = "abort")]
#[path = "../../../cm-core/link/without_unwinding.rs"]
mod without_unwinding;

use std::ffi::{CString, OsString};
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let arguments: Vec<String> = words.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let name = arguments.first().map_or("", |a| a.rsplit('/').next().unwrap_or_default());
    let rest = words.get(1..).unwrap_or_default();
    // Who was started as /proc/self/exe would be called `exe` by ps(1).
    if let Ok(name) = CString::new(name)
        && !name.is_empty()
    {
        let _as_it_was = nix::sys::prctl::set_name(&name);
    }
    let code = match name {
        init::log::daemon::NAME => init::log::daemon::main(&arguments),
        init::sys::helper::NAME => init::sys::helper::main(&arguments),
        _ if init::container::is_wanted(rest) => init::container::main(rest),
        _ => init::call::main(arguments),
    };
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1))
}
