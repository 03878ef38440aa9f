//! How often something happened of late, in bounded memory.

/// A count over a window that slides by cells: what happened in the last `CELLS` cells counts, the one that runs now
/// included. So the window is never longer than all its cells, and shorter by at most one.
///
/// Invariant: no two cells that count have the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recent<const CELLS: usize> {
    cell_ms: u64,
    cells: [Cell; CELLS],
}

/// What happened in the milliseconds from `number * cell_ms` on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cell {
    number: u64,
    count: u32,
}

impl<const CELLS: usize> Recent<CELLS> {
    /// Nothing has happened.
    pub(super) fn new(cell_ms: u64) -> Self {
        Self { cell_ms, cells: [Cell::default(); CELLS] }
    }

    fn number(&self, now_ms: u64) -> u64 {
        now_ms.checked_div(self.cell_ms).unwrap_or_default()
    }

    /// The cells that count. One of the future does not: it is left from before the clock was put back. Nor does an
    /// empty one, so that its place can be taken.
    fn live(&self, now_ms: u64) -> impl Fn(&Cell) -> bool + use<CELLS> {
        let now = self.number(now_ms);
        move |cell| {
            let age = now.checked_sub(cell.number).and_then(|age| usize::try_from(age).ok());
            cell.count > 0 && age.is_some_and(|age| age < CELLS)
        }
    }

    /// It happens now.
    pub(super) fn add(&mut self, now_ms: u64) {
        let (number, live) = (self.number(now_ms), self.live(now_ms));
        // Where the cell of now is not there yet, one that counts no more gives its place: there are as many as count.
        let place = self.cells.iter_mut().max_by_key(|cell| (live(cell) && cell.number == number, !live(cell)));
        if let Some(cell) = place {
            if cell.number != number {
                *cell = Cell { number, count: 0 };
            }
            cell.count = cell.count.saturating_add(1);
        }
    }

    /// The last that happened did not, after all. Whether there was one.
    pub(super) fn take_back(&mut self, now_ms: u64) -> bool {
        let live = self.live(now_ms);
        let last = self.cells.iter_mut().filter(|cell| live(cell)).max_by_key(|cell| cell.number);
        last.is_some_and(|cell| {
            cell.count = cell.count.saturating_sub(1);
            true
        })
    }

    /// How often it happened of late.
    pub(super) fn count(&self, now_ms: u64) -> u64 {
        let live = self.live(now_ms);
        self.cells.iter().filter(|cell| live(cell)).map(|cell| u64::from(cell.count)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(times: &[u64]) -> Recent<3> {
        let mut recent = Recent::new(10);
        for now_ms in times {
            recent.add(*now_ms);
        }
        recent
    }

    #[test]
    fn what_happened_counts_until_its_cell_has_slid_out() {
        let recent = at(&[100, 109, 110, 129]);
        for (now_ms, expected) in [(129, 4), (130, 2), (139, 2), (140, 1), (149, 1), (150, 0), (u64::MAX, 0)] {
            assert_eq!(recent.count(now_ms), expected, "{now_ms}");
        }
        assert_eq!(at(&[100, 110, 120, 130, 140]).count(140), 3);
        assert_eq!(at(&[100, 110, 500]).count(500), 1);
        assert_eq!(at(&[0, 0, 10, 20, 20]).count(20), 5);
    }

    #[test]
    fn the_youngest_is_taken_back_first() {
        let mut recent = at(&[100, 110]);
        assert!(recent.take_back(115));
        assert_eq!((recent.count(115), recent.count(130)), (1, 0));
        assert!(recent.take_back(115));
        assert!(!recent.take_back(115));
        assert!(!at(&[100]).take_back(130));
    }

    #[test]
    fn a_clock_that_was_put_back_leaves_nothing_behind() {
        let mut recent = at(&[1000, 1010, 1020]);
        assert_eq!(recent.count(100), 0);
        for now_ms in [100, 110, 120] {
            recent.add(now_ms);
        }
        assert_eq!((recent.count(120), recent.count(1020)), (3, 0));
    }
}
