//! The seeds that an upstream takes.

use crate::api::{ApiError, CompletionRequest};

/// The first and the last seed that an upstream takes, and tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seeds {
    /// The first one.
    pub min: i64,
    /// The last one.
    pub max: i64,
}

impl Seeds {
    /// All that our API knows.
    pub const ANY: Self = Self { min: i64::MIN, max: i64::MAX };
    /// Those without a sign.
    pub const NOT_NEGATIVE: Self = Self { min: 0, ..Self::ANY };

    /// Refuses a request's seed that is none of them.
    pub fn check(self, request: &CompletionRequest<'_>) -> Result<(), ApiError> {
        let Self { min, max } = self;
        if request.seed.is_none_or(|seed| (min..=max).contains(&seed)) {
            return Ok(());
        }
        let bounds =
            if max == i64::MAX { format!("must be at least {min}") } else { format!("must be from {min} to {max}") };
        Err(ApiError::unsupported_value("seed", &request.model, &bounds))
    }

    /// The seed that comes `steps` after `seed`; after the last one comes the first.
    #[must_use]
    pub fn after(self, seed: i64, steps: u32) -> i64 {
        // Where there are more than fit the type, there are enough of them.
        let left = self.max.saturating_sub(seed);
        match i64::from(steps).saturating_sub(left) {
            ..=0 => seed.saturating_add(steps.into()),
            beyond => self.min.saturating_add(beyond.saturating_sub(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEW: Seeds = Seeds { min: -1, max: 5 };

    #[test]
    fn after_the_last_seed_comes_the_first() {
        for (seeds, seed, steps, expected) in [
            (FEW, 3, 0, 3),
            (FEW, 3, 2, 5),
            (FEW, 3, 3, -1),
            (FEW, 5, 0, 5),
            (FEW, 5, 1, -1),
            (FEW, 5, 3, 1),
            (Seeds::NOT_NEGATIVE, i64::MAX, 1, 0),
            (Seeds::ANY, i64::MAX, 2, i64::MIN.wrapping_add(1)),
            (Seeds::ANY, i64::MIN, 1, i64::MIN.wrapping_add(1)),
            (Seeds::ANY, -1, 1, 0),
        ] {
            assert_eq!(seeds.after(seed, steps), expected, "{seeds:?} {seed} {steps}");
        }
    }

    fn check_refused(seeds: Seeds, seed: i64, expected: Option<&str>) {
        let body = format!(r#"{{"model":"m","prompt":"a","seed":{seed}}}"#);
        let request = CompletionRequest::parse(body.as_bytes()).unwrap();
        let message = seeds.check(&request).err().map(|error| error.message);
        match expected {
            None => assert_eq!(message, None, "{seed}"),
            Some(bounds) => assert!(message.unwrap().contains(bounds), "{seed}"),
        }
    }

    #[test]
    fn a_seed_out_of_range_is_refused() {
        for (seed, refused) in [(-2, true), (-1, false), (5, false), (6, true)] {
            check_refused(FEW, seed, refused.then_some("'seed' must be from -1 to 5"));
        }
        check_refused(Seeds::NOT_NEGATIVE, -1, Some("'seed' must be at least 0"));
        check_refused(Seeds::NOT_NEGATIVE, i64::MAX, None);
        check_refused(Seeds::ANY, i64::MIN, None);
    }
}
