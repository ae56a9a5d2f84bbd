"use strict";

// Live progress: while a batch is not complete, its piece of the page is asked for again and put in place of the old one.
const look = async () => {
  const shown = document.querySelector("[data-live]");
  if (!shown) return;
  if (!document.hidden) {
    try {
      const answer = await fetch(shown.dataset.live);
      // Whoever may no longer look, or whose batch is gone, need not ask again; a daemon that is starting says 503.
      if (answer.status >= 400 && answer.status < 500) return;
      if (!answer.ok) throw new Error(answer.statusText);
      const piece = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("#progress");
      // Whoever is at a link in the old piece stays at the same place in the new one.
      const links = [...shown.querySelectorAll("a")];
      const at = links.indexOf(document.activeElement);
      const href = at < 0 ? null : links[at].getAttribute("href");
      shown.replaceWith(piece);
      if (href !== null) [...piece.querySelectorAll("a")].find(it => it.getAttribute("href") === href)?.focus();
      const news = document.querySelector("#news");
      if (news.textContent !== piece.dataset.news) news.textContent = piece.dataset.news;
    } catch {
      // The daemon may be away for a moment: the next look tells.
    }
  }
  setTimeout(look, 400);
};
look();

// Times that were near when they were written: how long ago they are now.
const UNITS = [[86400, "day", "d"], [3600, "hour", "h"], [60, "minute", "min"], [1, "second", "s"]];
const ago = (at, short) => {
  const seconds = Math.floor((Date.now() - new Date(at)) / 1000);
  if (seconds < 1) return "now";
  const [span, long, brief] = UNITS.find(([span]) => seconds >= span);
  const count = Math.floor(seconds / span);
  return short ? `${count} ${brief} ago` : `${count} ${long}${count === 1 ? "" : "s"} ago`;
};
setInterval(() => {
  for (const time of document.querySelectorAll("time[data-tick]")) {
    const now = ago(time.dateTime, time.dataset.tick === "short");
    if (time.textContent !== now) time.textContent = now;
  }
}, 1000);

// A visitor for programs: copied, or selected where the browser lets no page copy.
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const text = document.getElementById(button.dataset.copy);
    const said = document.querySelector("[data-copied]");
    try {
      await navigator.clipboard.writeText(text.textContent);
      said.textContent = "Copied.";
    } catch {
      text.closest("details").open = true;
      getSelection().selectAllChildren(text);
      said.textContent = "This browser does not let a page copy: the text is selected below.";
    }
  });
}

// Calls as they come in: the daemon sends a row for each. While the page is paused they wait here.
const live = document.querySelector("[data-rows]");
if (live) {
  const MOST = 500;
  const table = live.querySelector("table");
  const body = live.querySelector("[data-calls]");
  const none = live.querySelector("[data-none]");
  const said = live.querySelector("[data-said]");
  const pause = live.querySelector("[data-pause]");
  let waiting = [];
  let paused = false;
  let heard = 0;
  let missed = 0;
  let state = "";

  const say = () => {
    const calls = `${heard} ${heard === 1 ? "call" : "calls"}`;
    const more = missed ? `, ${missed} more came too fast to be shown` : "";
    const text = `${state}${heard || missed ? ` ${calls}${more}.` : ""}`;
    if (said.textContent !== text) said.textContent = text;
    pause.textContent = paused ? `Go on${waiting.length ? ` (${waiting.length} waiting)` : ""}` : "Pause";
  };
  const show = rows => {
    // Whoever has a row open, or the focus in it, keeps it: only new rows come in above.
    for (const row of rows) {
      const made = document.createElement("tbody");
      made.innerHTML = row;
      body.prepend(...made.children);
    }
    while (body.children.length > MOST) body.lastElementChild.remove();
    const any = body.children.length > 0;
    table.hidden = !any;
    none.hidden = any;
    say();
  };
  const events = new EventSource(live.dataset.rows);
  const enter = text => { state = text; say(); };
  // Rows come in at the pace of the screen, however many calls there are.
  let arriving = [];
  const settle = () => {
    const rows = arriving.splice(0).slice(-MOST);
    if (paused) waiting = [...waiting, ...rows].slice(-MOST);
    else show(rows);
    say();
  };
  events.addEventListener("listening", () => enter("Listening."));
  events.addEventListener("missed", event => { missed += Number(event.data); say(); });
  events.addEventListener("call", event => {
    heard += 1;
    if (arriving.push(event.data) === 1) setTimeout(settle, 50);
  });
  events.addEventListener("error", () => enter(events.readyState === EventSource.CLOSED
    ? "The daemon does not let this page listen any more: load it again." : "The daemon is away. This page tries again by itself."));
  pause.addEventListener("click", () => {
    paused = !paused;
    enter(paused ? "Paused." : "Listening.");
    if (!paused) show(waiting.splice(0));
  });
  live.querySelector("[data-clear]").addEventListener("click", () => {
    body.replaceChildren();
    waiting = [];
    heard = missed = 0;
    show([]);
  });
}

// Uploads: a file is tried out as soon as it is there, and sent in earnest when the button in the report is pressed.
const panel = document.querySelector("[data-upload]");
if (panel) {
  const input = panel.querySelector("#file");
  const said = panel.querySelector("[data-said]");
  const report = panel.querySelector("[data-trial]");
  const encodings = { gz: "gzip", zst: "zstd" };
  let file = null;
  let turn = 0;

  const post = (sent, more, headers) => {
    const asOf = panel.querySelector("#as-of").value;
    const query = new URLSearchParams({
      client: panel.dataset.client,
      version: panel.querySelector("#version").value,
      emptyValues: panel.querySelector("#empty").value,
      asOf: asOf && new Date(asOf).toISOString(),
      name: [...sent.name.replace(/\p{Cc}/gu, "").trim()].slice(0, 128).join("").trim(),
      ...more,
    });
    if (!query.get("name")) query.delete("name");
    const encoding = encodings[sent.name.split(".").pop().toLowerCase()];
    if (encoding) headers = { ...headers, "Content-Encoding": encoding };
    headers = { ...headers, "Content-Type": "text/csv" };
    return fetch(`${panel.dataset.upload}?${query}`, { method: "POST", body: sent, headers });
  };

  const refusal = async answer => {
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    page.querySelector(".message .code")?.remove();
    return page.querySelector(".message")?.textContent.trim() ?? `The daemon answered ${answer.status}.`;
  };

  const tryOut = async () => {
    if (!file) return;
    const mine = ++turn;
    report.replaceChildren();
    said.classList.remove("bad");
    said.textContent = `Trying ${file.name} out…`;
    try {
      const answer = await post(file, { dryRun: "true" }, {});
      if (mine !== turn) return;
      if (!answer.ok) {
        said.textContent = `${file.name} would be refused: ${await refusal(answer)}`;
        said.classList.add("bad");
        return;
      }
      const piece = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector(".trial");
      report.replaceChildren(piece);
      said.textContent = `${file.name} was tried out.`;
      report.querySelector("#trial").focus();
    } catch (error) {
      said.textContent = `${file.name} could not be sent: ${error.message}`;
      said.classList.add("bad");
    }
  };

  const send = async button => {
    button.disabled = true;
    said.textContent = `Sending ${file.name}…`;
    // The same key for a second try: what was taken once is not taken twice.
    button.dataset.key ||= [...crypto.getRandomValues(new Uint8Array(16))].map(it => it.toString(16).padStart(2, "0")).join("");
    try {
      const answer = await post(file, {}, { "Idempotency-Key": button.dataset.key });
      if (answer.status === 201) {
        location.assign(answer.headers.get("Location"));
        return;
      }
      said.textContent = `${file.name} was refused: ${await refusal(answer)}`;
    } catch (error) {
      said.textContent = `${file.name} could not be sent: ${error.message}`;
    }
    said.classList.add("bad");
    button.disabled = false;
  };

  const take = files => {
    if (files.length !== 1) {
      said.textContent = "One file at a time.";
      return;
    }
    file = files[0];
    tryOut();
  };

  input.addEventListener("change", () => input.files.length && take(input.files));
  for (const id of ["#version", "#empty", "#as-of"]) panel.querySelector(id).addEventListener("change", tryOut);
  report.addEventListener("click", event => {
    const button = event.target.closest("[data-send]");
    if (button) send(button);
  });
  const over = on => panel.classList.toggle("over", on);
  document.addEventListener("dragover", event => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    over(true);
  });
  document.addEventListener("dragleave", event => event.relatedTarget || over(false));
  document.addEventListener("drop", event => {
    over(false);
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    take(event.dataTransfer.files);
  });
}
