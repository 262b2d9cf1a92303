// Images: stored as uncompressed pixels, all drawn by the same canvas with the same smoothing.
"use strict";

const ZOOM_STEP = 1.5;
const LARGEST_ZOOM = 8;
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

/** A canvas that shows one image; it zooms and moves by calls, wheel, drag and pinch. */
class Viewer {
  constructor(canvas) {
    this.canvas = canvas;
    this.image = null;
    this.pointers = new Map();
    this.reset();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /** Take the wheel, the mouse and fingers. */
  listen() {
    const { canvas, pointers } = this;
    const wheel = (event) => {
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? ZOOM_STEP : 1 / ZOOM_STEP);
    };
    canvas.addEventListener("wheel", wheel, { passive: false });
    canvas.addEventListener("dblclick", () => (this.scale > 1 ? this.reset() : this.zoom(ZOOM_STEP ** 2)));
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, event);
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      pointers.set(event.pointerId, event);
      const other = [...pointers.values()].find(({ pointerId }) => pointerId !== event.pointerId);
      const apart = (pointer) => Math.hypot(pointer.clientX - other.clientX, pointer.clientY - other.clientY);
      if (other) this.zoom(Math.max(apart(event), 1) / Math.max(apart(before), 1));
      else this.pan((before.clientX - event.clientX) / canvas.clientWidth, (before.clientY - event.clientY) / canvas.clientHeight);
    });
    for (const end of ["pointerup", "pointercancel"])
      canvas.addEventListener(end, (event) => pointers.delete(event.pointerId));
  }

  show(image) {
    this.image = image;
    this.reset();
  }

  reset() {
    this.scale = 1;
    this.x = this.y = 0.5; // the centre of what is visible
    this.draw();
  }

  zoom(factor) {
    this.scale = Math.min(Math.max(this.scale * factor, 1), LARGEST_ZOOM);
    this.pan(0, 0);
  }

  /** Move by shares of what is visible. */
  pan(x, y) {
    const half = 0.5 / this.scale;
    this.x = Math.min(Math.max(this.x + 2 * half * x, half), 1 - half);
    this.y = Math.min(Math.max(this.y + 2 * half * y, half), 1 - half);
    this.draw();
  }

  draw() {
    const { canvas, image } = this;
    const side = Math.round(canvas.clientWidth * devicePixelRatio);
    if (!image || !side) return;
    if (canvas.width !== side) canvas.width = canvas.height = side;
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    const visible = image.width / this.scale;
    const [left, top] = [this.x, this.y].map((centre) => centre * image.width - visible / 2);
    context.drawImage(image, left, top, visible, visible, 0, 0, side, side);
    canvas.classList.toggle("zoomed", this.scale > 1);
  }
}
