//! The load generator: a number of kept-alive connections, each sending its next request when its last answer is whole.
//!
//! ```text
//! load --port N --path /v1/completions --body JSON [--bearer KEY] [--headers LINES] [--events N] [--says TEXT]
//!      [--connections 16] [--seconds 3] [--ramp 0] [--pid N]
//! ```
//! With `--events` the answer must be a stream of that many events, with `--says` that very text, else a completion. The
//! connections begin spread over `--ramp` seconds; `--pid` is the process that is being loaded. The first wrong answer ends
//! the run; it then says what was wrong and exits with 1. The result is one line of JSON.

use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bench_tools::args::Args;
use bench_tools::check::{Expected, Moment};
use bench_tools::http::{Body, read_head};
use bench_tools::observer::{self, Progress};
use bench_tools::process::Process;
use bench_tools::stamp;

/// A target that says nothing for this long is broken; the run must end all the same.
const SILENCE: Duration = Duration::from_secs(10);

/// What every connection does.
struct Plan {
    port: u16,
    request: Vec<u8>,
    expected: Expected,
    until: Instant,
    stop: AtomicBool,
    progress: Progress,
}

/// What one connection, or all of them together, saw, in microseconds.
#[derive(Default)]
struct Seen {
    whole: Vec<u64>,
    first_byte: Vec<u64>,
    /// How long each stamped event was on its way.
    lag: Vec<u64>,
    error: Option<io::Error>,
}

fn main() -> io::Result<ExitCode> {
    let args = Args::parse(std::env::args().skip(1))?;
    let connections: usize = args.get("connections", 16)?;
    let ramp = Duration::from_secs_f64(args.get("ramp", 0.0)?);
    let pid: u32 = args.get("pid", 0)?;
    let process = (pid > 0).then_some(Process(pid));
    let started = Instant::now();
    let plan = Plan {
        port: args.get("port", 0)?,
        request: request(&args)?,
        expected: expected(&args)?,
        until: started + Duration::from_secs_f64(args.get("seconds", 3.0)?),
        stop: AtomicBool::new(false),
        progress: Progress::default(),
    };
    let cpu = || process.and_then(Process::cpu_seconds);

    let cpu_before = cpu();
    let over = AtomicBool::new(false);
    let (all, samples) = thread::scope(|scope| {
        let observer = scope.spawn(|| observer::watch(process, &plan.progress, &over));
        let running: Vec<_> = (0..connections)
            .map(|index| {
                let plan = &plan;
                scope.spawn(move || connection(plan, ramp.mul_f64(spread(index))))
            })
            .collect();
        let all: Vec<Seen> = running.into_iter().filter_map(|connection| connection.join().ok()).collect();
        over.store(true, Ordering::Relaxed);
        (all, observer.join().unwrap_or_default())
    });
    // Answers that had been begun are waited for and counted, so the time is the time of all that is counted.
    let seconds = started.elapsed().as_secs_f64();
    let cpu = cpu().zip(cpu_before).map(|(after, before)| after - before);

    let mut seen = Seen::default();
    let mut errors = connections - all.len();
    for one in all {
        seen.whole.extend(one.whole);
        seen.first_byte.extend(one.first_byte);
        seen.lag.extend(one.lag);
        if let Some(error) = one.error {
            errors += 1;
            eprintln!("load: {error}");
        }
    }
    let requests = seen.whole.len();
    let events = plan.progress.events.load(Ordering::Relaxed);
    println!(
        r#"{{"requests":{requests},"events":{events},"seconds":{seconds:.4},"errors":{errors},"cpu_s":{},{},{},{},{}}}"#,
        cpu.map_or("null".to_owned(), |cpu| format!("{cpu:.2}")),
        percentiles("whole", &mut seen.whole),
        percentiles("first", &mut seen.first_byte),
        percentiles("lag", &mut seen.lag),
        observer::summary(&samples, connections),
    );
    Ok(if errors == 0 && requests > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn request(args: &Args) -> io::Result<Vec<u8>> {
    let (path, port, body) = (args.require("path")?, args.require("port")?, args.require("body")?);
    let bearer: String = args.get("bearer", "none".to_owned())?;
    let mut head = format!(
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\nauthorization: Bearer {bearer}\r\n"
    );
    for line in args.get("headers", String::new())?.lines() {
        head.push_str(line);
        head.push_str("\r\n");
    }
    Ok(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

fn expected(args: &Args) -> io::Result<Expected> {
    let events: usize = args.get("events", 0)?;
    let says: String = args.get("says", String::new())?;
    Ok(if events > 0 {
        Expected::Stream { events }
    } else if says.is_empty() {
        Expected::Completion
    } else {
        Expected::Says(says)
    })
}

/// Where in the ramp a connection begins, from 0 to 1: multiples of the golden ratio lie evenly, however many there are,
/// and in step with no pace.
fn spread(index: usize) -> f64 {
    const GOLDEN: f64 = 0.618_033_988_749_895;
    f64::from(u32::try_from(index).unwrap_or(u32::MAX)).mul_add(GOLDEN, 0.0).fract()
}

/// The median and the 99th percentile, in milliseconds, as members of a JSON object; null where there is none.
fn percentiles(name: &str, micros: &mut [u64]) -> String {
    micros.sort_unstable();
    let at = |percent: usize| {
        let index = (micros.len() * percent / 100).min(micros.len().saturating_sub(1));
        micros.get(index).map_or("null".to_owned(), |micros| format!("{}.{:03}", micros / 1000, micros % 1000))
    };
    format!(r#""{name}_p50_ms":{},"{name}_p99_ms":{}"#, at(50), at(99))
}

fn connection(plan: &Plan, delay: Duration) -> Seen {
    thread::sleep(delay);
    let mut seen = Seen::default();
    if let Err(error) = exchange(plan, &mut seen) {
        seen.error = Some(error);
        plan.stop.store(true, Ordering::Relaxed);
    }
    seen
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn exchange(plan: &Plan, seen: &mut Seen) -> io::Result<()> {
    let mut output = TcpStream::connect(("127.0.0.1", plan.port))?;
    output.set_nodelay(true)?;
    output.set_read_timeout(Some(SILENCE))?;
    output.set_write_timeout(Some(SILENCE))?;
    let mut input = BufReader::with_capacity(64 * 1024, output.try_clone()?);
    let mut is_first_request = true;
    while !plan.stop.load(Ordering::Relaxed) && Instant::now() < plan.until {
        let began = Instant::now();
        output.write_all(&plan.request)?;
        let head = read_head(&mut input)?.ok_or_else(|| io::Error::other("the connection was closed"))?;
        let mut body = Body::new(&mut input, head.framing);
        if !head.start.starts_with("HTTP/1.1 200 ") {
            let mut said = String::new();
            body.read_to_string(&mut said)?;
            return Err(io::Error::other(format!("{}: {said}", head.start)));
        }
        let Seen { first_byte, lag, .. } = seen;
        plan.expected.check(&mut body, |moment| match moment {
            Moment::FirstBytes => {
                first_byte.push(micros(began));
                if is_first_request {
                    plan.progress.begun.fetch_add(1, Ordering::Relaxed);
                }
            }
            Moment::Event(line) => {
                plan.progress.events.fetch_add(1, Ordering::Relaxed);
                lag.extend(stamp::age(line));
            }
        })?;
        seen.whole.push(micros(began));
        plan.progress.ended.fetch_add(1, Ordering::Relaxed);
        is_first_request = false;
    }
    Ok(())
}
