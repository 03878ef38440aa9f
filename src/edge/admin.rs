//! What the operator's API needs of Workers beside what requests need.

use crate::admin::{AdminPlatform, KvNames};

use super::glue;
use super::platform::{EdgePlatform, text_of};

impl AdminPlatform for EdgePlatform {
    async fn kv_put(&self, key: &str, value: &str) -> Result<(), String> {
        let put = self.wait(|visit, wait| visit.kv_put(wait, key, value)).await;
        put.map(drop).map_err(|thrown| text_of(&thrown))
    }

    async fn kv_delete(&self, key: &str) -> Result<(), String> {
        let deleted = self.wait(|visit, wait| visit.kv_delete(wait, key)).await;
        deleted.map(drop).map_err(|thrown| text_of(&thrown))
    }

    async fn kv_list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> Result<KvNames, String> {
        let page = self.wait(|visit, wait| visit.kv_list(wait, prefix, cursor, limit)).await;
        let page = page.map_err(|thrown| text_of(&thrown))?;
        let mut names: Vec<String> =
            js_sys::Array::from(&page).iter().map(|name| name.as_string().unwrap_or_default()).collect();
        let cursor = names.pop().filter(|cursor| !cursor.is_empty());
        Ok(KvNames { names, cursor })
    }

    async fn sleep(&self, ms: u64) {
        let ms = u32::try_from(ms).unwrap_or(u32::MAX);
        // It cannot throw.
        let _ = self.wait(|visit, wait| visit.sleep(wait, ms)).await;
    }

    fn random(&self) -> [u8; 32] {
        let mut random = [0; 32];
        glue::random_bytes(&mut random);
        random
    }
}
