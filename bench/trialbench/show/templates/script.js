"use strict";
// Copy buttons, where the browser lets a page copy; without them the page lacks nothing.
if (navigator.clipboard) {
  const told = document.getElementById("told");
  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(button.previousElementSibling.textContent);
        told.textContent = button.textContent = "Copied";
      } catch {
        told.textContent = button.textContent = "Not copied";
      }
    });
  }
}
