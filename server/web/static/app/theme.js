// Sets the chosen theme before anything is painted; the page's style sheet does the rest.
// A plain script, since modules run too late for that.
"use strict";

try {
  const theme = localStorage.getItem("darkroom.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be forbidden; then the system's theme it is.
}
