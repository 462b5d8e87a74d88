"""Tables as notebooks show them: as HTML, and as text where there is no HTML."""

from __future__ import annotations

import pytest

from kimi_nb.tables import table


def test_text_is_aligned_and_html_names_rows_and_columns() -> None:
    made = table(["quant", "bytes"], [["`UD-TQ1_0`", 240_000_000_000], ["a<b", 7]], caption="Sizes")
    assert repr(made).splitlines() == [
        "Sizes",
        "quant     bytes",
        "--------  ---------------",
        "UD-TQ1_0  240,000,000,000",
        "a<b       7",
    ]
    shown = made._repr_html_()
    assert "<caption>Sizes</caption>" in shown
    assert '<th scope="col" style="text-align:left">quant</th>' in shown
    assert '<th scope="row" style="text-align:left; white-space:nowrap"><code>UD-TQ1_0</code></th>' in shown
    assert '<td style="text-align:right">240,000,000,000</td>' in shown
    assert "a&lt;b" in shown


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="every row needs 2 cells"):
        table(["a", "b"], [["only one"]])


def test_markup_in_a_cell_stays_text() -> None:
    assert "<script>" not in table(["a"], [["`<script>alert(1)</script>`"]])._repr_html_()
