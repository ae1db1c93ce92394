// Style sheets that only some pages need.

/** Have a style sheet of the studio's, before the module that awaits it is ready: `await styles("pages/runs.css")`. */
export function styles(path) {
  const href = `/studio/static/${path}`;
  if (document.querySelector(`link[href="${href}"]`)) return Promise.resolve();
  return new Promise((done, failed) => {
    const sheet = document.createElement("link");
    sheet.rel = "stylesheet";
    sheet.href = href;
    sheet.onload = () => done();
    sheet.onerror = () => failed(new Error(`${path} cannot be loaded`));
    document.head.append(sheet);
  });
}
