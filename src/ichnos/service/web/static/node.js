// Keeps the pages live (server-sent events), finds in the worklist, and lets the keyboard walk through it.
"use strict";

const list = document.getElementById("worklist");
const find = document.getElementById("find");
const rows = () => [...list.querySelectorAll("tbody tr")];

if (list || document.getElementById("study-live")) {
  const events = new EventSource("/live");
  const renew = () => document.body.dispatchEvent(new Event("node-change"));
  events.addEventListener("change", renew);
  events.addEventListener("hello", renew);  // something may have happened before the stream began
  const said = document.getElementById("live");
  if (said) {
    events.addEventListener("hello", () => { said.textContent = "Live: new studies appear by themselves."; });
    events.addEventListener("error", () => { said.textContent = "Not live: the node does not answer."; });
  }
}

// What is typed to find a patient stays in this browser: it is in no address and in no log.
function narrow() {
  const words = find.value.toLowerCase().split(/\s+/);
  for (const row of rows()) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  }
}
if (find) find.addEventListener("input", narrow);

let focused = null;  // the study whose link has the focus, to be found again in the new table
document.body.addEventListener("htmx:beforeSwap", () => {
  const link = document.activeElement;
  focused = list && list.contains(link) ? link.getAttribute("href") : null;
});
document.body.addEventListener("htmx:afterSwap", () => {
  if (!list) return;
  if (find) narrow();
  const link = focused && list.querySelector(`a[href="${focused}"]`);
  if (link) link.focus();
});

function move(step) {
  const links = rows().filter((row) => !row.hidden).map((row) => row.querySelector("a"));
  const at = links.indexOf(document.activeElement);
  const link = links[at < 0 ? 0 : at + step];
  if (link) link.focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (list && event.key === "j") move(1);
  if (list && event.key === "k") move(-1);
  if (find && event.key === "/") { event.preventDefault(); find.focus(); }
  const marked = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (marked && marked.matches("a, button")) marked.click();
});
