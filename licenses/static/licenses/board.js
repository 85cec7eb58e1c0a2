// Keeps the board fresh: takes the living part of the page anew from time to
// time, while somebody can see it. Without this the page reloads as a whole.
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

// --- Times: the server writes UTC; people live elsewhere ---------------------

const two = (number) => String(number).padStart(2, "0");
const hour = (time) => `${two(time.getHours())}:${two(time.getMinutes())}`;
const day = (time) => `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`;

function makeLocal(part) {
  for (const element of part.querySelectorAll("time")) {
    const time = new Date(element.dateTime);
    element.textContent = day(time) === day(asOf) ? hour(time) : `${day(time)} ${hour(time)}`;
  }
}

function tellTime() {
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
      // Signed out meanwhile: the whole page leads to where one signs in.
      location.reload();
      return;
    }
    if (!answer.ok) throw new Error(`The server answered ${answer.status}`);
    replace(await answer.text());
    say("");
  } catch {
    say(`The board could not be refreshed; this is how it was at ${hour(asOf)}. It will be tried again.`);
  } finally {
    asking = false;
  }
}

// Told once, not each time that it fails again: it is read aloud.
function say(text) {
  if (failure.textContent !== text) failure.textContent = text;
}

function replace(html) {
  const fresh = new DOMParser().parseFromString(html, "text/html").getElementById("live");
  if (!fresh) throw new Error("The answer has no living part");
  const focused = living().contains(document.activeElement) ? document.activeElement : null;
  asOf = new Date(fresh.dataset.asOf);
  makeLocal(fresh);
  living().replaceWith(fresh);
  tellTime();
  if (focused) (document.getElementById(focused.id) ?? document.getElementById("title")).focus({ preventScroll: true });
}

// Nothing moves away under a pointer that is about to press, or from under a
// text that is being marked; but not for ever.
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

function tellPeriod() {
  document.getElementById("period").textContent = paused ? ", paused" : `, refreshed every ${period / 1000} seconds`;
  pause.textContent = paused ? "Go on" : "Pause";
}

pause.hidden = false;
pause.addEventListener("click", () => {
  paused = !paused;
  tellPeriod();
  tick();
});
document.addEventListener("visibilitychange", tick);
document.getElementById("zone").textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
makeLocal(document);
tellTime();
tellPeriod();
setInterval(tick, 1000);
