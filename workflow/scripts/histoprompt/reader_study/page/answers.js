// Answers as CSV (RFC 4180, UTF-8): a row an answer of the main part, each with a checksum of its own.
"use strict";

const COLUMNS = [
  ...["study", "page", "reader", "position", "image", "repeat"],
  ...["answer", "confidence", "diagnosis", "remark", "seconds", "check"],
];

/** CRC-32, as zlib computes it, of a text's UTF-8 bytes: 8 hexadecimal digits. */
function crc32(text) {
  let value = 0xffffffff;
  for (const byte of new TextEncoder().encode(text)) {
    value ^= byte;
    for (let bit = 0; bit < 8; bit++) value = (value >>> 1) ^ (value & 1 ? 0xedb88320 : 0);
  }
  return ((value ^ 0xffffffff) >>> 0).toString(16).padStart(8, "0");
}

/** A field is quoted where it must be. */
function csvField(text) {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** The answers given so far. */
function answersAsCsv(study, session) {
  const rows = [COLUMNS];
  session.order.forEach(({ position, image, repeat, part }, i) => {
    const record = session.records[i];
    if (part !== "main" || !record.done) return;
    const fields = [
      ...[study.study, study.page, session.reader, position, image, repeat ? 1 : 0],
      ...[record.answer, record.confidence, record.diagnosis, record.remark, record.seconds.toFixed(2)],
    ].map(String);
    rows.push([...fields, crc32(fields.join("\u001f"))]);
  });
  return rows.map((row) => row.map(csvField).join(",") + "\r\n").join("");
}
