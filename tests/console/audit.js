// What an accessibility checker would look at first, of what is visible now: every control has a name, headings
// descend one by one, ids are unique, what is clicked is large enough, and text stands out from its ground.
({ touch }) => {
  const problems = [];
  const visible = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  const label = (element) => `<${element.tagName.toLowerCase()} class="${element.className.baseVal ?? element.className}"> ${element.textContent.trim().slice(0, 40)}`;

  const nameOf = (element) => (
    element.getAttribute("aria-label")
    ?? (element.getAttribute("aria-labelledby") ?? "").split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join(" ").trim()
  ) || [...(element.labels ?? [])].map((each) => each.textContent).join(" ").trim() || element.textContent.trim();
  const controls = [...document.querySelectorAll("a[href], button, input, select, [role=button], [role=switch]")].filter(visible);
  for (const control of controls) {
    if (!nameOf(control)) problems.push(`no name: ${label(control)}`);
    const box = control.getBoundingClientRect();
    const inLine = control.tagName === "A" && getComputedStyle(control).display === "inline";
    const inRow = control.matches(".entry-open, .skip, [type=checkbox]");
    if (touch && !inLine && !inRow && (box.height < 43.5 || box.width < 43.5)) problems.push(`small (${Math.round(box.width)}×${Math.round(box.height)}): ${label(control)}`);
  }

  let depth = 0;
  for (const heading of [...document.querySelectorAll("h1, h2, h3, h4")].filter(visible)) {
    const level = Number(heading.tagName[1]);
    if (level > depth + 1) problems.push(`h${level} after h${depth}: ${label(heading)}`);
    depth = level;
  }
  if ([...document.querySelectorAll("h1")].filter(visible).length !== 1) problems.push("not exactly one h1");
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  for (const id of new Set(ids.filter((each, index) => ids.indexOf(each) !== index))) problems.push(`id twice: ${id}`);

  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  const paint = (colors) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const color of colors) {
      canvas.fillStyle = color;
      canvas.fillRect(0, 0, 1, 1);
    }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((value) => (value / 255 <= 0.03928 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const groundOf = (element) => {
    const layers = [];
    for (let each = element; each; each = each.parentElement) layers.unshift(getComputedStyle(each).backgroundColor);
    return ["white", ...layers];
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || seen.has(element) || !visible(element) || element.closest(".unseen, .skip, dialog:not([open]), [disabled]")) continue;
    seen.add(element);
    const style = getComputedStyle(element);
    const ground = groundOf(element);
    const [light, dark] = [luminance(paint([...ground, style.color])), luminance(paint(ground))].sort((a, b) => b - a);
    const contrast = (light + 0.05) / (dark + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
    if (contrast < (large ? 3 : 4.5)) problems.push(`contrast ${contrast.toFixed(2)}: ${label(element)}`);
  }
  return problems;
}
