//! One request as the calls that it takes: several where an upstream takes one prompt or one choice a call. What the
//! upstream cannot do of it, and the gateway can, is taken out of the call and noted beside it.

use std::borrow::Cow;
use std::rc::Rc;

use crate::api::{ApiError, CompletionRequest, Prompt};

use super::{Abilities, Parameter, Stops, Support};

/// What of an answer one upstream call gives, and what the gateway does to it.
#[derive(Clone, Debug)]
pub struct Share {
    /// The number, in the answer, of its first choice.
    pub first: u32,
    /// How many choices it has.
    pub choices: u32,
    /// How many of them each of its prompts has.
    pub n: u32,
    /// The tokens of its prompts, where the upstream does not count them.
    pub estimated_prompt_tokens: u64,
    /// Its prompts, where the gateway has to say them before their completions; else none.
    pub echo: Vec<Rc<str>>,
    /// The stop sequences that the gateway has to look for; none of them is empty.
    pub stops: Rc<[String]>,
}

/// One upstream call in the words of our API.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// What the upstream is asked for.
    pub request: Cow<'a, CompletionRequest<'a>>,
    /// What becomes of its answer.
    pub share: Share,
}

/// What one request may set off.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Upstream calls.
    pub calls: u32,
    /// Bytes of prompts in all calls together.
    pub prompt_bytes: usize,
}

/// The longest stop sequence that the gateway looks for, in bytes: each piece of text is compared with it.
const MAX_STOP_BYTES: usize = 1024;

/// The calls that a request takes with an upstream of these abilities, in the order of their choices. A request that
/// goes beyond `bounds` is refused.
pub fn split<'a>(
    request: &'a CompletionRequest<'a>,
    abilities: Abilities<'_>,
    bounds: Bounds,
) -> Result<Vec<Part<'a>>, ApiError> {
    let emulates = |parameter| abilities.support(parameter) == Support::Emulated;
    let (for_upstream, for_gateway) = divide_stops(request, abilities);
    let by_prompt = emulates(Parameter::PromptArray) && request.prompt.count() > 1;
    let by_choice = emulates(Parameter::N) && request.n > 1;
    let echoes = emulates(Parameter::Echo) && request.echo;
    if for_gateway.iter().any(|stop| stop.len() > MAX_STOP_BYTES) {
        let bound = format!("must be sequences of at most {MAX_STOP_BYTES} bytes");
        return Err(ApiError::unsupported_value("stop", &request.model, &bound));
    }
    let stops: Rc<[String]> = for_gateway.into_iter().map(Cow::into_owned).collect();
    if !by_prompt && !by_choice && !echoes && for_upstream.len() == request.stop.len() {
        return Ok(vec![Part {
            request: Cow::Borrowed(request),
            share: Share {
                first: 0,
                choices: request.choices(),
                n: request.n,
                estimated_prompt_tokens: request.prompt.estimated_tokens(),
                echo: Vec::new(),
                stops,
            },
        }]);
    }
    let prompts = if by_prompt { singles(&request.prompt) } else { vec![borrowed(&request.prompt)] };
    let times = if by_choice { request.n } else { 1 };
    let calls = prompts.len().saturating_mul(usize::try_from(times).unwrap_or(usize::MAX));
    let refuse =
        |bound: &str| Err(ApiError::unsupported_value(if by_prompt { "prompt" } else { "n" }, &request.model, bound));
    if u64::try_from(calls).unwrap_or(u64::MAX) > u64::from(bounds.calls) {
        return refuse(&format!("asks for {calls} completions at once, and must ask for at most {}", bounds.calls));
    }
    let bytes = request.prompt.bytes().saturating_mul(usize::try_from(times).unwrap_or(usize::MAX));
    if bytes > bounds.prompt_bytes {
        let most = bounds.prompt_bytes;
        return refuse(&format!(
            "asks for {bytes} bytes of prompts in all choices together, and must ask for at most {most}"
        ));
    }
    let mut parts = Vec::with_capacity(calls);
    let mut first = 0_u32;
    for prompt in prompts {
        let echo: Vec<Rc<str>> = if echoes { texts(&prompt) } else { Vec::new() };
        for i in 0..times {
            let part = CompletionRequest {
                prompt: prompt.clone(),
                n: if by_choice { 1 } else { request.n },
                // The same seed would give the same choice again and again.
                seed: request.seed.map(|seed| abilities.table.seeds.after(seed, i)),
                best_of: request.best_of.filter(|_| !by_choice),
                echo: request.echo && !echoes,
                stop: for_upstream.clone(),
                ..request.borrowed()
            };
            let choices = part.choices();
            let share = Share {
                first,
                choices,
                n: part.n,
                estimated_prompt_tokens: part.prompt.estimated_tokens(),
                echo: echo.clone(),
                stops: Rc::clone(&stops),
            };
            first = first.saturating_add(choices);
            parts.push(Part { request: Cow::Owned(part), share });
        }
    }
    Ok(parts)
}

/// The stop sequences that the upstream is sent, and those that the gateway looks for; some are both.
fn divide_stops<'a>(
    request: &'a CompletionRequest<'_>,
    abilities: Abilities<'_>,
) -> (Vec<Cow<'a, str>>, Vec<Cow<'a, str>>) {
    let Stops { takes, keeps } = abilities.table.stops;
    let takes = |stop: &str| abilities.support(Parameter::Stop) == Support::Native && takes(stop);
    let stops = || request.stop.iter().map(|stop| Cow::Borrowed(&**stop));
    let for_upstream = stops().filter(|stop| takes(stop)).collect();
    // An empty sequence stands everywhere, and ends nothing.
    let for_gateway = stops().filter(|stop| !stop.is_empty() && (keeps || !takes(stop))).collect();
    (for_upstream, for_gateway)
}

/// Each prompt as one of its own.
fn singles<'a>(prompt: &'a Prompt<'_>) -> Vec<Prompt<'a>> {
    match prompt {
        Prompt::Texts(texts) => texts.iter().map(|text| Prompt::Text(Cow::Borrowed(&**text))).collect(),
        Prompt::TokenLists(lists) => lists.iter().map(|list| Prompt::Tokens(list.clone())).collect(),
        Prompt::Text(_) | Prompt::Tokens(_) => vec![borrowed(prompt)],
    }
}

fn borrowed<'a>(prompt: &'a Prompt<'_>) -> Prompt<'a> {
    match prompt {
        Prompt::Text(text) => Prompt::Text(Cow::Borrowed(&**text)),
        other => other.clone(),
    }
}

/// The prompts' texts; token numbers have none that we know of.
fn texts(prompt: &Prompt<'_>) -> Vec<Rc<str>> {
    match prompt {
        Prompt::Text(text) => vec![Rc::from(&**text)],
        Prompt::Texts(texts) => texts.iter().map(|text| Rc::from(&**text)).collect(),
        Prompt::Tokens(_) | Prompt::TokenLists(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Capabilities, Seeds};
    use super::*;

    const BOUNDS: Bounds = Bounds { calls: 4, prompt_bytes: 100 };

    fn of(table: &'static Capabilities) -> Abilities<'static> {
        Abilities { table, overrides: &[] }
    }

    static FEW: Capabilities = Capabilities {
        exceptions: &[
            (Parameter::PromptArray, Support::Emulated),
            (Parameter::N, Support::Emulated),
            (Parameter::Echo, Support::Emulated),
        ],
        unknown_parameters: false,
        stops: Stops { takes: |stop| !stop.trim().is_empty(), keeps: false },
        seeds: Seeds { min: 1, max: 9 },
    };

    /// Each call as `prompt n seed first choices`, and what the gateway does.
    fn check(capabilities: &'static Capabilities, request: &str, expected: &[&str]) {
        let request = CompletionRequest::parse(request.as_bytes()).unwrap();
        let parts = split(&request, of(capabilities), BOUNDS).unwrap();
        let line = |part: &Part<'_>| {
            let CompletionRequest { prompt, n, seed, stop, .. } = &*part.request;
            let Share { first, choices, echo, stops, .. } = &part.share;
            format!("{} {n} {seed:?} {stop:?} -> {first} {choices} {echo:?} {stops:?}", serde_json::json!(prompt))
        };
        assert_eq!(parts.iter().map(line).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_the_upstream_takes_is_one_call() {
        static ALL: Capabilities =
            Capabilities { exceptions: &[], unknown_parameters: true, stops: Stops::NATIVE, seeds: Seeds::ANY };
        check(
            &ALL,
            r#"{"model":"m","prompt":["a","b"],"n":2,"seed":7,"stop":"x"}"#,
            &[r#"["a","b"] 2 Some(7) ["x"] -> 0 4 [] []"#],
        );
    }

    #[test]
    fn prompts_and_choices_are_calls_of_their_own_with_seeds_of_their_own() {
        check(
            &FEW,
            r#"{"model":"m","prompt":["a","b"],"n":2,"seed":7,"echo":true,"stop":["x"," "]}"#,
            &[
                r#""a" 1 Some(7) ["x"] -> 0 1 ["a"] [" "]"#,
                r#""a" 1 Some(8) ["x"] -> 1 1 ["a"] [" "]"#,
                r#""b" 1 Some(7) ["x"] -> 2 1 ["b"] [" "]"#,
                r#""b" 1 Some(8) ["x"] -> 3 1 ["b"] [" "]"#,
            ],
        );
    }

    #[test]
    fn after_the_last_seed_of_an_upstream_comes_its_first() {
        check(
            &FEW,
            r#"{"model":"m","prompt":"a","n":3,"seed":8}"#,
            &[
                r#""a" 1 Some(8) [] -> 0 1 [] []"#,
                r#""a" 1 Some(9) [] -> 1 1 [] []"#,
                r#""a" 1 Some(1) [] -> 2 1 [] []"#,
            ],
        );
    }

    #[test]
    fn more_calls_than_allowed_are_refused() {
        let request = CompletionRequest::parse(br#"{"model":"m","prompt":["a","b","c"],"n":2}"#).unwrap();
        let error = split(&request, of(&FEW), BOUNDS).unwrap_err();
        assert_eq!((error.code(), error.param.as_deref()), (Some("unsupported_value"), Some("prompt")));
        assert!(error.message.contains("6 completions"), "{}", error.message);
    }

    #[test]
    fn a_long_prompt_is_not_multiplied_without_bound() {
        let body = format!(r#"{{"model":"m","prompt":"{}","n":4}}"#, "p".repeat(26));
        let error = split(&CompletionRequest::parse(body.as_bytes()).unwrap(), of(&FEW), BOUNDS).unwrap_err();
        assert_eq!((error.code(), error.param.as_deref()), (Some("unsupported_value"), Some("n")));
    }

    #[test]
    fn a_stop_sequence_that_would_cost_much_for_each_token_is_refused_where_the_gateway_looks_for_it() {
        let body = format!(r#"{{"model":"m","prompt":"p","stop":"{}"}}"#, " ".repeat(1025));
        let request = CompletionRequest::parse(body.as_bytes()).unwrap();
        let error = split(&request, of(&FEW), BOUNDS).unwrap_err();
        assert_eq!((error.code(), error.param.as_deref()), (Some("unsupported_value"), Some("stop")));
    }

    #[test]
    fn an_echo_by_the_gateway_is_each_prompts_own_also_where_prompts_are_one_call() {
        static ECHO: Capabilities = Capabilities {
            exceptions: &[(Parameter::Echo, Support::Emulated)],
            unknown_parameters: false,
            stops: Stops::NATIVE,
            seeds: Seeds::ANY,
        };
        check(
            &ECHO,
            r#"{"model":"m","prompt":["a","b"],"n":2,"echo":true}"#,
            &[r#"["a","b"] 2 None [] -> 0 4 ["a", "b"] []"#],
        );
    }
}
