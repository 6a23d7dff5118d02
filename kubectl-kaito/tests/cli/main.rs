//! The built plugin, run from outside: what it prints, how it ends, what it asks a server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod command_line;
mod garbage;
mod requests;
mod support;
