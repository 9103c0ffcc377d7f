// Reads the OpenAPI document beside this page and lays it out.

import { element, inline, prose } from "./elements.js";
import { operationView } from "./operation.js";
import { setRoot } from "./schema.js";

const content = document.getElementById("content");
const nav = document.getElementById("contents");
const menu = document.querySelector(".menu");

menu.addEventListener("click", () => setMenu(menu.getAttribute("aria-expanded") !== "true"));
nav.addEventListener("click", (event) => event.target.closest("a") && setMenu(false));
nav.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || menu.getAttribute("aria-expanded") !== "true") return;
  setMenu(false);
  menu.focus();
});

try {
  const reply = await fetch(new URL("../openapi.json", import.meta.url));
  if (!reply.ok) throw new Error(`${reply.status} ${reply.statusText}`);
  show(await reply.json());
} catch (error) {
  const state = element("p", { id: "state", role: "alert" }, `The API's description could not be read: ${error.message}`);
  content.replaceChildren(state);
}

function show(description) {
  setRoot(description);
  const { title, version, summary, license } = description.info;
  document.title = `${title}: API`;
  document.getElementById("title").textContent = title;
  document.getElementById("version").textContent = version;
  const groups = description.tags.map(({ name, description: about }) => ({ name, about, operations: operationsOf(description, name) }));
  content.replaceChildren(
    element("section.guide", { "aria-labelledby": "guide" }, element("h1", { id: "guide" }, summary), prose(description.info.description, "h2")),
    ...groups.flatMap(({ name, about, operations }) => [
      element("div.tag", {}, element("h2", { id: `tag-${name}` }, name), element("p", {}, inline(about))),
      ...operations.map(([method, path, operation]) => operationView(method, path, operation)),
    ]),
    element("footer", {}, `${title} ${version} · ${license.name} license`),
  );
  const links = groups.map(({ name, operations }) => group(name, operations));
  document.getElementById("links").replaceChildren(...links);
  document.getElementById("filter").addEventListener("input", (event) => filter(event.target.value, links));
  followScroll();
  if (location.hash.length > 1) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

function operationsOf(description, tag) {
  return Object.entries(description.paths).flatMap(([path, methods]) =>
    Object.entries(methods)
      .filter(([, operation]) => operation.tags?.includes(tag))
      .map(([method, operation]) => [method.toUpperCase(), path, operation]),
  );
}

function group(name, operations) {
  const links = operations.map(([method, path, { operationId, summary }]) =>
    element(
      "li", { "data-words": `${method} ${path} ${summary} ${operationId}`.toLowerCase() },
      element("a", { href: `#${operationId}`, title: summary }, element(`span.method.${method.toLowerCase()}`, {}, method), element("span.path", {}, path)),
    ),
  );
  return element("section", { "aria-labelledby": `nav-${name}` }, element("h2", { id: `nav-${name}` }, element("a", { href: `#tag-${name}` }, name)), element("ul", {}, links));
}

/** Leave only the links that have all the words. */
function filter(text, groups) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let left = 0;
  for (const section of groups) {
    let here = 0;
    for (const item of section.querySelectorAll("li")) {
      item.hidden = !words.every((word) => item.dataset.words.includes(word));
      here += item.hidden ? 0 : 1;
    }
    section.hidden = here === 0;
    left += here;
  }
  document.getElementById("none").hidden = left > 0;
}

/** Mark the link of the operation that is being read. */
function followScroll() {
  const links = new Map([...nav.querySelectorAll("li a")].map((link) => [link.hash.slice(1), link]));
  let current = null;
  const observer = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        current?.removeAttribute("aria-current");
        current = links.get(entry.target.id);
        current?.setAttribute("aria-current", "location");
        if (nav.scrollHeight > nav.clientHeight) keepInView(current);
      }
    },
    { rootMargin: "-15% 0px -80% 0px" },
  );
  for (const section of content.querySelectorAll(".operation")) observer.observe(section);
}

function keepInView(link) {
  const top = link.offsetTop - nav.clientHeight / 2;
  if (link.offsetTop < nav.scrollTop + 60 || link.offsetTop > nav.scrollTop + nav.clientHeight - 60) nav.scrollTop = top;
}

function setMenu(open) {
  menu.setAttribute("aria-expanded", String(open));
  nav.classList.toggle("open", open);
}
