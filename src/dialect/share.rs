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
    /// The prompt, where the gateway has to say it before the completion.
    pub echo: Option<String>,
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

/// The calls that a request takes with an upstream of these abilities, in the order of their choices; at most
/// `max_calls`, else it is refused.
pub fn split<'a>(
    request: &'a CompletionRequest<'a>,
    abilities: Abilities<'_>,
    max_calls: u32,
) -> Result<Vec<Part<'a>>, ApiError> {
    let emulates = |parameter| abilities.support(parameter) == Support::Emulated;
    let (for_upstream, for_gateway) = divide_stops(request, abilities);
    let by_prompt = emulates(Parameter::PromptArray) && request.prompt.count() > 1;
    let by_choice = emulates(Parameter::N) && request.n > 1;
    let echoes = emulates(Parameter::Echo) && request.echo;
    let stops: Rc<[String]> = for_gateway.into_iter().map(Cow::into_owned).collect();
    if !by_prompt && !by_choice && !echoes && for_upstream.len() == request.stop.len() {
        return Ok(vec![Part {
            request: Cow::Borrowed(request),
            share: Share {
                first: 0,
                choices: request.choices(),
                n: request.n,
                estimated_prompt_tokens: request.prompt.estimated_tokens(),
                echo: None,
                stops,
            },
        }]);
    }
    let prompts = if by_prompt { singles(&request.prompt) } else { vec![borrowed(&request.prompt)] };
    let times = if by_choice { request.n } else { 1 };
    let calls = prompts.len().saturating_mul(usize::try_from(times).unwrap_or(usize::MAX));
    if u64::try_from(calls).unwrap_or(u64::MAX) > u64::from(max_calls) {
        let bound = format!("asks for {calls} completions at once, and must ask for at most {max_calls}");
        return Err(ApiError::unsupported_value(if by_prompt { "prompt" } else { "n" }, &request.model, &bound));
    }
    let mut parts = Vec::with_capacity(calls);
    let mut first = 0_u32;
    for prompt in prompts {
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
                echo: echoes.then(|| text(&prompt)),
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

/// The prompt's text; token numbers have none that we know of.
fn text(prompt: &Prompt<'_>) -> String {
    match prompt {
        Prompt::Text(text) => text.to_string(),
        Prompt::Texts(texts) => texts.first().map(ToString::to_string).unwrap_or_default(),
        Prompt::Tokens(_) | Prompt::TokenLists(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Capabilities, Seeds};
    use super::*;

    fn of(table: &'static Capabilities) -> Abilities<'static> {
        static NONE: std::collections::BTreeMap<Parameter, Support> = std::collections::BTreeMap::new();
        Abilities { table, overrides: &NONE }
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
        let parts = split(&request, of(capabilities), 4).unwrap();
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
            &[r#"["a","b"] 2 Some(7) ["x"] -> 0 4 None []"#],
        );
    }

    #[test]
    fn prompts_and_choices_are_calls_of_their_own_with_seeds_of_their_own() {
        check(
            &FEW,
            r#"{"model":"m","prompt":["a","b"],"n":2,"seed":7,"echo":true,"stop":["x"," "]}"#,
            &[
                r#""a" 1 Some(7) ["x"] -> 0 1 Some("a") [" "]"#,
                r#""a" 1 Some(8) ["x"] -> 1 1 Some("a") [" "]"#,
                r#""b" 1 Some(7) ["x"] -> 2 1 Some("b") [" "]"#,
                r#""b" 1 Some(8) ["x"] -> 3 1 Some("b") [" "]"#,
            ],
        );
    }

    #[test]
    fn after_the_last_seed_of_an_upstream_comes_its_first() {
        check(
            &FEW,
            r#"{"model":"m","prompt":"a","n":3,"seed":8}"#,
            &[
                r#""a" 1 Some(8) [] -> 0 1 None []"#,
                r#""a" 1 Some(9) [] -> 1 1 None []"#,
                r#""a" 1 Some(1) [] -> 2 1 None []"#,
            ],
        );
    }

    #[test]
    fn more_calls_than_allowed_are_refused() {
        let request = CompletionRequest::parse(br#"{"model":"m","prompt":["a","b","c"],"n":2}"#).unwrap();
        let error = split(&request, of(&FEW), 4).unwrap_err();
        assert_eq!((error.code(), error.param.as_deref()), (Some("unsupported_value"), Some("prompt")));
        assert!(error.message.contains("6 completions"), "{}", error.message);
    }
}
