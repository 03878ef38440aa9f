//! JSON as dialects need it: read forgivingly, written field by field.

mod loose;
mod object;
mod raw;
mod repair;

pub(in crate::dialect) use loose::Loose;
pub use object::Object;
pub use raw::Raw;
pub use repair::repair;
