//! What each dialect can carry: one table a dialect, by parameter.

use serde_json::{Map, Value};

use crate::api::{ApiError, Case, CompletionRequest, Prompt, unrecognized};

use super::Seeds;

/// Whether a dialect can do what a parameter asks for; the best comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Support {
    /// The upstream does it.
    Native,
    /// The gateway does it itself.
    Emulated,
    /// Nobody does it: a request that asks for it is refused.
    Unsupported,
}

impl Support {
    /// The word in `/v1/models`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Emulated => "emulated",
            Self::Unsupported => "unsupported",
        }
    }
}

macro_rules! parameters {
    ($($variant:ident => $name:literal, $doc:literal;)*) => {
        /// The API's parameters, as capabilities tell them apart.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Parameter { $(#[doc = $doc] $variant,)* }

        impl Parameter {
            /// Every parameter, in the order of the API's documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in `/v1/models`' `capabilities`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

parameters! {
    Model => "model", "The model's name.";
    Prompt => "prompt", "A prompt of one text.";
    PromptArray => "prompt_array", "Several prompts in one request.";
    PromptTokens => "prompt_tokens", "Prompts as token numbers.";
    BestOf => "best_of", "More candidates than choices.";
    Echo => "echo", "The prompt before the completion.";
    FrequencyPenalty => "frequency_penalty", "A penalty by count.";
    PresencePenalty => "presence_penalty", "A penalty by presence.";
    LogitBias => "logit_bias", "Biases by token number.";
    Logprobs => "logprobs", "Log probabilities.";
    MaxTokens => "max_tokens", "A bound on tokens.";
    MaxTokensZero => "max_tokens_zero", "A bound of no token at all, for the prompt's log probabilities.";
    N => "n", "Several choices.";
    Seed => "seed", "Repeatable sampling.";
    Stop => "stop", "Stop sequences.";
    Stream => "stream", "Streaming.";
    StreamOptions => "stream_options", "Usage and padding in streams.";
    Suffix => "suffix", "The text after the completion.";
    Temperature => "temperature", "Sampling temperature.";
    TopP => "top_p", "Nucleus sampling.";
    User => "user", "The customer's user.";
}

/// A dialect's table.
#[derive(Debug)]
pub struct Capabilities {
    /// What is not native; everything else is.
    pub exceptions: &'static [(Parameter, Support)],
    /// Whether parameters that the API does not know are handed on, to an upstream that speaks the same API.
    pub unknown_parameters: bool,
    /// What an upstream that knows stop sequences does with them.
    pub stops: Stops,
    /// The seeds that an upstream takes, if it takes any.
    pub seeds: Seeds,
}

/// What an upstream that knows stop sequences does with them.
#[derive(Clone, Copy, Debug)]
pub struct Stops {
    /// Whether it takes this one. For one that it does not take the gateway looks itself.
    pub takes: fn(&str) -> bool,
    /// Whether its text still has the sequence at its end, which the gateway then cuts off.
    pub keeps: bool,
}

impl Stops {
    /// It takes every one, and leaves it out of its text.
    pub const NATIVE: Self = Self { takes: |_| true, keeps: false };
    /// The same but for the empty one, which it would refuse, or find at once.
    pub const NOT_EMPTY: Self = Self { takes: |stop| !stop.is_empty(), ..Self::NATIVE };
    /// The same but for those of white space alone, which it would refuse.
    pub const NOT_BLANK: Self = Self { takes: |stop| !stop.trim().is_empty(), ..Self::NATIVE };
}

impl Capabilities {
    /// What the dialect makes of `parameter`.
    #[must_use]
    pub fn support(&self, parameter: Parameter) -> Support {
        self.exceptions.iter().find(|(exception, _)| *exception == parameter).map_or(Support::Native, |row| row.1)
    }
}

/// What one upstream can carry: the dialect's table, and what the operator knows better of this server.
#[derive(Clone, Copy, Debug)]
pub struct Abilities<'a> {
    /// The dialect's.
    pub table: &'static Capabilities,
    /// The operator's.
    pub overrides: &'a [(Parameter, Support)],
}

impl Abilities<'_> {
    /// What the upstream makes of `parameter`.
    #[must_use]
    pub fn support(&self, parameter: Parameter) -> Support {
        let known = self.overrides.iter().find(|(overridden, _)| *overridden == parameter);
        known.map_or_else(|| self.table.support(parameter), |row| row.1)
    }

    /// The best of several upstreams, as `/v1/models` shows it.
    #[must_use]
    pub fn best_by_name(upstreams: &[Self]) -> Map<String, Value> {
        let best = |parameter: Parameter| upstreams.iter().map(|upstream| upstream.support(parameter)).min();
        let word = |parameter: Parameter| best(parameter).unwrap_or(Support::Unsupported).as_str();
        let mut words = Map::new();
        for &parameter in Parameter::ALL {
            words.insert(parameter.name().to_owned(), word(parameter).into());
        }
        words
    }

    /// The fault of an override: a server can do less than its dialect, but not more, and the gateway not everything.
    pub fn check(&self) -> Result<(), String> {
        use Parameter::{Echo, MaxTokens, Model, N, Prompt, PromptArray, Stop, Stream, StreamOptions};
        for &(parameter, support) in self.overrides {
            let (name, word) = (parameter.name(), support.as_str());
            let impossible = match support {
                Support::Native => false,
                Support::Emulated => !matches!(parameter, PromptArray | N | Echo | Stop),
                Support::Unsupported => matches!(parameter, Model | Prompt | MaxTokens | Stream | StreamOptions),
            };
            if impossible || support < self.table.support(parameter) {
                return Err(format!("{name}: it cannot be {word} here"));
            }
        }
        Ok(())
    }
}

/// What a request asks for beyond the defaults, with the public name of the parameter that asks.
fn asked(request: &CompletionRequest<'_>) -> impl Iterator<Item = (Parameter, &'static str)> {
    let tokens = matches!(request.prompt, Prompt::Tokens(_) | Prompt::TokenLists(_));
    [
        (request.prompt.count() > 1, Parameter::PromptArray, "prompt"),
        (tokens, Parameter::PromptTokens, "prompt"),
        // As many candidates as choices is what happens anyway.
        (request.best_of.is_some_and(|best_of| best_of > request.n), Parameter::BestOf, "best_of"),
        (request.echo, Parameter::Echo, "echo"),
        (request.frequency_penalty.is_some_and(|p| p != 0.0), Parameter::FrequencyPenalty, "frequency_penalty"),
        (request.presence_penalty.is_some_and(|p| p != 0.0), Parameter::PresencePenalty, "presence_penalty"),
        (request.logit_bias.is_some_and(|bias| bias.get() != "{}"), Parameter::LogitBias, "logit_bias"),
        (request.logprobs.is_some(), Parameter::Logprobs, "logprobs"),
        (request.max_tokens == Some(0), Parameter::MaxTokensZero, "max_tokens"),
        (request.n > 1, Parameter::N, "n"),
        (request.seed.is_some(), Parameter::Seed, "seed"),
        (!request.stop.is_empty(), Parameter::Stop, "stop"),
        (request.suffix.as_deref().is_some_and(|suffix| !suffix.is_empty()), Parameter::Suffix, "suffix"),
        (request.temperature.is_some_and(|t| (t - 1.0).abs() > 0.0), Parameter::Temperature, "temperature"),
        (request.top_p.is_some_and(|p| (p - 1.0).abs() > 0.0), Parameter::TopP, "top_p"),
        (request.user.is_some(), Parameter::User, "user"),
    ]
    .into_iter()
    .filter_map(|(asks, parameter, name)| asks.then_some((parameter, name)))
}

/// Refuses what the dialect cannot carry; nothing is dropped silently.
pub fn refuse_unsupported(request: &CompletionRequest<'_>, abilities: Abilities<'_>) -> Result<(), ApiError> {
    // The gateway can say a text itself, but not its tokens' log probabilities, nor the text of token numbers.
    if request.echo && abilities.support(Parameter::Echo) == Support::Emulated {
        let tokens = matches!(request.prompt, Prompt::Tokens(_) | Prompt::TokenLists(_));
        let with = [(request.logprobs.is_some(), "'logprobs'"), (tokens, "a prompt of token numbers")];
        if let Some((_, with)) = with.into_iter().find(|(asked, _)| *asked) {
            let model = &request.model;
            let message =
                format!("Unsupported parameter: 'echo' with {with} is not supported with the model `{model}`.");
            return Err(ApiError::new(Case::UnsupportedParameter, message).about("echo"));
        }
    }
    // Each choice would be the best of its own candidates, and not one of the best.
    let by_choice = request.n > 1 && abilities.support(Parameter::N) == Support::Emulated;
    if by_choice && request.best_of.is_some_and(|best_of| best_of > request.n) {
        let model = &request.model;
        let message = format!(
            "Unsupported parameter: 'best_of' above 'n' is not supported with several choices of the model `{model}`."
        );
        return Err(ApiError::new(Case::UnsupportedParameter, message).about("best_of"));
    }
    for (parameter, name) in asked(request) {
        if abilities.support(parameter) == Support::Unsupported {
            let what = match parameter {
                Parameter::PromptArray => "'prompt' with more than one prompt",
                Parameter::PromptTokens => "'prompt' as token numbers",
                Parameter::MaxTokensZero => "'max_tokens' of 0",
                _ => &format!("'{name}'"),
            };
            let message = format!("Unsupported parameter: {what} is not supported with the model `{}`.", request.model);
            return Err(ApiError::new(Case::UnsupportedParameter, message).about(name));
        }
    }
    abilities.table.seeds.check(request)?;
    match request.extra.first() {
        Some((name, _)) if !abilities.table.unknown_parameters => Err(unrecognized(name)),
        _ => Ok(()),
    }
}
