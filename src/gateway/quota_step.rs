//! Step 6 and step 9: the quota reserved before an upstream is called, and settled when it is known what was used.

use crate::api::{AccountLimit, AccountUsage, AccountWindow, ApiError, Case, CompletionRequest, Usage, write_usage};
use crate::config::{GatewayConfig, Model, OnFailure};
use crate::dialect::{Parameter, Support};
use crate::quota::{
    Ask, Call, Denial, Dimension, Refusal, Reply as LedgerReply, Reserve, Settle, Slices, Spent, Standing, Tending,
    Verdict, Way, WindowUse, go_duration,
};
use crate::tenant::KeyRecord;
use crate::transcode::Outcome;

use std::cell::RefCell;
use std::rc::Rc;

use super::{Caller, Platform};

/// The slices of an isolate, in the hands of whoever changes them. No borrow of them lasts over an await.
pub type SharedSlices = Rc<RefCell<Slices>>;

/// A promise of the ledger, to be settled exactly once.
#[derive(Debug)]
pub struct Settlement {
    /// Whose ledger.
    pub tenant: String,
    /// Its name for the promise.
    pub lease: String,
    /// Milliseconds for which it holds; a request that lasts longer renews it.
    pub lease_ms: u32,
    /// The request's place, where the promise is a slice.
    slice: Option<(SharedSlices, Spent)>,
}

/// What is left to be done when a promise has been settled.
#[derive(Debug)]
#[must_use]
pub enum Settled {
    /// Tell the ledger of this tenant.
    Tell(String, Settle),
    /// Look after the slices that it was spent from, as long as [`Slices::tend`] says.
    Tend(SharedSlices, Tending),
    /// Nothing.
    Kept,
}

impl Settlement {
    /// Settles it.
    pub fn settle(self, settle: Settle, now_ms: u64) -> Settled {
        let Some((slices, spent)) = self.slice else { return Settled::Tell(self.tenant, settle) };
        let tending = {
            let mut slices = slices.borrow_mut();
            slices.settle(&spent, &settle, now_ms);
            slices.begin_tending(&spent.tenant, now_ms)
        };
        tending.map_or(Settled::Kept, |tending| Settled::Tend(slices, tending))
    }

    /// What the ledger is told of a request of which so much was used.
    #[must_use]
    pub fn of_usage(&self, usage: Usage, reported: bool) -> Settle {
        Settle {
            lease: self.lease.clone(),
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            estimated: !reported,
            failed: false,
            unmade: false,
        }
    }

    /// What the ledger is told of a stream.
    #[must_use]
    pub fn of_stream(&self, outcome: &Outcome) -> Settle {
        Settle { failed: outcome.failure.is_some(), ..self.of_usage(outcome.usage, outcome.reported) }
    }

    /// What the ledger is told of a request that no upstream answered: it used nothing.
    #[must_use]
    pub fn of_nothing(&self) -> Settle {
        Settle { failed: true, ..self.of_usage(Usage::default(), true) }
    }

    /// What the ledger is told of a request that it may have promised, and that was not made by that promise.
    fn of_no_request(&self) -> Settle {
        Settle { unmade: true, ..self.of_nothing() }
    }
}

/// The tokens of the prompts, as often as the target that asks for the most of them is sent them.
fn most_prompt_tokens(config: &GatewayConfig, request: &CompletionRequest<'_>, model: &Model) -> u64 {
    let mut upstreams = model.targets.iter().filter_map(|target| config.upstreams.get(&target.upstream));
    let by_choice = upstreams.any(|upstream| upstream.abilities().support(Parameter::N) == Support::Emulated);
    let times = if by_choice { request.n } else { 1 };
    request.prompt.estimated_tokens().saturating_mul(times.into())
}

/// The most tokens that the choices may have together. Candidates that are thrown away cost what choices cost.
fn most_completion_tokens(request: &CompletionRequest<'_>, model: &Model) -> u64 {
    let max_tokens = request.max_tokens.unwrap_or(model.default_max_tokens);
    let candidates = request.best_of.unwrap_or(request.n).max(request.n);
    let prompts = u64::try_from(request.prompt.count()).unwrap_or(u64::MAX);
    u64::from(max_tokens).saturating_mul(u64::from(candidates)).saturating_mul(prompts)
}

/// Reserves in all dimensions of tenant and key, or in none: in a slice that this isolate has reserved already, else in
/// the ledger. `standings` is where the limits stand afterwards, also if the request is refused. Nothing is promised
/// where quotas are off, or where the ledger fails and the configuration lets requests pass.
pub(super) async fn reserve<P: Platform>(
    (platform, slices): (&P, &SharedSlices),
    config: &GatewayConfig,
    caller: &Caller,
    request: &CompletionRequest<'_>,
    model: &Model,
    lease: &str,
    standings: &mut Option<Vec<Standing>>,
) -> Result<Option<Settlement>, ApiError> {
    let (quota, KeyRecord { tenant, id, limits, .. }) = (config.quota, &*caller.key);
    if !quota.enabled {
        return Ok(None);
    }
    let prompt_tokens = most_prompt_tokens(config, request, model);
    let completion_tokens = most_completion_tokens(request, model);
    let ask = Ask {
        tenant,
        key: id,
        model: &request.model,
        tokens: prompt_tokens.saturating_add(completion_tokens),
        limits: [caller.tenant.limits, *limits],
        // So that nothing is spent of a promise that is not renewed in time, nor told of after its end.
        slice_ms: u64::from(quota.slice_ms.min(quota.lease_ms / 4)),
    };
    let settlement = |spent: Option<Spent>| Settlement {
        tenant: tenant.clone(),
        lease: spent.as_ref().map_or(lease, |spent| &spent.lease).to_owned(),
        lease_ms: quota.lease_ms,
        slice: spent.map(|spent| (Rc::clone(slices), spent)),
    };
    let admitted = |spent| {
        let settlement = settlement(spent);
        platform.keep_renewed(&settlement);
        Ok(Some(settlement))
    };

    let now_ms = platform.now_ms();
    let way = slices.borrow_mut().ask(&ask, now_ms);
    let mut asking = match way {
        Way::Spent(spent) => {
            *standings = slices.borrow().standings(tenant, id, now_ms);
            return admitted(Some(spent));
        }
        Way::Ask(asking) => asking,
    };
    let mut refused = None;
    let why = loop {
        let reserve = Reserve {
            lease: lease.to_owned(),
            key: id.clone(),
            model: request.model.to_string(),
            prompt_tokens,
            completion_tokens,
            tenant_limits: caller.tenant.limits,
            key_limits: *limits,
            lease_ms: quota.lease_ms.into(),
            spare: 0,
            is_again: false,
        };
        let (refusal, now, spare) = match platform.ledger(tenant, &asking.call(reserve), quota.reserve_timeout_ms).await
        {
            Ok(LedgerReply::Decided { refusal, standings, spare }) => (refusal, standings, spare),
            Ok(other) => break format!("an odd reply: {other:?}"),
            Err(why) => break why,
        };
        let now_ms = platform.now_ms();
        let verdict = slices.borrow_mut().decided(&ask, &asking, lease, (refusal, spare), &now, now_ms);
        let tending = slices.borrow_mut().begin_tending(tenant, now_ms);
        if let Some(tending) = tending {
            platform.tend(Rc::clone(slices), tending);
        }
        *standings = Some(slices.borrow().standings(tenant, id, now_ms).unwrap_or(now));
        match verdict {
            Verdict::Admitted(spent) => return admitted(spent),
            Verdict::Refused(Refusal::Limit(denial)) => return Err(denied(&denial, &request.model)),
            Verdict::Refused(Refusal::Revoked) => {
                // Whoever has a revoked key is told nothing more.
                *standings = Some(Vec::new());
                return Err(ApiError::invalid_key());
            }
            Verdict::Again(again) => (asking, refused) = (again, refusal),
        }
    };
    platform.warn(&format!("the ledger of tenant `{tenant}` did not answer: {why}"));
    let now_ms = platform.now_ms();
    let spent = slices.borrow_mut().undecided(&ask, &asking, now_ms);
    // It may have been reserved all the same, and just not been said in time. Then it has to be settled: as if it had
    // never been made if this is not what the request is spent from, else with what it will have used.
    let unheard = settlement(None);
    if spent.is_none() && refused.is_none() && quota.on_failure == OnFailure::Allow {
        *standings = Some(Vec::new());
        platform.keep_renewed(&unheard);
        return Ok(Some(unheard));
    }
    platform.settle_later(tenant, unheard.of_no_request());
    if spent.is_some() {
        *standings = slices.borrow().standings(tenant, id, now_ms);
        return admitted(spent);
    }
    if let Some(Refusal::Limit(denial)) = refused {
        // That it was refused is known, and holds if the ledger fails when it is asked again.
        return Err(denied(&denial, &request.model));
    }
    // Nor is it asked again for the headers of this answer.
    *standings = Some(Vec::new());
    Err(ApiError::quota_unavailable())
}

/// Where the limits of a caller stand, who asked for something that costs nothing. Nothing if it has no limits, or the
/// ledger fails: it is no reason to fail.
pub(super) async fn standings<P: Platform>(
    platform: &P,
    config: &GatewayConfig,
    caller: &Caller,
) -> Option<Vec<Standing>> {
    let unlimited =
        caller.tenant.limits == crate::quota::Limits::default() && caller.key.limits == caller.tenant.limits;
    if !config.quota.enabled || unlimited {
        return None;
    }
    match ask_standings(platform, config, caller).await {
        Ok(LedgerReply::Standings { standings, .. }) => Some(standings),
        _ => None,
    }
}

async fn ask_standings<P: Platform>(
    platform: &P,
    config: &GatewayConfig,
    caller: &Caller,
) -> Result<LedgerReply, String> {
    let KeyRecord { tenant, id, limits, .. } = &*caller.key;
    let call = Call::Standings { key: id.clone(), tenant_limits: caller.tenant.limits, key_limits: *limits };
    platform.ledger(tenant, &call, config.quota.reserve_timeout_ms).await
}

/// `GET /v1/usage`: the caller's limits, what is used of them, and when they reset.
pub(super) async fn report<P: Platform>(
    platform: &P,
    config: &GatewayConfig,
    caller: &Caller,
) -> Result<(Vec<u8>, Vec<Standing>), ApiError> {
    let KeyRecord { tenant, id, .. } = &*caller.key;
    let reply = ask_standings(platform, config, caller).await;
    if let Ok(LedgerReply::Decided { refusal: Some(Refusal::Revoked), .. }) = reply {
        return Err(ApiError::invalid_key());
    }
    let Ok(LedgerReply::Standings { standings, windows }) = reply else {
        platform.warn(&format!("the ledger of tenant `{tenant}` did not tell its standings: {:?}", reply.err()));
        return Err(ApiError::quota_unavailable());
    };
    Ok((write_account(tenant, id, &standings, &windows, platform.now_ms()), standings))
}

/// The report as JSON. Its parts are the ledger's own words; times are added as seconds since 1970.
fn write_account(tenant: &str, key: &str, standings: &[Standing], windows: &[WindowUse; 2], now_ms: u64) -> Vec<u8> {
    let at = |ms: u64| now_ms.saturating_add(ms).div_ceil(1000);
    let limits = standings.iter().map(|standing| AccountLimit {
        owner: standing.owner,
        limit: standing.dimension,
        max: standing.limit,
        used: standing.limit.saturating_sub(standing.remaining),
        remaining: standing.remaining,
        resets_at: at(standing.reset_ms),
    });
    let windows = windows.iter().flat_map(|window| {
        let use_of = |period, (requests, tokens), ends_in_ms| AccountWindow {
            owner: window.owner,
            period,
            requests,
            tokens,
            resets_at: at(ends_in_ms),
        };
        [use_of("day", window.day, window.day_ends_in_ms), use_of("month", window.month, window.month_ends_in_ms)]
    });
    write_usage(&AccountUsage { object: "usage", tenant, key, limits: limits.collect(), windows: windows.collect() })
}

/// The refusal as the client reads it.
fn denied(denial: &Denial, model: &str) -> ApiError {
    let Denial { dimension, limit, used, requested, retry_after_ms, .. } = *denial;
    let numbers = format!("on {}: Limit {limit}, Used {used}, Requested {requested}.", dimension.phrase());
    let Some(wait_ms) = retry_after_ms else {
        let message = format!("Request too large for {model} {numbers} It can never be admitted: ask for less.");
        let error = ApiError::new(Case::ExceedsLimit, message);
        return if dimension.counts_tokens() { error.about("max_tokens") } else { error };
    };
    let (case, message) = match dimension {
        Dimension::RequestsPerMinute => (Case::RequestsLimited, None),
        Dimension::TokensPerMinute => (Case::TokensLimited, None),
        Dimension::ConcurrentRequests => (Case::ConcurrencyLimited, None),
        Dimension::RequestsPerDay | Dimension::TokensPerDay | Dimension::TokensPerMonth => {
            let reset = go_duration(wait_ms.div_ceil(1000).saturating_mul(1000));
            let message = format!(
                "You exceeded your current quota, please check your plan and billing details. Your quota {numbers} It \
                 is renewed in {reset}."
            );
            (Case::QuotaExhausted, Some(message))
        }
    };
    let message = message.unwrap_or_else(|| {
        format!("Rate limit reached for {model} {numbers} Please try again in {}.", go_duration(wait_ms))
    });
    ApiError { retry_after_ms: Some(wait_ms), ..ApiError::new(case, message) }
}
