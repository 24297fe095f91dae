// Use the example as a visitor does: draw digits by mouse, touch and keyboard, and read answers.
import { launch } from "./chromium.mjs";

const [, , executable, address, pictures] = process.argv;

// Strokes on the pad, 280 wide.
const DIGITS = {
  0: [circle(140, 140, 55, 85)],
  1: [[[140, 50], [140, 230]]],
  2: [[[80, 95], [95, 65], [140, 50], [185, 70], [190, 110], [160, 150], [85, 225], [205, 225]]],
  3: [[[85, 60], [185, 60], [130, 125], [180, 150], [190, 190], [150, 225], [90, 215]]],
  7: [[[75, 60], [200, 60], [125, 230]]],
};

function circle(x, y, width, height) {
  return Array.from({ length: 33 }, (_, step) => {
    const angle = (step / 16) * Math.PI;
    return [x + width * Math.sin(angle), y - height * Math.cos(angle)];
  });
}

async function answer(page) {
  await page.waitForTimeout(150);
  return page.textContent("#digit");
}

async function byMouse(page, strokes) {
  const box = await page.locator("#pad").boundingBox();
  const scale = box.width / 280;
  for (const stroke of strokes) {
    const points = stroke.map(([x, y]) => [box.x + x * scale, box.y + y * scale]);
    await page.mouse.move(...points[0]);
    await page.mouse.down();
    for (const point of points) await page.mouse.move(...point, { steps: 4 });
    await page.mouse.up();
  }
}

async function byTouch(page, strokes) {
  const devtools = await page.context().newCDPSession(page);
  await page.locator("#pad").scrollIntoViewIfNeeded();
  const box = await page.locator("#pad").boundingBox();
  const scale = box.width / 280;
  const send = (type, points) =>
    devtools.send("Input.dispatchTouchEvent", {
      type,
      touchPoints: points.map(([x, y]) => ({ x: box.x + x * scale, y: box.y + y * scale })),
    });
  for (const stroke of strokes) {
    await send("touchStart", [stroke[0]]);
    for (const point of stroke.slice(1)) await send("touchMove", [point]);
    await send("touchEnd", []);
  }
}

/** A seven: along the top, then down; arrow keys only. */
async function byKeys(page) {
  await page.focus("#pad");
  const press = async (key, times) => {
    for (let i = 0; i < times; i++) await page.keyboard.press(key);
  };
  await press("ArrowLeft", 6);
  await press("ArrowUp", 8);
  await press("Space", 1);
  await press("ArrowRight", 12);
  for (let i = 0; i < 8; i++) {
    await press("ArrowDown", 2);
    await press("ArrowLeft", 1);
  }
  await press("Space", 1);
}

const found = { mouse: {}, errors: [] };
const browser = await launch(executable);

async function open(options) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.on("pageerror", (error) => found.errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && found.errors.push(message.text()));
  await page.goto(address);
  await page.waitForSelector("#status[data-state=ready]", { timeout: 120_000 });
  return page;
}

try {
  const light = await open({ colorScheme: "light", viewport: { width: 900, height: 800 } });
  found.blank = await light.textContent("#digit");
  for (const [digit, strokes] of Object.entries(DIGITS)) {
    await byMouse(light, strokes);
    found.mouse[digit] = await answer(light);
    if (pictures && digit === "3") await light.screenshot({ path: `${pictures}/light.png` });
    await light.click("#clear");
  }
  found.cleared = await answer(light);
  await byKeys(light);
  found.keys = await answer(light);
  if (pictures) await light.screenshot({ path: `${pictures}/keys.png` });
  await light.keyboard.press("Delete");
  found.deleted = await answer(light);
  found.rows = await light.$$eval("tbody tr", (rows) => rows.map((row) => row.innerText));
  found.status = await light.textContent("#status");

  const phone = { colorScheme: "dark", viewport: { width: 360, height: 740 }, hasTouch: true };
  const dark = await open({ ...phone, isMobile: true });
  await byTouch(dark, DIGITS[2]);
  found.touch = await answer(dark);
  found.overflow = await dark.evaluate(
    () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
  );
  if (pictures) await dark.screenshot({ path: `${pictures}/dark.png`, fullPage: true });
} finally {
  await browser.close();
}
console.log(JSON.stringify(found));
