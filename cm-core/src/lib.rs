//! cm-core
