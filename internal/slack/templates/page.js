"use strict";
(() => {
  const each = (root, selector, f) => root.querySelectorAll(selector).forEach(f);

  // The page shows times in UTC. The note below adds the reader's own time.
  const localTime = (at) => {
    if (at.getTimezoneOffset() === 0) return [];
    const day = at.toDateString() === new Date().toDateString() ? {} : { weekday: "short" };
    return [at.toLocaleString([], { ...day, hour: "numeric", minute: "2-digit", timeZoneName: "short" })];
  };

  // The server sends the number of seconds left, because this machine's clock may
  // be wrong. Only the time that has passed since then is measured here.
  const duration = (s) => {
    const h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60;
    if (h > 0) return h + " h" + (m > 0 ? " " + m + " min" : "");
    if (m > 0) return m + " min " + (s % 60) + " s";
    return s + " s";
  };
  const ends = new WeakMap();
  const timeLeft = (note) => {
    if (!note.dataset.expired) return [];
    if (!ends.has(note)) ends.set(note, Date.now() + note.dataset.secondsLeft * 1000);
    const left = Math.max(0, Math.ceil((ends.get(note) - Date.now()) / 1000));
    return [left > 0 ? duration(left) + " left" : note.dataset.expired];
  };
  const updateTime = (note) => {
    note.textContent = [...localTime(new Date(note.dataset.time)), ...timeLeft(note)].join(", ");
    note.hidden = note.textContent === "";
  };

  const copy = async (button) => {
    const text = document.getElementById(button.dataset.copy);
    const label = button.dataset.label ??= button.textContent;
    let result = "Copied";
    try {
      await navigator.clipboard.writeText(text.textContent);
    } catch {
      getSelection().selectAllChildren(text);
      result = "Selected: copy it with your keyboard";
    }
    button.style.minWidth = button.offsetWidth + "px"; // a shorter label must not shrink it
    button.textContent = result;
    document.getElementById("copied").textContent = result;
    setTimeout(() => {
      button.textContent = label;
      button.style.minWidth = "";
      document.getElementById("copied").textContent = "";
    }, 3000);
  };

  const enhance = () => {
    each(document, ".timenote", updateTime);
    each(document, "[data-copy][hidden]", (button) => {
      button.hidden = false;
      button.addEventListener("click", () => copy(button));
    });
  };

  // Only the parts that changed on the server are replaced: nothing flickers, and a
  // screen reader announces the new status only. enhance changes the parts in
  // the page, so a new part is compared with the last one that the server sent.
  const lastSent = new Map();
  each(document, "[data-live]", (part) => lastSent.set(part.id, part.innerHTML));
  const follow = async () => {
    try {
      const response = await fetch(location.pathname, { cache: "no-store" });
      if (response.status === 404) return location.reload();
      if (!response.ok) throw new Error("status " + response.status);
      const next = new DOMParser().parseFromString(await response.text(), "text/html");
      each(next, "[data-live]", (part) => {
        if (lastSent.get(part.id) === part.innerHTML) return;
        lastSent.set(part.id, part.innerHTML);
        document.getElementById(part.id).replaceChildren(...part.childNodes);
      });
      document.title = next.title;
      enhance();
      if (!next.querySelector("[data-follow]")) return;
    } catch {
      const retrying = "The service isn't responding. Retrying…";
      const status = document.getElementById("status");
      if (status.textContent !== retrying) status.textContent = retrying;
      lastSent.delete("status");
    }
    setTimeout(follow, 2000);
  };

  // If a person presses the button twice, the browser drops the response to the first
  // request, and the second request finds that the link is used. So a second submit
  // within three seconds is ignored.
  let submitted = -Infinity;
  addEventListener("submit", (event) => {
    if (event.timeStamp - submitted < 3000) event.preventDefault();
    else submitted = event.timeStamp;
  });

  enhance();
  setInterval(() => each(document, ".timenote", updateTime), 1000);
  if (document.querySelector("[data-follow]")) setTimeout(follow, 2000);
})();
