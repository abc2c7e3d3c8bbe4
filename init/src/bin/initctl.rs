//! `initctl`, see [`init::ctl`].

fn main() -> std::process::ExitCode {
    init::ctl::main()
}
