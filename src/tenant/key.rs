//! The key that a client shows, and the hash that we know it by.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::hex::hex;

/// A key of the form `sk-<id>-<secret>`: an id of 8 to 32 characters `[a-z0-9]`, a secret of 32 to 64 characters
/// `[A-Za-z0-9]`. It is never stored, logged or echoed; `Debug` shows the id alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ApiKey<'a> {
    whole: &'a str,
    id: &'a str,
}

/// SHA-256 of a whole key in lower-case hex: the name of its record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyHash(String);

impl<'a> ApiKey<'a> {
    /// Reads the value of an `Authorization` header: `Bearer <token>`, the scheme in any case (RFC 9110, 11.1).
    /// `None` if there is no bearer token at all.
    #[must_use]
    pub fn bearer_token(header: &'a str) -> Option<&'a str> {
        let (scheme, token) = header.trim_ascii().split_once(' ')?;
        let token = token.trim_ascii();
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && !token.contains(' ')).then_some(token)
    }

    /// The key, if the token has the form of one. What has not needs no look-up.
    #[must_use]
    pub fn parse(token: &'a str) -> Option<Self> {
        let (id, secret) = token.strip_prefix("sk-")?.split_once('-')?;
        let id_is_good =
            (8..=32).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let secret_is_good = (32..=64).contains(&secret.len()) && secret.bytes().all(|b| b.is_ascii_alphanumeric());
        (id_is_good && secret_is_good).then_some(Self { whole: token, id })
    }

    /// The hash of the whole key.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash(hex(&Sha256::digest(self.whole.as_bytes())))
    }
}

impl fmt::Debug for ApiKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey(sk-{}-…)", self.id)
    }
}

impl KeyHash {
    /// 64 hex digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "sk-demo0001-abcdefghijklmnopqrstuvwxyzABCDEF";

    #[test]
    fn a_key_is_known_by_its_hash_and_shown_by_its_id() {
        let key = ApiKey::parse(KEY).unwrap();
        assert_eq!(key.hash().as_str(), "45e414c6c11d8d650584c1795e6c9e173b74efef1d2be2c4067ffd97a8d4a214");
        assert_eq!(format!("{key:?}"), "ApiKey(sk-demo0001-…)");
    }

    #[test]
    fn what_has_not_the_form_of_a_key_is_none() {
        let secret = "a".repeat(32);
        for good in [format!("sk-12345678-{secret}"), format!("sk-{}-{}", "z".repeat(32), "Z".repeat(64))] {
            assert!(ApiKey::parse(&good).is_some(), "{good}");
        }
        for bad in [
            String::new(),
            "sk-".to_owned(),
            format!("pk-12345678-{secret}"),
            format!("sk-1234567-{secret}"),
            format!("sk-1234567A-{secret}"),
            format!("sk-12345678-{}", "a".repeat(31)),
            format!("sk-12345678-{}", "a".repeat(65)),
            format!("sk-12345678-{}-{}", "a".repeat(20), "a".repeat(20)),
            format!("sk-12345678-{}é", "a".repeat(32)),
        ] {
            assert!(ApiKey::parse(&bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn bearer_in_any_case() {
        for good in ["Bearer x", "bearer x", "BEARER   x ", " Bearer x"] {
            assert_eq!(ApiKey::bearer_token(good), Some("x"), "{good}");
        }
        for bad in ["", "Bearer", "Bearer ", "x", "Basic x", "Bearer x y"] {
            assert_eq!(ApiKey::bearer_token(bad), None, "{bad}");
        }
    }
}
