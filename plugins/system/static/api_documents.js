// Starts Swagger UI or Redoc, whichever the page has.
(() => {
  const swagger = document.getElementById("swagger-ui");
  if (swagger) {
    SwaggerUIBundle({
      domNode: swagger,
      url: swagger.dataset.schema,
      validatorUrl: null, // or documents of public hosts are sent to one that validates them
      deepLinking: true,
      displayRequestDuration: true,
      filter: true,
      defaultModelsExpandDepth: 0,
    });
  }

  const redoc = document.getElementById("redoc");
  if (redoc) {
    const root = document.documentElement;
    const font = getComputedStyle(document.body).fontFamily;
    const colors = {
      primary: { main: "#4fd1c1" },
      success: { main: "#5fd38d" },
      warning: { main: "#f0c05a" },
      error: { main: "#ff8f85" },
      text: { primary: "#e6edee", secondary: "#9fb1b3" },
      gray: { 50: "#162023", 100: "#1f2b2f" },
      border: { dark: "#2c3a3f", light: "#2c3a3f" },
      responses: { info: { color: "#7cc4ea" } },
    };
    const dark = {
      colors,
      schema: { nestedBackground: "#162023", linesColor: "#4fd1c1" },
      sidebar: { backgroundColor: "#162023", textColor: "#e6edee" },
      rightPanel: {
        backgroundColor: "#111a1d",
        servers: { overlay: { backgroundColor: "#1f2b2f", textColor: "#e6edee" }, url: { backgroundColor: "#0e1517" } },
      },
      typography: { code: { color: "#ff8f85", backgroundColor: "#1f2b2f" } },
      codeBlock: { backgroundColor: "#0a1012" },
      fab: { backgroundColor: "#1f2b2f", color: "#4fd1c1" },
    };
    const light = { colors: { primary: { main: "#0f766e" } }, sidebar: { backgroundColor: "#ffffff" } };
    const theme = root.dataset.theme === "dark" ? dark : light;
    theme.typography = { ...theme.typography, fontFamily: font, headings: { fontFamily: font, fontWeight: "600" } };
    Redoc.init(redoc.dataset.schema, { hideLoading: true, theme }, redoc);
    // It computes its colours once.
    root.addEventListener("themechange", () => location.reload());
  }
})();
