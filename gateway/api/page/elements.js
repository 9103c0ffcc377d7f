// Builds the page's elements. Text goes in as text nodes only: nothing of the document is ever read as HTML.

/** element("a.raw", {href: "#x"}, "text", child, ..). Handlers are `onclick: function`; null children are left out. */
export function element(kind, attributes = {}, ...children) {
  const [tag, ...classes] = kind.split(".");
  const made = document.createElement(tag);
  if (classes.length) made.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.flat(Infinity).filter((child) => child != null));
  return made;
}

/** The little of CommonMark that descriptions use: headings, lists, fenced code, **bold** and `code`. */
export function prose(text, headings = "h3") {
  const blocks = [];
  const lines = text.split("\n");
  for (let at = 0; at < lines.length; ) {
    if (lines[at].startsWith("```")) {
      const end = lines.indexOf("```", at + 1);
      blocks.push(code(lines.slice(at + 1, end).join("\n"), "Example"));
      at = end + 1;
    } else if (lines[at].startsWith("## ")) {
      blocks.push(element(headings, {}, inline(lines[at++].slice(3))));
    } else if (lines[at].startsWith("- ")) {
      const items = [];
      while (at < lines.length && lines[at].startsWith("- ")) items.push(element("li", {}, inline(lines[at++].slice(2))));
      blocks.push(element("ul", {}, items));
    } else if (lines[at].trim()) {
      blocks.push(element("p", {}, inline(lines[at++])));
    } else at++;
  }
  return blocks;
}

/** `code` and **bold** inside a line. */
export function inline(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).filter(Boolean).map((part) => {
    if (part.startsWith("`")) return element("code", {}, part.slice(1, -1));
    if (part.startsWith("**")) return element("strong", {}, part.slice(2, -2));
    return part;
  });
}

/** Preformatted text that the keyboard can scroll. */
export function code(text, label) {
  return element("pre", { tabindex: "0", role: "region", "aria-label": label }, element("code", {}, text));
}

/** A button that copies what `read` returns. */
export function copyButton(read, what) {
  const button = element("button.copy", { type: "button", "aria-label": `Copy ${what}` }, "Copy");
  button.addEventListener("click", async () => {
    button.textContent = (await copy(read())) ? "Copied" : "Press Ctrl+C";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Plain HTTP on another machine has no clipboard: copy from a field instead.
    const field = element("textarea.offscreen", { "aria-hidden": "true" });
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}
