// This runs before the first paint, so that a remembered theme does not flash.
const STORED_THEME = "iot-dashboard-theme";

function storedTheme() {
  try {
    return localStorage.getItem(STORED_THEME);
  } catch {
    return null; // The browser does not allow storage.
  }
}

function applyTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const stored = storedTheme();
  document.documentElement.dataset.theme = stored === "dark" || stored === "light" ? stored : dark ? "dark" : "light";
  dispatchEvent(new Event("themechange"));
}

// Called by the theme button.
window.toggleTheme = () => {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  try {
    localStorage.setItem(STORED_THEME, next);
    applyTheme();
  } catch {
    document.documentElement.dataset.theme = next;
    dispatchEvent(new Event("themechange"));
  }
};

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyTheme);
applyTheme();
