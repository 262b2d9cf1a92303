// What a reader has answered so far. It is kept in the browser's local storage after every change.
"use strict";

const EMPTY = { answer: "", confidence: "", diagnosis: "", remark: "", seconds: 0, done: false };

class Session {
  /** A session goes on where it was left, if this browser knows the reader. */
  constructor(study, reader) {
    this.reader = normalised(reader);
    this.place = Session.place(study, reader);
    this.order = presentation(study, reader);
    this.trainingCount = study.training.length;
    this.kept = true;
    const saved = Session.saved(study, reader);
    this.resumed = saved !== null;
    this.stage = saved?.stage ?? "instructions"; // then training, ready, main, finished
    this.at = saved?.at ?? 0;
    this.singleKeys = saved?.singleKeys ?? true;
    this.records = this.order.map((_, i) => ({ ...EMPTY, ...saved?.records[i] }));
    this.since = null;
    this.opened = Date.now(); // makes a window's entries its own, so that another one notices them
  }

  static place(study, reader) {
    return `histoprompt:${study.page}:${normalised(reader)}`;
  }

  /** What the browser keeps of a reader, or null; a browser may refuse storage altogether. */
  static saved(study, reader) {
    try {
      return JSON.parse(localStorage.getItem(Session.place(study, reader)));
    } catch {
      return null;
    }
  }

  save() {
    const { opened, stage, at, singleKeys, records } = this;
    try {
      localStorage.setItem(this.place, JSON.stringify({ opened, stage, at, singleKeys, records }));
    } catch {
      this.kept = false;
    }
  }

  forget() {
    localStorage.removeItem(this.place);
  }

  get shown() {
    return this.order[this.at];
  }

  get record() {
    return this.records[this.at];
  }

  /** Answers of the main part that are given. */
  get answered() {
    return this.records.filter(({ done }, i) => done && this.order[i].part === "main").length;
  }

  get total() {
    return this.order.length - this.trainingCount;
  }

  /** Minutes spent on the images of the main part. */
  get minutes() {
    return this.records.slice(this.trainingCount).reduce((sum, { seconds }) => sum + seconds, 0) / 60;
  }

  /** Earlier images can be seen again, but not from the repeats: there the first answer would be at hand. */
  get canGoBack() {
    const before = this.order[this.at - 1];
    return before !== undefined && before.part === this.shown.part && before.repeat === this.shown.repeat;
  }

  /** Time runs while an image is on the screen. */
  startClock() {
    this.since ??= performance.now();
  }

  stopClock() {
    if (this.since === null) return;
    this.record.seconds += (performance.now() - this.since) / 1000;
    this.since = null;
    this.save();
  }
}
