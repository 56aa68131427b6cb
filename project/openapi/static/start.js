// A file of its own: the page's Content-Security-Policy runs no inline script.
// Without validatorUrl Swagger UI would send the document to a service on the Internet.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  validatorUrl: null,
});
