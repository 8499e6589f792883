// The page of live events. Every text is put in as text, never as HTML.
"use strict";
(function () {
  const state = document.getElementById("live-state");
  if (!state) return;
  const table = document.getElementById("live");
  const body = table.tBodies[0];
  const ROWS = 200;
  const SHOWN = ["at", "on", "event", "peer", "remedy", "reasons", "first", "times", "leg", "direction", "cause", "detail", "layer", "by"];

  function cell(row, label, text, className) {
    const made = row.insertCell();
    made.dataset.label = label;
    const inner = document.createElement("span");
    inner.textContent = text;
    if (className) inner.className = className;
    made.append(inner);
  }

  function printable(text) {
    return String(text).replace(/[\p{C}]/gu, "\uFFFD").slice(0, 400);
  }

  function details(event) {
    const parts = [];
    if (event.direction) parts.push(event.direction === "inbound" ? "from the peer" : "to the peer");
    if (event.cause) parts.push(printable(event.cause) + (event.detail ? " (" + printable(event.detail) + ")" : ""));
    for (const [key, value] of Object.entries(event)) {
      if (SHOWN.includes(key) || value === null || value === "") continue;
      parts.push(key + ": " + printable(typeof value === "object" ? JSON.stringify(value) : value));
    }
    return parts.join(" · ");
  }

  function add(node, time, what, peer, text, className) {
    table.hidden = false;
    const row = body.insertRow(0);
    cell(row, "Node", printable(node));
    if (node) table.classList.add("nodes");
    cell(row, "When", time);
    cell(row, "Event", printable(what), "badge " + className);
    cell(row, "Peer", printable(peer), "name");
    cell(row, "Details", text);
    while (body.rows.length > ROWS) body.deleteRow(-1);
  }

  const source = new EventSource(state.dataset.events);
  source.onopen = function () { state.textContent = "Watching. New events appear at the top."; };
  source.onerror = function () {
    state.textContent = source.readyState === EventSource.CLOSED
      ? "The connection is closed. Load this page again." : "The connection was lost. Trying again…";
  };
  source.addEventListener("event", function (message) {
    const event = JSON.parse(message.data);
    const time = event.at ? new Date(event.at * 1000).toISOString().slice(11, 19) : "";
    const bad = ["refused", "connection failed", "node not heard"].includes(event.event);
    add(event.on || "", time, event.event, event.peer || "–", details(event), bad ? "bad" : "");
  });
  source.addEventListener("end", function () {
    source.close();
    state.textContent = "The session is over, or more pages of yours watch than may. Load this page again.";
  });
  source.addEventListener("missed", function (message) {
    add("", "", "missed", "–", JSON.parse(message.data).events + " events came faster than they could be shown", "warn");
  });
})();
