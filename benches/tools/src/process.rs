//! What another process has used, as Linux tells in `/proc`; nothing where it does not.

use std::fs;

/// Linux shows processor time in hundredths of a second, whatever its own tick is.
const TICKS_A_SECOND: f64 = 100.0;

/// A process that is being looked at.
#[derive(Debug, Clone, Copy)]
pub struct Process(pub u32);

impl Process {
    /// Seconds of processor time, of user and system together, of all its threads.
    #[must_use]
    pub fn cpu_seconds(self) -> Option<f64> {
        cpu_seconds(&fs::read_to_string(format!("/proc/{}/stat", self.0)).ok()?)
    }

    /// Memory that is its own and resident, in KiB, which the system calls kB.
    #[must_use]
    pub fn resident_kb(self) -> Option<u64> {
        resident_kb(&fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?)
    }
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    // The name in parentheses may hold spaces; the state is the first field after it.
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_A_SECOND)
}

fn resident_kb(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_process_may_hold_anything() {
        let stat = "17 (a) 1 b) S 1 17 17 0 -1 4194560 900 0 0 0 150 25 0 0 20 0 9 0 100 1 2";
        assert_eq!(cpu_seconds(stat), Some(1.75));
        assert_eq!(cpu_seconds("nonsense"), None);
    }

    #[test]
    fn resident_memory_is_read_from_its_line() {
        assert_eq!(resident_kb("Name:\tworkerd\nVmRSS:\t   98304 kB\nThreads:\t9\n"), Some(98304));
        assert_eq!(resident_kb("Name:\tworkerd\n"), None);
    }
}
