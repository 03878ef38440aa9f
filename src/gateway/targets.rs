//! Which target is asked first: by order, and within one order by weight.

use crate::config::Target;

/// The targets as one request tries them. `draw` is random, and the same for the same answer.
pub(super) fn in_turn(targets: &[Target], mut draw: u64) -> Vec<&Target> {
    let place = |place| u32::try_from(place).unwrap_or(u32::MAX);
    let ordered = targets.iter().enumerate().map(|(i, target)| (target.order.unwrap_or(place(i)), target));
    let mut rest: Vec<(u32, &Target)> = ordered.collect();
    rest.sort_by_key(|(order, _)| *order);
    let mut turn = Vec::with_capacity(rest.len());
    while let Some(&(first, _)) = rest.first() {
        let class = rest.iter().take_while(|(order, _)| *order == first);
        let weights: Vec<u64> = class.map(|(_, target)| target.weight.into()).collect();
        draw = next(draw);
        turn.push(rest.remove(pick(&weights, draw)).1);
    }
    turn
}

/// The place that a number falls on, when each place is as wide as its weight.
fn pick(weights: &[u64], draw: u64) -> usize {
    let total: u64 = weights.iter().sum();
    let mut at = draw.checked_rem(total).unwrap_or_default();
    weights
        .iter()
        .position(|weight| match at.checked_sub(*weight) {
            Some(rest) => {
                at = rest;
                false
            }
            None => true,
        })
        .unwrap_or_default()
}

/// The next random number: `SplitMix64`, by Steele, Lea and Flood, "Fast splittable pseudorandom number generators".
fn next(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(rows: &[(&str, Option<u32>, u32)]) -> Vec<Target> {
        let target = |&(model, order, weight): &(&str, Option<u32>, u32)| Target {
            upstream: "u".to_owned(),
            model: model.to_owned(),
            order,
            weight,
        };
        rows.iter().map(target).collect()
    }

    fn names(turn: &[&Target]) -> String {
        turn.iter().map(|target| target.model.as_str()).collect()
    }

    #[test]
    fn a_lower_order_comes_first_and_every_target_once() {
        let targets = targets(&[("c", Some(7), 9), ("b", None, 1), ("a", Some(0), 5)]);
        for draw in 0..100 {
            assert_eq!(names(&in_turn(&targets, draw)), "abc");
        }
    }

    #[test]
    fn within_an_order_the_share_of_the_first_place_is_the_weight() {
        let targets = targets(&[("a", Some(0), 1), ("b", Some(0), 3), ("z", None, 1)]);
        let (mut first_b, draws) = (0, 10_000);
        for draw in 0..draws {
            let turn = names(&in_turn(&targets, draw));
            assert!(turn == "abz" || turn == "baz", "{turn}");
            first_b += u32::from(turn.starts_with('b'));
        }
        assert!((7300..7700).contains(&first_b), "{first_b} of {draws}");
    }
}
