//! Makes keys.

use sha2::{Digest as _, Sha256};

const LOWER_AND_DIGITS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const LETTERS_AND_DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const ID_CHARS: usize = 12;
/// 256 bits, nearly: 43 characters of 62.
const SECRET_CHARS: usize = 43;

/// A key that is shown once.
pub(super) struct Minted {
    pub id: String,
    pub key: String,
}

/// A new key out of randomness that nobody else has. Id and secret come from it by hashes of their own, so that the id
/// tells nothing about the secret.
pub(super) fn mint(seed: &[u8; 32]) -> Minted {
    let id = text(seed, b"id", LOWER_AND_DIGITS, ID_CHARS);
    let secret = text(seed, b"secret", LETTERS_AND_DIGITS, SECRET_CHARS);
    Minted { key: format!("sk-{id}-{secret}"), id }
}

fn text(seed: &[u8; 32], purpose: &[u8], alphabet: &[u8], length: usize) -> String {
    // A byte that the whole repetitions do not cover is passed over: every character is as likely as any other.
    let table = alphabet.repeat(256_usize.checked_div(alphabet.len()).unwrap_or_default());
    let bytes = (0..=u8::MAX).flat_map(|block| Sha256::digest([seed.as_slice(), purpose, &[block]].concat()));
    bytes.filter_map(|byte| table.get(usize::from(byte)).copied()).map(char::from).take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::ApiKey;

    #[test]
    fn a_key_has_the_form_of_one_and_no_seed_makes_that_of_another() {
        let keys: std::collections::BTreeSet<String> = (0..200)
            .map(|seed| {
                let Minted { id, key } = mint(&[seed; 32]);
                assert!(ApiKey::parse(&key).is_some(), "{key}");
                assert_eq!(key.len(), "sk-".len() + 12 + 1 + 43);
                assert!(key.starts_with(&format!("sk-{id}-")));
                key
            })
            .collect();
        assert_eq!(keys.len(), 200);
    }

    #[test]
    fn every_character_is_as_likely_as_any_other() {
        let mut counts = [0_u32; 256];
        for byte in (0..=u8::MAX).flat_map(|seed| text(&[seed; 32], b"", LETTERS_AND_DIGITS, 62).into_bytes()) {
            counts[usize::from(byte)] += 1;
        }
        let counts: Vec<u32> = LETTERS_AND_DIGITS.iter().map(|byte| counts[usize::from(*byte)]).collect();
        // 256 are expected of each, with a standard deviation of 16.
        assert!(counts.iter().all(|count| (176..=336).contains(count)), "{counts:?}");
    }
}
