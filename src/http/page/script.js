// What is live: everything here can be done without it, too. It makes no markup of texts: it moves what the server has rendered.
"use strict";

// The login: a code behind the # of the address never reaches a server by itself. It is put into the form, taken out of the history, and posted.
function login() {
  const form = document.querySelector("form[data-login]");
  const code = location.hash.slice(1);
  if (!form || !/^[0-9a-zA-Z-]{16,}$/.test(code)) return;
  history.replaceState(null, "", location.pathname + location.search);
  form.elements.secret.value = code;
  form.requestSubmit();
}

// Times are rendered in UTC; the local time is their title.
function times(within) {
  for (const time of within.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (!Number.isNaN(at.getTime())) time.title = `${at.toLocaleString()} here`;
  }
}

// Buttons that copy a command.
function copies() {
  if (!navigator.clipboard) return;
  for (const place of document.querySelectorAll("[data-copy]")) {
    const code = place.querySelector("code");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy: ${code.textContent}`);
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Not copied";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    place.append(button);
  }
}

// Parts that follow the events: the page is fetched again, at most once a second, and its live parts take the place of the old ones.
class Live {
  constructor() {
    this.timer = null;
    this.isBusy = false;
    this.told = document.querySelector("[data-live-told]");
    this.summary = this.count(document);
    const events = new EventSource("/api/v1/events");
    for (const kind of ["task", "session", "point", "repository", "reset"]) {
      events.addEventListener(kind, () => this.wake());
    }
    // A page that is left must not hold a place among those who follow.
    addEventListener("pagehide", () => events.close());
    addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  }

  count(within) {
    const summary = within.querySelector("[data-live-summary]");
    return summary ? summary.textContent : "Nothing is running";
  }

  wake() {
    if (this.timer === null) this.timer = setTimeout(() => this.renew(), 1000);
  }

  async renew() {
    this.timer = null;
    if (this.isBusy || document.hidden) return this.wake();
    this.isBusy = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.ok && !answer.redirected) this.take(new DOMParser().parseFromString(await answer.text(), "text/html"));
    } catch {
      // The next event tries again.
    } finally {
      this.isBusy = false;
    }
  }

  take(page) {
    for (const old of document.querySelectorAll("[data-live]")) {
      const fresh = page.getElementById(old.id);
      if (!fresh || fresh.isEqualNode(old)) continue;
      const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
      const part = document.importNode(fresh, true);
      times(part);
      old.replaceWith(part);
      if (focused) document.getElementById(focused)?.focus();
    }
    const summary = this.count(document);
    if (this.told && summary !== this.summary) this.told.textContent = summary;
    this.summary = summary;
  }
}

// Keys and the filter in the table of a directory.
function files() {
  const table = document.querySelector("[data-files]");
  const filter = document.querySelector("[data-filter]");
  const up = document.querySelector("[data-above]");
  const rows = table ? [...table.tBodies[0].rows] : [];
  const link = (row) => row?.querySelector("a[data-name]");
  const shown = () => rows.filter((row) => !row.hidden && link(row));
  const here = () => rows.find((row) => row.contains(document.activeElement));

  const go = (row) => {
    link(row)?.focus();
    link(row)?.scrollIntoView({ block: "nearest" });
  };
  const step = (by) => {
    const all = shown();
    const at = all.indexOf(here());
    go(at < 0 ? all[by > 0 ? 0 : all.length - 1] : all[Math.min(Math.max(at + by, 0), all.length - 1)]);
  };

  table?.addEventListener("focusin", () => { for (const row of rows) row.classList.toggle("here", row === here()); });
  table?.addEventListener("focusout", () => { for (const row of rows) row.classList.remove("here"); });
  filter?.addEventListener("input", () => {
    const wanted = filter.value.toLowerCase();
    for (const row of rows) row.hidden = !row.querySelector("th").textContent.toLowerCase().includes(wanted);
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const target = event.target;
    if (target === filter && event.key === "ArrowDown") {
      event.preventDefault();
      return go(shown()[0]);
    }
    const isBox = target.matches?.("input[type=checkbox]");
    if (target.matches?.("input, select, textarea, pre") && !isBox) return;
    switch (event.key) {
      case "ArrowDown": if (table) { event.preventDefault(); step(1); } break;
      case "ArrowUp": if (table) { event.preventDefault(); step(-1); } break;
      case "Backspace": if (up) { event.preventDefault(); up.click(); } break;
      case "/": if (filter) { event.preventDefault(); filter.focus(); filter.select(); } break;
      case " ": {
        const box = !isBox && here()?.querySelector("input[type=checkbox]");
        if (box && target.matches?.("a[data-name]")) { event.preventDefault(); box.checked = !box.checked; }
        break;
      }
      default:
    }
  });
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit + 1 < units.length) { bytes /= 1024; unit += 1; }
  return `${unit ? bytes.toFixed(1) : bytes} ${units[unit]}`;
}

// An archive with progress: it streams into a file that is private to this site, is counted meanwhile, and is handed to the browser when it is
// whole, so that a broken one is never saved. Where a browser has no such files, it downloads plainly.
async function archive(form, format, told, abort) {
  const query = new URLSearchParams(new FormData(form));
  query.set("format", format);
  const answer = await fetch(`${form.action}?${query}`, { headers: { Accept: "application/problem+json" }, signal: abort.signal });
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Error([problem.detail || `status ${answer.status}`, problem.advice].filter(Boolean).join(". "));
  }
  const name = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") || "")?.[1] || `files.${format}`;
  const root = await navigator.storage.getDirectory();
  const handle = await root.getFileHandle("archive", { create: true });
  const file = await handle.createWritable();
  let count = 0;
  let next = 0;
  const counter = new TransformStream({
    transform(piece, to) {
      count += piece.byteLength;
      to.enqueue(piece);
      if (performance.now() < next) return;
      next = performance.now() + 500;
      told.textContent = `${size(count)} so far`;
    },
  });
  await answer.body.pipeThrough(counter).pipeTo(file, { signal: abort.signal });
  const link = document.createElement("a");
  const address = URL.createObjectURL(await handle.getFile());
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
  told.textContent = `${name}: ${size(count)}, whole`;
}

function archives() {
  const form = document.querySelector("form[data-archive]");
  const told = form?.querySelector("[data-told]");
  const canStore = typeof FileSystemFileHandle !== "undefined" && "createWritable" in FileSystemFileHandle.prototype && navigator.storage?.getDirectory;
  if (!told || !canStore) return;
  let abort = null;
  const stop = document.createElement("button");
  stop.type = "button";
  stop.textContent = "Stop the download";
  stop.hidden = true;
  stop.addEventListener("click", () => abort?.abort());
  told.after(stop);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (abort) return;
    abort = new AbortController();
    stop.hidden = false;
    told.textContent = "The archive begins";
    try {
      await archive(form, event.submitter?.value || "zip", told, abort);
    } catch (error) {
      told.textContent = abort.signal.aborted ? "The download was stopped" : `The download failed: ${error.message}`;
    } finally {
      abort = null;
      stop.hidden = true;
    }
  });
}

login();
times(document);
copies();
files();
archives();
if (document.querySelector("[data-live]")) new Live();
