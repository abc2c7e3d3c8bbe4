//! PID 1's event loop: kernel facts become events, effects become system calls. It decides nothing.

pub mod link;
pub mod live;
pub mod packet;
pub mod token;
