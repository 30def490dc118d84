//! Stage 3: connections, their processes and their translations.

pub mod sockets;
