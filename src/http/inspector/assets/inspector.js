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
      ...more,
    });
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
