// A trap in the module (a panic, or memory that is used up) leaves it in no state to go on. Whoever was in it sees an
// error; whoever comes next finds a new instance.
let isBroken = false;
let instance = 0;

// Takes note of an error that a call into the module threw.
export function trapped(error) {
  if (!(error instanceof WebAssembly.RuntimeError)) return;
  console.error("the module trapped", error);
  isBroken = true;
}

// Calls into a module that is sound: `renew` makes a new instance if it is not. Gives `act` the number of the instance.
export function guarded(renew, act) {
  if (isBroken) {
    renew();
    isBroken = false;
    instance += 1;
  }
  try {
    return act(instance);
  } catch (error) {
    trapped(error);
    throw error;
  }
}
