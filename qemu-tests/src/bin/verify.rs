//! `cargo verify`: every test of the project.

use std::process::ExitCode;

use qemu_tests::runner::{self, Wish};

const USAGE: &str = "usage: cargo verify [--full] [GROUP|SCENARIO…]\n       cargo verify list";

fn main() -> ExitCode {
    if let Some(code) = qemu_tests::oci::probe::called() {
        return code;
    }
    let mut wish = Wish::default();
    let mut scenario = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--full" => wish.full = true,
            "--scenario" => scenario = arguments.next(),
            "--service" => {
                let played = qemu_tests::rig::program::play(&arguments.next().unwrap_or_default());
                return if played.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
            }
            "list" => {
                runner::list();
                return ExitCode::SUCCESS;
            }
            "-h" | "--help" => {
                println!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            name if !name.starts_with('-') => wish.names.push(name.to_owned()),
            other => {
                eprintln!("verify: unknown option {other}\n{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    let done = match scenario {
        Some(name) => runner::run_one(&name, wish.full).map(|()| ExitCode::SUCCESS),
        None => runner::run(&wish),
    };
    done.unwrap_or_else(|e| {
        eprintln!("verify: {e}");
        let missing = e.downcast_ref().is_some_and(|e| matches!(e, initramfs::Error::Missing { .. }));
        ExitCode::from(if missing { 2 } else { 1 })
    })
}
