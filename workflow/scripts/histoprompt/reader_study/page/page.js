// The screens of the page and its keys.
"use strict";

const study = JSON.parse(document.getElementById("study").textContent);
const screen_ = document.getElementById("screen");
const bar = document.getElementById("bar");
const notice = document.getElementById("notice");
const dialog = document.getElementById("dialog");
const truth = new Map(study.training.map((entry) => [entry.image, entry]));
const classKeys = chooseKeys(study.classes, "rsmpd");
const SECONDS_AN_IMAGE = 9; // for the estimate on the first screen alone
const READER = /^(?!simulated)[a-z0-9][a-z0-9._-]{0,31}$/i;

let pixels = null; // once the whole page is read
let session = null;
let task = null; // what is on the screen while an image is asked about

function button(text, onclick, attributes = {}, key = null) {
  return make("button", { type: "button", onclick, ...attributes }, text, key && keyHint(key));
}

/** A key, shown beside what it does; screen readers learn it from aria-keyshortcuts. */
function keyHint(key) {
  return make("kbd", { "aria-hidden": "true" }, key);
}

function list(texts) {
  return make("ul", {}, ...texts.map((text) => make("li", {}, text)));
}

/** The first letter of each word that no other key has taken. */
function chooseKeys(names, taken) {
  const used = new Set(taken);
  return names.map((name) => {
    const letters = [...name.toLowerCase(), ..."abcdefghijklmnopqrstuvwxyz"].filter((letter) => /[a-z]/.test(letter));
    const key = letters.find((letter) => !used.has(letter)) ?? "";
    used.add(key);
    return key;
  });
}

function tell(text) {
  notice.textContent = text;
}

/** Put a screen of text in the place of what was there, and let screen readers begin at its heading. */
function show(heading, ...children) {
  session?.stopClock();
  task = null;
  tell(session && !session.kept ? say("not_kept") : "");
  const title = make("h1", { tabindex: "-1" }, heading);
  screen_.className = "page";
  screen_.replaceChildren(title, ...children.filter((child) => child !== null));
  bar.hidden = true;
  scrollTo(0, 0);
  title.focus();
}

// --- Screens -------------------------------------------------------------------------------------------------------------

function showWelcome(message = "") {
  session = null;
  const images = study.blocks.flat().length + study.repeats;
  const reader = make("input", {
    ...{ id: "reader", type: "text", maxlength: "32", autocomplete: "off", autocapitalize: "off", spellcheck: "false" },
    "aria-describedby": "reader-hint reader-error",
  });
  const consent = make("input", { id: "consent", type: "checkbox", "aria-describedby": "consent-error" });
  const errors = ["reader-error", "consent-error"].map((id) => make("p", { id, class: "error", role: "alert" }));
  const begin = (event) => {
    event.preventDefault();
    const code = reader.value.trim();
    const coded = READER.test(code);
    const agreed = consent.checked || (coded && Session.saved(study, code) !== null);
    reader.setAttribute("aria-invalid", String(!coded));
    errors[0].textContent = coded ? "" : say("reader_error");
    errors[1].textContent = agreed ? "" : say("consent_error");
    if (!coded) reader.focus();
    else if (!agreed) consent.focus();
    else if (pixels) enter(code);
    else addEventListener("DOMContentLoaded", () => enter(code), { once: true });
  };
  show(
    say("welcome_heading"),
    make("p", { class: "lead" }, say("welcome_lead", { images })),
    make("p", {}, say("welcome_time", { minutes: Math.max(Math.round((images * SECONDS_AN_IMAGE) / 60), 1) })),
    make("section", { class: "consent" }, make("h2", {}, say("consent_heading")), list(words.consent)),
    make(
      "form",
      { onsubmit: begin, novalidate: true },
      make("label", { for: "reader" }, say("reader_label")),
      make("p", { id: "reader-hint", class: "hint" }, say("reader_hint")),
      reader,
      errors[0],
      make("label", { class: "check" }, consent, make("span", {}, say("consent_check"))),
      errors[1],
      make("button", { type: "submit", class: "main" }, say("begin"), keyHint(say("key_enter"))),
    ),
  );
  tell(message);
}

function enter(reader) {
  session = new Session(study, reader);
  session.save();
  if (session.stage === "instructions") showInstructions();
  else if (session.stage === "finished") showFinished();
  else showPause(say("welcome_back_heading"));
}

function showInstructions() {
  const training = study.training.length;
  const examples = study.training.map(({ image }, i) => {
    const canvas = make("canvas", { role: "img", "aria-label": say("example_label", { number: i + 1 }) });
    new Viewer(canvas).show(pixels.canvasOf(image));
    return make("li", {}, canvas);
  });
  const begin = () => {
    session.stage = training ? "training" : "main";
    session.save();
    showTask();
  };
  show(
    say("instructions_heading"),
    training ? make("p", {}, say("instructions_examples")) : null,
    training ? make("ul", { class: "examples" }, ...examples) : null,
    list([
      ...words.instructions,
      say(study.display === "matched" ? "instructions_zoom" : "instructions_zoom_native"),
      ...(study.diagnosis ? [say("instructions_diagnosis")] : []),
    ]),
    keyTable(),
    training ? make("p", {}, say("instructions_training", { images: training })) : null,
    button(say(training ? "start_training" : "start_main"), begin, { class: "main", "data-enter": true }, say("key_enter")),
  );
}

function showReady() {
  const total = study.training.length;
  const right = session.records.slice(0, total).filter(({ answer }, i) => answer === study.training[i].source).length;
  session.stage = "ready";
  session.save();
  const begin = () => {
    session.stage = "main";
    session.at = total;
    session.save();
    showTask();
  };
  show(
    say("ready_heading"),
    make("p", {}, say("ready", { right, total })),
    make("p", {}, say("ready_images", { total: session.total })),
    button(say("start_main"), begin, { class: "main", "data-enter": true }, say("key_enter")),
  );
}

function showPause(heading = say("pause_heading")) {
  const { answered, total, reader } = session;
  show(
    heading,
    make("p", {}, say("pause_progress", { answered, total })),
    session.kept ? make("p", {}, say("pause_text", { reader })) : null,
    make(
      "div",
      { class: "row" },
      button(say("go_on"), goOn, { class: "main", "data-enter": true }, say("key_enter")),
      button(say("download"), download, { "data-key": "d" }, "D"),
    ),
  );
}

function goOn() {
  if (session.stage === "ready") showReady();
  else showTask();
}

function showFinished() {
  session.stopClock();
  session.stage = "finished";
  session.save();
  const lookBack = () => {
    session.stage = "main";
    session.at = session.order.length - 1;
    showTask();
  };
  show(
    say("finished_heading"),
    make("p", {}, say("finished", { total: session.total, minutes: Math.max(session.minutes, 1).toFixed(0) })),
    make("p", { class: "lead" }, say("finished_save", { file: fileName() })),
    make("div", { class: "row" }, button(say("download"), download, { class: "main", "data-enter": true, "data-key": "d" }, "D")),
    make("div", { class: "row quiet" }, button(say("finished_back"), lookBack), button(say("finished_forget"), askToForget)),
  );
}

function showElsewhere() {
  session.since = null; // the other window's answers are the newer ones
  session = null;
  show(say("elsewhere_heading"), make("p", {}, say("elsewhere")));
}

// --- The images ----------------------------------------------------------------------------------------------------------

/** A question with one choice; `options` are {value, text, key, note}. */
function choice(name, question, options, { optional = false, onpick }) {
  const inputs = options.map(({ value, key }) =>
    make("input", { type: "radio", name, value, "aria-keyshortcuts": key || null, onchange: () => onpick(value) }),
  );
  const labels = options.map(({ text, key, note }, i) =>
    make("label", {}, inputs[i], make("span", {}, text, note ? make("small", {}, note) : null), key && key !== text ? keyHint(key) : null),
  );
  const legend = make("legend", {}, question, optional ? make("small", {}, say("optional")) : null);
  const element = make("fieldset", { class: name }, legend, make("div", { class: "choices" }, ...labels));
  return { element, inputs };
}

/** The screen of an image, built once; `update` fills it for the image at hand. */
function buildTask() {
  const set = (name) => (value) => {
    const { record } = session;
    record[name] = record[name] === value && name === "diagnosis" ? "" : value;
    session.save();
    update();
  };
  const answer = choice(
    "answer",
    say("answer_question"),
    [
      { value: "real", text: say("answer_real"), key: "R" },
      { value: "synthetic", text: say("answer_synthetic"), key: "S" },
    ],
    { onpick: set("answer") },
  );
  const confidence = choice(
    "confidence",
    say("confidence_question"),
    ["1", "2", "3", "4", "5"].map((value) => ({ value, text: value, key: value, note: say(`confidence_${value}`) })),
    { onpick: set("confidence") },
  );
  const diagnosis = choice(
    "diagnosis",
    say("diagnosis_question"),
    study.classes.map((value, i) => ({ value, text: value, key: classKeys[i].toUpperCase() })),
    { optional: true, onpick: set("diagnosis") },
  );
  // A chosen radio button cannot be taken back by itself; a second click on this one leaves the question open again.
  for (const input of diagnosis.inputs)
    input.addEventListener("click", () => input.parentElement.classList.contains("chosen") && set("diagnosis")(input.value));
  const remark = make("input", { id: "remark", type: "text", maxlength: "500", autocomplete: "off", "aria-keyshortcuts": "M" });
  remark.addEventListener("input", () => {
    session.record.remark = remark.value.replace(/[\u0000-\u001f\u007f]/g, " ");
    session.save();
  });
  const heading = make("h1", { tabindex: "-1" });
  const progress = make("progress", { "aria-label": say("progress_label") });
  const feedback = make("p", { class: "feedback", role: "status" });
  const problem = make("p", { class: "error", role: "alert" });
  const back = button(say("back"), goBack, { class: "back", "aria-keyshortcuts": "Backspace" }, say("key_backspace"));
  const nextText = make("span", {});
  const next = make("button", { type: "submit", class: "main", "aria-keyshortcuts": "Enter" }, nextText, keyHint(say("key_enter")));
  const canvas = make("canvas", { role: "img", tabindex: "0" });
  const viewer = new Viewer(canvas);
  viewer.listen();
  canvas.style.setProperty("--side", `${study.size}px`);
  const zooms = make(
    "div",
    { class: "zooms" },
    button("−", () => viewer.zoom(1 / ZOOM_STEP), { "aria-label": say("zoom_out"), title: say("zoom_out"), "aria-keyshortcuts": "-" }),
    button("1×", () => viewer.reset(), { "aria-label": say("zoom_reset"), title: say("zoom_reset"), "aria-keyshortcuts": "0" }),
    button("+", () => viewer.zoom(ZOOM_STEP), { "aria-label": say("zoom_in"), title: say("zoom_in"), "aria-keyshortcuts": "+" }),
  );
  const form = make(
    "form",
    {
      novalidate: true,
      onsubmit: (event) => {
        event.preventDefault();
        goForward();
      },
    },
    answer.element,
    confidence.element,
    study.diagnosis ? diagnosis.element : null,
    make(
      "div",
      { class: "remark" },
      make("label", { for: "remark" }, say("remark_question"), make("small", {}, say("optional")), keyHint("M")),
      remark,
    ),
    make("div", { class: "row steps" }, back, next),
    feedback, // below, so that the buttons stay where they are
    problem,
  );

  /** Bring choices and buttons in line with the record. */
  function update() {
    const { record, shown } = session;
    const known = truth.get(shown.image);
    const told = known !== undefined && record.done;
    for (const [name, { inputs }] of Object.entries({ answer, confidence, diagnosis }))
      for (const input of inputs) {
        input.checked = record[name] === input.value;
        input.parentElement.classList.toggle("chosen", input.checked);
        input.disabled = told;
      }
    if (remark.value !== record.remark) remark.value = record.remark;
    const values = known && { source: say(`source_${known.source}`), label: study.classes[known.label] };
    feedback.textContent = told ? say(record.answer === known.source ? "feedback_right" : "feedback_wrong", values) : "";
    if (record.answer && record.confidence) problem.textContent = "";
    back.disabled = !session.canGoBack;
    nextText.textContent = say(known && !told ? "check" : session.at === session.order.length - 1 ? "finish" : "next");
  }

  /** Show the image at hand. */
  function turn() {
    const { shown } = session;
    const training = shown.part === "training";
    const values = { number: shown.position, total: training ? session.trainingCount : session.total };
    heading.textContent = say(training ? "progress_training" : "progress_main", values);
    progress.max = values.total;
    progress.value = shown.position - 1;
    canvas.setAttribute("aria-label", say("image_label", values));
    viewer.show(pixels.canvasOf(shown.image));
    problem.textContent = "";
    update();
    heading.focus({ preventScroll: true });
    session.startClock();
  }

  bar.replaceChildren(
    heading,
    progress,
    button(say("keys"), showHelp, { "data-key": "?", "aria-keyshortcuts": "?" }, "?"),
    button(say("pause"), () => showPause(), { "data-key": "p", "aria-keyshortcuts": "P" }, "P"),
    button(say("download"), download, { "data-key": "d", "aria-keyshortcuts": "D" }, "D"),
  );
  screen_.className = "task";
  screen_.replaceChildren(make("div", { class: "view" }, canvas, zooms), form);
  return { form, viewer, remark, problem, turn, answer, confidence, diagnosis };
}

function showTask() {
  tell(session.kept ? "" : say("not_kept"));
  bar.hidden = false;
  task = buildTask();
  task.turn();
  scrollTo(0, 0);
}

function goForward() {
  const { record, shown } = session;
  const missing = record.answer ? (record.confidence ? "" : "missing_confidence") : "missing_answer";
  if (missing) {
    const question = record.answer ? task.confidence : task.answer;
    task.problem.textContent = say(missing);
    question.inputs[0].focus();
    return;
  }
  session.stopClock();
  const practised = record.done || shown.part === "main"; // a practice image is answered, then told, then left
  record.done = true;
  tell(session.kept ? "" : say("not_kept"));
  if (practised && shown.part === "training" && session.at === session.trainingCount - 1) {
    showReady();
  } else if (practised && session.at === session.order.length - 1) {
    showFinished();
  } else {
    if (practised) session.at += 1;
    session.save();
    task.turn();
  }
}

function goBack() {
  if (!session.canGoBack) return;
  session.stopClock();
  session.at -= 1;
  session.save();
  task.turn();
}

// --- Answers, help -------------------------------------------------------------------------------------------------------

function fileName() {
  return `answers-${study.study}-${session.reader}.csv`;
}

function download() {
  session.stopClock();
  const url = URL.createObjectURL(new Blob([answersAsCsv(study, session)], { type: "text/csv;charset=utf-8" }));
  make("a", { href: url, download: fileName() }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
  tell(say("downloaded", { answered: session.answered, file: fileName() }));
  if (task) session.startClock();
}

/** Every key and what it does. */
function keyTable() {
  const rows = [
    [["R"], say("help_real")],
    [["S"], say("help_synthetic")],
    [["1", "2", "3", "4", "5"], say("help_confidence")],
    ...(study.diagnosis ? study.classes.map((label, i) => [[classKeys[i].toUpperCase()], say("help_diagnosis", { label })]) : []),
    [["M"], say("help_remark")],
    [[say("key_enter")], say("help_next")],
    [[say("key_backspace")], say("help_back")],
    [["+", "−", "0"], say("help_zoom")],
    [[say("key_arrows")], say("help_pan")],
    [["P"], say("help_pause")],
    [["D"], say("help_download")],
    [["?"], say("help_help")],
  ];
  return make(
    "dl",
    { class: "keys" },
    ...rows.map(([keys, does]) =>
      make("div", {}, make("dt", {}, ...keys.map((key) => make("kbd", {}, key))), make("dd", {}, does)),
    ),
  );
}

function openDialog(heading, ...children) {
  session.stopClock();
  dialog.replaceChildren(make("h2", { id: "dialog-heading" }, heading), ...children);
  dialog.showModal();
}

dialog.addEventListener("close", () => {
  if (task) session.startClock();
});

function showHelp() {
  const single = make("input", { type: "checkbox", onchange: () => (session.singleKeys = single.checked) });
  single.checked = session.singleKeys;
  openDialog(
    say("help_heading"),
    keyTable(),
    make("label", { class: "check" }, single, make("span", {}, say("help_single_keys"))),
    button(say("help_close"), () => dialog.close(), { class: "main" }, "Esc"),
  );
}

function askToForget() {
  const forget = () => {
    dialog.close();
    session.forget();
    showWelcome(say("forgotten"));
  };
  openDialog(
    say("forget_heading"),
    make("p", {}, say("forget_text")),
    make("div", { class: "row" }, button(say("forget_no"), () => dialog.close(), { class: "main" }), button(say("forget_yes"), forget)),
  );
}

// --- Keys ----------------------------------------------------------------------------------------------------------------

function pick({ inputs }, at) {
  if (inputs[at] && !inputs[at].disabled) inputs[at].click();
}

/** What a single key does while an image is on the screen, or undefined. */
function actionOf(key) {
  const { viewer, remark } = task;
  const diagnosis = study.diagnosis ? classKeys.indexOf(key) : -1;
  if (diagnosis >= 0) return () => pick(task.diagnosis, diagnosis);
  if ("12345".includes(key)) return () => pick(task.confidence, Number(key) - 1);
  return {
    r: () => pick(task.answer, 0),
    s: () => pick(task.answer, 1),
    m: () => remark.focus(),
    "+": () => viewer.zoom(ZOOM_STEP),
    "=": () => viewer.zoom(ZOOM_STEP),
    "-": () => viewer.zoom(1 / ZOOM_STEP),
    0: () => viewer.reset(),
  }[key];
}

const PANS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

document.addEventListener("keydown", (event) => {
  if (!session || dialog.open || event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
  const { target, key } = event;
  const typing = target.matches("input[type=text]");
  const act = (action) => {
    event.preventDefault();
    action();
  };
  if (typing) {
    if (key === "Escape" || (key === "Enter" && target.id === "remark")) act(() => document.querySelector("h1").focus());
    return;
  }
  if (key === "Enter" && !target.matches("button")) {
    // Inside the form the browser itself submits it.
    if (task && !task.form.contains(target)) act(() => task.form.requestSubmit());
    else if (!task) act(() => screen_.querySelector("[data-enter]")?.click());
    return;
  }
  if (task && key === "Backspace") return act(goBack);
  if (task && PANS[key] && !target.matches("input[type=radio]"))
    return task.viewer.scale > 1 ? act(() => task.viewer.pan(...PANS[key].map((step) => step * PAN_STEP))) : undefined;
  if (!session.singleKeys || key.length !== 1) return;
  const shown = [...document.querySelectorAll("[data-key]")].find((b) => b.dataset.key === key.toLowerCase() && b.offsetParent);
  if (shown) return act(() => shown.click());
  const action = task && actionOf(key.toLowerCase());
  if (action) act(action);
});

document.addEventListener("visibilitychange", () => {
  if (!task || dialog.open) return;
  if (document.hidden) session.stopClock();
  else session.startClock();
});
addEventListener("pagehide", () => session?.stopClock());
addEventListener("storage", (event) => {
  if (session && event.key === session.place && event.newValue !== null) showElsewhere();
});

document.addEventListener("DOMContentLoaded", () => {
  pixels = new Pixels(study.images, document.getElementById("pixels").textContent);
});
document.title = say("title");
showWelcome();
