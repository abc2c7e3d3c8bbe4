//! `cargo boot`: the web example in QEMU. On a terminal it ends at a root shell; without one it plays the
//! demonstration and exits with 0 only if every step held.

use std::io::IsTerminal;
use std::net::TcpListener;
use std::process::ExitCode;

use nix::sys::termios::{SetArg, tcgetattr, tcsetattr};
use qemu_tests::Result;
use qemu_tests::context::Context;
use qemu_tests::demonstration;

const USAGE: &str = "usage: cargo boot [--demonstration]\n\n\
    Boots examples/web in QEMU: on a terminal to a root shell, else (or with --demonstration) through a\n\
    demonstration that ends by itself.";

/// Lines wrap, pasted text is typed as it is, colours are the usual ones, the cursor is seen.
const SANE: &str = "\x1b[?7h\x1b[?2004l\x1b[0m\x1b[?25h";

fn main() -> ExitCode {
    let mut show = !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal());
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--demonstration" => show = true,
            "-h" | "--help" => {
                println!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            other => {
                eprintln!("boot: unknown argument {other:?}\n{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    let done = Context::new(false).and_then(|context| {
        if show { demonstration::play(&context).map(|()| ExitCode::SUCCESS) } else { shell(&context) }
    });
    done.unwrap_or_else(|e| {
        eprintln!("boot: {e}");
        let missing = e.downcast_ref().is_some_and(|e| matches!(e, initramfs::Error::Missing { .. }));
        ExitCode::from(if missing { 2 } else { 1 })
    })
}

/// The machine with this terminal as its console.
fn shell(context: &Context) -> Result<ExitCode> {
    println!("building {}", demonstration::IMAGE);
    let image = context.image(demonstration::IMAGE)?;
    let (web, ssh) = (free_port(8080)?, free_port(2222)?);
    let machine = context.machine(&image)?.forward(web, 80).forward(ssh, 22);
    println!(
        "starting the machine; its web server will be at http://127.0.0.1:{web}/\n\
         the shell that follows says what to try; `initctl poweroff` ends, Ctrl-A X pulls the plug\n"
    );
    let before = tcgetattr(std::io::stdin()).ok();
    let status = machine.command()?.args(["-serial", "mon:stdio"]).status();
    // However QEMU ended, and whatever the machine's programs had told the terminal.
    if let Some(before) = before {
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &before);
    }
    println!("{SANE}");
    let status = status?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// This port of the loopback, or another one when somebody has it.
fn free_port(wanted: u16) -> Result<u16> {
    let listener =
        TcpListener::bind(("127.0.0.1", wanted)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)))?;
    Ok(listener.local_addr()?.port())
}
