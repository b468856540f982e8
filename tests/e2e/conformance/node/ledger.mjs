// The numbers of calls: which were given out, which are still held, which receipts may be deleted.
//
// A number is held from the moment it is given out until the outcome of its call is known and every step that it brought is
// completed, released or known to be others'. The heartbeat carries the oldest held one, or the next; receipts below it are
// taken for those of answers that never arrived, and their steps given to others. So none may be let go too early.

export class Ledger {
  #next = 1;
  #held = new Map(); // number → steps that are not settled; null while the call is under way. In the order of the numbers.
  #finished = [];

  // A number for a call about to be made, and the finished receipts for it to name.
  open() {
    const callNo = this.#next++;
    this.#held.set(callNo, null);
    return { callNo, finished: this.takeFinished() };
  }

  takeFinished() {
    return this.#finished.splice(0);
  }

  answered(callNo, steps) {
    if (steps > 0) this.#held.set(callNo, steps);
    else this.#held.delete(callNo); // no step, no receipt
  }

  // The call was refused and left nothing behind: another one names its receipts.
  failed(callNo, finished) {
    this.#held.delete(callNo);
    this.#finished.push(...finished);
  }

  settled(callNo) {
    const left = this.#held.get(callNo);
    if (!left) return;
    if (left > 1) this.#held.set(callNo, left - 1);
    else {
      this.#held.delete(callNo);
      this.#finished.push(callNo);
    }
  }

  oldest() {
    return this.#held.keys().next().value ?? this.#next;
  }
}
