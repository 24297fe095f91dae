// Open a page in headless Chromium, wait for window.found, and print it.
import { launch } from "./chromium.mjs";

const [, , executable, address] = process.argv;
const browser = await launch(executable);
const errors = [];
try {
  const page = await browser.newPage();
  page.on("pageerror", (error) => errors.push(String(error)));
  await page.goto(address);
  await page.waitForFunction(() => window.found, null, { timeout: 120_000 });
  console.log(JSON.stringify({ found: await page.evaluate(() => window.found), errors }));
} finally {
  await browser.close();
}
