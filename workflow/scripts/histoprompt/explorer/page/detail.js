// One image, enlarged, beside its nearest training patch, with all that is known of it.
"use strict";

const ENLARGED = 512; // pixels of the canvas; the style says how large it stands

class Detail {
  /** `turn` goes to another image, `close` leaves; both change the page's address. */
  constructor(dialog, sheets, { turn, close, alike, hrefOf }) {
    Object.assign(this, { dialog, sheets, turn, close, alike, hrefOf });
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      this.close();
    });
    dialog.addEventListener("click", (event) => event.target === dialog && this.close());
    dialog.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      this.step(step);
    });
  }

  /** Show an image; `among` are the places of its set between which one turns. */
  show({ set: index, at }, among) {
    Object.assign(this, { index, at, among });
    const set = data.sets[index];
    const { images } = set;
    const place = among.indexOf(at);
    const values = { set: set.name, title: set.title, number: images.number[at], label: data.classes[images.label[at]] };
    const heading = make("h2", { id: "dialog-heading", tabindex: "-1" }, say("image_heading", values));
    const figures = [this.figure(set.name, at, say("image_alt", values), say("this_image"), null)];
    if (set.images.nearest) {
      const nearest = images.nearest[at];
      const [row, label, cluster] = ["row", "label", "cluster"].map((name) => data.training[name][nearest]);
      const patch = { row, label: data.classes[label], cluster };
      figures.push(this.figure(TRAIN, nearest, say("nearest_alt", patch), say("nearest"), say("nearest_caption", patch)));
    }
    const others = data.sets
      .map((other, i) => ({ set: i, at: other.images.nearest && images.nearest ? other.places.get(values.number) : undefined }))
      .filter((other) => other.set !== index && other.at !== undefined);
    const entry = ([term, ...texts]) => make("div", {}, make("dt", {}, say(term)), make("dd", {}, ...texts));
    this.dialog.replaceChildren(
      make(
        "div",
        { class: "dialog-bar" },
        heading,
        make("span", { class: "hint" }, say("position", { place: count(place + 1), count: count(among.length) })),
        button(say("previous"), () => this.step(-1), { disabled: place === 0, "aria-keyshortcuts": "ArrowLeft" }),
        button(say("next"), () => this.step(1), { disabled: place + 1 === among.length, "aria-keyshortcuts": "ArrowRight" }),
        button(say("close"), () => this.close(), { class: "main", "aria-keyshortcuts": "Escape" }),
      ),
      make(
        "div",
        { class: "pictures" },
        make("div", { class: "figures" }, ...figures),
        others.length ? this.others(others, values.number) : null,
      ),
      make(
        "div",
        { class: "known" },
        make("dl", {}, ...this.facts(set, at).map(entry)),
        button(say("alike"), () => this.alike({ set: index, at })),
      ),
    );
    if (!this.dialog.open) this.dialog.showModal();
    heading.focus({ preventScroll: true });
    this.dialog.scrollTop = 0;
  }

  figure(set, place, alt, title, caption) {
    return make(
      "figure",
      {},
      this.sheets.canvas(set, place, { role: "img", "aria-label": alt }, ENLARGED),
      make("figcaption", {}, make("strong", {}, title), caption && make("span", {}, caption)),
    );
  }

  others(others, number) {
    const links = others.map(({ set, at }) =>
      make(
        "li",
        {},
        make(
          "a",
          { class: "tile", href: this.hrefOf({ set, at }), "aria-label": nameOf(data.sets[set], at) },
          this.sheets.canvas(data.sets[set].name, at),
        ),
        make("span", { "aria-hidden": "true" }, data.sets[set].name),
      ),
    );
    return make("section", { class: "others" }, make("h3", {}, say("same_number", { number })), make("ul", {}, ...links));
  }

  facts(set, at) {
    const { images } = set;
    const label = data.classes[images.label[at]];
    const [asked, found] = [images.asked[at], images.found[at]];
    if (!images.nearest)
      return [
        ["fact_class", label],
        ["fact_type", String(found)],
        ["fact_source", say("source", { id: images.id[at], row: images.row[at] })],
      ];
    const own = set.ownClusters !== null;
    const named = own ? "asked_own" : set.namesCluster ? "asked_named" : "asked_unnamed";
    const meets = own ? "found_own" : asked === found ? "found_same" : "found_other";
    const distance = say("distance", {
      distance: images.distance[at].toFixed(2),
      space: set.space,
      percent: count(Math.round(1000 * images.heldOutNearer[at]) / 10),
    });
    const verdict = set.near === null ? "copy_unknown" : isCopy(set, at) ? "copy_yes" : "copy_no";
    const copy = say(verdict, { near: set.near?.toFixed(2) });
    return [
      ["fact_prompt", `“${data.prompts[images.prompt[at]]}”`],
      ["fact_class", label],
      ["fact_asked", say(named, { cluster: asked, clusters: set.ownClusters })],
      ["fact_found", say(meets, { cluster: found })],
      ["fact_distance", distance, " ", make(isCopy(set, at) ? "strong" : "span", {}, copy)],
      ["fact_seed", images.seed[at]],
      ["fact_file", `samples/${images.file[at]}`],
    ];
  }

  step(by) {
    const next = this.among[this.among.indexOf(this.at) + by];
    if (next !== undefined) this.turn({ set: this.index, at: next });
  }

  leave() {
    if (this.dialog.open) this.dialog.close();
  }
}
