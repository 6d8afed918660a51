// Keeps the parts of the page that change as they are now; without scripts the page is as it was when it was opened.
const live = [...document.querySelectorAll("[data-live]")];

async function renew() {
  if (document.hidden) return;
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of live) {
    const fresh = page.getElementById(part.id);
    if (fresh && fresh.innerHTML !== part.innerHTML) part.replaceChildren(...fresh.childNodes);
  }
}

// A failed fetch is a server that restarts: the next one tells.
setInterval(() => renew().catch(() => undefined), 5000);
