// The drawing pad: pointer (mouse, pen, touch) and keyboard. The ink is kept on a canvas of its
// own, so that what the model sees does not depend on the page's colours.

const PEN = 22;
const KEY_STEP = 10;
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Pad {
  /**
   * @param {HTMLCanvasElement} canvas what is seen
   * @param {() => void} changed called after each change
   */
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    this.ink = new OffscreenCanvas(canvas.width, canvas.height);
    this.pen = this.ink.getContext("2d", { willReadFrequently: true });
    Object.assign(this.pen, { lineWidth: PEN, lineCap: "round", lineJoin: "round" });
    this.cursor = { x: canvas.width / 2, y: canvas.height / 2, down: false, seen: false };
    this.last = null;
    canvas.addEventListener("pointerdown", (event) => this.#press(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, () => (this.last = null));
    }
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => this.#seen(false));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
    this.paint();
  }

  /** Opacity of the ink, 0 to 255, row by row. */
  pixels() {
    const { width, height } = this.ink;
    return this.pen.getImageData(0, 0, width, height).data.filter((_, at) => at % 4 === 3);
  }

  clear() {
    this.pen.clearRect(0, 0, this.ink.width, this.ink.height);
    this.cursor.down = false;
    this.paint();
    this.changed();
  }

  paint() {
    const context = this.canvas.getContext("2d");
    const { width, height } = this.canvas;
    context.clearRect(0, 0, width, height);
    context.drawImage(this.ink, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = getComputedStyle(this.canvas).color;
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "source-over";
    if (this.cursor.seen) {
      context.beginPath();
      context.arc(this.cursor.x, this.cursor.y, PEN / 2, 0, 2 * Math.PI);
      context.lineWidth = this.cursor.down ? 4 : 2;
      context.strokeStyle = context.fillStyle;
      context.stroke();
    }
  }

  #line(from, to) {
    this.pen.beginPath();
    this.pen.moveTo(from.x, from.y);
    this.pen.lineTo(to.x, to.y);
    this.pen.stroke();
    this.paint();
    this.changed();
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * this.canvas.width,
      y: ((event.clientY - box.top) / box.height) * this.canvas.height,
    };
  }

  #press(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.cursor.seen = false;
    this.last = this.#place(event);
    this.#line(this.last, this.last);
  }

  #move(event) {
    if (!this.last) return;
    for (const part of event.getCoalescedEvents?.() ?? [event]) {
      const to = this.#place(part);
      this.#line(this.last, to);
      this.last = to;
    }
  }

  #seen(seen) {
    this.cursor.seen = seen;
    this.paint();
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { cursor, canvas } = this;
    const from = { x: cursor.x, y: cursor.y };
    if (event.key in MOVES) {
      const [dx, dy] = MOVES[event.key];
      cursor.x = Math.min(canvas.width, Math.max(0, cursor.x + dx * KEY_STEP));
      cursor.y = Math.min(canvas.height, Math.max(0, cursor.y + dy * KEY_STEP));
    } else if (event.key === " ") {
      cursor.down = !cursor.down;
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.clear();
    } else {
      return;
    }
    event.preventDefault();
    this.#seen(true);
    if (cursor.down) this.#line(from, cursor);
  }
}
