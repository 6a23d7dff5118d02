//! Everything that turns values into text, and the one writer.

pub mod age;
pub mod columns;
pub mod escape;
pub mod format;
pub mod jsonpath;
pub mod printer;
pub mod table;
pub mod yaml;
