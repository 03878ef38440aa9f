//! The breaker of one target, call by call.

#![expect(clippy::arithmetic_side_effects, reason = "in tests an overflow is a failure that says where")]

use crate::config::BreakerPolicy;

use super::breaker::{Admission, Breaker, Change, PROBE_MS, Pass, Reason, Refusal, Verdict};

const POLICY: BreakerPolicy = BreakerPolicy {
    enabled: true,
    window_ms: 10_000,
    min_calls: 4,
    failure_rate_percent: 50,
    open_ms: 1000,
    max_open_ms: 5000,
};

/// A breaker and the time, which begins when a window does.
struct World {
    breaker: Breaker,
    policy: BreakerPolicy,
    now_ms: u64,
}

impl World {
    fn new() -> Self {
        Self { breaker: Breaker::default(), policy: POLICY, now_ms: 1_000_000 }
    }

    /// One that has just opened, for a second.
    fn open() -> Self {
        let mut world = Self::new();
        let opened = Change::Opened { calls: 4, failures: 4, for_ms: 1000 };
        assert_eq!(world.calls("ffff"), [(3, opened)]);
        world
    }

    /// One that opened a second ago, and its probe.
    fn probing() -> (Self, Pass) {
        let mut world = Self::open();
        world.now_ms += 1000;
        let probe = world.begin();
        assert!(probe.is_probe());
        (world, probe)
    }

    fn look(&self) -> Admission {
        self.breaker.look(&self.policy, self.now_ms)
    }

    #[track_caller]
    fn begin(&mut self) -> Pass {
        self.breaker.begin(&self.policy, self.now_ms).unwrap()
    }

    fn answered(&mut self, pass: &mut Pass) -> Option<Change> {
        self.breaker.answered(&self.policy, pass, self.now_ms)
    }

    fn ended(&mut self, pass: Pass, verdict: Verdict) -> Option<Change> {
        self.breaker.ended(&self.policy, pass, verdict, self.now_ms)
    }

    /// Calls one after the other, by letters: success, failure, neutral, limited for no time, broken off after the
    /// answer began; a dot is a second. The changes, each with the place of the call that made it.
    #[track_caller]
    fn calls(&mut self, letters: &str) -> Vec<(usize, Change)> {
        let mut changes = Vec::new();
        for (place, letter) in letters.chars().enumerate() {
            let verdict = match letter {
                's' => Verdict::Success,
                'f' | 'b' => Verdict::Failure,
                'n' => Verdict::Neutral,
                'l' => Verdict::Limited { retry_after_ms: Some(0) },
                _ => {
                    self.now_ms += 1000;
                    continue;
                }
            };
            let mut pass = self.begin();
            if letter == 'b' {
                changes.extend(self.answered(&mut pass).map(|change| (place, change)));
            }
            changes.extend(self.ended(pass, verdict).map(|change| (place, change)));
        }
        changes
    }

    #[track_caller]
    fn check_refused(&self, retry_after_ms: u64, reason: Reason) {
        assert_eq!(self.look(), Admission::Refused(Refusal { retry_after_ms, reason }));
    }
}

/// Expects that after these calls it is closed, or that the last one opens it, so many of so many having failed.
#[track_caller]
fn check(letters: &str, opened: Option<(u64, u64)>) {
    let expected =
        opened.map(|(failures, calls)| (letters.len() - 1, Change::Opened { calls, failures, for_ms: 1000 }));
    assert_eq!(World::new().calls(letters), Vec::from_iter(expected), "{letters}");
}

#[test]
fn it_opens_when_enough_calls_of_the_window_have_failed() {
    check("fff", None);
    check("ffff", Some((4, 4)));
    check("ssff", Some((2, 4)));
    check("sssff", None);
    check("sssfff", Some((3, 6)));
    check("ffss", None);
    check("ffssf", Some((3, 5)));
    check("fff.........f", Some((4, 4)));
    check("fff..........f", None);
    check("ssss..........ffff", Some((4, 4)));
}

#[test]
fn pitfall_32_a_client_that_leaves_and_a_request_at_fault_count_neither_way() {
    check("fffnnnnnnn", None);
    check("nnnnnnnfff", None);
    check("nnnnffnnff", Some((4, 4)));
    check("fffllll", None);
}

#[test]
fn an_answer_that_breaks_off_counts_once_and_as_a_failure() {
    check("bbb", None);
    check("bbbb", Some((4, 4)));
    check("sssbb", None);
    check("sssbbb", Some((3, 6)));
    // Where the success has slid out of the window, there is only the failure.
    let mut world = World::new();
    let mut long = world.begin();
    assert_eq!(world.answered(&mut long), None);
    assert_eq!(world.answered(&mut long), None);
    assert_eq!(world.calls("..........fff"), []);
    assert_eq!(world.ended(long, Verdict::Failure), Some(Change::Opened { calls: 4, failures: 4, for_ms: 1000 }));
}

#[test]
fn while_it_is_open_nothing_goes_through() {
    let mut world = World::open();
    world.check_refused(1000, Reason::Open);
    world.now_ms += 999;
    world.check_refused(1, Reason::Open);
    let refusal = Refusal { retry_after_ms: 1, reason: Reason::Open };
    assert_eq!(world.breaker.begin(&POLICY, world.now_ms), Err(refusal));
    world.now_ms += 1;
    assert_eq!(world.look(), Admission::Probe);
}

#[test]
fn half_open_one_goes_through_and_decides() {
    let (mut world, probe) = World::probing();
    world.check_refused(1000, Reason::Open);
    assert_eq!(world.ended(probe, Verdict::Success), Some(Change::Closed));
    // The failures of before are forgotten, and the probe is remembered.
    assert_eq!(world.calls("ff"), []);
    assert_eq!(world.calls("f"), [(0, Change::Opened { calls: 4, failures: 3, for_ms: 1000 })]);
}

#[test]
fn each_time_that_a_probe_fails_it_opens_for_longer_up_to_a_bound() {
    let (mut world, mut probe) = World::probing();
    for for_ms in [2000, 4000, 5000, 5000, 5000] {
        assert_eq!(world.ended(probe, Verdict::Failure), Some(Change::Reopened { for_ms }));
        world.check_refused(for_ms, Reason::Open);
        world.now_ms += for_ms;
        probe = world.begin();
    }
    assert_eq!(world.ended(probe, Verdict::Success), Some(Change::Closed));
    assert_eq!(world.calls("fff"), [(2, Change::Opened { calls: 4, failures: 3, for_ms: 1000 })]);
}

#[test]
fn a_probe_that_found_out_nothing_makes_way_for_the_next() {
    for verdict in [Verdict::Neutral, Verdict::Limited { retry_after_ms: Some(0) }] {
        let (mut world, probe) = World::probing();
        assert_eq!(world.ended(probe, verdict), None);
        let probe = world.begin();
        assert!(probe.is_probe());
        assert_eq!(world.ended(probe, Verdict::Failure), Some(Change::Reopened { for_ms: 2000 }));
    }
    let (mut world, probe) = World::probing();
    let cooling = Change::Cooling { for_ms: 3000 };
    assert_eq!(world.ended(probe, Verdict::Limited { retry_after_ms: Some(3000) }), Some(cooling));
    world.check_refused(3000, Reason::Cooling);
    world.now_ms += 3000;
    assert_eq!(world.look(), Admission::Probe);
}

#[test]
fn a_probe_that_nobody_hears_of_again_does_not_block_for_ever() {
    let (mut world, lost) = World::probing();
    world.now_ms += PROBE_MS - 1;
    world.check_refused(1, Reason::Open);
    world.now_ms += 1;
    let probe = world.begin();
    // What the lost one has to say is no longer asked, and it does not make way for a third.
    assert_eq!(world.ended(lost, Verdict::Neutral), None);
    world.check_refused(1000, Reason::Open);
    assert_eq!(world.ended(probe, Verdict::Success), Some(Change::Closed));

    let (mut world, late) = World::probing();
    world.now_ms += PROBE_MS + 1;
    assert_eq!(world.ended(late, Verdict::Success), Some(Change::Closed), "better late than never");
}

#[test]
fn a_stream_that_begins_is_all_that_is_asked_of_a_probe() {
    let (mut world, mut probe) = World::probing();
    assert_eq!(world.answered(&mut probe), Some(Change::Closed));
    assert_eq!(world.look(), Admission::Go);
    assert_eq!(world.calls("fff"), [(2, Change::Opened { calls: 4, failures: 3, for_ms: 1000 })]);
    assert_eq!(world.ended(probe, Verdict::Success), None);

    // One that then breaks off counts like any other.
    let (mut world, mut probe) = World::probing();
    assert_eq!(world.answered(&mut probe), Some(Change::Closed));
    assert_eq!(world.calls("fff"), [(2, Change::Opened { calls: 4, failures: 3, for_ms: 1000 })]);
    assert_eq!(world.ended(probe, Verdict::Failure), None);
    let (mut world, mut probe) = World::probing();
    assert_eq!(world.answered(&mut probe), Some(Change::Closed));
    assert_eq!(world.ended(probe, Verdict::Failure), None);
    assert_eq!(world.calls("fff"), [(2, Change::Opened { calls: 4, failures: 4, for_ms: 1000 })]);
}

#[test]
fn what_began_before_a_change_says_nothing_about_the_time_after() {
    let mut world = World::new();
    let mut old: Vec<Pass> = (0..9).map(|_| world.begin()).collect();
    world.calls("ffff");
    assert_eq!(world.ended(old.remove(0), Verdict::Failure), None);
    assert_eq!(world.ended(old.remove(0), Verdict::Success), None);
    world.check_refused(1000, Reason::Open);
    world.now_ms += 1000;
    let probe = world.begin();
    assert_eq!(world.ended(old.remove(0), Verdict::Success), None);
    assert_eq!(world.ended(old.remove(0), Verdict::Neutral), None);
    world.check_refused(1000, Reason::Open);
    assert_eq!(world.ended(probe, Verdict::Success), Some(Change::Closed));
    for pass in old {
        assert_eq!(world.ended(pass, Verdict::Failure), None);
    }
    assert_eq!(world.look(), Admission::Go);
}

#[test]
fn a_target_at_its_rate_limit_is_left_alone_for_as_long_as_it_says() {
    for (retry_after_ms, for_ms) in [(Some(1), 1), (Some(7000), 7000), (Some(u64::MAX), 60_000), (None, 1000)] {
        let mut world = World::new();
        let pass = world.begin();
        assert_eq!(world.ended(pass, Verdict::Limited { retry_after_ms }), Some(Change::Cooling { for_ms }));
        world.check_refused(for_ms, Reason::Cooling);
        world.now_ms += for_ms;
        assert_eq!(world.look(), Admission::Go);
    }
}

#[test]
fn of_several_that_are_limited_together_the_longest_holds_and_one_is_news() {
    let mut world = World::new();
    let limited = [5000, 9000, 2000].map(|ms| (world.begin(), Verdict::Limited { retry_after_ms: Some(ms) }));
    let changes = limited.map(|(pass, verdict)| world.ended(pass, verdict));
    assert_eq!(changes, [Some(Change::Cooling { for_ms: 5000 }), None, None]);
    world.check_refused(9000, Reason::Cooling);
}

#[test]
fn open_and_cooling_the_longer_one_is_told() {
    let mut world = World::new();
    let pass = world.begin();
    world.calls("ffff");
    assert!(world.ended(pass, Verdict::Limited { retry_after_ms: Some(600) }).is_some());
    world.check_refused(1000, Reason::Open);
    let mut world = World::new();
    let pass = world.begin();
    world.calls("ffff");
    assert!(world.ended(pass, Verdict::Limited { retry_after_ms: Some(6000) }).is_some());
    world.check_refused(6000, Reason::Cooling);
    world.now_ms += 6000;
    assert_eq!(world.look(), Admission::Probe);
}

#[test]
fn switched_off_it_refuses_nothing_and_counts_nothing() {
    let (mut world, probe) = World::probing();
    world.policy.enabled = false;
    assert_eq!(world.look(), Admission::Go);
    assert_eq!(world.calls("ffffllllffff"), []);
    assert_eq!(world.ended(probe, Verdict::Failure), None);
    world.policy.enabled = true;
    assert_eq!(world.look(), Admission::Probe, "it goes on where it was, and no probe is lost");
}

#[test]
fn with_another_window_it_counts_anew() {
    let mut world = World::new();
    world.calls("fff");
    world.policy.window_ms = 20_000;
    assert_eq!(world.calls("fff"), []);
    assert_eq!(world.calls("f"), [(0, Change::Opened { calls: 4, failures: 4, for_ms: 1000 })]);
}

#[test]
fn a_clock_that_is_put_back_and_a_shorter_bound_keep_nobody_out() {
    let mut world = World::open();
    world.now_ms -= 600_000;
    assert_eq!(world.look(), Admission::Probe);
    let mut world = World::open();
    (world.policy.open_ms, world.policy.max_open_ms) = (100, 500);
    assert_eq!(world.look(), Admission::Probe);
    let mut world = World::new();
    let pass = world.begin();
    world.ended(pass, Verdict::Limited { retry_after_ms: Some(50_000) });
    world.now_ms -= 600_000;
    assert_eq!(world.look(), Admission::Go);
}

#[test]
fn a_change_is_told_in_words() {
    for (change, words) in [
        (
            Change::Opened { calls: 9, failures: 7, for_ms: 1000 },
            "is passed over for 1000 ms: 7 of its last 9 calls failed",
        ),
        (Change::Reopened { for_ms: 2000 }, "is passed over for another 2000 ms: it still fails"),
        (Change::Closed, "is well again"),
        (Change::Cooling { for_ms: 500 }, "is passed over for 500 ms: it is at its rate limit"),
    ] {
        assert_eq!(change.to_string(), words);
    }
}
