//! AWS Signature Version 4, for the calls that dialects of AWS make: a POST without a query. By
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>.

use std::borrow::Cow;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::date::{date, day_of};
use crate::hex::hex;

use super::{UpstreamRequest, path};

/// What calls are signed with. It has no `Debug`, so that no log can show it.
pub(super) struct Credentials<'a> {
    access_key_id: &'a str,
    secret_access_key: &'a str,
    /// Of temporary keys.
    session_token: Option<&'a str>,
}

impl<'a> Credentials<'a> {
    /// Reads `ACCESS_KEY_ID:SECRET_ACCESS_KEY`, perhaps with `:SESSION_TOKEN`; none if the secret is of another form.
    pub(super) fn parse(secret: &'a str) -> Option<Self> {
        let mut parts = secret.split(':');
        let (access_key_id, secret_access_key, session_token) = (parts.next()?, parts.next()?, parts.next());
        // White space is what is left of a line end, and no header takes it.
        let is_word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic());
        let good = parts.next().is_none() && secret.split(':').all(is_word);
        good.then_some(Self { access_key_id, secret_access_key, session_token })
    }
}

/// Adds the headers that sign `request`: its URL, its body, its content type, and its `x-amz` headers. The others are
/// left out, since proxies may touch them.
pub(super) fn sign(
    request: &mut UpstreamRequest,
    credentials: &Credentials<'_>,
    region: &str,
    service: &str,
    now_ms: u64,
) {
    let (date, time) = timestamp(now_ms);
    let mut add = |name: &'static str, value: String| request.headers.push((Cow::Borrowed(name), value));
    add("x-amz-date", time.clone());
    if let Some(token) = credentials.session_token {
        add("x-amz-security-token", token.to_owned());
    }
    let (canonical, signed_headers) = canonical_request(request);
    let scope = format!("{date}/{region}/{service}/aws4_request");
    let to_sign = string_to_sign(&time, &scope, &canonical);
    let first_key = format!("AWS4{}", credentials.secret_access_key).into_bytes();
    let steps = [&date, region, service, "aws4_request", &to_sign];
    let signature = hex(&steps.into_iter().fold(first_key, |key, data| hmac(&key, data).to_vec()));
    let id = credentials.access_key_id;
    let authorization =
        format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={signed_headers}, Signature={signature}");
    request.headers.push((Cow::Borrowed("authorization"), authorization));
}

/// The day as `20250102`, and the second as `20250102T030405Z`.
fn timestamp(now_ms: u64) -> (String, String) {
    let date = date(day_of(now_ms)).replace('-', "");
    let seconds = now_ms / 1000 % 86_400;
    let time = format!("{date}T{:02}{:02}{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60);
    (date, time)
}

/// The canonical form of a request, and the names of the headers that it holds.
fn canonical_request(request: &UpstreamRequest) -> (String, String) {
    let url = request.url();
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let path_at = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(path_at).unwrap_or_default();
    // As it stands in the `Host` header.
    let host = match scheme {
        "https" => authority.strip_suffix(":443"),
        _ => authority.strip_suffix(":80"),
    };
    let host = host.unwrap_or(authority).to_ascii_lowercase();
    let is_signed = |name: &str| name == "content-type" || name.starts_with("x-amz");
    let own = request.headers.iter().filter(|(name, _)| is_signed(name));
    // In order of name.
    let mut headers: Vec<(&str, &str)> = vec![("host", &host)];
    for (name, value) in own {
        let header = (&**name, &**value);
        headers.insert(headers.partition_point(|before| *before < header), header);
    }
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let lines: Vec<String> = headers.iter().map(|(name, value)| format!("{name}:{}", one_spaced(value))).collect();
    let body = hex(&Sha256::digest(&request.body));
    (format!("POST\n{}\n\n{}\n\n{names}\n{body}", path::once_more(path), lines.join("\n")), names)
}

/// A header's value without white space around it, and one space for many within it.
fn one_spaced(value: &str) -> String {
    value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

fn string_to_sign(time: &str, scope: &str, canonical_request: &str) -> String {
    format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical_request)))
}

fn hmac(key: &[u8], data: &str) -> [u8; 32] {
    // There is no error: HMAC takes keys of any length.
    let mac = Hmac::<Sha256>::new_from_slice(key).ok();
    mac.map(|mac| mac.chain_update(data).finalize().into_bytes().into()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::Destination;
    use super::*;
    use serde_json::Value;

    /// 2025-01-02T03:04:05Z.
    const NOW_MS: u64 = 1_735_787_045_678;
    const KEYS: &str = "AKIDEXAMPLE:wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    #[test]
    fn signatures_equal_those_of_awss_own_library() {
        let vectors: Vec<Value> = serde_json::from_slice(include_bytes!("testdata/sigv4-bedrock.json")).unwrap();
        assert_eq!(vectors.len(), 2);
        for vector in vectors {
            let text = |name: &str| vector[name].as_str().unwrap().to_owned();
            let mut expected: Vec<(String, String)> = vector["headers"]
                .as_object()
                .unwrap()
                .iter()
                .map(|(name, value)| (name.to_ascii_lowercase(), value.as_str().unwrap().to_owned()))
                .collect();
            let signs = |name: &str| ["x-amz-date", "x-amz-security-token", "authorization"].contains(&name);
            let given = expected.iter().filter(|(name, _)| !signs(name));
            let mut request = UpstreamRequest {
                destination: Destination::Url(text("url")),
                headers: given.map(|(name, value)| (Cow::Owned(name.clone()), value.clone())).collect(),
                body: text("body").into_bytes(),
            };
            // No proxy's business, and so not signed.
            let others = [("accept", "a"), ("accept-encoding", "identity")];
            request.headers.extend(others.map(|(name, value)| (Cow::Borrowed(name), value.to_owned())));
            let token = expected.iter().find(|(name, _)| name == "x-amz-security-token");
            let secret = token.map_or(KEYS.to_owned(), |(_, token)| format!("{KEYS}:{token}"));
            sign(&mut request, &Credentials::parse(&secret).unwrap(), "us-east-1", "bedrock", NOW_MS);

            let (canonical, _) = canonical_request(&request);
            assert_eq!(canonical, text("canonical_request"));
            let scope = "20250102/us-east-1/bedrock/aws4_request";
            assert_eq!(string_to_sign("20250102T030405Z", scope, &canonical), text("string_to_sign"));
            request.headers.retain(|(name, _)| !name.starts_with("accept"));
            let mut signed: Vec<(String, String)> =
                request.headers.into_iter().map(|(name, value)| (name.into_owned(), value)).collect();
            signed.sort();
            expected.sort();
            assert_eq!(signed, expected);
        }
    }

    fn check_canonical(url: &str, headers: &[(&'static str, &str)], expected: &str) {
        let headers = headers.iter().map(|(name, value)| (Cow::Borrowed(*name), (*value).to_owned())).collect();
        let request = UpstreamRequest { destination: Destination::Url(url.to_owned()), headers, body: Vec::new() };
        let (canonical, _) = canonical_request(&request);
        assert_eq!(canonical.rsplit_once('\n').unwrap().0, expected);
    }

    #[test]
    fn the_canonical_request() {
        check_canonical("https://H.example:443/a%3Ab", &[], "POST\n/a%253Ab\n\nhost:h.example\n\nhost");
        check_canonical("http://h.example:443/@", &[], "POST\n/%40\n\nhost:h.example:443\n\nhost");
        check_canonical(
            "http://h.example:80/",
            &[("x-amzn-b", " 1  2 "), ("user-agent", "u"), ("x-amz-a", "2")],
            "POST\n/\n\nhost:h.example\nx-amz-a:2\nx-amzn-b:1 2\n\nhost;x-amz-a;x-amzn-b",
        );
    }

    #[test]
    fn a_secret_is_two_or_three_words() {
        let parsed =
            |secret| Credentials::parse(secret).map(|c| (c.access_key_id, c.secret_access_key, c.session_token));
        assert_eq!(parsed("id:key"), Some(("id", "key", None)));
        assert_eq!(parsed("id:k/e+y=:token"), Some(("id", "k/e+y=", Some("token"))));
        for bad in ["", "id", "id:", ":key", "id:key:", "id:key:token:more", "id:key\n", "id: key", "id:kéy"] {
            assert_eq!(parsed(bad), None, "{bad:?}");
        }
    }
}
