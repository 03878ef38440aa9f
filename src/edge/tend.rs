//! Tells a ledger what became of a tenant's slices, in the context of the request that happened to come to it.

use crate::gateway::SharedSlices;
use crate::quota::{Call, Report, Tend, Tending};

use super::glue::{self, Errand, Visit};
use super::platform::{call_text, now_ms, text_of};
use super::task::{Task, Waits};

/// How long a ledger may take to be told.
const TELL_TIMEOUT_MS: u32 = 5000;

/// Does what the slices say, in the context of one request and beyond its end, until nothing is left to be done.
pub(super) fn tend(visit: &Visit, slices: SharedSlices, tending: Tending) {
    let (errand, waits) = (visit.errand(), Waits::default());
    let (at_work, waiting) = (errand.clone(), waits.clone());
    let task = Task::new(
        async move {
            loop {
                let next = slices.borrow_mut().tend(&tending, now_ms());
                match next {
                    Tend::Wait(ms) => {
                        let ms = u32::try_from(ms).unwrap_or(u32::MAX);
                        // It cannot throw.
                        let _ = waiting.on(|wait| at_work.sleep(wait, ms)).await;
                    }
                    Tend::Report(reports) => tell(&at_work, &waiting, &slices, &tending.tenant, reports).await,
                    Tend::Done => break,
                }
            }
            at_work.end();
        },
        waits,
    );
    if !task.run() {
        errand.begin(task);
    }
}

async fn tell(errand: &Errand, waits: &Waits, slices: &SharedSlices, tenant: &str, reports: Vec<Report>) {
    let call = Call::Report(reports);
    let text = call_text(&call);
    let told = waits.on(|wait| errand.ask_ledger(wait, tenant, &text, TELL_TIMEOUT_MS)).await;
    let Call::Report(reports) = call else { return };
    let mut slices = slices.borrow_mut();
    match told {
        Ok(_) => slices.told(tenant, &reports, now_ms()),
        Err(thrown) => {
            glue::warn(&format!("the ledger of tenant {tenant} was not told: {}", text_of(&thrown)));
            slices.not_told(tenant, &reports, now_ms());
        }
    }
}
