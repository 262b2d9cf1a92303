// Images: stored as uncompressed pixels, all drawn by the same canvas with the same smoothing.
"use strict";

const ZOOMS = [1, 1.5, 2, 3, 4, 6];
const PAN_STEP = 0.1; // of what is visible

/** Draws an image's pixels on a canvas of their own size. */
class Pixels {
  constructor(images, base64) {
    this.base64 = base64;
    this.places = new Map();
    let start = 0;
    for (const [image, side] of images) {
      this.places.set(image, { start, side });
      start += side * side * 4; // three bytes are four characters
    }
  }

  canvasOf(image) {
    const { start, side } = this.places.get(image);
    const bytes = atob(this.base64.slice(start, start + side * side * 4));
    const data = new ImageData(side, side);
    for (let pixel = 0; pixel < side * side; pixel++) {
      for (let channel = 0; channel < 3; channel++) data.data[pixel * 4 + channel] = bytes.charCodeAt(pixel * 3 + channel);
      data.data[pixel * 4 + 3] = 255;
    }
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = side;
    canvas.getContext("2d").putImageData(data, 0, 0);
    return canvas;
  }
}

/** A canvas that shows one image, with zoom and panning by wheel, pointer and calls. */
class Viewer {
  constructor(canvas) {
    this.canvas = canvas;
    this.image = null;
    this.reset();
    new ResizeObserver(() => this.draw()).observe(canvas);
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        this.zoom(event.deltaY < 0 ? 1 : -1);
      },
      { passive: false },
    );
    canvas.addEventListener("dblclick", () => (this.level ? this.reset() : this.zoom(2)));
    canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      if (canvas.hasPointerCapture(event.pointerId))
        this.pan(-event.movementX / canvas.clientWidth, -event.movementY / canvas.clientHeight);
    });
  }

  show(image) {
    this.image = image;
    this.reset();
  }

  reset() {
    this.level = 0;
    this.x = this.y = 0.5; // the centre of what is visible
    this.draw();
  }

  zoom(steps) {
    this.level = Math.min(Math.max(this.level + steps, 0), ZOOMS.length - 1);
    this.pan(0, 0);
  }

  /** Move by shares of what is visible. */
  pan(x, y) {
    const half = 0.5 / ZOOMS[this.level];
    this.x = Math.min(Math.max(this.x + 2 * half * x, half), 1 - half);
    this.y = Math.min(Math.max(this.y + 2 * half * y, half), 1 - half);
    this.draw();
  }

  draw() {
    if (!this.image) return;
    const { canvas, image } = this;
    const side = Math.round(canvas.clientWidth * devicePixelRatio);
    if (!side) return;
    if (canvas.width !== side) canvas.width = canvas.height = side;
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    const visible = image.width / ZOOMS[this.level];
    const [left, top] = [this.x, this.y].map((centre) => centre * image.width - visible / 2);
    context.drawImage(image, left, top, visible, visible, 0, 0, side, side);
    canvas.classList.toggle("zoomed", this.level > 0);
  }
}
