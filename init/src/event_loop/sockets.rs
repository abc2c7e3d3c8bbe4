//! The sockets by which init is reached, bound again where their names were removed: by a cleaner of /run, or by hand.
//!
//! Looked at when another init has taken over, and on SIGUSR1, which needs none of them. Who ends in order takes them
//! along: a name without anybody behind it looks like an init that hangs.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use cm_core::engine::effect::Level;

use super::manifests::keep_across_exec;
use super::token::Token;
use super::{Shell, start};
use crate::control::server::{SOCKET_MODE, Server};
use crate::control::{self, LOGS_SOCKET, STORE_SOCKET, socket};

fn is_gone(path: &Path) -> bool {
    !std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
}

/// Whether it is the name of a socket that nobody listens at.
fn is_stale(path: &Path) -> bool {
    !is_gone(path) && !socket::is_served(path)
}

impl Shell {
    /// The paths of control socket, store and logs.
    fn socket_paths(&self) -> [PathBuf; 3] {
        let control = &self.options.socket;
        [control.clone(), control::beside(control, STORE_SOCKET), control::beside(control, LOGS_SOCKET)]
    }

    /// Nobody is answered any more.
    pub(super) fn remove_sockets(&mut self) {
        self.server = None;
        // Unless somebody else has taken the place. Who answers about the store listens until its end, which is ours.
        if is_stale(&self.options.socket) {
            self.socket_paths().into_iter().for_each(|path| drop(std::fs::remove_file(path)));
        }
    }

    /// SIGUSR1: somebody wants to reach this init again, and cannot by what stands there.
    pub(super) fn renew_stale_sockets(&mut self) {
        let paths = self.socket_paths().into_iter().filter(|path| is_stale(path));
        paths.for_each(|path| drop(std::fs::remove_file(path)));
        self.renew_sockets();
    }

    /// Binds again what is gone. Who is connected stays so.
    pub(super) fn renew_sockets(&mut self) {
        let [control, store, logs] = self.socket_paths();
        if let Err(text) = start::make_directories(&self.options) {
            self.say(Level::Error, None, &text);
        }
        if is_gone(&control) {
            let bound = match &mut self.server {
                Some(server) => server.bind_again(SOCKET_MODE),
                None => Server::bind(&control, SOCKET_MODE).map(|server| self.server = Some(server)),
            };
            let listener = self.server.as_ref().map(|s| s.listener().as_fd());
            match (bound, listener) {
                (Ok(()), Some(listener)) => {
                    drop(keep_across_exec(listener));
                    self.register(listener.as_raw_fd(), Token::Control);
                    self.say(Level::Notice, None, &format!("bound {} again", control.display()));
                }
                (Err(e), _) => {
                    self.say(Level::Error, None, &format!("cannot bind {}: {e}", control.display()))
                }
                (Ok(()), None) => {}
            }
        }
        if is_gone(&store)
            && let Ok(listener) = socket::listen(&store, start::STORE_MODE)
        {
            let listener = OwnedFd::from(listener);
            drop(keep_across_exec(listener.as_fd()));
            let fd = listener.as_raw_fd();
            self.store_listener = Some(listener);
            // Who answers now has the one before; when that has ended, this one is looked at.
            if self.query.is_none() {
                self.register(fd, Token::StoreListener);
            }
        }
        if is_gone(&logs) {
            self.bind_logs_socket();
            self.listen_for_readers();
        }
        self.shell_changed = true;
    }
}
