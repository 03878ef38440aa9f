//! The load generator: a number of kept-alive connections, each sending its next request when its last answer is whole.
//!
//! ```text
//! load --port N --path /v1/completions --body JSON [--bearer KEY] [--events N] [--says TEXT]
//!      [--connections 16] [--seconds 3] [--requests N]
//! ```
//! With `--events` the answer must be a stream of that many events, with `--says` that very text, else a completion. The first wrong answer ends the run; it then says what
//! was wrong and exits with 1. The result is one line of JSON.

use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bench_tools::args::Args;
use bench_tools::check::Expected;
use bench_tools::http::{Body, read_head};

/// A target that says nothing for this long is broken; the run must end all the same.
const SILENCE: Duration = Duration::from_secs(10);

/// What every connection does.
struct Plan {
    port: u16,
    request: Vec<u8>,
    expected: Expected,
    until: Instant,
    /// Requests that may still be begun.
    budget: AtomicU64,
    stop: AtomicBool,
}

/// What one connection, or all of them together, saw.
#[derive(Default)]
struct Seen {
    whole: Vec<Duration>,
    first_byte: Vec<Duration>,
    error: Option<io::Error>,
}

fn main() -> io::Result<ExitCode> {
    let args = Args::parse(std::env::args().skip(1))?;
    let connections: usize = args.get("connections", 16)?;
    let body = args.require("body")?;
    let events: usize = args.get("events", 0)?;
    let says: String = args.get("says", String::new())?;
    let port = args.require("port")?;
    let request = format!(
        "POST {} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
        args.require("path")?,
        args.get("bearer", "none".to_owned())?,
        body.len(),
    );
    let started = Instant::now();
    let plan = Plan {
        port: args.get("port", 0)?,
        request: request.into_bytes(),
        expected: if events > 0 {
            Expected::Stream { events }
        } else if says.is_empty() {
            Expected::Completion
        } else {
            Expected::Says(says)
        },
        until: started + Duration::from_secs_f64(args.get("seconds", 3.0)?),
        budget: AtomicU64::new(args.get("requests", u64::MAX)?),
        stop: AtomicBool::new(false),
    };

    let all: Vec<Seen> = thread::scope(|scope| {
        let running: Vec<_> = (0..connections).map(|_| scope.spawn(|| connection(&plan))).collect();
        running.into_iter().filter_map(|connection| connection.join().ok()).collect()
    });
    // Answers that had been begun are waited for and counted, so the time is the time of all that is counted.
    let seconds = started.elapsed().as_secs_f64();

    let mut seen = Seen::default();
    let mut errors = connections - all.len();
    for one in all {
        seen.whole.extend(one.whole);
        seen.first_byte.extend(one.first_byte);
        if let Some(error) = one.error {
            errors += 1;
            eprintln!("load: {error}");
        }
    }
    seen.whole.sort_unstable();
    seen.first_byte.sort_unstable();
    let requests = seen.whole.len();
    println!(
        r#"{{"requests":{requests},"seconds":{seconds:.4},"errors":{errors},"p50_ms":{:.3},"p99_ms":{:.3},"ttft_p50_ms":{:.3},"ttft_p99_ms":{:.3}}}"#,
        percentile(&seen.whole, 50),
        percentile(&seen.whole, 99),
        percentile(&seen.first_byte, 50),
        percentile(&seen.first_byte, 99),
    );
    Ok(if errors == 0 && requests > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Milliseconds that this share of the sorted durations is not above; 0 of none.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).map_or(0.0, |duration| duration.as_secs_f64() * 1000.0)
}

fn connection(plan: &Plan) -> Seen {
    let mut seen = Seen::default();
    if let Err(error) = exchange(plan, &mut seen) {
        seen.error = Some(error);
        plan.stop.store(true, Ordering::Relaxed);
    }
    seen
}

fn exchange(plan: &Plan, seen: &mut Seen) -> io::Result<()> {
    let mut output = TcpStream::connect(("127.0.0.1", plan.port))?;
    output.set_nodelay(true)?;
    output.set_read_timeout(Some(SILENCE))?;
    output.set_write_timeout(Some(SILENCE))?;
    let mut input = BufReader::with_capacity(64 * 1024, output.try_clone()?);
    while plan.may_begin() {
        let began = Instant::now();
        output.write_all(&plan.request)?;
        let head = read_head(&mut input)?.ok_or_else(|| io::Error::other("the connection was closed"))?;
        let mut body = Body::new(&mut input, head.framing);
        if !head.start.starts_with("HTTP/1.1 200 ") {
            let mut said = String::new();
            body.read_to_string(&mut said)?;
            return Err(io::Error::other(format!("{}: {said}", head.start)));
        }
        let mut first_byte = Duration::ZERO;
        plan.expected.check(&mut body, || {
            first_byte = began.elapsed();
        })?;
        seen.first_byte.push(first_byte);
        seen.whole.push(began.elapsed());
    }
    Ok(())
}

impl Plan {
    fn may_begin(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
            && Instant::now() < self.until
            && self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}
