//! Runs the future of a request, without a promise of JavaScript for each step: what a request waits for is numbered,
//! and the glue says when it is there.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use wasm_bindgen::prelude::*;

use super::platform::now_ms;

/// What the task of one request waits for, by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Waits(Rc<WaitsInner>);

#[derive(Debug, Default)]
struct WaitsInner {
    last: Cell<u32>,
    now_ms: Cell<u64>,
    /// Few at once: one of them is found sooner by looking at each.
    open: RefCell<Vec<(u32, Slot)>>,
}

#[derive(Debug)]
enum Slot {
    /// Nothing has come; whoever waits is to be woken.
    Waiting(Option<Waker>),
    /// This has come, or this was thrown.
    Come(Result<JsValue, JsValue>),
}

impl Waits {
    /// When the task last went on, in milliseconds since 1970. The runtime's time stands still until it waits again.
    pub(super) fn now_ms(&self) -> u64 {
        self.0.now_ms.get()
    }

    /// Waits for what `begin` has the glue begin, under the number that it is given.
    pub(super) fn on(&self, begin: impl FnOnce(u32)) -> Wait {
        let number = self.0.last.get().wrapping_add(1);
        self.0.last.set(number);
        self.0.open.borrow_mut().push((number, Slot::Waiting(None)));
        begin(number);
        Wait { waits: self.clone(), number }
    }

    /// Something has come. Whoever waited for it may have stopped waiting.
    fn come(&self, number: u32, result: Result<JsValue, JsValue>) {
        let mut open = self.0.open.borrow_mut();
        let slot = open.iter_mut().find(|(open, _)| *open == number);
        let waker = slot.and_then(|(_, slot)| match std::mem::replace(slot, Slot::Come(result)) {
            Slot::Waiting(waker) => waker,
            Slot::Come(_) => None,
        });
        drop(open);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Something of JavaScript that is waited for. Dropping it forgets it.
#[derive(Debug)]
pub(super) struct Wait {
    waits: Waits,
    number: u32,
}

impl Future for Wait {
    type Output = Result<JsValue, JsValue>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut open = self.waits.0.open.borrow_mut();
        // Polled after it was ready, which nobody does: there is nothing more to come.
        let Some(at) = open.iter().position(|(number, _)| *number == self.number) else { return Poll::Pending };
        match open.swap_remove(at).1 {
            Slot::Come(result) => Poll::Ready(result),
            Slot::Waiting(_) => {
                open.push((self.number, Slot::Waiting(Some(context.waker().clone()))));
                Poll::Pending
            }
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.waits.0.open.borrow_mut().retain(|(number, _)| *number != self.number);
    }
}

/// A request on its way, as the glue holds it while it waits.
#[wasm_bindgen]
pub struct Task {
    future: RefCell<Option<Pin<Box<dyn Future<Output = ()>>>>>,
    waits: Waits,
}

impl Task {
    pub(super) fn new(future: impl Future<Output = ()> + 'static, waits: Waits) -> Self {
        Self { future: RefCell::new(Some(Box::pin(future))), waits }
    }

    /// Goes on as far as it can; whether it is done.
    pub(super) fn run(&self) -> bool {
        self.waits.0.now_ms.set(now_ms());
        let mut future = self.future.borrow_mut();
        // Its parts have wakers of their own where there are several; the whole is run whenever something has come.
        let mut context = Context::from_waker(Waker::noop());
        let done = future.as_mut().is_none_or(|future| future.as_mut().poll(&mut context).is_ready());
        if done {
            *future = None;
        }
        done
    }
}

#[wasm_bindgen]
impl Task {
    /// What has this number has come, or failed with `value`; whether the request is done with it.
    pub fn wake(&self, number: u32, value: JsValue, failed: bool) -> bool {
        self.waits.come(number, if failed { Err(value) } else { Ok(value) });
        self.run()
    }
}
