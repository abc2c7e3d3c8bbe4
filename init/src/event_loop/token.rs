//! What a wake-up is about: one enum, packed into the number that epoll carries.

/// The bits of a token that hold an id; the kind is above them.
const ID: u64 = (1 << 56) - 1;

/// A source of the event loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Token {
    /// Signals, SIGCHLD among them.
    Signals,
    /// The control socket's listener.
    Control,
    /// A client of the control socket, by its number.
    Client(u64),
    /// The worker's socket; the number says which worker, so that a wake-up of an earlier one is nobody's.
    Worker(u64),
    /// The inotify instance that the worker adds watches to.
    Inotify,
    /// The same for directories into which others than root may write.
    PublicInotify,
    /// `/proc/self/mountinfo`.
    Mounts,
    /// What tells that a name of the machine was set.
    Names,
    /// The socket on which queries of the store arrive.
    StoreListener,
    /// The log daemon's command socket.
    LogDaemon,
    /// The socket on which logs are asked for, while there is no log daemon.
    LogsListener,
    /// The log pipe of a unit, until there is something in it.
    Output(u32),
    /// The exec-stage pipe of a spawn.
    Stage(u64),
    /// The notify socket of a spawn.
    Notify(u64),
    /// The readiness pipe (`ready = "fd=…"`) of a spawn.
    ReadyPipe(u64),
    /// What tells that cgroups have become empty.
    Cgroups,
    /// The pidfd of a main process that PID 1 did not start itself.
    Main(u64),
    /// What tells who changes a contested unit; the number says which contest.
    Contest(u64),
    /// What tells that a kernel module was unloaded.
    Modules,
    /// The timer of the nearest deadline.
    Wakeup,
}

impl Token {
    /// The number under which the source is registered.
    pub fn pack(self) -> mio::Token {
        let (tag, id): (u64, u64) = match self {
            Token::Signals => (0, 0),
            Token::Control => (1, 0),
            Token::Client(n) => (2, n),
            Token::Worker(n) => (3, n),
            Token::Inotify => (4, 0),
            Token::PublicInotify => (5, 0),
            Token::Mounts => (6, 0),
            Token::Names => (7, 0),
            Token::StoreListener => (8, 0),
            Token::LogDaemon => (9, 0),
            Token::Stage(n) => (10, n),
            Token::Notify(n) => (11, n),
            Token::ReadyPipe(n) => (12, n),
            Token::Cgroups => (13, 0),
            Token::Main(n) => (14, n),
            Token::Contest(n) => (15, n),
            Token::Modules => (16, 0),
            Token::Output(n) => (17, u64::from(n)),
            Token::LogsListener => (18, 0),
            Token::Wakeup => (19, 0),
        };
        // 64 bits: this system is for 64-bit machines, and a token of 32 would lose the kind.
        mio::Token(usize::try_from((tag << 56) | (id & ID)).unwrap_or(usize::MAX))
    }

    /// The source that was registered under a number.
    pub fn unpack(token: mio::Token) -> Option<Token> {
        let packed = token.0 as u64;
        let id = packed & ID;
        Some(match packed >> 56 {
            0 => Token::Signals,
            1 => Token::Control,
            2 => Token::Client(id),
            3 => Token::Worker(id),
            4 => Token::Inotify,
            5 => Token::PublicInotify,
            6 => Token::Mounts,
            7 => Token::Names,
            8 => Token::StoreListener,
            9 => Token::LogDaemon,
            10 => Token::Stage(id),
            11 => Token::Notify(id),
            12 => Token::ReadyPipe(id),
            13 => Token::Cgroups,
            14 => Token::Main(id),
            15 => Token::Contest(id),
            16 => Token::Modules,
            17 => Token::Output(u32::try_from(id).ok()?),
            18 => Token::LogsListener,
            19 => Token::Wakeup,
            _ => return None,
        })
    }
}

/// What is left of a source after its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It was read until the kernel said `WouldBlock`: the next edge will wake us.
    Drained,
    /// Its budget ran out first: nothing will wake us, so it must be asked again.
    More,
}

impl Turn {
    /// At most so many turns of one source in a row: who never has enough comes back in the line like the others.
    pub fn take(most: usize, mut turn: impl FnMut() -> Turn) -> Turn {
        (0..most).map(|_| turn()).find(|t| *t == Turn::Drained).unwrap_or(Turn::More)
    }
}

/// Sources that may have something to read. epoll is edge-triggered here, so what is not drained in its turn
/// has to be remembered; a chatty source goes to the end of the line instead of starving the others.
#[derive(Debug, Default)]
pub struct ReadyList {
    line: std::collections::VecDeque<Token>,
    known: std::collections::BTreeSet<Token>,
}

impl ReadyList {
    /// Adds a source, once.
    pub fn push(&mut self, token: Token) {
        if self.known.insert(token) {
            self.line.push_back(token);
        }
    }

    /// Takes the next source.
    pub fn pop(&mut self) -> Option<Token> {
        let token = self.line.pop_front()?;
        self.known.remove(&token);
        Some(token)
    }

    /// Whether the loop may wait.
    pub fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// How many sources stand in the line.
    pub fn len(&self) -> usize {
        self.line.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_never_ends_is_left_after_its_turns() {
        let mut heard = 0;
        let mut flood = |most| {
            let turn = Turn::take(most, || {
                heard += 1;
                if heard == 10 { Turn::Drained } else { Turn::More }
            });
            (turn, heard)
        };
        assert_eq!(flood(4), (Turn::More, 4));
        assert_eq!(flood(4), (Turn::More, 8));
        assert_eq!(flood(4), (Turn::Drained, 10));
    }

    #[test]
    fn every_token_comes_back() {
        for token in [
            Token::Signals,
            Token::Control,
            Token::Client(7),
            Token::Worker(ID),
            Token::Inotify,
            Token::PublicInotify,
            Token::Mounts,
            Token::Names,
            Token::StoreListener,
            Token::LogDaemon,
            Token::Stage(1),
            Token::Notify(2),
            Token::ReadyPipe(3),
            Token::Cgroups,
            Token::Main(4),
            Token::Contest(5),
            Token::Output(u32::MAX),
            Token::LogsListener,
        ] {
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
        assert_eq!(Token::unpack(mio::Token(usize::MAX)), None);
    }

    #[test]
    fn a_source_stands_in_the_line_once() {
        let mut list = ReadyList::default();
        list.push(Token::Control);
        list.push(Token::Signals);
        list.push(Token::Control);
        assert_eq!(list.len(), 2);
        assert_eq!(list.pop(), Some(Token::Control));
        list.push(Token::Control);
        assert_eq!((list.pop(), list.pop(), list.pop()), (Some(Token::Signals), Some(Token::Control), None));
        assert!(list.is_empty());
    }
}
