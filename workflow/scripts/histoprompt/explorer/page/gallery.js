// The images side by side: a column of pictures each set, of which only those near the screen exist.
"use strict";

const BLOCK_ROWS = 6;
const GAP = 4;
const LARGEST_TILE = 320;

class Gallery {
  constructor(host, sheets, hrefOf) {
    Object.assign(this, { host, sheets, hrefOf, current: null, columns: [], blocks: [], state: null });
    this.heads = make("div", { class: "heads", role: "row" });
    this.body = make("div", { class: "rows", role: "none" });
    this.grid = make("div", { class: "gallery", role: "grid", "aria-label": say("gallery") }, this.heads, this.body);
    this.grid.addEventListener("keydown", (event) => this.onKey(event));
    host.append(this.grid);
    this.observer = new IntersectionObserver((entries) => this.onMove(entries), { rootMargin: "100% 0px" });
    new ResizeObserver(() => this.state && this.width !== this.host.clientWidth && this.layOut()).observe(host);
  }

  show(state, columns) {
    Object.assign(this, { state, columns });
    this.layOut();
  }

  /** How many pictures fit beside each other, and an empty block for every few rows of them. */
  layOut() {
    const anchor = this.width && this.tile ? this.firstRow() : 0;
    this.width = this.host.clientWidth;
    const groups = this.columns.length;
    const apart = this.width < 700 ? 10 : 24;
    const group = (this.width - (groups - 1) * apart) / groups;
    this.per = Math.max(1, Math.floor((group + GAP) / (SIZES[this.state.size] + GAP)));
    const tile = Math.min(LARGEST_TILE, Math.floor((group + GAP) / this.per) - GAP);
    const sameRows = this.tile === tile && this.shown === this.columns;
    this.tile = tile;
    this.shown = this.columns;
    this.rows = Math.ceil(Math.max(1, ...this.columns.map(({ places }) => places.length)) / this.per);
    this.grid.style.setProperty("--tile", `${tile}px`);
    this.grid.style.setProperty("--per", this.per);
    this.grid.style.setProperty("--apart", `${apart}px`);
    this.grid.style.setProperty("--groups", groups);
    this.grid.setAttribute("aria-rowcount", this.rows + 1);
    this.grid.setAttribute("aria-colcount", groups * this.per);
    if (sameRows) return;
    this.heads.replaceChildren(...this.columns.map((column, i) => this.head(column, i)));
    this.observer.disconnect();
    this.blocks = Array.from({ length: Math.ceil(this.rows / BLOCK_ROWS) }, (_, block) => {
      const rows = Math.min(BLOCK_ROWS, this.rows - block * BLOCK_ROWS);
      const element = make("div", { class: "block", role: "none" });
      element.style.height = `${rows * (tile + GAP)}px`;
      return element;
    });
    this.body.replaceChildren(...this.blocks);
    this.blocks.forEach((block) => this.observer.observe(block));
    this.fill(Math.min(Math.floor(anchor / BLOCK_ROWS), this.blocks.length - 1));
  }

  head({ set, places }, i) {
    const values = { shown: count(places.length), total: count(set.images.number.length) };
    return make(
      "div",
      { role: "columnheader", "aria-colindex": i * this.per + 1, "aria-colspan": this.per, title: set.title },
      make("strong", {}, set.name),
      make("span", {}, say("count", values)),
      set.ownClusters && make("span", {}, say("placed_by_found", { clusters: set.ownClusters })),
    );
  }

  firstRow() {
    return Math.max(0, Math.floor(-this.body.getBoundingClientRect().top / (this.tile + GAP)));
  }

  onMove(entries) {
    for (const { target, isIntersecting } of entries) {
      const block = this.blocks.indexOf(target);
      if (block >= 0 && isIntersecting) this.fill(block);
      else if (block >= 0 && !target.contains(document.activeElement)) target.replaceChildren();
    }
    this.keepOneStop();
  }

  fill(block) {
    const element = this.blocks[block];
    if (element.firstChild) return;
    const last = Math.min((block + 1) * BLOCK_ROWS, this.rows);
    for (let row = block * BLOCK_ROWS; row < last; row++) {
      const groups = this.columns.map((column, group) => this.cells(column, group, row));
      element.append(make("div", { role: "row", "aria-rowindex": row + 2 }, ...groups));
    }
    this.keepOneStop();
  }

  cells({ set, places }, group, row) {
    const first = group * this.per;
    const cell = (i, content) => make("div", { role: "gridcell", "aria-colindex": first + i + 1 }, content);
    const own = places.slice(row * this.per, (row + 1) * this.per);
    const cells = own.map((at, i) => cell(i, this.link(set, at, `${row},${first + i}`)));
    if (!places.length && row === 0) cells.push(cell(0, make("span", { class: "none" }, say("no_images"))));
    return make("div", { role: "none", class: "group" }, ...cells);
  }

  link(set, at, place) {
    const classes = isCopy(set, at) ? "tile copy" : "tile";
    const href = this.hrefOf({ set: data.sets.indexOf(set), at });
    const link = make("a", { class: classes, href, "aria-label": nameOf(set, at), tabindex: "-1", "data-place": place });
    link.append(this.sheets.canvas(set.name, at));
    link.addEventListener("focus", () => this.take(link));
    return link;
  }

  /** One picture can be reached by Tab, the one that had the focus last; arrow keys lead to all others. */
  take(link) {
    this.grid.querySelectorAll('a[tabindex="0"]').forEach((other) => (other.tabIndex = -1));
    link.tabIndex = 0;
    this.current = link.dataset.place;
  }

  keepOneStop() {
    if (!this.grid.querySelector('a[tabindex="0"]')) {
      const first = this.at(this.current) ?? this.grid.querySelector("a.tile");
      if (first) first.tabIndex = 0;
    }
  }

  at(place) {
    return this.grid.querySelector(`a[data-place="${place}"]`);
  }

  /** The picture in a row and column, made if it does not exist at the moment. */
  reach(row, column) {
    this.fill(Math.floor(row / BLOCK_ROWS));
    return this.at(`${row},${column}`);
  }

  /** Bring an image into view, with the focus on it. */
  reveal({ set, at }) {
    const group = this.columns.findIndex((column) => column.set === data.sets[set]);
    const place = group < 0 ? -1 : this.columns[group].places.indexOf(at);
    if (place < 0) return;
    this.reach(Math.floor(place / this.per), group * this.per + (place % this.per)).focus();
  }

  onKey(event) {
    const link = event.target.closest("a.tile");
    if (!link || event.altKey || event.metaKey) return;
    const [row, column] = link.dataset.place.split(",").map(Number);
    const width = this.columns.length * this.per;
    const page = Math.max(1, Math.floor(innerHeight / (this.tile + GAP)) - 1);
    // Columns are of different lengths: each way is a list of places, and the first of them with a picture is taken.
    const way = (from, to, place) => {
      const steps = Array.from({ length: Math.abs(to - from) + 1 }, (_, i) => (from < to ? from + i : from - i));
      return steps.map(place);
    };
    const across = (from, to) => way(from, to, (c) => [row, c]).filter(([, c]) => c >= 0 && c < width);
    const along = (by) => way(Math.min(this.rows - 1, Math.max(0, row + by)), row, (r) => [r, column]);
    const ways = {
      ArrowRight: () => across(column + 1, width),
      ArrowLeft: () => across(column - 1, -1),
      ArrowUp: () => along(-1),
      ArrowDown: () => along(1),
      PageUp: () => along(-page),
      PageDown: () => along(page),
      Home: () => (event.ctrlKey ? along(-row) : across(0, width)),
      End: () => (event.ctrlKey ? along(this.rows) : across(width - 1, -1)),
    };
    if (!ways[event.key]) return;
    event.preventDefault();
    for (const [r, c] of ways[event.key]()) {
      const group = Math.floor(c / this.per);
      if (r * this.per + (c % this.per) < this.columns[group].places.length) {
        this.reach(r, c).focus();
        return;
      }
    }
  }
}
