//! Keeps the operator's secrets out of what an upstream says to a client: keys, addresses, accounts, and the names
//! that models have behind the gateway.

/// Cleans messages of one upstream.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    /// The upstream's key, if it has one.
    secret: Option<String>,
    base_url: String,
    /// The upstream's name for the model, and ours, where they differ.
    model: Option<(String, String)>,
}

const REDACTED: &str = "[redacted]";
/// A shorter part of a secret may well be a word that messages need.
const MIN_PART_BYTES: usize = 8;
/// Longer messages are cut: nobody reads them, and a header-sized answer suffices.
const MAX_CHARS: usize = 2000;

impl Redactor {
    /// A redactor that knows what must never be seen: the upstream's key, if it has one, also in the parts that colons
    /// make of it, as of AWS's keys, and its base URL; and that calls the model by the name that the client used. It
    /// looks closer at them when there is a message: nearly every request has none.
    #[must_use]
    pub fn new(secret: Option<&str>, base_url: &str, upstream_model: &str, public_model: &str) -> Self {
        let model = (upstream_model != public_model && upstream_model.len() > 2)
            .then(|| (upstream_model.to_owned(), public_model.to_owned()));
        Self { secret: secret.map(str::to_owned), base_url: base_url.to_owned(), model }
    }

    /// In lower case: the upstream's key, host and account, also percent-encoded.
    fn secrets(&self) -> Vec<String> {
        let (secret, base_url) = (self.secret.as_deref(), self.base_url.as_str());
        let host = base_url.split_once("://").map_or(base_url, |(_, rest)| rest);
        let host = host.split(['/', '?']).next().unwrap_or_default();
        // An account's number in the path. Words of a route are shorter, or have no digit.
        let is_account = |part: &&str| part.len() >= 16 && part.bytes().any(|byte| byte.is_ascii_digit());
        let accounts = base_url.split('/').skip(3).filter(is_account);
        let parts = secret.into_iter().flat_map(|secret| secret.split(':'));
        let parts = parts.filter(|part| part.len() >= MIN_PART_BYTES && Some(*part) != secret);
        let plains = secret.into_iter().chain(parts).chain([base_url, host]).chain(accounts);
        let plains = plains.filter(|plain| plain.len() > 2);
        plains.flat_map(|plain| [plain.to_ascii_lowercase(), percent_encoded(plain).to_ascii_lowercase()]).collect()
    }

    /// The message without what the client must not see.
    #[must_use]
    pub fn redact(&self, message: &str) -> String {
        let mut text = message.to_owned();
        for secret in self.secrets() {
            text = replace_ignoring_case(&text, &secret);
        }
        let mut clean = String::with_capacity(text.len());
        for piece in text.split_inclusive(is_boundary) {
            let word = piece.trim_end_matches(is_boundary);
            if looks_private(word.trim_end_matches(['.', ',', ':', ';', '!', '?'])) {
                clean.push_str(REDACTED);
                clean.extend(piece.chars().skip(word.chars().count()));
            } else {
                clean.push_str(piece);
            }
        }
        if let Some((theirs, ours)) = &self.model {
            clean = clean.replace(theirs, ours);
        }
        // Only now: half a secret is no longer known for one.
        clean.chars().take(MAX_CHARS).collect()
    }
}

fn is_boundary(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '(' | ')' | '<' | '>' | '{' | '}' | ',' | ';' | '=')
}

/// Whether a word is a key, an account, or an address, by its form alone.
fn looks_private(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    let is_url = lower.contains("://") || lower.contains("%3a%2f%2f");
    let is_account = ["sk-", "sk_", "org-", "proj_", "acct_", "key-", "gsk_", "hf_", "arn:"]
        .iter()
        .any(|prefix| lower.starts_with(prefix) && lower.len() > prefix.len());
    let host = lower.split(['/', ':']).next().unwrap_or_default();
    let is_private_host = host == "localhost"
        || [".internal", ".local", ".localdomain", ".lan", ".svc", ".cluster"].iter().any(|end| host.ends_with(end))
        || host.parse::<std::net::Ipv4Addr>().is_ok()
        || lower
            .trim_matches(['[', ']'])
            .parse::<std::net::Ipv6Addr>()
            .is_ok_and(|_| lower.contains("::") || lower.len() > 8);
    let has = |test: fn(&char) -> bool| word.chars().any(|c| test(&c));
    let is_token = word.len() >= 32
        && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && has(char::is_ascii_digit)
        && has(char::is_ascii_alphabetic);
    is_url || is_account || is_private_host || is_token
}

/// Percent-encoding as `encodeURIComponent` does it.
fn percent_encoded(text: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let hex = |nibble: u8| char::from(HEX.get(usize::from(nibble)).copied().unwrap_or_default());
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.extend(['%', hex(byte >> 4), hex(byte & 15)]);
        }
    }
    out
}

/// Replaces every place where `secret` (in lower case) stands in whatever case.
fn replace_ignoring_case(text: &str, secret: &str) -> String {
    // ASCII lower case keeps every byte's place, so that what is found there is at the same place here.
    let lower = text.to_ascii_lowercase();
    let (mut out, mut end) = (String::with_capacity(text.len()), 0);
    for (at, found) in lower.match_indices(secret) {
        out.push_str(text.get(end..at).unwrap_or_default());
        out.push_str(REDACTED);
        end = at.saturating_add(found.len());
    }
    out.push_str(text.get(end..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &str, expected: &str) {
        let redactor =
            Redactor::new(Some("Secret/Key 1"), "https://models.example.net:8443/v1", "acme/llama-3-8b", "llama");
        assert_eq!(redactor.redact(message), expected);
    }

    #[test]
    fn pitfall_35_keys_and_addresses_also_percent_encoded() {
        check("bad key secret/key 1 used", "bad key [redacted] used");
        check("bad key Secret%2FKey%201.", "bad key [redacted].");
        check("GET https://models.example.net:8443/v1/completions failed", "GET [redacted]/completions failed");
        check("host MODELS.example.net:8443 is down", "host [redacted] is down");
        check("see http%3A%2F%2F10.0.0.7%2Fx", "see [redacted]");
        check("connect 10.0.0.7:8000, then localhost:9", "connect [redacted], then [redacted]");
        check("organization org-AbC123 on vllm.prod.svc:80", "organization [redacted] on [redacted]");
        check("key 'sk-proj-1234' (see docs)", "key '[redacted]' (see docs)");
        check("id 0123456789abcdef0123456789abcdef!", "id [redacted]");
    }

    #[test]
    fn each_part_of_a_secret_of_several() {
        let secret = "AKIDEXAMPLE:wJalr/K7MDENG+bPx:Token123==:short";
        let redactor = Redactor::new(Some(secret), "https://m.example", "m", "m");
        assert_eq!(
            redactor.redact("AKIDEXAMPLE/20250102 wjalr%2FK7MDENG%2BbPx token123== short AKID"),
            "[redacted]/20250102 [redacted] [redacted] short AKID"
        );
        assert_eq!(redactor.redact(secret), "[redacted]");
    }

    #[test]
    fn an_account_in_the_path_is_nobodys_business() {
        let url = "https://api.example.net/client/v4/accounts/account-0123456789/ai";
        let redactor = Redactor::new(None, url, "m", "m");
        let message = "client v4 accounts: Account-0123456789 may not use api.example.net/client";
        assert_eq!(redactor.redact(message), "client v4 accounts: [redacted] may not use [redacted]/client");
    }

    #[test]
    fn a_secret_at_the_cut_is_redacted_before_the_cut() {
        let redactor = Redactor::new(Some("abcdefghijklmnopqrstuvwxyz"), "https://m.example", "m", "m");
        let message = format!("{} abcdefghijklmnopqrstuvwxyz", "x ".repeat(990));
        assert!(!redactor.redact(&message).contains("abc"));
    }

    #[test]
    fn what_helps_the_client_stays() {
        let useful = "This model's maximum context length is 4097 tokens, however you requested 4201 tokens (3945 in \
                      your prompt; 256 for the completion). Please reduce your prompt; or completion length.";
        check(useful, useful);
        check("temperature: 3.5 is above 2.0", "temperature: 3.5 is above 2.0");
    }

    #[test]
    fn models_are_called_by_their_public_names() {
        check("The model `acme/llama-3-8b` is loading", "The model `llama` is loading");
    }
}
