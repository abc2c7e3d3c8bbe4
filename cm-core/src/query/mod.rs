//! The query service: `cm-worker query`, which answers what needs a disk and changes nothing.
//!
//! PID 1 starts it when somebody connects to the socket `store`, and hands over the listening socket as descriptor
//! 3. It speaks Varlink (`docs/varlink/io.holdfast.Store.varlink`): plans, generations and their differences, saved
//! versions, patches that adopt what is on the machine, and the comparison of the whole machine with its generation.
//!
//! **Invariant:** whoever answers a call can write nowhere: it is a process of its own, confined before it looks at
//! anything that the call names; what people wrote is parsed by the compiler, which may do still less.
