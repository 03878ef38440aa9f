//! The headers of an answer on their way to JavaScript. Most answers have the same names, and many the same values: these
//! cross once, and from then on a number stands for them.

use std::borrow::Cow;
use std::cell::RefCell;

use super::glue;

/// So many shapes are known at most; there are far fewer ways to answer.
const MOST: usize = 64;

/// Names, and the values that never change.
type Shape = Vec<(&'static str, Option<&'static str>)>;

thread_local! {
    /// The shapes that JavaScript knows, by number.
    static SHAPES: RefCell<Vec<Shape>> = const { RefCell::new(Vec::new()) };
}

/// A header as a reply has it.
type Header = (&'static str, Cow<'static, str>);

fn of((name, value): &Header) -> (&'static str, Option<&'static str>) {
    match value {
        Cow::Borrowed(value) => (name, Some(value)),
        Cow::Owned(_) => (name, None),
    }
}

/// The number of the headers' shape, and what it leaves open: a value a line, which cannot hold a line feed.
pub(super) fn crossing(headers: &[Header]) -> (u32, String) {
    let shape = SHAPES.with_borrow_mut(|shapes| {
        let is_same = |shape: &Shape| shape.len() == headers.len() && shape.iter().copied().eq(headers.iter().map(of));
        shapes.iter().position(is_same).unwrap_or_else(|| {
            if shapes.len() == MOST {
                shapes.clear();
            }
            let shape: Shape = headers.iter().map(of).collect();
            glue::learn_headers(number(shapes.len()), &serde_json::to_string(&shape).unwrap_or_default());
            shapes.push(shape);
            shapes.len().saturating_sub(1)
        })
    });
    let mut open = String::with_capacity(256);
    for (_, value) in headers {
        if let Cow::Owned(value) = value {
            open.push_str(value);
            open.push('\n');
        }
    }
    (number(shape), open)
}

fn number(shape: usize) -> u32 {
    u32::try_from(shape).unwrap_or(u32::MAX)
}
