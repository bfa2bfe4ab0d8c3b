"use strict";
(() => {
  const each = (root, selector, f) => root.querySelectorAll(selector).forEach(f);

  // Times are in UTC; beside it goes the reader's own.
  const localTime = (time) => {
    const at = new Date(time.dateTime);
    if (time.dataset.local || isNaN(at) || at.getTimezoneOffset() === 0) return;
    time.dataset.local = "shown";
    const sameDay = at.toDateString() === new Date().toDateString();
    const day = sameDay ? {} : { weekday: "short" };
    time.append(" (" + at.toLocaleString([], { ...day, hour: "2-digit", minute: "2-digit" }) + " your time)");
  };

  // The server says how many seconds are left; only how much time has passed since
  // is taken from this machine's clock, which may be wrong.
  const words = (s) => {
    const h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60;
    if (h > 0) return h + " h " + m + " min";
    if (m > 0) return m + " min " + (s % 60) + " s";
    return s + " s";
  };
  const leftAt = new WeakMap();
  const countDown = (span) => {
    if (!leftAt.has(span)) leftAt.set(span, Date.now() + span.dataset.left * 1000);
    const left = Math.max(0, Math.ceil((leftAt.get(span) - Date.now()) / 1000));
    span.textContent = ", " + (left > 0 ? words(left) + " left" : span.dataset.over);
    span.hidden = false;
  };

  const copy = async (button) => {
    const text = document.getElementById(button.dataset.copy);
    const label = button.dataset.label ??= button.textContent;
    let said = "Copied";
    try {
      await navigator.clipboard.writeText(text.textContent);
    } catch {
      getSelection().selectAllChildren(text);
      said = "Selected: copy it with your keyboard";
    }
    button.textContent = said;
    document.getElementById("copied").textContent = said;
    setTimeout(() => {
      button.textContent = label;
      document.getElementById("copied").textContent = "";
    }, 3000);
  };

  const adorn = () => {
    each(document, "time", localTime);
    each(document, "[data-left]", countDown);
    each(document, "[data-copy][hidden]", (button) => {
      button.hidden = false;
      button.addEventListener("click", () => copy(button));
    });
  };

  // What changed on the server's page is put into this one, and nothing else: no
  // flicker, and a screen reader says the new status only. Adorned parts differ
  // from the server's, so what the server sent last is what is compared.
  const sent = new Map();
  each(document, "[data-live]", (part) => sent.set(part.id, part.innerHTML));
  const follow = async () => {
    try {
      const answer = await fetch(location.pathname, { cache: "no-store" });
      if (answer.status === 404) return location.reload();
      if (!answer.ok) throw new Error("status " + answer.status);
      const next = new DOMParser().parseFromString(await answer.text(), "text/html");
      each(next, "[data-live]", (part) => {
        if (sent.get(part.id) === part.innerHTML) return;
        sent.set(part.id, part.innerHTML);
        document.getElementById(part.id).replaceChildren(...part.childNodes);
      });
      document.title = next.title;
      adorn();
      if (!next.querySelector("[data-follow]")) return;
    } catch {
      const trouble = "No answer from the service just now; this page keeps trying.";
      const status = document.getElementById("status");
      if (status.textContent !== trouble) status.textContent = trouble;
      sent.delete("status");
    }
    setTimeout(follow, 2000);
  };

  adorn();
  setInterval(() => each(document, "[data-left]", countDown), 1000);
  if (document.querySelector("[data-follow]")) setTimeout(follow, 2000);
})();
