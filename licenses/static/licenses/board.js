// Refresh the board: load the live part of the page again while the page is
// visible. Without this script the whole page reloads.
"use strict";

const freshness = document.getElementById("freshness");
const failure = document.getElementById("failure");
const pause = document.getElementById("pause");
const period = Number(freshness.dataset.seconds) * 1000;

let paused = false;
let asking = false;
let lastTried = Date.now();
let asOf = new Date(living().dataset.asOf);

function living() {
  return document.getElementById("live");
}

// --- Times: the server writes UTC, the page shows local time -----------------

const two = (number) => String(number).padStart(2, "0");
const hour = (time) => `${two(time.getHours())}:${two(time.getMinutes())}`;
const day = (time) => `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`;

function makeLocal(part) {
  for (const element of part.querySelectorAll("time")) {
    const time = new Date(element.dateTime);
    element.textContent = day(time) === day(asOf) ? hour(time) : `${day(time)} ${hour(time)}`;
  }
}

function showTime() {
  const element = document.getElementById("as-of");
  element.dateTime = living().dataset.asOf;
  element.textContent = `${hour(asOf)}:${two(asOf.getSeconds())}`;
}

// --- Refreshing ---------------------------------------------------------------

async function refresh() {
  asking = true;
  lastTried = Date.now();
  try {
    const answer = await fetch(location.href, {
      headers: { "X-Refresh": "1" },
      cache: "no-store",
      signal: AbortSignal.timeout(10000),
    });
    if (answer.redirected) {
      // The user is signed out: reload the page, which leads to the sign-in.
      location.reload();
      return;
    }
    if (!answer.ok) throw new Error(`The server answered ${answer.status}`);
    replace(await answer.text());
    say("");
  } catch {
    say(`The board can't be refreshed. It shows the state of ${hour(asOf)}. It will try again.`);
  } finally {
    asking = false;
  }
}

// Write a message only once, because screen readers read each change aloud.
function say(text) {
  if (failure.textContent !== text) failure.textContent = text;
}

function replace(html) {
  const fresh = new DOMParser().parseFromString(html, "text/html").getElementById("live");
  if (!fresh) throw new Error("The answer has no live part");
  const focused = living().contains(document.activeElement) ? document.activeElement : null;
  asOf = new Date(fresh.dataset.asOf);
  makeLocal(fresh);
  living().replaceWith(fresh);
  showTime();
  if (focused) (document.getElementById(focused.id) ?? document.getElementById("title")).focus({ preventScroll: true });
}

// Keep the page still under a button that the user is about to press or a text
// that the user selects, but not for longer than four periods.
function isInUse() {
  const marked = getSelection();
  return (
    living().querySelector("button:hover, button:active") !== null ||
    (!marked.isCollapsed && living().contains(marked.anchorNode))
  );
}

function tick() {
  const since = Date.now() - lastTried;
  const due = since >= period && (since >= 4 * period || !isInUse());
  if (due && !paused && !asking && !document.hidden) refresh();
}

function showPeriod() {
  document.getElementById("period").textContent = paused ? ", paused" : `, refreshed every ${period / 1000} seconds`;
  pause.textContent = paused ? "Resume" : "Pause";
}

pause.hidden = false;
pause.addEventListener("click", () => {
  paused = !paused;
  showPeriod();
  tick();
});
document.addEventListener("visibilitychange", tick);
document.getElementById("zone").textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
makeLocal(document);
showTime();
showPeriod();
setInterval(tick, 1000);
