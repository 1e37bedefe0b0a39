// A story as a picture: drawn on a canvas, in the colours and the type of the page.

const WIDTH = 1080; // pixels
const MARGIN = 96;
const SIZE = 40;
const LINE = 62;
const BETWEEN = 24; // between paragraphs
const MOST_LINES = 50;
const RIGHT_TO_LEFT = /^[^\p{L}]*[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/u;

/** The PNG of a story as a Blob; `sheet` is where it is shown, and `caption` stands below it. */
export function pictureOf(beginning, text, caption, sheet) {
  const canvas = document.createElement("canvas");
  const style = getComputedStyle(sheet);
  const colour = (selector) => getComputedStyle(sheet.querySelector(selector)).color;
  const colours = {
    ink: style.color,
    paper: style.backgroundColor,
    quiet: colour(".note"),
    beginning: colour(".beginning"),
  };
  const pen = canvas.getContext("2d");
  pen.font = `${SIZE}px ${style.fontFamily}`;
  const lines = cut(linesOf(beginning + text, (piece) => pen.measureText(piece).width, WIDTH - 2 * MARGIN));
  canvas.width = WIDTH;
  canvas.height = 2 * MARGIN + lines.reduce((height, { gap }) => height + LINE + gap, 0) + LINE;
  drawPage(pen, lines, beginning.length, caption, colours, style.fontFamily);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** The lines of a text as {text, start, gap}: where it starts in the text, and the space above it. */
export function linesOf(text, widthOf, width) {
  const lines = [];
  let start = 0;
  for (const paragraph of text.split("\n")) {
    let line = { text: "", start, gap: lines.length ? BETWEEN : 0 };
    for (const word of pieces(paragraph, widthOf, width)) {
      if (line.text && widthOf((line.text + word).trimEnd()) > width) {
        lines.push(line);
        line = { text: "", start: line.start + line.text.length, gap: 0 };
      }
      line.text += word;
    }
    if (line.text.trim()) lines.push(line);
    start += paragraph.length + 1;
  }
  return lines;
}

/** Words with the spaces after them; a word that is wider than a line is cut into letters. */
function pieces(paragraph, widthOf, width) {
  const words = paragraph.match(/^\s+|\S+\s*/g) ?? [];
  return words.flatMap((word) => (widthOf(word.trimEnd()) > width ? [...word] : [word]));
}

/** A long story ends with an ellipsis. */
function cut(lines) {
  if (lines.length <= MOST_LINES) return lines;
  const last = lines[MOST_LINES - 1];
  return [...lines.slice(0, MOST_LINES - 1), { ...last, text: last.text.replace(/\W*\s*\S*\s*$/u, " …") }];
}

function drawPage(pen, lines, boundary, caption, colours, family) {
  const { width, height } = pen.canvas;
  pen.fillStyle = colours.paper;
  pen.fillRect(0, 0, width, height);
  pen.font = `${SIZE}px ${family}`;
  pen.textBaseline = "middle";
  let y = MARGIN - LINE / 2;
  for (const line of lines) {
    y += LINE + line.gap;
    drawLine(pen, line, y, Math.max(0, boundary - line.start), colours);
  }
  pen.font = `italic 26px ${family}`;
  pen.fillStyle = colours.quiet;
  pen.textAlign = "center";
  pen.direction = "ltr";
  pen.fillText(caption, width / 2, height - MARGIN / 2 - 13, width - MARGIN);
}

/** One line; the first `boundary` characters are of the beginning. */
function drawLine(pen, { text }, y, boundary, colours) {
  const backwards = RIGHT_TO_LEFT.test(text);
  pen.direction = backwards ? "rtl" : "ltr";
  pen.textAlign = "start";
  const x = backwards ? WIDTH - MARGIN : MARGIN;
  const given = text.slice(0, boundary);
  const width = pen.measureText(given).width;
  pen.fillStyle = colours.beginning;
  pen.fillText(given, x, y);
  pen.fillStyle = colours.ink;
  pen.fillText(text.slice(boundary), backwards ? x - width : x + width, y);
}
