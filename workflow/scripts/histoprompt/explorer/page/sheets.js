// Pictures, cut from sheets that are fetched and decoded when first one of their pictures comes into view.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const TRAIN = "train";
const KEPT_SHEETS = 40; // decoded ones: 2 MB each at 96 pixels, 4 MB at 128

class Sheets {
  /** `onmissing` is called when a sheet is not where it should be. */
  constructor(onmissing) {
    this.onmissing = onmissing;
    this.sheets = new Map(); // address -> promise of an image; the one used last stands last
  }

  sheet(address) {
    let sheet = this.sheets.get(address);
    this.sheets.delete(address);
    if (!sheet) {
      const image = new Image();
      image.src = address;
      sheet = image.decode().then(() => image);
    }
    this.sheets.set(address, sheet);
    if (this.sheets.size > KEPT_SHEETS) this.sheets.delete(this.sheets.keys().next().value);
    return sheet;
  }

  /** Paint a picture of a set, by its place there, over a whole canvas; at the picture's own size unless another is given. */
  async paint(canvas, set, place, size = data.side) {
    const each = data.sheetColumns ** 2;
    canvas.width = canvas.height = size;
    canvas.dataset.picture = `${set}-${place}`;
    let image;
    try {
      image = await this.sheet(`sheets/${set}-${Math.floor(place / each)}.webp`);
    } catch {
      this.onmissing();
      return;
    }
    if (canvas.dataset.picture !== `${set}-${place}`) return; // it shows another picture by now
    const left = (place % data.sheetColumns) * data.cell + data.margin;
    const top = Math.floor((place % each) / data.sheetColumns) * data.cell + data.margin;
    // Cut out first: an enlargement of a part of the sheet would mix in the neighbours' edges.
    const cut = size === data.side ? canvas : new OffscreenCanvas(data.side, data.side);
    cut.getContext("2d").drawImage(image, -left, -top);
    if (cut !== canvas) {
      const pen = canvas.getContext("2d");
      pen.imageSmoothingQuality = "high";
      pen.drawImage(cut, 0, 0, size, size);
    }
    canvas.dataset.painted = "";
  }

  canvas(set, place, attributes = {}, size = data.side) {
    const canvas = make("canvas", attributes);
    this.paint(canvas, set, place, size);
    return canvas;
  }
}
