//! The store without init: what the query service would answer is answered by a process of our own, which is
//! confined as that is and reads with the caller's rights.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use cm_core::query::{Options, answer, wire};
use cm_core::store::{Store, StoreError};
use cm_core::sys::{Forked, close_others, fork};

use crate::ctl::client::Client;
use crate::ctl::exit::Stop;

/// A connection to a process that answers one call about `store`. It ends when its connection does.
///
/// # Errors
/// [`Stop::Local`] when the store cannot be read, or no process be made.
pub fn client(store: &Path, control: &Path) -> Result<Client, Stop> {
    let local =
        |e: &dyn std::fmt::Display| Stop::Local(format!("cannot read store {}: {e}", store.display()));
    // Who names a store wants that one: an empty list would be misleading.
    Store::look(store).map_err(|e| match e {
        StoreError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            local(&"there is no store in this directory")
        }
        e => local(&e),
    })?;
    let (ours, theirs) = UnixStream::pair().map_err(|e| local(&e))?;
    let options = Options { store: store.to_owned(), control: control.to_owned(), ..Options::default() };
    match fork().map_err(|e| local(&e))? {
        Forked::Parent(_) => Ok(Client::of_stream(ours, store)),
        Forked::Child => {
            drop(ours);
            close_others(&[theirs.as_fd().as_raw_fd()]);
            let caller =
                answer::Caller { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
            let done = wire::receive_call(&theirs)
                .is_ok_and(|call| answer::answer(&options, &caller, &call, None, Path::new(""), theirs));
            std::process::exit(i32::from(!done))
        }
    }
}
