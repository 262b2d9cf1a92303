// What is shown, as the page's address tells it.
"use strict";

const SIZES = { small: 64, medium: 104, large: 160 }; // least width of a picture on the screen

function button(text, onclick, attributes = {}) {
  return make("button", { type: "button", onclick, ...attributes }, text);
}

function count(number) {
  return number.toLocaleString(words.language);
}

/** An image is written set.number, so that its link does not depend on what else is shown. */
function imageOf(written) {
  const [, name, number] = /^(.*)\.(\d+)$/.exec(written) ?? [];
  const set = data.sets.findIndex((each) => each.name === name);
  const at = data.sets[set]?.places.get(Number(number));
  return at === undefined ? null : { set, at };
}

function writeImage({ set, at }) {
  return `${data.sets[set].name}.${data.sets[set].images.number[at]}`;
}

function readState(hash) {
  const given = new URLSearchParams(hash.slice(1));
  const index = (key, below) => {
    const value = given.get(key);
    return /^\d+$/.test(value ?? "") && Number(value) < below ? Number(value) : null;
  };
  const choice = (key, values) => (values.includes(given.get(key)) ? given.get(key) : values[0]);
  const names = data.sets.map(({ name }) => name);
  const hidden = (given.get("hide") ?? "").split(",").filter((name) => names.includes(name));
  const state = {
    view: choice("view", ["images", "map"]),
    label: index("class", data.classes.length),
    cluster: index("type", data.clusters),
    by: choice("by", ["asked", "found"]),
    hidden: hidden.length < names.length ? hidden : [],
    copies: given.get("copies") === "1",
    size: choice("size", ["medium", "small", "large"]),
    image: null,
    unknown: null,
  };
  if (given.has("image")) {
    state.image = imageOf(given.get("image"));
    if (!state.image) state.unknown = given.get("image");
  }
  return state;
}

function writeState(state) {
  const said = new URLSearchParams();
  if (state.view !== "images") said.set("view", state.view);
  if (state.label !== null) said.set("class", state.label);
  if (state.cluster !== null) said.set("type", state.cluster);
  if (state.by !== "asked") said.set("by", state.by);
  if (state.hidden.length) said.set("hide", state.hidden.join(","));
  if (state.copies) said.set("copies", "1");
  if (state.size !== "medium") said.set("size", state.size);
  if (state.image) said.set("image", writeImage(state.image));
  return `#${said}`;
}

/** Is an image nearer to a training patch than 99 % of held-out patches are? Real patches are training patches themselves. */
function isCopy(set, at) {
  return set.near !== null && set.images.distance[at] < set.near;
}

/** The type by which an image is placed: an arm with clusters of its own has no other than the one found. */
function typeOf(set, at, by) {
  return by === "found" || set.ownClusters !== null ? set.images.found[at] : set.images.asked[at];
}

/** Places of the images of a set that are to be shown. */
function matching(set, state) {
  const found = [];
  for (let at = 0; at < set.images.number.length; at++)
    if (
      (state.label === null || set.images.label[at] === state.label) &&
      (state.cluster === null || typeOf(set, at, state.by) === state.cluster) &&
      (!state.copies || isCopy(set, at))
    )
      found.push(at);
  return found;
}

function visibleSets(state) {
  return data.sets.filter(({ name }) => !state.hidden.includes(name));
}

/** What screen readers hear of an image. */
function nameOf(set, at) {
  const values = {
    set: set.name,
    number: set.images.number[at],
    label: data.classes[set.images.label[at]],
    cluster: set.ownClusters === null ? set.images.asked[at] : set.images.found[at],
    found: set.images.found[at],
  };
  const told = say(values.cluster === values.found ? "tile" : "tile_found", values);
  return isCopy(set, at) ? told + words.tile_copy : told;
}

for (const set of data.sets) set.places = new Map(set.images.number.map((number, at) => [number, at]));
