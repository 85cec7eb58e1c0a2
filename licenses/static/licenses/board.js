// Refresh the board: load the live part of the page again while the page is
// visible. Without this script the whole page reloads.
"use strict";

const freshness = document.getElementById("freshness");
const failure = document.getElementById("failure");
const pause = document.getElementById("pause");
const news = document.getElementById("news");
const period = Number(freshness.dataset.seconds) * 1000;

let paused = false;
let asking = false;
let lastTried = Date.now();
let asOf = new Date(living().dataset.asOf);
// The page that the live part is of, and the tag of what is shown of it.
let address = new URL(freshness.dataset.address, location.href).href;
let tag = null;
const title = document.title;

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
  element.dateTime = asOf.toISOString();
  element.textContent = `${hour(asOf)}:${two(asOf.getSeconds())}`;
}

// --- Refreshing ---------------------------------------------------------------

async function refresh() {
  asking = true;
  lastTried = Date.now();
  const asked = address;
  try {
    const answer = await fetch(asked, {
      headers: tag ? { "X-Refresh": "1", "If-None-Match": tag } : { "X-Refresh": "1" },
      cache: "no-store",
      signal: AbortSignal.timeout(10000),
    });
    if (answer.redirected) {
      // The user is signed out: reload the page, which leads to the sign-in.
      location.reload();
      return;
    }
    if (answer.status === 304) {
      asOf = new Date(answer.headers.get("Date") ?? Date.now());
      showTime();
    } else {
      if (!answer.ok) throw new Error(`The server answered ${answer.status}`);
      const html = await answer.text();
      if (asked !== address) return;
      replace(html);
      tag = answer.headers.get("ETag");
    }
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
  tellOffers();
  if (focused) (document.getElementById(focused.id) ?? document.getElementById("title")).focus({ preventScroll: true });
}

// Tell in the title of the page, and to a screen reader, that a seat is there.
function tellOffers() {
  const offers = [...document.querySelectorAll("[data-offer] > p")].map((offer) => offer.textContent.trim());
  const told = offers.join(" ");
  document.title = offers.length ? `Your seat is there – ${title}` : title;
  if (news.textContent !== told) news.textContent = told;
}

// Show or hide the details of a tool without leaving the page.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a.toggle");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey || asking) return;
  event.preventDefault();
  address = new URL(link.href.split("#")[0]).href;
  history.replaceState(null, "", address);
  tag = null;
  refresh();
});

for (const button of document.querySelectorAll("button.copy")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copies).textContent);
    button.textContent = "Copied";
    news.textContent = "Copied";
  });
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
tellOffers();
showPeriod();
setInterval(tick, 1000);
