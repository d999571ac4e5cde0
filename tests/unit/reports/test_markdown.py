from pipelines.reports.markdown import table


def test_cells_show_what_they_hold():
    assert table(["name", "n"], [["a|b <img>\nc", "1"]]) == [
        "| name | n |",
        "| --- | ---: |",
        r"| a\|b &lt;img&gt; c | 1 |",
    ]
