// The order in which a reader sees the images. order.py computes the same; a test compares the two.
"use strict";

/** FNV-1a, 32 bit, of a text's UTF-8 bytes. */
function fnv1a(text) {
  let value = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) value = Math.imul(value ^ byte, 0x01000193);
  return value >>> 0;
}

/** A generator of 32-bit integers. */
function mulberry32(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  };
}

/** The items in a random order; every product stays below 2^53, so it is exact. */
function shuffled(items, draw) {
  const result = [...items];
  for (let last = result.length - 1; last > 0; last--) {
    const other = Math.floor((draw() * (last + 1)) / 2 ** 32);
    [result[last], result[other]] = [result[other], result[last]];
  }
  return result;
}

/** Reader codes are compared without upper case and surrounding spaces. */
function normalised(reader) {
  return reader.trim().toLowerCase();
}

/** What a reader sees, in order: training, blocks, repeats of what was seen early. */
function presentation(study, reader) {
  const draw = mulberry32(fnv1a(`${study.page}:${normalised(reader)}`));
  const blocks = study.blocks.map((block) => [...block].sort());
  const main = shuffled(blocks, draw).flatMap((block) => shuffled(block, draw));
  const seenEarly = main.slice(0, Math.max(study.repeats, Math.floor(main.length / 2)));
  const repeats = shuffled(seenEarly, draw).slice(0, study.repeats);
  return [
    ...study.training.map(({ image }, i) => ({ position: i + 1, image, repeat: false, part: "training" })),
    ...[...main, ...repeats].map((image, i) => ({ position: i + 1, image, repeat: i >= main.length, part: "main" })),
  ];
}
