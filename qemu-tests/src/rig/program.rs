//! Programs that play services in the rig, for what a shell cannot say: `verify --service WHAT`.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use crate::Result;

/// Where `dead-server` mounts what never answers.
pub const DEAD: &str = "/srv/far";

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
        // Has a child say it, that is gone at once.
        "notify-child" => {
            let status = std::process::Command::new(std::env::current_exe()?)
                .args(["--service", "notify-once"])
                .status()?;
            if status.success() { forever() } else { Err("the child failed".into()) }
        }
        "notify-once" => notify("READY=1"),
        // Says that another service's process is its main one.
        "notify-foreign" => {
            let pid = std::fs::read_to_string("/srv/pid")?;
            notify(&format!("READY=1\nMAINPID={}", pid.trim()))?;
            forever()
        }
        // Takes longer than it was given, and says so as it goes.
        "slow" => {
            for _ in 0..8 {
                notify("EXTEND_TIMEOUT_USEC=400000")?;
                crate::measure::pause(Duration::from_millis(100))?;
            }
            notify("READY=1")?;
            forever()
        }
        // Asks for more time once, and is not heard of again.
        "slow-and-silent" => {
            notify("EXTEND_TIMEOUT_USEC=600000")?;
            forever()
        }
        // Confirms the first reload as of a moment before it was asked for, and later ones as they are; takes its words back
        // on SIGUSR1, and says on SIGUSR2 that it stops.
        "reload" => {
            let signals = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];
            let heard: SigSet = signals.into_iter().collect();
            heard.thread_block()?;
            notify("READY=1")?;
            let mut begun = 1;
            loop {
                match heard.wait()? {
                    Signal::SIGHUP => {
                        notify(&format!("RELOADING=1\nMONOTONIC_USEC={begun}"))?;
                        notify("READY=1\nSTATUS=reloaded")?;
                        begun = u64::MAX;
                    }
                    Signal::SIGUSR1 => notify("STATUS=")?,
                    _ => notify("STOPPING=1\nSTATUS=saving")?,
                }
            }
        }
        // Sets its own watchdog, and then gives no sign of life.
        "watchdog" => {
            notify("READY=1\nWATCHDOG_USEC=300000")?;
            forever()
        }
        // Says that it is broken, and goes on.
        "broken" => {
            notify("READY=1")?;
            notify("WATCHDOG=trigger")?;
            forever()
        }
        // Says it is ready, and then more than anybody can hear: what is right, what is wrong, and as much as fits.
        "notify-flood" => {
            let path = std::env::var_os("NOTIFY_SOCKET").ok_or("there is no NOTIFY_SOCKET")?;
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            socket.send(b"READY=1")?;
            let long = format!("STATUS={}", "x".repeat(60_000));
            for n in 0_u64.. {
                let status = format!("STATUS=turn {n}\nX_UNKNOWN={n}");
                let said: &[u8] = match n % 4 {
                    0 => status.as_bytes(),
                    1 => b"\0\xff\xfe=\n==\nMAINPID=-1\nREADY",
                    2 => long.as_bytes(),
                    _ => b"",
                };
                socket.send(said)?;
            }
            Ok(())
        }
        // A file server that has stopped to answer.
        "dead-server" => {
            super::dead_server::serve(DEAD, || notify("READY=1"))?;
            Ok(())
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
