//! Azure OpenAI by its deployments: `/completions` of models that complete text, `/chat/completions` of those that chat only.
//!
//! `base_url` ends before the deployment's name, `https://NAME.openai.azure.com/openai/deployments`; `api_version` is the
//! date that the API goes by, such as `2024-10-21`; the target's model is the deployment. The key goes in the header `api-key`.
//! Source: <https://learn.microsoft.com/azure/ai-services/openai/reference>. Versions before 2024-09 do not know
//! `stream_options`: such an upstream is configured with `"stream_usage":false`.
//!
//! The newer API without versions, `https://NAME.openai.azure.com/openai/v1`, is OpenAI's own, with the key as a bearer
//! (<https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle>): `openai-completions` and `openai-chat` speak it.
//!
//! Bodies and answers are OpenAI's. A stream may begin with a chunk without choices, for the filter's findings about the
//! prompt. A prompt that the filter stops is a 400 with the code `content_filter`, which in some versions stands only in
//! `innererror`, as `ResponsibleAIPolicyViolation`.

use crate::api::{Answer, ApiError};
use crate::framing::{Frame, Framing};

use super::json::{Object, Raw};
use super::openai_wire::{self, OpenAiDecoder};
use super::{
    Call, Capabilities, Dialect, Event, Fault, Options, StreamDecoder, UpstreamRequest, UsageReport, openai_chat,
    openai_completions, path,
};

/// Deployments of models that complete text.
#[derive(Debug)]
pub(super) struct AzureOpenAi;

/// Deployments of models that chat only.
#[derive(Debug)]
pub(super) struct AzureOpenAiChat;

impl Dialect for AzureOpenAi {
    fn capabilities(&self) -> &'static Capabilities {
        &openai_completions::CAPABILITIES
    }

    fn options(&self) -> Options {
        Options { api_version: true, ..Options::default() }
    }

    fn framing(&self) -> Framing {
        Framing::Sse
    }

    fn encode(&self, call: &Call<'_>) -> Result<UpstreamRequest, ApiError> {
        Ok(post(call, "completions", openai_completions::body(call)))
    }

    fn decoder(&self) -> Box<dyn StreamDecoder> {
        Box::new(AzureDecoder)
    }

    fn decode_answer(&self, body: &[u8]) -> Result<(Answer, UsageReport), Fault> {
        openai_wire::decode_answer(body).map_err(|fault| filtered(fault, body))
    }

    fn decode_fault(&self, status: u16, body: &[u8]) -> Fault {
        filtered(Fault::of_body(status, body), body)
    }
}

impl Dialect for AzureOpenAiChat {
    fn capabilities(&self) -> &'static Capabilities {
        &openai_chat::CAPABILITIES
    }

    fn options(&self) -> Options {
        Options { api_version: true, ..Options::default() }
    }

    fn framing(&self) -> Framing {
        Framing::Sse
    }

    fn encode(&self, call: &Call<'_>) -> Result<UpstreamRequest, ApiError> {
        Ok(post(call, "chat/completions", openai_chat::body(call)))
    }

    fn decoder(&self) -> Box<dyn StreamDecoder> {
        AzureOpenAi.decoder()
    }

    fn decode_answer(&self, body: &[u8]) -> Result<(Answer, UsageReport), Fault> {
        AzureOpenAi.decode_answer(body)
    }

    fn decode_fault(&self, status: u16, body: &[u8]) -> Fault {
        AzureOpenAi.decode_fault(status, body)
    }
}

fn post(call: &Call<'_>, operation: &str, body: Object) -> UpstreamRequest {
    let mut route = format!("/{}/{operation}", path::segment(&call.target.model));
    if let Some(version) = &call.upstream.api_version {
        route.push_str("?api-version=");
        route.push_str(&path::segment(version));
    }
    call.post(&route, call.secret.map(|secret| ("api-key", secret.to_owned())), body)
}

/// The fault, told for what it is where the filter stopped the prompt.
fn filtered(fault: Fault, body: &[u8]) -> Fault {
    let inner = |raw: Raw<'_>| {
        let code = raw.field("error").field("innererror").field("code");
        code.text().as_deref() == Some("ResponsibleAIPolicyViolation")
    };
    if fault.code.is_none() && Raw::read(body, inner) == Some(true) {
        Fault { status: 400, code: Some("content_filter".to_owned()), ..fault }
    } else {
        fault
    }
}

/// OpenAI's decoder, with Azure's errors.
#[derive(Debug)]
struct AzureDecoder;

impl StreamDecoder for AzureDecoder {
    fn frame(&mut self, frame: Frame<'_>, events: &mut dyn FnMut(Event<'_>)) {
        OpenAiDecoder.frame(frame, &mut |event| match event {
            Event::Failed(fault) => events(Event::Failed(filtered(fault, frame.data))),
            event => events(event),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::encode;
    use super::*;

    fn check_url(dialect: &str, version: &str, expected: &str) {
        let base = "https://name.openai.azure.com/openai/deployments";
        let upstream = format!(r#"{{"dialect":"{dialect}","base_url":"{base}","key":"K"{version}}}"#);
        let call = encode(&upstream, r#"{"model":"m","prompt":"a"}"#).unwrap();
        assert_eq!(call.url(), format!("{base}{expected}"));
        let keys: Vec<_> =
            call.headers.iter().filter(|(name, _)| name == "api-key" || name == "authorization").collect();
        assert_eq!(keys, [&("api-key".into(), "secret".to_owned())]);
    }

    #[test]
    fn the_deployment_is_one_segment_and_the_version_one_value() {
        check_url("azure-openai", "", "/%40org%2Ftheir%20model/completions");
        check_url(
            "azure-openai",
            r#","api_version":"2024-10-21""#,
            "/%40org%2Ftheir%20model/completions?api-version=2024-10-21",
        );
        check_url(
            "azure-openai-chat",
            r#","api_version":"a&b=c""#,
            "/%40org%2Ftheir%20model/chat/completions?api-version=a%26b%3Dc",
        );
    }

    fn check_fault(status: u16, body: &str, expected: (u16, Option<&str>)) {
        let fault = AzureOpenAiChat.decode_fault(status, body.as_bytes());
        assert_eq!(
            (fault.status, fault.code.as_deref(), fault.message.as_str()),
            (expected.0, expected.1, "m"),
            "{body}"
        );
    }

    #[test]
    fn errors_with_and_without_their_keys() {
        let inner = r#""innererror":{"code":"ResponsibleAIPolicyViolation","content_filter_result":{}}"#;
        let code = |code: &str| format!(r#"{{"error":{{"message":"m",{code}"type":null,"param":"prompt",{inner}}}}}"#);
        check_fault(400, &code(r#""code":"content_filter","#), (400, Some("content_filter")));
        check_fault(400, &code(""), (400, Some("content_filter")));
        check_fault(400, &code(r#""code":null,"#), (400, Some("content_filter")));
        check_fault(404, r#"{"error":{"code":"DeploymentNotFound","message":"m"}}"#, (404, Some("DeploymentNotFound")));
        check_fault(401, r#"{"statusCode":401,"message":"m"}"#, (401, None));
    }
}
