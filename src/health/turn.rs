//! Whose turn it is: by order, and within one order by weight and by how much each target has to do.

use super::Admission;

/// A target, as far as its turn is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Lower ones are tried first.
    pub order: u32,
    /// How large a share of the requests it gets first, among those of its order; at least 1.
    pub weight: u32,
    /// How many requests it has to answer now.
    pub in_flight: u32,
    /// Whether it may be asked.
    pub admission: Admission,
}

/// The places of the candidates that may be asked, as one request tries them. `draw` is random, and the same for the
/// same answer.
///
/// Within an order a candidate is drawn by weight, and another one from the rest. The other goes first if, with this
/// request, it would have no more to do for its weight than the first has without it. Of two draws the better one keeps
/// the most loaded target near the average ("The Power of Two Choices in Randomized Load Balancing", Mitzenmacher,
/// 1996), where always taking the least loaded would send all requests to one that fails fast. While there is nothing
/// to do the first draw holds, and with it the weights.
#[must_use]
pub fn in_turn(candidates: &[Candidate], mut draw: u64) -> Vec<usize> {
    let admitted = |(_, candidate): &(usize, &Candidate)| !matches!(candidate.admission, Admission::Refused(_));
    let mut rest: Vec<(usize, &Candidate)> = Vec::with_capacity(candidates.len());
    for next in candidates.iter().enumerate().filter(admitted) {
        rest.insert(rest.partition_point(|(_, before)| before.order <= next.1.order), next);
    }
    let mut turn = Vec::with_capacity(rest.len());
    while let Some((_, first)) = rest.first() {
        let order = first.order;
        let class = rest.iter().take_while(|(_, candidate)| candidate.order == order);
        let mut weights: Vec<u64> = class.map(|(_, candidate)| candidate.weight.into()).collect();
        draw = next(draw);
        let drawn = pick(&weights, draw);
        let place = if weights.len() > 1 {
            if let Some(weight) = weights.get_mut(drawn) {
                *weight = 0;
            }
            draw = next(draw);
            let other = pick(&weights, draw);
            match (rest.get(drawn), rest.get(other)) {
                (Some((_, drawn)), Some((_, less))) if gives_way(drawn, less) => other,
                _ => drawn,
            }
        } else {
            drawn
        };
        turn.push(rest.remove(place).0);
    }
    turn
}

/// Whether `other`, if it had one request more, would have no more to do for its weight than `drawn` has.
fn gives_way(drawn: &Candidate, other: &Candidate) -> bool {
    let load = |in_flight: u64, weight: u32| in_flight.saturating_mul(weight.into());
    load(u64::from(other.in_flight).saturating_add(1), drawn.weight) <= load(drawn.in_flight.into(), other.weight)
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
    use crate::health::{Reason, Refusal};

    const REFUSED: Admission = Admission::Refused(Refusal { retry_after_ms: 1, reason: Reason::Open });

    /// Rows of order, weight and requests in flight.
    fn candidates(rows: &[(u32, u32, u32)]) -> Vec<Candidate> {
        let candidate = |&(order, weight, in_flight)| Candidate { order, weight, in_flight, admission: Admission::Go };
        rows.iter().map(candidate).collect()
    }

    /// How often of 10,000 times each candidate has the first place.
    fn firsts(candidates: &[Candidate]) -> Vec<usize> {
        let mut firsts = vec![0; candidates.len()];
        for draw in 0..10_000 {
            let first: &mut usize = &mut firsts[in_turn(candidates, draw)[0]];
            *first = first.saturating_add(1);
        }
        firsts
    }

    #[test]
    fn a_lower_order_comes_first_and_every_target_once() {
        let candidates = candidates(&[(7, 9, 0), (1, 1, 50), (0, 5, 9)]);
        for draw in 0..100 {
            assert_eq!(in_turn(&candidates, draw), [2, 1, 0]);
        }
    }

    #[test]
    fn who_is_refused_is_not_tried() {
        let mut candidates = candidates(&[(0, 1, 0), (0, 1, 0), (1, 1, 0)]);
        candidates[0].admission = REFUSED;
        candidates[2].admission = Admission::Probe;
        for draw in 0..100 {
            assert_eq!(in_turn(&candidates, draw), [1, 2]);
        }
        for candidate in &mut candidates {
            candidate.admission = REFUSED;
        }
        assert!(in_turn(&candidates, 0).is_empty());
        assert!(in_turn(&[], 0).is_empty());
    }

    #[test]
    fn without_load_the_share_of_the_first_place_is_the_weight() {
        let firsts = firsts(&candidates(&[(0, 1, 0), (0, 3, 0), (9, 1, 0)]));
        assert!((2300..2700).contains(&firsts[0]) && firsts[0] + firsts[1] == 10_000, "{firsts:?}");
    }

    #[test]
    fn of_two_the_one_with_less_to_do_for_its_weight_goes_first() {
        assert_eq!(firsts(&candidates(&[(0, 1, 1), (0, 1, 0)])), [0, 10_000]);
        assert_eq!(firsts(&candidates(&[(0, 1, 1), (0, 3, 2)])), [0, 10_000]);
        assert_eq!(firsts(&candidates(&[(0, 1, 0), (0, 3, 3)])), [10_000, 0]);
        // A small target that is idle is no better than a large one that has a little to do.
        let firsts = firsts(&candidates(&[(0, 1, 0), (0, 1000, 9)]));
        assert!(firsts[0] < 50, "{firsts:?}");
    }

    #[test]
    fn of_many_the_busiest_is_never_first_and_no_other_is_always() {
        let firsts = firsts(&candidates(&[(0, 1, 9), (0, 1, 0), (0, 1, 1), (0, 1, 2)]));
        assert_eq!(firsts[0], 0);
        assert!(firsts[1..].iter().all(|first| (1000..6000).contains(first)), "{firsts:?}");
    }

    #[test]
    fn weights_and_loads_of_any_size_do_no_harm() {
        let candidates = candidates(&[(0, 0, u32::MAX), (0, 0, 0), (0, u32::MAX, u32::MAX)]);
        for draw in [0, 1, u64::MAX] {
            assert_eq!(in_turn(&candidates, draw).len(), 3);
        }
    }
}
