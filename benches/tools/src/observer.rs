//! A load seen from outside: what the loaded process has used, and how far the load has come, again and again.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::process::Process;

const EVERY: Duration = Duration::from_millis(50);

/// How far a load has come: its connections tell.
#[derive(Debug, Default)]
pub struct Progress {
    /// Connections whose first answer has begun.
    pub begun: AtomicUsize,
    /// Answers that are whole.
    pub ended: AtomicUsize,
    /// Events of streams.
    pub events: AtomicU64,
}

/// One look.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    at: Duration,
    cpu_seconds: Option<f64>,
    resident_kb: Option<u64>,
    begun: usize,
    ended: usize,
    events: u64,
}

/// Looks until it is over.
pub fn watch(process: Option<Process>, progress: &Progress, over: &AtomicBool) -> Vec<Sample> {
    let started = Instant::now();
    let mut samples = Vec::new();
    while !over.load(Ordering::Relaxed) {
        samples.push(Sample {
            at: started.elapsed(),
            cpu_seconds: process.and_then(Process::cpu_seconds),
            resident_kb: process.and_then(Process::resident_kb),
            begun: progress.begun.load(Ordering::Relaxed),
            ended: progress.ended.load(Ordering::Relaxed),
            events: progress.events.load(Ordering::Relaxed),
        });
        thread::sleep(EVERY);
    }
    samples
}

/// What the samples tell, as members of a JSON object: the time in which every connection's first answer had begun and none
/// was whole, which has streams alone and neither their beginnings nor their ends; and the most memory in the second and in
/// the last third of the whole time: what a runtime takes until it is warm, it takes in the first.
#[must_use]
pub fn summary(samples: &[Sample], connections: usize) -> String {
    let steady = |sample: &&Sample| sample.begun == connections && sample.ended == 0;
    let first = samples.iter().find(steady).cloned().unwrap_or_default();
    let last = samples.iter().rev().find(steady).cloned().unwrap_or_default();
    let cpu = last.cpu_seconds.zip(first.cpu_seconds).map(|(last, first)| format!("{:.2}", last - first));
    let third = samples.len().div_ceil(3).max(1);
    let mut thirds = samples.chunks(third).skip(1);
    let mut peak = || thirds.next()?.iter().filter_map(|sample| sample.resident_kb).max();
    format!(
        r#""steady_s":{:.4},"steady_events":{},"steady_cpu_s":{},"middle_kb":{},"late_kb":{}"#,
        last.at.saturating_sub(first.at).as_secs_f64(),
        last.events - first.events,
        or_null(cpu),
        or_null(peak()),
        or_null(peak()),
    )
}

fn or_null<T: Display>(value: Option<T>) -> String {
    value.map_or("null".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steady_time_is_between_the_last_beginning_and_the_first_end() {
        let sample = |at, begun, ended, events, kb| Sample {
            at: Duration::from_millis(at),
            cpu_seconds: Some(f64::from(u32::try_from(at).unwrap()) / 2000.0),
            resident_kb: Some(kb),
            begun,
            ended,
            events,
        };
        let samples = [
            sample(0, 1, 0, 0, 9),
            sample(100, 2, 0, 5, 10),
            sample(200, 2, 0, 9, 11),
            sample(500, 2, 0, 25, 12),
            sample(600, 2, 1, 30, 8),
        ];
        assert_eq!(
            summary(&samples, 2),
            r#""steady_s":0.4000,"steady_events":20,"steady_cpu_s":0.20,"middle_kb":12,"late_kb":8"#
        );
        assert_eq!(
            summary(&[], 2),
            r#""steady_s":0.0000,"steady_events":0,"steady_cpu_s":null,"middle_kb":null,"late_kb":null"#
        );
    }
}
