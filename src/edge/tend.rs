//! Tells a ledger what became of a tenant's slices, after the end of the request that happened to come to it.

use std::time::Duration;

use wasm_bindgen::JsValue;
use worker::{Date, Delay, Env, console_warn, wasm_bindgen_futures};

use crate::gateway::SharedSlices;
use crate::quota::{Call, Report, Tend, Tending};

use super::glue;
use super::platform::text_of;

/// How long a ledger may take to be told.
const TELL_TIMEOUT_MS: u32 = 5000;

/// Does what the slices say, in the context of one request and after its end, until nothing is left to be done.
pub(super) fn tend(env: &Env, ctx: &JsValue, slices: SharedSlices, tending: Tending) {
    let release = glue::hold(ctx);
    let env = env.clone();
    wasm_bindgen_futures::spawn_local(async move {
        loop {
            let next = slices.borrow_mut().tend(&tending, now_ms());
            match next {
                Tend::Wait(ms) => Delay::from(Duration::from_millis(ms)).await,
                Tend::Report(reports) => tell(&env, &slices, &tending.tenant, reports).await,
                Tend::Done => break,
            }
        }
        // It cannot throw: it resolves a promise.
        let _ = release.call0(&JsValue::UNDEFINED);
    });
}

async fn tell(env: &Env, slices: &SharedSlices, tenant: &str, reports: Vec<Report>) {
    let call = Call::Report(reports);
    // Plain data always serializes.
    let text = serde_json::to_string(&call).unwrap_or_default();
    let told = glue::ask_ledger(env, tenant, &text, TELL_TIMEOUT_MS).await;
    let Call::Report(reports) = call else { return };
    let mut slices = slices.borrow_mut();
    match told {
        Ok(_) => slices.told(tenant, &reports, now_ms()),
        Err(thrown) => {
            console_warn!("the ledger of tenant {tenant} was not told: {}", text_of(&thrown));
            slices.not_told(tenant, &reports, now_ms());
        }
    }
}

fn now_ms() -> u64 {
    Date::now().as_millis()
}
