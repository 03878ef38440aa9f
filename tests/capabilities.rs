//! The README's table of capabilities is the one in the code. `BLESS=1 cargo test --test capabilities` writes it.

#![allow(clippy::unwrap_used, reason = "in tests a panic is a failure that says where")]

use std::fs;
use std::path::Path;

use completions_edge::dialect::{DialectName, Parameter, Support};

const BEGIN: &str = "<!-- capabilities: written by `BLESS=1 cargo test --test capabilities` -->\n";
const END: &str = "<!-- end of capabilities -->\n";

fn table() -> String {
    let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let cell = |dialect: &DialectName, parameter: Parameter| {
        let word = match dialect.dialect().capabilities().support(parameter) {
            Support::Native => "yes",
            Support::Emulated => "gateway",
            Support::Unsupported => "–",
        };
        word.to_owned()
    };
    let names = DialectName::ALL.iter().map(|dialect| format!("`{}`", dialect.name()));
    let head = row(std::iter::once(String::new()).chain(names).collect());
    let line = row(vec!["---".to_owned(); DialectName::ALL.len().saturating_add(1)]).replace(' ', "");
    let rows = Parameter::ALL.iter().map(|&parameter| {
        let cells = DialectName::ALL.iter().map(|dialect| cell(dialect, parameter));
        row(std::iter::once(format!("`{}`", parameter.name())).chain(cells).collect())
    });
    head + &line + &rows.collect::<String>()
}

#[test]
fn the_readmes_table_is_the_codes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).unwrap();
    let (written, after) = rest.split_once(END).unwrap();
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}\n{}\n{END}{after}", table())).unwrap();
    } else {
        assert_eq!(written, format!("\n{}\n", table()), "run BLESS=1 cargo test --test capabilities");
    }
}

#[test]
fn every_dialect_is_in_the_readmes_list() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    for dialect in DialectName::ALL {
        let row = format!("| `{}` | ", dialect.name());
        assert!(readme.contains(&row), "{row}");
    }
}
