"use strict";
(() => {
  const each = (root, selector, f) => root.querySelectorAll(selector).forEach(f);

  // Times are in UTC; below goes the reader's own.
  const localTime = (at) => {
    if (at.getTimezoneOffset() === 0) return [];
    const day = at.toDateString() === new Date().toDateString() ? {} : { weekday: "short" };
    return [at.toLocaleString([], { ...day, hour: "numeric", minute: "2-digit" }) + " your time"];
  };

  // The server says how many seconds are left; only how much time has passed since
  // is taken from this machine's clock, which may be wrong.
  const words = (s) => {
    const h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60;
    if (h > 0) return h + " h" + (m > 0 ? " " + m + " min" : "");
    if (m > 0) return m + " min " + (s % 60) + " s";
    return s + " s";
  };
  const ends = new WeakMap();
  const timeLeft = (more) => {
    if (!more.dataset.over) return [];
    if (!ends.has(more)) ends.set(more, Date.now() + more.dataset.left * 1000);
    const left = Math.max(0, Math.ceil((ends.get(more) - Date.now()) / 1000));
    return [left > 0 ? words(left) + " left" : more.dataset.over];
  };
  const tell = (more) => {
    more.textContent = [...localTime(new Date(more.dataset.time)), ...timeLeft(more)].join(", ");
    more.hidden = more.textContent === "";
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
    each(document, ".more", tell);
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

  // The second of two clicks would take the place of the first, and only be told
  // that the link was used. Later on it may be meant.
  let pressed = -Infinity;
  addEventListener("submit", (event) => {
    if (event.timeStamp - pressed < 3000) event.preventDefault();
    else pressed = event.timeStamp;
  });

  adorn();
  setInterval(() => each(document, ".more", tell), 1000);
  if (document.querySelector("[data-follow]")) setTimeout(follow, 2000);
})();
