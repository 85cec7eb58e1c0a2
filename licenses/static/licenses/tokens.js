// Send a form once, and copy a secret. The pages work without this script.
"use strict";

for (const form of document.querySelectorAll("form[data-once]")) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
  });
  // The browser may show the page again as it was.
  addEventListener("pageshow", () => delete form.dataset.sent);
}

const copy = document.getElementById("copy");
// The clipboard needs HTTPS.
if (copy && navigator.clipboard) {
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    const copied = document.getElementById("copied");
    try {
      await navigator.clipboard.writeText(document.getElementById("secret").textContent);
      copied.textContent = "Copied.";
    } catch {
      copied.textContent = "Select it and copy it.";
    }
  });
}
