//! The sockets by which init is reached, bound again where their names were removed: by a cleaner of /run, or by hand.
//!
//! Looked at when another init has taken over, and on SIGUSR1, which needs none of them.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use cm_core::engine::effect::Level;

use super::manifests::keep_across_exec;
use super::token::Token;
use super::{Shell, start};
use crate::control::server::{SOCKET_MODE, Server};
use crate::control::{self, LOGS_SOCKET, STORE_SOCKET, socket};

fn is_gone(path: &Path) -> bool {
    !std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
}

impl Shell {
    /// Binds again what is gone. Who is connected stays so.
    pub(super) fn renew_sockets(&mut self) {
        let control = self.options.socket.clone();
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
        let store = control::beside(&control, STORE_SOCKET);
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
        if is_gone(&control::beside(&control, LOGS_SOCKET)) {
            self.bind_logs_socket();
            self.listen_for_readers();
        }
        self.shell_changed = true;
    }
}
