//! What PID 1 and the log daemon say to each other over their socket pair, one packet a message.

use cm_core::pack::pack;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// First byte of every packet. Both ends come from one executable; after an upgrade in place PID 1 starts the
/// daemon anew.
pub const VERSION: u8 = 1;
/// Longest packet.
pub const MAX_PACKET: usize = 4096;

/// Where lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// Into files.
    Files,
    /// To the kernel's log: before the file system of the logs is there, and after it has to go.
    Kernel,
}

/// From PID 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Take over the pipe whose read end comes along. Without a descriptor: new settings of a known stream.
    Open {
        /// PID 1's number of the pipe.
        stream: u32,
        /// Whose output it is: the name of the directory.
        unit: String,
        /// Bytes of one file before it is rotated; 0 is no limit.
        size: u64,
        /// Rotated files kept.
        keep: u32,
    },
    /// The process behind the pipe has ended: what it left without a line feed is a line.
    Flush {
        /// Which pipe.
        stream: u32,
    },
    /// From now on write there. Answered by [`Report::Moved`] when no file is open any more.
    Target(Target),
    /// Serve the logs on the listening socket that comes along.
    Listen,
    /// Keep the last lines of commands in the memory that comes along, with those that were kept so far.
    Words,
    /// Nothing is being changed any more: what memory that took is not needed.
    Rest,
}

/// From the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// Every writer has closed the pipe and everything in it is written: PID 1 can let go of the read end.
    Drained {
        /// Which pipe.
        stream: u32,
    },
    /// Lines cannot be written and wait in the pipe.
    Trouble {
        /// Which pipe.
        stream: u32,
        /// Why.
        text: String,
    },
    /// They can be written again.
    Recovered {
        /// Which pipe.
        stream: u32,
    },
    /// Lines go there now.
    Moved(Target),
}

/// A message as a packet.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    // A vector grows as needed, and these types have no part that cannot be written.
    let body = pack(message).unwrap_or_default();
    let mut out = vec![VERSION];
    out.extend_from_slice(&body);
    out
}

/// The message in a packet, if it is one.
pub fn decode<T: DeserializeOwned>(packet: &[u8]) -> Option<T> {
    match packet.split_first()? {
        (&VERSION, body) => postcard::from_bytes(body).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip() {
        let order = Order::Open { stream: 7, unit: "service:a".into(), size: 1 << 40, keep: 3 };
        assert_eq!(decode(&encode(&order)), Some(order));
        let report = Report::Trouble { stream: 1, text: "no space left".into() };
        assert_eq!(decode(&encode(&report)), Some(report));
        assert_eq!(decode::<Order>(&[]), None);
        assert_eq!(decode::<Order>(&[VERSION + 1, 3]), None);
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..100)) {
            let _ = (decode::<Order>(&bytes), decode::<Report>(&bytes));
        }
    }
}
