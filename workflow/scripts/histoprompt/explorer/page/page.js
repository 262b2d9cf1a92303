// The page: what is chosen, what is shown, and the address that says both.
"use strict";

const bar = document.getElementById("bar");
const filters = document.getElementById("filters");
const screen_ = document.getElementById("screen");
const told = document.getElementById("told");
const dialog = document.getElementById("dialog");
const problem = make("p", { class: "error", role: "alert" });
const sheets = new Sheets(() => (problem.textContent = say("no_sheets")));

let state = readState(location.hash);
let columns = [];
let drawn = null; // what the screen was last built for

function tell(text) {
  told.textContent = text;
}

/** Change what is shown; the browser's Back undoes it. */
function go(changes, { replace = false } = {}) {
  const next = { ...state, unknown: null, ...changes };
  const opened = next.image !== null && (replace ? history.state?.opened : state.image === null);
  history[replace ? "replaceState" : "pushState"]({ opened: Boolean(opened) }, "", writeState(next));
  render();
}

/** Leave an image: back to where it was opened from, or, where the page began with it, to its surroundings. */
function close() {
  if (history.state?.opened) history.back();
  else go({ image: null }, { replace: true });
}

const hrefOf = (image) => writeState({ ...state, image });

const detail = new Detail(dialog, sheets, {
  hrefOf,
  close,
  turn: (image) => go({ image }, { replace: true }),
  alike: ({ set, at }) =>
    go({ image: null, label: data.sets[set].images.label[at], cluster: typeOf(data.sets[set], at, state.by), copies: false }),
});

// --- What to show --------------------------------------------------------------------------------------------------------

/** A question with one choice; `options` are [value, content, name for screen readers]. */
function choice(name, question, options, onpick) {
  const inputs = options.map(([value, , spoken = null]) =>
    make("input", { type: "radio", name, value: String(value), "aria-label": spoken, onchange: () => onpick(value) }),
  );
  const labels = options.map(([, content], i) => make("label", {}, inputs[i], ...[content].flat()));
  return {
    element: make("fieldset", { class: name }, make("legend", {}, question), make("div", { class: "choices" }, ...labels)),
    mark: (value) => inputs.forEach((input, i) => (input.checked = options[i][0] === value)),
  };
}

function check(text, onchange, ...before) {
  const input = make("input", { type: "checkbox", onchange: () => onchange(input.checked) });
  return { input, element: make("label", { class: "check" }, input, ...before, make("span", {}, text)) };
}

function exampleOf(cluster) {
  const place = data.examples[cluster];
  return place === null ? make("span", { class: "blank" }) : sheets.canvas(TRAIN, place, { "aria-hidden": "true" });
}

const classes = [[null, say("all")], ...data.classes.map((word, i) => [i, word])];
const labels = choice("class", say("class"), classes, (label) => go({ label }));
const clusters = choice(
  "type",
  say("cluster"),
  [
    [null, [make("span", { class: "every" }, say("all"))], say("all")],
    ...Array.from({ length: data.clusters }, (_, cluster) => [
      cluster,
      [exampleOf(cluster), make("span", { "aria-hidden": "true" }, String(cluster))],
      say("cluster_label", { cluster }),
    ]),
  ],
  (cluster) => go({ cluster }),
);
const named = (key, values) => values.map((value) => [value, say(`${key}_${value}`)]);
const by = choice("by", say("by"), named("by", ["asked", "found"]), (value) => go({ by: value }));
const size = choice("size", say("size"), named("size", Object.keys(SIZES)), (value) => go({ size: value }));
const view = choice("view", say("view"), named("view", ["images", "map"]), (value) => go({ view: value }));
const shown = data.sets.map((set, index) =>
  check(
    set.title,
    (on) => {
      const names = data.sets.map(({ name }) => name);
      const hidden = names.filter((name) => (name === set.name ? !on : state.hidden.includes(name)));
      go({ hidden: hidden.length < data.sets.length ? hidden : state.hidden });
    },
    markerOf(index, 26),
  ),
);
const copies = check(say("copies"), (on) => go({ copies: on }));
const reset = button(say("reset"), () => go({ label: null, cluster: null, by: "asked", hidden: [], copies: false }));

const more = make(
  "details",
  { class: "more" },
  make("summary", {}, say("more")),
  make(
    "div",
    {},
    by.element,
    make("fieldset", { class: "sets" }, make("legend", {}, say("sets")), ...shown.map(({ element }) => element)),
    copies.element,
    size.element,
    reset,
  ),
);
const wide = matchMedia("(min-width: 62rem)"); // as in the style: beside the pictures there is room for all of it
const fold = () => (more.open = wide.matches);
wide.addEventListener("change", fold);
fold();

bar.append(
  make("h1", {}, say("heading", { study: data.study }), make("small", {}, say("lead"))),
  view.element,
  problem,
);
filters.append(
  make("h2", { class: "unseen", id: "filters-heading" }, say("filters")),
  labels.element,
  clusters.element,
  more,
  make(
    "details",
    {},
    make("summary", {}, say("guide")),
    ...["guide_sets", "guide_drawn", "guide_found", "guide_number", "guide_copy", "guide_pictures", "guide_keys"].map((key) =>
      make("p", {}, say(key, data)),
    ),
  ),
);
filters.addEventListener("submit", (event) => event.preventDefault());

// --- What is shown -------------------------------------------------------------------------------------------------------

const gallery = new Gallery(make("section", { class: "side-by-side" }), sheets, hrefOf);
const map = new ImageMap(make("section", { class: "on-map" }), sheets, ({ set, at }) => go({ image: { set, at } }));
screen_.append(gallery.host, map.host);

function render() {
  const before = state;
  state = readState(location.hash);
  const without = writeState({ ...state, image: null });
  if (without !== drawn) {
    drawn = without;
    columns = visibleSets(state).map((set) => ({ set, places: matching(set, state) }));
    labels.mark(state.label);
    clusters.mark(state.cluster);
    by.mark(state.by);
    size.mark(state.size);
    view.mark(state.view);
    shown.forEach(({ input }, i) => (input.checked = !state.hidden.includes(data.sets[i].name)));
    copies.input.checked = state.copies;
    gallery.host.hidden = state.view !== "images";
    map.host.hidden = state.view !== "map";
    document.body.dataset.view = state.view;
    if (state.view === "images") gallery.show(state, columns);
    else map.show(columns);
    const number = columns.reduce((sum, { places }) => sum + places.length, 0);
    tell(say("told", { images: count(number) }));
  }
  problem.textContent = state.unknown ? say("unknown_image", { image: state.unknown }) : "";
  if (state.image) {
    const { set, at } = state.image;
    const own = columns.find((column) => column.set === data.sets[set])?.places ?? [];
    detail.show(state.image, own.includes(at) ? own : [...data.sets[set].images.number.keys()]);
  } else {
    detail.leave();
    if (before.image && state.view === "images") gallery.reveal(before.image);
  }
}

addEventListener("popstate", () => render());
dialog.addEventListener("close", () => state.image && close()); // by a way of the browser's own
document.addEventListener("click", (event) => {
  const link = event.target.closest("a.tile");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  go({ image: readState(link.hash).image }, { replace: state.image !== null });
});
document.title = say("title", { study: data.study });
render();
