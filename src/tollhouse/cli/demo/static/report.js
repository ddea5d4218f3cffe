// Shows Markdown as far as reports use it: headings, lists, bold words, paragraphs. What a model wrote becomes text, never markup.

const HEADING = /^(#{1,6})\s+(.*)$/;
const BULLET = /^\s*[-*•+]\s+(.*)$/;
const NUMBERED = /^\s*\d+[.)]\s+(.*)$/;

/** Returns the nodes that show a text. */
export function nodesOf(text) {
  const nodes = [];
  let open = null; // The list or paragraph that the next line may belong to.
  const add = (name, line) => {
    const node = element(name, line);
    nodes.push(node);
    return node;
  };
  for (const line of text.trim().split(/\r?\n/)) {
    const heading = HEADING.exec(line);
    const bullet = BULLET.exec(line);
    const item = bullet ?? NUMBERED.exec(line);
    if (!line.trim()) {
      open = null;
    } else if (heading) {
      open = null;
      add("h3", heading[2]);
    } else if (item) {
      const name = bullet ? "ul" : "ol";
      if (open?.localName !== name) open = add(name, "");
      open.append(element("li", item[1]));
    } else if (open?.localName === "p") {
      open.append(" ", ...inline(line));
    } else {
      open = add("p", line);
    }
  }
  return nodes;
}

function element(name, line) {
  const node = document.createElement(name);
  node.append(...inline(line));
  return node;
}

function inline(line) {
  return line.trim().split(/\*\*(.+?)\*\*/).map((part, index) => {
    if (index % 2 === 0) return part;
    const bold = document.createElement("strong");
    bold.textContent = part;
    return bold;
  });
}
