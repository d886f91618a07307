"""How the page of `verify` looks, in light and dark and on a narrow screen, and the one thing in it that moves."""

from base64 import b64encode
from hashlib import sha256

STYLE = """
:root {
  color-scheme: light dark; font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif;
  --page: #f4f6f8; --card: #fff; --ink: #17212b; --quiet: #5b6976; --rule: #e0e5ea; --grid: #e9edf1;
  --blue: #2468b2; --pale: #b9d0ea; --orange: #c75f0a; --good: #18794a; --good-back: #e4f4ea;
  --bad: #b3261e; --bad-back: #fdeceb; --warn: #805500; --warn-back: #fff3d6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0e1318; --card: #171e26; --ink: #e4eaf0; --quiet: #94a2b0; --rule: #2b3641; --grid: #242e38;
    --blue: #6fb0f2; --pale: #34567d; --orange: #f7a04b; --good: #5fd093; --good-back: #11291d;
    --bad: #ff8e85; --bad-back: #331716; --warn: #f2c14e; --warn-back: #30260d;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; } @media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0; background: var(--page); color: var(--ink); overflow-wrap: anywhere; }
main { max-width: 76rem; margin: 0 auto; padding: 2rem 1.5rem 5rem; }
h1, h2, h3, p, ul, ol, figure, dl, dd { margin: 0; }
h2 { font-size: 1.35rem; line-height: 1.3; letter-spacing: -.01em; }
h3 { font: 600 .95rem/1.4 ui-monospace, monospace; margin-bottom: .75rem; }
code, pre { font: .85rem/1.55 ui-monospace, "SF Mono", Menlo, monospace; }
section { margin-top: 3.5rem; scroll-margin-top: 3.5rem; }
.lead { color: var(--quiet); max-width: 48rem; margin: .4rem 0 1.25rem; }
.quiet { color: var(--quiet); } .bad { color: var(--bad); }
p.quiet, p.bad { font-size: .875rem; margin-top: .75rem; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: .75rem; padding: 1.25rem; min-width: 0; }
.cards { columns: 28rem; column-gap: 1.25rem; }
.cards .card { break-inside: avoid; margin-bottom: 1.25rem; }
svg { display: block; overflow: visible; } .plot { padding-left: 2.1rem; }

.banner { border-radius: 1rem; padding: 1.75rem 2rem; border-left: .5rem solid; }
.banner.good { background: var(--good-back); border-color: var(--good); }
.banner.bad { background: var(--bad-back); border-color: var(--bad); color: inherit; }
.banner .tool { font-size: .8rem; letter-spacing: .04em; color: var(--quiet); }
.banner h1 { font-size: clamp(1.8rem, 1.3rem + 2.4vw, 2.6rem); line-height: 1.15; letter-spacing: -.02em; }
.banner.good h1 { color: var(--good); } .banner.bad h1 { color: var(--bad); }
.banner .why { font-size: 1.075rem; margin-top: .6rem; max-width: 60rem; }
.banner ul { margin-top: .75rem; padding-left: 1.1rem; font-size: .925rem; }
.warning { background: var(--warn-back); color: var(--warn); border-radius: .5rem; padding: .6rem .9rem;
  margin-top: 1rem; font-size: .925rem; }

.summary { margin-top: 1.5rem; background: var(--card); border: 1px solid var(--rule); border-radius: .75rem;
  padding: .5rem 1.25rem 1.25rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
.components td, .components th { text-align: right; padding: .6rem 0 .6rem 1.25rem; font-variant-numeric: tabular-nums;
  border-bottom: 1px solid var(--rule); font-weight: 400; white-space: nowrap; }
.components td[colspan] { text-align: left; white-space: normal; }
.components th:first-child { text-align: left; padding-left: 0; }
.components thead th { color: var(--quiet); font-size: .8rem; white-space: normal; vertical-align: bottom; }
.components tbody th { font: 600 .85rem ui-monospace, monospace; }
.happened { padding-left: 1.1rem; margin-top: 1rem; font-size: .9rem; color: var(--quiet); }

nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: .75rem 0; margin-top: 1rem; position: sticky;
  top: 0;
  background: var(--page); border-bottom: 1px solid var(--rule); font-size: .875rem; z-index: 1; }
a { color: var(--blue); text-decoration: none; } a:hover { text-decoration: underline; }

.wide + .wide { margin-top: 1.25rem; }
.three { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 1.25rem; }
img { display: block; width: 100%; height: auto; image-rendering: pixelated; border-radius: .4rem;
  outline: 1px solid var(--rule); }
.three figure { max-width: 22rem; }
.three img { max-height: 22rem; object-fit: contain; }
.strips .three { grid-template-columns: 1fr; gap: .6rem; } .strips .three figure { max-width: none; }
.strips .three img { height: 4.75rem; object-fit: fill; }
figcaption { font-size: .85rem; color: var(--quiet); margin-top: .4rem; }
.three figcaption { text-align: center; color: var(--ink); }
.strips .three figcaption { text-align: left; margin-top: .2rem; }

.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; font-size: .875rem; color: var(--quiet);
  margin: -.5rem 0 1.25rem; }
.swatch { display: inline-block; width: .8rem; height: .8rem; border-radius: .15rem;
  margin-right: .45rem; vertical-align: -.05rem; }
.swatch.before { background: var(--pale); } .swatch.after { background: var(--blue); }
.swatch.limit { width: 0; height: 1rem; border-left: 2px dashed var(--bad); border-radius: 0; vertical-align: -.2rem; }
.grid { stroke: var(--grid); } .base { stroke: var(--quiet); } .path { stroke: var(--blue); stroke-opacity: .45;
  stroke-width: 2; }
.limit { stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 4 3; }
circle.mark { fill: var(--blue); } circle.over { fill: var(--bad); }
circle.none { fill: var(--card); stroke: var(--quiet); stroke-width: 1.5; }
rect.before { fill: var(--pale); } rect.after, rect.bar { fill: var(--blue); } rect.over { fill: var(--bad); }
text { font: .75rem system-ui, sans-serif; fill: var(--quiet); } text.up { transform: translateX(-.5rem); }
text.said { fill: var(--bad); font-weight: 600; paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
.blocks, .layers { list-style: none; padding: 0; }
.blocks li { display: grid; grid-template-columns: 11.5rem minmax(0, 1fr) 5.5rem; align-items: center; }
.blocks .name, .layers .name { font: .8rem ui-monospace, monospace; }
.blocks .name { font-size: .76rem; line-height: 1.1; }
.value { text-align: right; font-size: .82rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
.layers li { display: flex; justify-content: space-between; gap: 1rem; padding: .25rem 0;
  border-top: 1px solid var(--rule); }
details.more { margin-top: .9rem; font-size: .875rem; } details.more summary { color: var(--blue); cursor: pointer; }
.outputs td, .outputs th { padding: .3rem 0 .3rem 1rem; text-align: right; font-weight: 400;
  border-top: 1px solid var(--rule);
  font-variant-numeric: tabular-nums; } .outputs { margin-top: .5rem; font-size: .82rem; }
.outputs th:first-child { text-align: left; padding-left: 0; font-family: ui-monospace, monospace; }
.outputs thead th { color: var(--quiet); border: 0; }

.group { background: var(--card); border: 1px solid var(--rule); border-radius: .75rem; margin-top: .75rem;
  color: inherit; }
.group > summary { cursor: pointer; padding: .85rem 1.25rem; } .group > summary small { color: var(--quiet); }
.group.bad { border-color: var(--bad); } .group.bad > summary b { color: var(--bad); }
.count { font-variant-numeric: tabular-nums; background: var(--grid); border-radius: 1rem; padding: .05rem .6rem;
  font-size: .85rem; }
.tensors { font-size: .84rem; } .tensors td { padding: .4rem .75rem; border-top: 1px solid var(--rule);
  vertical-align: top; }
.tensors td:first-child { padding-left: 1.25rem; width: 46%; }
  .tensors .name { font: .8rem/1.5 ui-monospace, monospace; }
.tensors .part, .tensors .detail { color: var(--quiet); } .tensors .part { width: 8rem; }
.tensors tr { content-visibility: auto; }
.filter { margin: 0 0 1rem; display: flex; flex-wrap: wrap; gap: .5rem .75rem; align-items: center; font-size: .9rem; }
.filter[hidden], [hidden] { display: none; }
.filter input { font: .85rem ui-monospace, monospace; padding: .5rem .75rem; border: 1px solid var(--rule);
  border-radius: .5rem;
  background: var(--card); color: inherit; flex: 1 1 12rem; max-width: 26rem; min-width: 0; }
output { color: var(--quiet); }

pre { background: var(--card); border: 1px solid var(--rule); border-radius: .75rem; padding: 1rem 1.25rem; margin: 0;
  white-space: pre-wrap; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .75rem 1.5rem; margin-top: 1.25rem;
  font-size: .9rem; }
dt { color: var(--quiet); } dd small { color: var(--quiet); }

@media (max-width: 44rem) {
  main { padding: 1rem .9rem 3rem; } .banner { padding: 1.25rem; } section { margin-top: 2.5rem; }
    .card { padding: 1rem; }
  .components thead { display: none; } .components tr { display: block; padding: .75rem 0;
    border-bottom: 1px solid var(--rule); }
  .components tbody th { display: block; padding: 0 0 .25rem; border: 0; }
  .components td { display: flex; justify-content: space-between; gap: 1rem; padding: .15rem 0; border: 0;
    white-space: normal; }
  .components td::before { content: attr(data-head); color: var(--quiet); }
  .components td[colspan]::before { content: none; }
  nav { gap: .25rem 1rem; position: static; }
  .three { gap: .6rem; } .three figcaption { font-size: .78rem; }
  .blocks li { grid-template-columns: 8.6rem minmax(0, 1fr) 4.4rem; } .value { font-size: .72rem; }
  .blocks .name { font-size: .66rem; }
  .tensors tr { display: block; padding: .6rem 0; border-top: 1px solid var(--rule); }
  .tensors td, .tensors td:first-child { display: block; width: auto; border: 0; padding: .1rem 1rem; }
    .tensors td:empty { display: none; }
  dl { grid-template-columns: minmax(0, 1fr); gap: .15rem; } dd { margin-bottom: .75rem; }
}
@media print { nav, .filter { display: none; } .card, .group { break-inside: avoid; } }
"""
SCRIPT = """
const field = document.getElementById("filter"), groups = [...document.querySelectorAll(".group")];
const unfolded = new Map(groups.map((group) => [group, group.open]));
field.closest("p").hidden = false;
field.addEventListener("input", () => {
  const wanted = field.value.toLowerCase();
  let shown = 0;
  for (const group of groups) {
    let found = 0;
    for (const row of group.querySelectorAll("tr")) {
      row.hidden = !row.firstChild.textContent.toLowerCase().includes(wanted);
      found += !row.hidden;
    }
    group.hidden = !found;
    group.open = wanted ? found > 0 : unfolded.get(group);
    shown += found;
  }
  document.getElementById("found").textContent = wanted ? shown.toLocaleString("en") + " found" : "";
});
"""
SCRIPT_HASH = f"sha256-{b64encode(sha256(SCRIPT.encode()).digest()).decode('ascii')}"
"""What the page's policy lets run: this script and no other."""
