// At the end of the job: let the keeper return the seats, and show what it said.
"use strict";

const fs = require("node:fs");
const path = require("node:path");

const folder = process.env.STATE_folder;
if (folder) {
  fs.writeFileSync(path.join(folder, "end"), "");
  const log = path.join(folder, "log");
  const code = path.join(folder, "code");
  const deadline = Date.now() + 90000;
  const timer = setInterval(() => {
    const over = fs.existsSync(code);
    if (!over && Date.now() < deadline) return;
    clearInterval(timer);
    process.stdout.write(fs.readFileSync(log, "utf8"));
    if (!over) console.log("::warning::The seats were not returned in time; they are free when the lease ends.");
    else if (fs.readFileSync(code, "utf8") !== "0") console.log("::warning::The seats were lost before the end of the job.");
    else console.log("The seats are returned.");
  }, 200);
}
