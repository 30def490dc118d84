// How late events are in a browser: the overview in Chromium, while `cargo xtask bench -- --part browser` makes traffic.
//
// Environment: NETPROBE_URL, the agent's page; NETPROBE_NET, what the addresses of the traffic begin with; CHROMIUM (optional).
// Says `ready`; each line on standard input ends a step and is answered by one line of JSON: events that came, of how many
// the page was told that it missed them, and milliseconds from the end of a connection until the page had dealt with it, of
// one event in eight. Ends with standard input.

import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"],
});
try {
  const page = await browser.newPage({ viewport: { width: 1440, height: 1000 } });
  await page.addInitScript((net) => {
    const fresh = () => ({ came: 0, missed: 0, late: [] });
    let step = fresh();
    window.endStep = () => {
      const ended = step;
      step = fresh();
      return ended;
    };
    const note = (text) => {
      const now = performance.timeOrigin + performance.now();
      if (text.includes('"scope":"client"')) step.missed += JSON.parse(text).gap.count ?? 0;
      if (!text.includes(net) || !text.includes('"state":"closed"')) return;
      step.came += 1;
      if (step.came % 8 !== 0) return;
      const event = JSON.parse(text);
      // Nanoseconds are more than Date reads.
      const [, seconds, fraction] = event.started_at.match(/(.*)\.(\d+)Z$/);
      step.late.push(now - (Date.parse(`${seconds}Z`) + Number(`0.${fraction}`) * 1000 + event.elapsed_ms));
    };
    const Native = window.WebSocket;
    window.WebSocket = class extends Native {
      set onmessage(handler) {
        super.onmessage = handler && ((message) => {
          handler.call(this, message);
          note(message.data);
        });
      }
      get onmessage() {
        return super.onmessage;
      }
    };
  }, process.env.NETPROBE_NET);
  await page.goto(process.env.NETPROBE_URL);
  await page.waitForSelector(".status.live", { timeout: 30_000 });
  console.log("ready");
  for await (const _ of createInterface({ input: process.stdin })) console.log(JSON.stringify(await page.evaluate(() => window.endStep())));
} finally {
  await browser.close();
}
