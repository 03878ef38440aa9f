// Holds a task of the module while it waits, and tells it what has come.
import { trapped } from "./trap.js";

export class Runner {
  #task;
  #whenTrapped;

  constructor(whenTrapped) {
    this.#whenTrapped = whenTrapped;
  }

  begin(task) {
    this.#task = task;
  }

  // Tells the task what it waits for under this number, when it is there.
  tell(wait, promise) {
    promise.then(
      (value) => this.#wake(wait, value, false),
      (error) => this.#wake(wait, error, true),
    );
  }

  // A task that is done may have stopped waiting for something before.
  #wake(wait, value, failed) {
    const task = this.#task;
    if (!task) return;
    try {
      if (!task.wake(wait, value, failed)) return;
      task.free();
    } catch (error) {
      // Only a trap in the module can throw here.
      trapped(error);
      this.#whenTrapped(error);
    }
    this.#task = undefined;
  }
}
