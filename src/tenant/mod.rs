//! Who may call: keys, and the records that KV holds of keys and tenants.

mod key;
mod memory;
mod record;

pub use key::{ApiKey, KeyHash};
pub use memory::Memory;
pub use record::{Allowed, KeyRecord, KeyStatus, TenantRecord, TenantStatus};
