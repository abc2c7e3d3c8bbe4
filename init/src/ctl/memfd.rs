//! Standard input as a sealed memfd: what the server reads cannot change under its hands.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::exit::Stop;

/// Largest state file; that of the compiler.
const MAX: u64 = units::compile::MAX_STATE_FILE as u64;

/// Copies all of `input`.
///
/// # Errors
/// [`Stop::Usage`] when it is larger than a state file may be, [`Stop::Local`] when it cannot be copied.
pub fn seal(input: &mut dyn Read) -> Result<OwnedFd, Stop> {
    let local = |e: &dyn std::fmt::Display| Stop::Local(format!("cannot copy standard input: {e}"));
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create("state.toml", flags).map_err(|e| local(&e))?);
    let copied = std::io::copy(&mut input.take(MAX + 1), &mut file).map_err(|e| local(&e))?;
    if copied > MAX {
        return Err(Stop::Usage(format!("standard input is larger than {MAX} bytes")));
    }
    file.flush().map_err(|e| local(&e))?;
    let seals =
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(|e| local(&e))?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom};

    #[test]
    fn what_was_read_cannot_be_changed() {
        let mut file = File::from(seal(&mut &b"holdfast = 1\n"[..]).unwrap());
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "holdfast = 1\n");
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(0).is_err());
    }
}
