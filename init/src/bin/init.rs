//! `init`: PID 1. Under another name the same executable is the log daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let name = arguments.first().map_or("", |a| a.rsplit('/').next().unwrap_or_default());
    let code = match name {
        init::log::daemon::NAME => init::log::daemon::main(&arguments),
        _ => init::call::main(arguments),
    };
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1))
}
