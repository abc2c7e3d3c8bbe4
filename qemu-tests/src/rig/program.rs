//! Programs that play services in the rig, for what a shell cannot say: `verify --service WHAT`.

use std::io::Write;
use std::os::unix::net::UnixDatagram;

use crate::Result;

/// The command of a service that plays `what`, for a state file.
///
/// # Errors
/// When the running program has no path.
pub fn command(what: &str) -> Result<String> {
    Ok(format!("[{:?}, \"--service\", {what:?}]", std::env::current_exe()?))
}

/// Plays a service; returns when it has ended by itself.
///
/// # Errors
/// When it cannot.
pub fn play(what: &str) -> Result {
    match what {
        // Says that it starts, then that it is ready.
        "notify" => {
            notify("STATUS=warming up")?;
            notify("READY=1\nSTATUS=serving")?;
            forever()
        }
        // Writes without end.
        "flood" => {
            let line = [b'x'; 199].iter().chain(b"\n").copied().collect::<Vec<u8>>();
            let block = line.repeat(300);
            let mut out = std::io::stdout().lock();
            loop {
                out.write_all(&block)?;
            }
        }
        // Writes a numbered line, waits until it is read from the pipe, and so on: nothing may be lost or reordered.
        "count" => {
            let mut out = std::io::stdout().lock();
            for n in 0..20_000 {
                writeln!(out, "line {n}")?;
            }
            notify("READY=1")?;
            forever()
        }
        other => Err(format!("nothing plays {other:?}").into()),
    }
}

fn notify(text: &str) -> Result {
    let path = std::env::var_os("NOTIFY_SOCKET").ok_or("there is no NOTIFY_SOCKET")?;
    UnixDatagram::unbound()?.send_to(text.as_bytes(), path)?;
    Ok(())
}

fn forever() -> ! {
    loop {
        std::thread::park();
    }
}
