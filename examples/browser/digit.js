// A drawing as the model knows digits: MNIST's 28 x 28, the ink's box scaled to 20 pixels and its
// centre of mass in the middle, values from 0 to 1.

const SIDE = 28;
const BOX = 20;

/**
 * @param {Uint8ClampedArray} ink opacity 0 to 255, row by row
 * @param {number} width pixels per row
 * @returns {Float32Array | null} 784 values, or null if nothing is drawn
 */
export function toDigit(ink, width) {
  let [left, right, top, bottom] = [Infinity, -1, Infinity, -1];
  let [mass, sumX, sumY] = [0, 0, 0];
  for (let at = 0; at < ink.length; at++) {
    if (!ink[at]) continue;
    const [x, y] = [at % width, Math.floor(at / width)];
    left = Math.min(left, x);
    right = Math.max(right, x);
    top = Math.min(top, y);
    bottom = Math.max(bottom, y);
    mass += ink[at];
    sumX += ink[at] * (x + 0.5);
    sumY += ink[at] * (y + 0.5);
  }
  if (!mass) return null;
  const scale = BOX / Math.max(right - left + 1, bottom - top + 1, BOX);
  const digit = new Float32Array(SIDE * SIDE);
  for (let y = top; y <= bottom; y++) {
    for (let x = left; x <= right; x++) {
      const value = ink[y * width + x];
      if (!value) continue;
      const column = (x + 0.5 - sumX / mass) * scale + SIDE / 2 - 0.5;
      const row = (y + 0.5 - sumY / mass) * scale + SIDE / 2 - 0.5;
      spread(digit, column, row, (value / 255) * scale * scale);
    }
  }
  return digit.map((value) => Math.min(1, value));
}

/** Share a value among the four pixels around a point. */
function spread(digit, column, row, value) {
  const [x, y] = [Math.floor(column), Math.floor(row)];
  for (const [dx, dy] of [[0, 0], [1, 0], [0, 1], [1, 1]]) {
    const [px, py] = [x + dx, y + dy];
    if (px < 0 || py < 0 || px >= SIDE || py >= SIDE) continue;
    const share = (1 - Math.abs(column - px)) * (1 - Math.abs(row - py));
    digit[py * SIDE + px] += value * share;
  }
}
