//! What the operator's API needs of Workers beside what requests need.

use std::time::Duration;

use worker::{Delay, KvStore};

use crate::admin::{AdminPlatform, KvNames};

use super::platform::EdgePlatform;
use super::{bindings, glue};

impl EdgePlatform {
    fn kv_store(&self) -> Result<KvStore, String> {
        self.env.kv(bindings::KV).map_err(|error| error.to_string())
    }
}

impl AdminPlatform for EdgePlatform {
    async fn kv_put(&self, key: &str, value: &str) -> Result<(), String> {
        let put = self.kv_store()?.put(key, value).map_err(|error| error.to_string())?;
        put.execute().await.map_err(|error| error.to_string())
    }

    async fn kv_delete(&self, key: &str) -> Result<(), String> {
        self.kv_store()?.delete(key).await.map_err(|error| error.to_string())
    }

    async fn kv_list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> Result<KvNames, String> {
        let mut list = self.kv_store()?.list().prefix(prefix.to_owned()).limit(limit.into());
        if let Some(cursor) = cursor {
            list = list.cursor(cursor.to_owned());
        }
        let page = list.execute().await.map_err(|error| error.to_string())?;
        Ok(KvNames {
            names: page.keys.into_iter().map(|key| key.name).collect(),
            cursor: page.cursor.filter(|_| !page.list_complete),
        })
    }

    async fn sleep(&self, ms: u64) {
        Delay::from(Duration::from_millis(ms)).await;
    }

    fn random(&self) -> [u8; 32] {
        let mut random = [0; 32];
        glue::random_bytes(&mut random);
        random
    }
}
