//! Checks a configuration document as the Worker would: `cargo run --example check_config -- FILE`. Says nothing and
//! exits with 0 if it is good, else tells what is wrong and exits with 1.

use std::process::ExitCode;

use completions_edge::config::GatewayConfig;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: check_config FILE");
        return ExitCode::FAILURE;
    };
    let checked =
        std::fs::read(&path).map_err(|error| error.to_string()).and_then(|document| GatewayConfig::parse(&document));
    match checked {
        Ok(_) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{}: {why}", path.display());
            ExitCode::FAILURE
        }
    }
}
