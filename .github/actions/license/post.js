// At the end of the job: let the keeper return the seats, and show what it said since.
"use strict";

const fs = require("node:fs");
const path = require("node:path");

const folder = process.env.STATE_folder;
if (folder) {
  const code = path.join(folder, "code");
  if (fs.existsSync(path.join(folder, "held.json"))) {
    giveBack(code);
  } else if (!fs.existsSync(code)) {
    // The job ended while it waited for seats: leave the queue.
    try {
      process.kill(Number(process.env.STATE_keeper), "SIGTERM");
    } catch {
      // It has ended.
    }
  }
}

function giveBack(code) {
  fs.writeFileSync(path.join(folder, "end"), "");
  const deadline = Date.now() + 90000;
  const timer = setInterval(() => {
    const over = fs.existsSync(code);
    if (!over && Date.now() < deadline) return;
    clearInterval(timer);
    process.stdout.write(fs.readFileSync(path.join(folder, "log"), "utf8").slice(Number(process.env.STATE_shown || 0)));
    if (!over) console.log("::warning::The seats were not returned in time; they are free when the lease ends.");
    else if (fs.readFileSync(code, "utf8") !== "0") console.log("::warning::The seats were lost before the end of the job.");
    else console.log("The seats are returned.");
  }, 200);
}
