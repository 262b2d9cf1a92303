// The map: a point an image, over the held-out patches in grey.
"use strict";

// Okabe and Ito's colours on a dark ground, and shapes, so that no set is told by its colour alone.
const COLOURS = ["#ffffff", "#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#4d8fcc", "#d55e00"];
const SHAPES = ["ring", "disc", "square", "triangle", "diamond", "cross"];
const REACH = 14; // pixels from a point at which it is meant
const MARKER = 9; // pixels
const ZOOM = 1.5;

const CORNERS = {
  square: [[-1, -1], [1, -1], [1, 1], [-1, 1]],
  triangle: [[0, -1.2], [1.2, 0.9], [-1.2, 0.9]],
  diamond: [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]],
};

function outline(pen, shape, x, y, r) {
  const move = (dx, dy, first) => (first ? pen.moveTo(x + dx * r, y + dy * r) : pen.lineTo(x + dx * r, y + dy * r));
  pen.beginPath();
  if (CORNERS[shape]) {
    CORNERS[shape].forEach(([dx, dy], i) => move(dx, dy, i === 0));
    pen.closePath();
  } else if (shape === "cross") {
    for (const slope of [1, -1]) {
      move(-1, -slope, true);
      move(1, slope, false);
    }
  } else pen.arc(x, y, r, 0, 2 * Math.PI);
}

/** The marker of a set, drawn once. */
function markerOf(index, size = MARKER * 2) {
  const canvas = make("canvas", { class: "marker", "aria-hidden": "true", width: size, height: size });
  const pen = canvas.getContext("2d");
  const shape = SHAPES[index % SHAPES.length];
  pen.strokeStyle = pen.fillStyle = COLOURS[index % COLOURS.length];
  outline(pen, shape, size / 2, size / 2, size * 0.33);
  pen.lineWidth = size * 0.13;
  if (shape === "ring" || shape === "cross") {
    pen.stroke();
  } else {
    pen.fill();
    pen.lineWidth = 1;
    pen.strokeStyle = "rgb(0 0 0 / 55%)";
    pen.stroke();
  }
  return canvas;
}

class ImageMap {
  constructor(host, sheets, open) {
    Object.assign(this, { host, sheets, open, points: [], current: null, scale: 1, left: 0, top: 0, drag: null });
    this.canvas = make("canvas", { class: "map", tabindex: "0", role: "application", "aria-label": say("map") });
    this.tip = make("div", { class: "tip", hidden: true, "aria-hidden": "true" });
    this.picture = make("canvas");
    this.tipText = make("p");
    this.tip.append(this.picture, this.tipText);
    this.legend = make("ul", { class: "legend" });
    this.note = make("p", { class: "hint" });
    const zooms = make(
      "div",
      { class: "zooms" },
      button("−", () => this.zoom(1 / ZOOM), { "aria-label": say("zoom_out"), title: say("zoom_out") }),
      button("1×", () => this.showAll(), { "aria-label": say("zoom_reset"), title: say("zoom_reset") }),
      button("+", () => this.zoom(ZOOM), { "aria-label": say("zoom_in"), title: say("zoom_in") }),
    );
    this.frame = make("div", { class: "map-frame" }, this.canvas, zooms, this.tip);
    host.append(this.frame, this.legend, this.note);
    this.markers = data.sets.map((_, index) => markerOf(index));
    this.listen();
    new ResizeObserver(() => this.fit()).observe(this.canvas);
    this.bounds = ["x", "y"].map((axis) => {
      const values = [data.heldOut, ...data.sets.map(({ images }) => images)].flatMap((images) => images[axis]);
      const placed = values.filter((value) => value !== null);
      return placed.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
    });
  }

  show(columns) {
    const every = columns.flatMap(({ set, places }) => {
      const index = data.sets.indexOf(set);
      return places.map((at) => ({ set: index, at, x: set.images.x[at], y: set.images.y[at] }));
    });
    // In turns, so that no set lies over all others.
    this.points = every.filter(({ x }) => x !== null).sort((a, b) => (a.at * 7919) % 1009 - ((b.at * 7919) % 1009));
    this.legend.replaceChildren(...columns.map(({ set }) => make("li", {}, markerOf(data.sets.indexOf(set), 26), set.title)));
    const missing = every.length - this.points.length;
    this.note.textContent = say("map_note") + (missing ? ` ${say("map_missing", { missing: count(missing) })}` : "");
    this.choose(null);
    this.fit();
  }

  fit() {
    const { width, height } = this.canvas.getBoundingClientRect();
    if (!width) return;
    Object.assign(this, { width, height, dense: devicePixelRatio });
    this.canvas.width = width * this.dense;
    this.canvas.height = height * this.dense;
    this.draw();
  }

  /** Pixels of the canvas for one unit of the map. */
  unit() {
    const [[x0, x1], [y0, y1]] = this.bounds;
    return 0.94 * Math.min(this.width / (x1 - x0 || 1), this.height / (y1 - y0 || 1)) * this.scale;
  }

  /** The middle of the map. */
  middle() {
    return this.bounds.map(([low, high]) => (low + high) / 2);
  }

  /** Where a point of the map is on the canvas. */
  place({ x, y }, unit = this.unit(), [x0, y0] = this.middle()) {
    return [this.width / 2 + (x - x0) * unit + this.left, this.height / 2 - (y - y0) * unit + this.top];
  }

  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      this.paint();
    });
  }

  paint() {
    const pen = this.canvas.getContext("2d");
    pen.setTransform(this.dense, 0, 0, this.dense, 0, 0);
    pen.clearRect(0, 0, this.width, this.height);
    const [unit, middle] = [this.unit(), this.middle()];
    pen.fillStyle = "#6e6e6e";
    data.heldOut.x.forEach((x, i) => {
      const [left, top] = this.place({ x, y: data.heldOut.y[i] }, unit, middle);
      pen.fillRect(left - 1, top - 1, 2, 2);
    });
    const side = MARKER * Math.min(1.6, Math.max(0.7, Math.sqrt(this.scale * Math.sqrt(1200 / (this.points.length + 1)))));
    for (const point of this.points) {
      const [left, top] = this.place(point, unit, middle);
      if (left > -side && top > -side && left < this.width + side && top < this.height + side)
        pen.drawImage(this.markers[point.set], left - side / 2, top - side / 2, side, side);
    }
    if (this.current) {
      const [left, top] = this.place(this.current);
      pen.lineWidth = 3;
      pen.strokeStyle = "#8ecbff";
      pen.beginPath();
      pen.arc(left, top, 10, 0, 7);
      pen.stroke();
    }
  }

  /** The point nearest to a place on the canvas, if it is within reach. */
  near(left, top, reach) {
    const unit = this.unit();
    const [x0, y0] = this.middle();
    const x = x0 + (left - this.width / 2 - this.left) / unit;
    const y = y0 - (top - this.height / 2 - this.top) / unit;
    let best = null;
    let least = (reach / unit) ** 2;
    for (const point of this.points) {
      const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
      if (distance <= least) [best, least] = [point, distance];
    }
    return best;
  }

  choose(point, told = false) {
    if (point === this.current) return;
    this.current = point;
    this.tip.hidden = point === null;
    this.canvas.classList.toggle("pointing", point !== null);
    if (point) {
      const set = data.sets[point.set];
      this.sheets.paint(this.picture, set.name, point.at);
      this.tipText.textContent = nameOf(set, point.at);
      const [left, top] = this.place(point);
      this.tip.style.left = `${Math.max(0, left > this.width / 2 ? left - this.tip.offsetWidth - 16 : left + 16)}px`;
      this.tip.style.top = `${Math.max(0, Math.min(this.height - this.tip.offsetHeight, top - this.tip.offsetHeight / 2))}px`;
      if (told) tell(this.tipText.textContent);
    }
    this.draw();
  }

  /** The nearest point in a direction, sideways steps counting twice. */
  neighbour(dx, dy) {
    if (!this.current) return this.near(this.width / 2, this.height / 2, Infinity);
    const [x, y] = this.place(this.current);
    let best = this.current;
    let least = Infinity;
    for (const point of this.points) {
      const [left, top] = this.place(point);
      const ahead = (left - x) * dx + (top - y) * dy;
      const aside = Math.abs((left - x) * dy) + Math.abs((top - y) * dx);
      if (ahead > 0.5 && aside <= ahead && ahead + 2 * aside < least) [best, least] = [point, ahead + 2 * aside];
    }
    return best;
  }

  zoom(by, left = this.width / 2, top = this.height / 2) {
    const scale = Math.min(40, Math.max(1, this.scale * by));
    const real = scale / this.scale;
    this.left = left - this.width / 2 - (left - this.width / 2 - this.left) * real;
    this.top = top - this.height / 2 - (top - this.height / 2 - this.top) * real;
    this.scale = scale;
    if (scale === 1) this.left = this.top = 0;
    this.choose(null);
    this.draw();
  }

  showAll() {
    this.zoom(0);
  }

  /** Bring a chosen point onto the canvas. */
  follow() {
    if (!this.current) return;
    const [x, y] = this.place(this.current);
    if (x < 0 || y < 0 || x > this.width || y > this.height) {
      this.left += this.width / 2 - x;
      this.top += this.height / 2 - y;
    }
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointermove", (event) => {
      if (!event.buttons) this.drag = null;
      if (this.drag && Math.hypot(event.offsetX - this.drag.x, event.offsetY - this.drag.y) > 4) this.drag.moved = true;
      if (this.drag?.moved) {
        this.left = this.drag.left + event.offsetX - this.drag.x;
        this.top = this.drag.top + event.offsetY - this.drag.y;
        this.choose(null);
        this.draw();
      } else this.choose(this.near(event.offsetX, event.offsetY, REACH));
    });
    canvas.addEventListener("pointerdown", ({ offsetX: x, offsetY: y }) => {
      this.drag = { x, y, left: this.left, top: this.top, moved: false };
    });
    canvas.addEventListener("click", (event) => {
      const reach = event.pointerType === "touch" ? 2 * REACH : REACH;
      const point = !this.drag?.moved && this.near(event.offsetX, event.offsetY, reach);
      this.drag = null;
      if (point) this.open(point);
    });
    canvas.addEventListener("pointerleave", () => this.choose(null));
    canvas.addEventListener("blur", () => this.choose(null));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? 1.25 : 0.8, event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      const arrow = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      const does = {
        "+": () => this.zoom(ZOOM),
        "=": () => this.zoom(ZOOM),
        "-": () => this.zoom(1 / ZOOM),
        0: () => this.showAll(),
        Enter: () => this.current && this.open(this.current),
        Escape: () => this.choose(null),
      }[event.key];
      if (!arrow && !does) return;
      event.preventDefault();
      if (arrow) {
        const next = this.neighbour(...arrow);
        this.choose(next, true);
        this.follow();
        this.draw();
      } else does();
    });
  }
}
