"""Of the heatmap in a browser."""

from playwright.sync_api import Page


def place(page: Page, step: int, row: int) -> tuple[float, float]:
    """Where on the screen the middle of a cell is."""
    plot = page.locator(".gv-heatmap .js-plotly-plot")
    plot.scroll_into_view_if_needed()
    return tuple(plot.evaluate(
        """(plot, [step, row]) => {
          const { xaxis, yaxis } = plot._fullLayout, box = plot.getBoundingClientRect();
          return [box.left + xaxis._offset + xaxis.d2p(step), box.top + yaxis._offset + yaxis.d2p(row)];
        }""", [step, row],
    ))  # fmt: skip
