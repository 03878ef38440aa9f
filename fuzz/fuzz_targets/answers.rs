//! Whole answers and error bodies of every dialect over arbitrary bytes: no panic, and of what the client would be told
//! nothing that it must not see. The first byte of the input chooses the dialect, the second the status.
#![no_main]

use completions_edge::dialect::{DialectName, Redactor};
use libfuzzer_sys::fuzz_target;

const SECRET: &str = "sk-upstream-secret";

fuzz_target!(|input: &[u8]| {
    let [dialect, status, body @ ..] = input else { return };
    let dialect = DialectName::ALL[usize::from(*dialect) % DialectName::ALL.len()].dialect();
    let status = 400 + u16::from(*status) % 200;
    let redactor = Redactor::new(Some(SECRET), "https://models.example.net/v1", "their-model", "ours");
    let faults = [dialect.decode_answer(body).err(), Some(dialect.decode_fault(status, body))];
    for fault in faults.into_iter().flatten().chain([dialect.decode_thrown(&String::from_utf8_lossy(body))]) {
        let error = fault.into_api_error(&redactor);
        assert!((400..600).contains(&error.status()));
        let json = error.to_json().to_ascii_lowercase();
        assert!(!json.contains(SECRET) && !json.contains("models.example.net"), "{json}");
    }
});
