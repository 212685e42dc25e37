// Live updates of a run's page, and buttons that copy a command. The server renders and escapes all HTML;
// this only puts it in its place. Without this file the pages work and have to be reloaded.

const lines = document.querySelector("[data-stream]");
if (lines) {
  follow(lines, document.getElementById("state"), document.getElementById("live"));
}

function follow(lines, state, live) {
  const source = new EventSource(lines.dataset.stream);
  source.addEventListener("open", () => {
    live.textContent = "live";
  });
  source.addEventListener("line", (event) => {
    lines.insertAdjacentHTML("beforeend", event.data);
  });
  source.addEventListener("state", (event) => {
    state.innerHTML = event.data;
  });
  source.addEventListener("end", (event) => {
    source.close();
    live.textContent = `ended: ${event.data.replaceAll("_", " ")}`;
  });
  source.addEventListener("error", () => {
    const isOver = source.readyState === EventSource.CLOSED;
    live.textContent = isOver ? "no live updates any more; reload the page" : "connecting again";
  });
}

for (const button of document.querySelectorAll("[data-copy]")) {
  // Only pages of a secure address may write to the clipboard; elsewhere the text can still be selected.
  if (navigator.clipboard) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
    });
  }
}
