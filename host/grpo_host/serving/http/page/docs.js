// Shows openapi.json with Swagger UI. Its paths count from where this page lies, also below a proxy's path.
const dark = matchMedia("(prefers-color-scheme: dark)");
const colours = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", colours);
colours();

const spec = await (await fetch("openapi.json")).json();
spec.servers = [{ url: new URL(".", location.href).pathname.replace(/\/$/, "") || "/" }];
SwaggerUIBundle({
  spec, dom_id: "#operations", deepLinking: true, docExpansion: "list", tryItOutEnabled: true,
  defaultModelsExpandDepth: 0, displayRequestDuration: true, validatorUrl: null,
});
for (const [path, socket] of Object.entries(spec["x-websockets"] ?? {})) {
  const line = document.createElement("p");
  const code = Object.assign(document.createElement("code"), { textContent: path });
  line.append("WebSocket ", code, `: ${socket.summary}`);
  document.getElementById("sockets").append(line);
}
