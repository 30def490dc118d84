// Drives the real page in Chromium against a real agent with real traffic, through a restart of the agent.
//
// Environment: NETPROBE_BIN, the agent; NETPROBE_TRAFFIC, a command that makes one connection through NAT, which the
// map and the flow feed must show; NETPROBE_TRAFFIC_SERVICE, its command name; NETPROBE_TRAFFIC_PORT, the port it dials:
// the agent is told to look at that and the ports of this test only, whatever else the host does; NETPROBE_PICTURES, a
// folder for screenshots (optional); CHROMIUM (optional). Ends with 1 and one sentence on the first thing that is not as it
// should be.

import { createHash } from "node:crypto";
import { execFileSync, spawn } from "node:child_process";
import { createServer as createWeb, get } from "node:http";
import { mkdtempSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const PATIENCE = 30_000;
const traffic = process.env.NETPROBE_TRAFFIC;
const service = process.env.NETPROBE_TRAFFIC_SERVICE;
const pictures = process.env.NETPROBE_PICTURES;
const folder = mkdtempSync(join(tmpdir(), "netprobe-browser-"));
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

function expect(holds, sentence) {
  if (!holds) throw new Error(sentence);
}

const makeTraffic = () => execFileSync("sh", ["-c", traffic], { stdio: "ignore", timeout: PATIENCE });

function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

const [port, closed, busy, web] = [await freePort(), await freePort(), await freePort(), await freePort()];
const config = join(folder, "netprobe.toml");
const extra = process.env.NETPROBE_CONFIG_EXTRA ?? "";
/** Writes the agent's configuration, with more lines for the API. */
function configure(api = "") {
  writeFileSync(config, `[api]\nlisten = "127.0.0.1:${port}"\nsocket = "${folder}/api.sock"\nrecent_events = 2000\n${api}` +
    `[probe]\nports_only = [${process.env.NETPROBE_TRAFFIC_PORT}, ${closed}, ${busy}, ${web}]\n[stream]\nping_every = "1s"\n` +
    `[archive]\nurl = "file://${folder}/archive"\nspool = "${folder}/spool"\nseal_after = "500ms"\n${extra}`);
}
configure();

let agent;
async function startAgent() {
  agent = spawn(process.env.NETPROBE_BIN, ["run", "--config", config], { stdio: ["ignore", "ignore", "inherit"] });
  const begin = Date.now();
  while (Date.now() - begin < PATIENCE) {
    const ready = await fetch(`http://127.0.0.1:${port}/health/ready`).then((answer) => answer.ok, () => false);
    if (ready) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error("the agent did not become ready");
}
function stopAgent(signal = "SIGTERM") {
  return new Promise((resolve) => {
    agent.once("exit", resolve);
    agent.kill(signal);
  });
}

/** A picture for the documents, without what was said before. */
async function picture(page, name) {
  if (pictures === undefined) return;
  const seen = page.locator(".notice:not([hidden]) button");
  if (!name.startsWith("agent") && (await seen.count()) > 0) await seen.click();
  mkdirSync(pictures, { recursive: true });
  await page.screenshot({ path: join(pictures, `${name}.png`) });
}

async function accessible(page, where) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const told = violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.target).join(" ")}`);
  expect(told.length === 0, `${where} has accessibility violations: ${told.join("; ")}`);
}

const go = async (page, name) => {
  await page.click(`nav >> text=${name}`);
  await page.waitForSelector("main .panel", { timeout: PATIENCE });
};

/** Types a filter as a reader does, and waits until its stream is there. */
async function filterBy(page, text) {
  await page.keyboard.press("Escape");
  await page.keyboard.press("/");
  await page.fill("#filter", text);
  await page.keyboard.press("Enter");
  const has = (wanted) => location.hash.includes("f=") === wanted;
  await page.waitForFunction(has, text !== "", { timeout: PATIENCE });
  await page.waitForSelector(".status.live", { timeout: PATIENCE });
}

// Something to draw: connections of every length, twenty a second, while the browser looks.
const server = createServer((socket) => socket.on("error", () => {}).pipe(socket)).listen(busy, "127.0.0.1");
const ticker = setInterval(() => {
  const socket = connect(busy, "127.0.0.1", () => socket.end("x".repeat(Math.floor(Math.random() * 20_000))));
  socket.on("error", () => {}).resume();
}, 50);

// And requests: orders take their time, one in ten is not there, one in twenty fails.
const shop = createWeb((request, response) => {
  const chance = Math.random();
  response.statusCode = request.url.startsWith("/api/orders") ? (chance < 0.05 ? 503 : chance < 0.15 ? 404 : 200) : 200;
  setTimeout(() => response.end("y".repeat(2000)), request.url.startsWith("/api/orders") ? 5 + chance * 60 : 0);
}).listen(web, "127.0.0.1");
const customer = setInterval(() => {
  for (const path of [`/api/orders/${Math.floor(1e6 * Math.random())}`, "/healthz"])
    get({ host: "127.0.0.1", port: web, path, agent: false }, (answer) => answer.resume()).on("error", () => {});
}, 200);

let browser;
let failed = false;
try {
  await startAgent();
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    // It shall talk to the agent and to nobody else.
    args: [
      "--no-sandbox",
      "--disable-dev-shm-usage",
      "--disable-background-networking",
      "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ],
  });
  const page = await browser.newPage({ viewport: { width: 1440, height: 1000 }, colorScheme: "light" });
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  const foreign = [];
  page.on("request", (request) => request.url().includes(`127.0.0.1:${port}`) || foreign.push(request.url()));

  const loaded = [];
  page.on("requestfinished", (request) => loaded.push(request.sizes().catch(() => ({ responseBodySize: 0 }))));
  await page.goto(`http://127.0.0.1:${port}/`);
  await page.waitForSelector(".chart canvas", { timeout: PATIENCE });
  const first = await page.evaluate(() => performance.now());
  const weight = (await Promise.all(loaded)).reduce((sum, { responseBodySize }) => sum + responseBodySize, 0);
  console.log(`browser: first chart after ${first.toFixed(0)} ms, ${loaded.length} files and answers of ${(weight / 1024).toFixed(0)} KiB until then`);
  await page.waitForSelector(".status.live", { timeout: PATIENCE });

  // A connection through NAT is seen, with both addresses, while the reader looks. The host may be busy with others.
  await go(page, "Events");
  await filterBy(page, `service==${service}`);
  const begin = Date.now();
  makeTraffic();
  await page.waitForSelector(`tr:has-text("${service}") >> text=tcp closed`, { timeout: PATIENCE });
  console.log(`browser: shown ${Date.now() - begin} ms after the command began`);
  await picture(page, "events");
  await accessible(page, "Events");
  // Who opens the page afterwards sees it as well.
  await page.reload();
  await page.waitForSelector(`tr:has-text("${service}") >> text=tcp closed`, { timeout: PATIENCE });

  await page.click(`tr:has-text("${service}") >> text=tcp closed`);
  await page.waitForSelector("svg.life", { timeout: PATIENCE });
  expect((await page.textContent("main")).includes("snat+dnat"), "the connection's page does not show its translation");
  await picture(page, "connection");
  await accessible(page, "a connection");

  expect((await page.textContent(".life title")).includes("first byte of the answer"), "the life line has no first byte");
  await page.waitForSelector("main svg.waterfall rect.wait", { timeout: PATIENCE });

  // A request of curl to nginx is there with where its time went, within two seconds. The host may be busy with others.
  await go(page, "Requests");
  const drawn = `tbody tr:has-text("${service}"):has-text("GET /file"):has(rect.connect):has(rect.wait)`;
  let took = Infinity;
  for (let round = 0; round < 5 && took > 2000; round += 1) {
    const before = await page.locator(drawn).count();
    const begin = Date.now();
    makeTraffic();
    while ((await page.locator(drawn).count()) === before) {
      expect(Date.now() - begin < PATIENCE, "a request of curl is not shown with its connect and its wait");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    took = Date.now() - begin;
  }
  expect(took <= 2000, `a request is shown ${took} ms after its command began`);
  console.log(`browser: a request with its waterfall is shown ${took} ms after the command began`);
  await filterBy(page, "");
  await page.waitForSelector('tbody tr.error:has-text("/api/orders/:id")', { timeout: PATIENCE });
  await page.waitForSelector("tbody tr:nth-child(n + 20):has(rect.connect)", { timeout: PATIENCE });
  await picture(page, "requests");
  await accessible(page, "Requests");
  // Severity and route beside the filter: the agent leaves out the rest.
  const others = (row) => page.waitForSelector(`tbody:not(:has(${row})):has(tr:has-text("/api/orders"))`, { timeout: PATIENCE });
  await page.selectOption('select[aria-label="Severity"]', "error");
  await others("tr:not(.error)");
  await page.selectOption('select[aria-label="Severity"]', "");
  await page.fill(".route", "/api/orders/*");
  await page.keyboard.press("Enter");
  await others('tr:has-text("/healthz")');
  await page.fill(".route", "");
  await page.keyboard.press("Enter");
  await page.waitForSelector('tbody tr:has-text("/healthz")', { timeout: PATIENCE });

  await filterBy(page, `service==${service}`);
  for (let round = 0; round < 5; round += 1) makeTraffic();
  await go(page, "Map");
  await page.waitForSelector(`svg .name:has-text("${service}")`, { timeout: PATIENCE });
  await page.waitForSelector('svg .step-text:has-text("snat+dnat")', { timeout: PATIENCE });
  await picture(page, "map");
  await accessible(page, "Map");

  // Connections that stay open, so that there are some to list.
  const holders = Array.from({ length: 5 }, (_, index) => {
    const socket = connect(busy, "127.0.0.1", () => socket.write("x".repeat(1000 * (index + 1))));
    return socket;
  });
  await filterBy(page, "");
  await go(page, "Flows");
  // They stand still: what they moved shows all the same.
  await page.waitForSelector('tbody td:text-is("4.9 KiB")', { timeout: PATIENCE });
  await picture(page, "flows");
  await accessible(page, "Flows");
  for (const socket of holders) socket.destroy();

  await go(page, "Probe");
  await page.waitForSelector("text=net_dev_queue", { timeout: PATIENCE });
  // What nobody asked for is told, and no cause for alarm.
  const tls = page.locator('tbody tr:has(td:text-is("tls"))');
  const [look, said] = [await tls.getAttribute("class"), await tls.innerText()];
  expect(look === "" && said.includes("switched off"), `the fact that is switched off looks like "${look}" and says: ${said}`);
  await picture(page, "probe");
  await accessible(page, "Probe");

  // The history reads the archive, by service.
  await go(page, "History");
  await page.fill('input[aria-label="Service"]', service);
  const begun = Date.now();
  for (;;) {
    await page.click('button:has-text("Load")');
    const found = await page.waitForSelector(`tbody td:has-text("${service}")`, { timeout: 2000 }).catch(() => null);
    if (found !== null) break;
    expect(Date.now() - begun < PATIENCE, "the history does not show what was archived");
  }
  await picture(page, "history");
  await accessible(page, "History");

  // A destination that refuses is failing, by the agent's own judgement.
  for (let round = 0; round < 6; round += 1) await fetch(`http://127.0.0.1:${closed}/`).catch(() => {});
  await go(page, "Overview");
  for (const begun = Date.now(); ; ) {
    // A host under load may need another question.
    const state = await fetch(`http://127.0.0.1:${port}/resilience/state`).then((answer) => answer.json());
    if (state.destinations?.find((one) => one.peer === `127.0.0.1:${closed}`)?.state === "failing") break;
    expect(Date.now() - begun < PATIENCE, `a destination that refuses is not failing: ${JSON.stringify(state).slice(0, 300)}`);
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  // The host may have more of them: the worst come first.
  await page.waitForSelector('section:has(h2:text-is("States")) tbody tr:first-child >> text=failing', { timeout: PATIENCE });
  // And it is an incident, when the archive has it.
  await filterBy(page, `port==${closed}`);
  await go(page, "Incidents");
  const sought = Date.now();
  for (;;) {
    await page.click('button:has-text("Load")');
    const found = await page.waitForSelector(`figcaption:has-text("127.0.0.1:${closed}")`, { timeout: 2000 }).catch(() => null);
    if (found !== null) break;
    expect(Date.now() - sought < PATIENCE, "connects that are refused are no incident");
  }
  const causes = 'section:has(caption:text-is("Causes, in the order in which they were seen")) tbody';
  const [cause, , symptoms] = await page.locator(`${causes} >> nth=0 >> td`).allInnerTexts();
  expect(cause === "refused" && Number(symptoms) >= 6, `six connects were refused, the page tells of ${symptoms} × ${cause}`);
  await page.waitForSelector("svg.slots rect.bad", { timeout: PATIENCE });
  await picture(page, "incidents");
  await accessible(page, "Incidents");
  await filterBy(page, "");
  await go(page, "Overview");
  makeTraffic();
  const byRoute = 'section:has(h2:text-is("Requests by route")) tbody';
  await page.waitForSelector(`${byRoute} tr:first-child:has-text("/api/orders/:id")`, { timeout: PATIENCE });
  await page.waitForSelector("tbody tr:not(:has(.nothing))", { timeout: PATIENCE });
  await picture(page, "overview");
  await accessible(page, "Overview");
  await page.click("text=Theme");
  await page.waitForSelector('section:has(h2:text-is("States")) tbody tr:not(:has(.nothing))', { timeout: PATIENCE });
  await picture(page, "overview-dark");
  await accessible(page, "Overview, dark");

  // Filters: an error names its column and changes nothing; a good one filters at the server.
  await page.keyboard.press("/");
  await page.keyboard.type("port=notaport");
  await page.keyboard.press("Enter");
  await page.waitForSelector('.wrong:has-text("column")', { timeout: PATIENCE });
  complaints.length = 0; // The refused request is a line in the console, as it should be.
  await filterBy(page, `service!=${service}`);
  await go(page, "Events");
  makeTraffic();
  await page.waitForSelector("tbody tr:not(:has(.nothing))", { timeout: PATIENCE });
  const shown = await page.textContent("tbody");
  expect(!shown.includes(`${service}`), "the filter let through what it excludes");
  await filterBy(page, `service==${service}`);

  // What matches of what came before is there at once.
  await page.waitForSelector(`tr:has-text("${service}") >> text=tcp closed`, { timeout: PATIENCE });

  // The agent is killed under the page and started again: it says so, comes back, and says that runs changed.
  await stopAgent("SIGKILL");
  await page.waitForSelector(".status.waiting", { timeout: PATIENCE });
  await picture(page, "agent-gone");
  await startAgent();
  await page.waitForSelector(".status.live", { timeout: PATIENCE });
  await page.waitForSelector(".notice >> text=The agent was restarted", { timeout: PATIENCE });
  // New ones stand above the gaps of the stream and of the agent.
  await page.waitForSelector('tbody tr:has-text("run_changed")', { timeout: PATIENCE });
  makeTraffic();
  await page.waitForSelector(`tr:first-child:has-text("${service}") >> text=tcp closed`, { timeout: PATIENCE });
  await picture(page, "agent-restarted");

  // An agent that wants a token: the page asks for it, and asks again when it is taken away under an open stream.
  const secret = "npt_browser";
  const hash = createHash("sha256").update(secret).digest("hex");
  await stopAgent();
  configure(`anonymous = "none"\ntokens = { page = "reader:${hash}" }\n`);
  await startAgent();
  await page.waitForSelector("form.login:not([hidden])", { timeout: PATIENCE });
  await page.fill('input[aria-label="Token"]', secret);
  await page.keyboard.press("Enter");
  await page.waitForSelector(".status.live", { timeout: PATIENCE });
  expect(await page.locator("form.login").isHidden(), "the page asks for a token it has");
  configure('anonymous = "none"\n');
  agent.kill("SIGHUP");
  await page.waitForSelector("form.login:not([hidden])", { timeout: PATIENCE });
  await page.waitForSelector('.status:has-text("trying again")', { timeout: PATIENCE });

  const harmless = ["WebSocket", "ERR_CONNECTION", "400", "401"];
  const real = complaints.filter((text) => !harmless.some((word) => text.includes(word)));
  expect(real.length === 0, `the page complains: ${real.join("; ")}`);
  expect(foreign.length === 0, `the page asks elsewhere: ${foreign.join(", ")}`);
  console.log("browser: ok");
} catch (error) {
  failed = true;
  console.error(`browser: ${error.message}`);
} finally {
  clearInterval(ticker);
  clearInterval(customer);
  server.close();
  shop.close();
  shop.closeAllConnections();
  await browser?.close();
  if (agent?.exitCode === null) await stopAgent();
  rmSync(folder, { recursive: true, force: true });
}
process.exitCode = failed ? 1 : 0;
