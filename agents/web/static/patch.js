// Takes over from a fresh copy of an element what differs, and leaves alone what does not: focus, selection, opened
// details and ticked boxes stay. Rows are identified by data-key.

/** Make `old` like `fresh`. */
export function patch(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (!alike(old, fresh)) {
    old.replaceWith(document.importNode(fresh, true));
    return;
  }
  attributes(old, fresh);
  if (fresh.querySelector(":scope > [data-key]") || old.querySelector(":scope > [data-key]")) rows(old, fresh);
  else children(old, fresh);
}

function alike(old, fresh) {
  return old.nodeType === fresh.nodeType && old.nodeName === fresh.nodeName && old.nodeType === Node.ELEMENT_NODE;
}

function attributes(old, fresh) {
  // `open` is the reader's own doing; `hidden` is taken off by scripts where they make a thing usable.
  const kept = (name) => name === "open" || name === "hidden" || name === "disabled";
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && !kept(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value && !kept(name)) old.setAttribute(name, value);
}

function children(old, fresh) {
  const before = [...old.childNodes];
  const after = [...fresh.childNodes];
  if (before.length !== after.length) {
    old.replaceChildren(...after.map((node) => document.importNode(node, true)));
    return;
  }
  before.forEach((node, index) => {
    if (node.nodeType === Node.TEXT_NODE && after[index].nodeType === Node.TEXT_NODE) {
      if (node.data !== after[index].data) node.data = after[index].data;
    } else patch(node, after[index]);
  });
}

function rows(old, fresh) {
  const byKey = new Map([...old.children].map((row) => [row.dataset.key, row]));
  let place = old.firstElementChild;
  for (const row of [...fresh.children]) {
    const mine = byKey.get(row.dataset.key);
    byKey.delete(row.dataset.key);
    if (mine === undefined) {
      old.insertBefore(document.importNode(row, true), place);
    } else {
      if (mine === place) place = place.nextElementSibling;
      else if (!mine.contains(document.activeElement)) old.insertBefore(mine, place);
      patch(mine, row);
    }
  }
  for (const row of byKey.values()) row.remove();
}
