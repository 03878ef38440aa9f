//! What one line of the log says of a request. Nothing of prompts, texts or secrets is in it.

use crate::api::{ApiError, FinishReason};
use crate::health::Verdict;
use crate::json::ObjectWriter;
use crate::transcode::Outcome;

use super::retry::{Watch, verdict};
use super::{Settled, Settlement};

/// How a request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ended {
    /// With all that was asked for.
    #[default]
    Complete,
    /// With an error, in plain HTTP or as an event.
    Error,
    /// Nobody was there any more.
    ClientGone,
}

impl Ended {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Error => "error",
            Self::ClientGone => "client_gone",
        }
    }
}

/// One request, as the log tells of it. Times are milliseconds since it came.
#[derive(Clone, Debug, Default)]
pub struct RequestRecord {
    /// As in `x-request-id`.
    pub request_id: String,
    /// Of the W3C trace that the client began.
    pub trace_id: Option<String>,
    /// `completions`, `models`, `usage`, or `none` for a path that there is not.
    pub route: &'static str,
    /// Whose key it was.
    pub tenant: Option<String>,
    /// The key's id.
    pub key: Option<String>,
    /// The model that was asked for, once it is known to exist.
    pub model: Option<String>,
    /// Whether the answer is a stream.
    pub stream: bool,
    /// The target that was asked last, as `upstream/model`.
    pub target: Option<String>,
    /// The target's dialect.
    pub dialect: Option<&'static str>,
    /// How many times a target was asked.
    pub attempts: u32,
    /// The HTTP status.
    pub status: u16,
    /// The error's code, or its type where it has none.
    pub error: Option<String>,
    /// How it ended.
    pub ended: Ended,
    /// Of the first choice that ended.
    pub finish_reason: Option<FinishReason>,
    /// As settled.
    pub prompt_tokens: u64,
    /// As settled.
    pub completion_tokens: u64,
    /// Whether these are estimates.
    pub estimated: bool,
    /// Tokens, of prompts and completions, that upstreams used for tries that failed. Nobody is charged for them.
    pub wasted_tokens: u64,
    /// Until the upstream's headers.
    pub headers_ms: Option<u64>,
    /// Until the first text went out.
    pub first_token_ms: Option<u64>,
    /// Until the end.
    pub total_ms: u64,
    /// Whether the configuration wants it in the log.
    pub is_logged: bool,
}

impl RequestRecord {
    /// Takes note of what became of the answer.
    pub fn take(&mut self, outcome: &Outcome) {
        self.prompt_tokens = outcome.usage.prompt_tokens;
        self.completion_tokens = outcome.usage.completion_tokens;
        self.estimated = !outcome.reported;
        self.finish_reason = outcome.finish_reason;
        if let Some(error) = &outcome.failure {
            self.fail(error);
        }
    }

    /// Takes note of an error.
    pub fn fail(&mut self, error: &ApiError) {
        self.ended = Ended::Error;
        // An upstream's own code is as long as the upstream likes.
        self.error = Some(error.code().unwrap_or(error.case.row().1).chars().take(64).collect());
    }

    /// The line, a JSON object.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        // Each by its name, so that none is forgotten that comes later.
        let Self {
            request_id,
            trace_id,
            route,
            tenant,
            key,
            model,
            stream,
            target,
            dialect,
            attempts,
            status,
            error,
            ended,
            finish_reason,
            prompt_tokens,
            completion_tokens,
            estimated,
            wasted_tokens,
            headers_ms,
            first_token_ms,
            total_ms,
            is_logged: _,
        } = self;
        let mut line = ObjectWriter::with_capacity(1024);
        line.text("request_id", Some(request_id));
        if let Some(trace_id) = trace_id {
            line.text("trace_id", Some(trace_id));
        }
        line.text("route", Some(route))
            .text("tenant", tenant.as_deref())
            .text("key", key.as_deref())
            .text("model", model.as_deref())
            .value("stream", stream)
            .text("target", target.as_deref())
            .text("dialect", *dialect)
            .value("attempts", attempts)
            .value("status", status)
            .text("error", error.as_deref())
            .text("ended", Some(ended.as_str()))
            .text("finish_reason", finish_reason.map(FinishReason::as_str))
            .value("prompt_tokens", prompt_tokens)
            .value("completion_tokens", completion_tokens)
            .value("estimated", estimated)
            .value("wasted_tokens", wasted_tokens)
            .value("headers_ms", headers_ms)
            .value("first_token_ms", first_token_ms)
            .value("total_ms", total_ms);
        line.finish()
    }
}

/// What has to be done once when a stream has ended, however it ended.
#[derive(Debug, Default)]
pub struct Closing {
    /// What the ledger has to be told.
    pub settlement: Option<Settlement>,
    /// What the log has to be told.
    pub record: RequestRecord,
    /// What the isolate has to be told of the target.
    pub watch: Option<Watch>,
    /// When the request came, since 1970.
    pub began_ms: u64,
}

/// What is to be told when a stream has ended.
#[derive(Debug)]
pub struct Closed {
    /// Of its quota.
    pub settled: Option<Settled>,
    /// To the log, of the request.
    pub record: RequestRecord,
    /// To the log, of the target.
    pub change: Option<String>,
}

impl Closing {
    /// Takes note of the stream's first text. The line is for the log.
    pub fn see_text(&mut self, now_ms: u64) -> Option<String> {
        self.record.first_token_ms.get_or_insert(now_ms.saturating_sub(self.began_ms));
        self.watch.as_mut()?.answered(now_ms)
    }

    /// Whether the stream's first text has been seen.
    #[must_use]
    pub fn has_seen_text(&self) -> bool {
        self.record.first_token_ms.is_some()
    }

    /// The end. `gone` if the client left before it.
    #[must_use]
    pub fn close(mut self, outcome: &Outcome, gone: bool, now_ms: u64) -> Closed {
        self.record.take(outcome);
        if gone {
            self.record.ended = Ended::ClientGone;
        }
        self.record.total_ms = now_ms.saturating_sub(self.began_ms);
        let settled = self.settlement.map(|settlement| {
            let settle = settlement.of_stream(outcome);
            settlement.settle(settle, now_ms)
        });
        // A client that leaves before the first text has not seen how its target does.
        let unseen = gone && self.record.first_token_ms.is_none();
        let verdict = if unseen { Verdict::Neutral } else { verdict(Some(outcome)) };
        let change = self.watch.and_then(|watch| watch.end(verdict, now_ms));
        Closed { settled, record: self.record, change }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_byte_for_byte() {
        let check = |record: &RequestRecord, expected: &str| {
            assert_eq!(String::from_utf8(record.line()).unwrap(), expected);
        };
        check(
            &RequestRecord { request_id: "req_1".to_owned(), route: "none", ..RequestRecord::default() },
            "{\"request_id\":\"req_1\",\"route\":\"none\",\"tenant\":null,\"key\":null,\"model\":null,\"stream\":false,\
             \"target\":null,\"dialect\":null,\"attempts\":0,\"status\":0,\"error\":null,\"ended\":\"complete\",\
             \"finish_reason\":null,\"prompt_tokens\":0,\"completion_tokens\":0,\"estimated\":false,\"wasted_tokens\":0,\
             \"headers_ms\":null,\"first_token_ms\":null,\"total_ms\":0}",
        );
        let text = |text: &str| Some(text.to_owned());
        check(
            &RequestRecord {
                request_id: "req_2".to_owned(),
                trace_id: text("0af7"),
                route: "completions",
                tenant: text("acme"),
                key: text("k1"),
                model: text("a \"b\""),
                stream: true,
                target: text("gpu/m"),
                dialect: Some("openai-chat"),
                attempts: 2,
                status: 499,
                error: text("upstream_timeout"),
                ended: Ended::ClientGone,
                finish_reason: Some(FinishReason::ContentFilter),
                prompt_tokens: 1,
                completion_tokens: 2,
                estimated: true,
                wasted_tokens: 3,
                headers_ms: Some(4),
                first_token_ms: Some(5),
                total_ms: 6,
                is_logged: true,
            },
            "{\"request_id\":\"req_2\",\"trace_id\":\"0af7\",\"route\":\"completions\",\"tenant\":\"acme\",\"key\":\"k1\",\
             \"model\":\"a \\\"b\\\"\",\"stream\":true,\"target\":\"gpu/m\",\"dialect\":\"openai-chat\",\"attempts\":2,\
             \"status\":499,\"error\":\"upstream_timeout\",\"ended\":\"client_gone\",\"finish_reason\":\"content_filter\",\
             \"prompt_tokens\":1,\"completion_tokens\":2,\"estimated\":true,\"wasted_tokens\":3,\"headers_ms\":4,\
             \"first_token_ms\":5,\"total_ms\":6}",
        );
    }
}
