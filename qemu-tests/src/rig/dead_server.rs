//! A file server that never answers, as one on the other side of a cut wire: as much of fuse(4) as the kernel wants to
//! hear before it sends requests, and then not a word. Who asks for anything below its mount point cannot be killed any
//! more: the kernel has handed the request out, and waits for the answer. All of it ends with the server.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;

use nix::mount::{MsFlags, mount};

use crate::Result;

/// The one request that is answered: the kernel tells its version and wants to know ours.
const FUSE_INIT: u32 = 26;
/// Length of a `struct fuse_in_header`.
const HEADER: usize = 40;
/// What the kernel wants to be able to hand out at a time, and some more.
const REQUEST: usize = 1 << 17;

/// Mounts, says so, and reads requests until the mount is gone.
pub fn serve(point: &str, mounted: impl FnOnce() -> Result) -> Result {
    let mut device = File::options().read(true).write(true).open("/dev/fuse")?;
    std::fs::create_dir_all(point)?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    mount(Some("dead"), point, Some("fuse"), MsFlags::empty(), Some(options.as_str()))?;
    let mut request = vec![0; REQUEST];
    let mut mounted = Some(mounted);
    loop {
        match device.read(&mut request) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            // fuse(4): the file system was unmounted.
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
        let header = request.get(..HEADER).ok_or("a request is too short")?;
        let opcode = u32::from_ne_bytes(header.get(4..8).ok_or("no opcode")?.try_into()?);
        if opcode == FUSE_INIT {
            device.write_all(&welcome(header.get(8..16).ok_or("no number")?))?;
            if let Some(mounted) = mounted.take() {
                mounted()?;
            }
        }
    }
}

/// A `struct fuse_out_header` and a `struct fuse_init_out` of version 7.31.
fn welcome(unique: &[u8]) -> Vec<u8> {
    const LENGTH: u32 = 16 + 64;
    let mut out = Vec::new();
    for word in [LENGTH, 0] {
        out.extend(word.to_ne_bytes());
    }
    out.extend(unique);
    // Version, bytes that are read ahead, flags, requests in the background, most that is written at a time.
    for word in [7_u32, 31, 0, 0, 0, 4096] {
        out.extend(word.to_ne_bytes());
    }
    out.resize(LENGTH as usize, 0);
    out
}
