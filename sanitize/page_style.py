"""The look of the page over all files, and the few lines that sort its table."""

SHEET = """
.disarmed, .quarantined { background: #9a6700; } .crashed { background: #7a1e8c; }
.tiles { display: flex; flex-wrap: wrap; gap: .6rem; margin: 0 0 1.5rem; }
.tile { border-radius: .5rem; color: #fff; flex: 1 1 6rem; padding: .5rem .8rem; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.2; }
.all th { padding: 0; } .all td { font-variant-numeric: tabular-nums; }
.all td:nth-child(2) { min-width: 11rem; } .all td:nth-child(n+5), .all .badge { white-space: nowrap; }
.all td:nth-child(3) { overflow-wrap: normal; }
.all button { all: unset; box-sizing: border-box; cursor: pointer; font-weight: 600; }
.all button { padding: .3rem .6rem; width: 100%; }
.all button:focus-visible { outline: 2px solid; }
.sortable button::after { color: #888; content: " ↕"; font-weight: 400; }
.all button[data-order=up]::after { content: " ▴"; }
.all button[data-order=down]::after { content: " ▾"; }
details { border: 1px solid #8884; border-radius: .5rem; margin: .5rem 0; padding: .4rem .8rem; }
details details { border: 0; margin: .2rem 0; padding: 0; }
summary { cursor: pointer; overflow-wrap: anywhere; } footer { color: #8888; margin: 2rem 0; }
@media (max-width: 40rem) {
  .all thead { display: none; } .all tr { display: block; border-bottom: 1px solid #8884; padding: .5rem 0; }
  .all td { border: 0; display: block; padding: .1rem 0; white-space: normal; }
  .all td:nth-child(n+3)::before { color: #888; content: attr(data-name) ": "; }
}
"""

SCRIPT = """
document.querySelector('.all').classList.add('sortable');
for (const button of document.querySelectorAll('.all button')) button.onclick = () => {
  const body = document.querySelector('.all tbody'), at = button.parentElement.cellIndex;
  const order = button.dataset.order === 'up' ? 'down' : 'up', way = order === 'up' ? 1 : -1;
  for (const other of document.querySelectorAll('.all button')) delete other.dataset.order;
  button.dataset.order = order;
  const key = row => row.cells[at].dataset.key;
  body.append(...[...body.rows].sort((a, b) => way * (key(a) === undefined
    ? a.cells[at].textContent.localeCompare(b.cells[at].textContent) : key(a) - key(b))));
};
"""
