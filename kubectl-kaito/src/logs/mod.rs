//! Log streams as data: lines cut out of bytes, merged by time, resumed without duplicates, written unchanged.
//!
//! Pure: nothing here sends a request, waits or prints. `commands::logs` drives it.

pub mod frame;
pub mod merge;
pub mod resume;
pub mod select;
pub mod write;

pub use frame::{Framer, Line};
pub use merge::Merger;
pub use resume::Cursor;
pub use select::{Source, containers, default_container, order_pods};
pub use write::LineWriter;
