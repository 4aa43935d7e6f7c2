// Light or dark: as the system has it, until a person chooses. Runs in the head, before anything is drawn.
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null; // storage is disabled
    }
  };
  const apply = (theme) => {
    root.dataset.theme = theme;
    root.classList.toggle("dark-mode", theme === "dark"); // the name that Swagger UI knows
    root.dispatchEvent(new Event("themechange"));
  };
  apply(chosen() ?? (system.matches ? "dark" : "light"));
  system.addEventListener("change", () => chosen() ?? apply(system.matches ? "dark" : "light"));
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    button.hidden = false;
    button.addEventListener("click", () => {
      const theme = root.dataset.theme === "dark" ? "light" : "dark";
      try {
        localStorage.setItem("theme", theme);
      } catch {
        // It lasts as long as the page.
      }
      apply(theme);
    });
  });
})();
