// Keeps the worklist live (server-sent events) and lets the keyboard walk through it.
"use strict";

const list = document.getElementById("worklist");
if (list) {
  const events = new EventSource("/live");
  events.addEventListener("change", () => document.body.dispatchEvent(new Event("node-change")));
}

document.addEventListener("keydown", (event) => {
  if (!list || event.target.matches("input, select, textarea")) return;
  const links = [...list.querySelectorAll("tbody a")];
  const at = links.indexOf(document.activeElement);
  if (event.key === "j" && at < links.length - 1) links[at + 1].focus();
  if (event.key === "k" && at > 0) links[at - 1].focus();
});
