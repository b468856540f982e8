from __future__ import annotations

from tasker.workflows.picture import picture

DIAMOND = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c"), "other": ()}


def test_a_tree_shows_each_step_once_and_names_further_parents() -> None:
    assert picture(DIAMOND, "tree", title="shop/orders:1.0.0", notes={"c": "warehouse"}) == (
        "shop/orders:1.0.0\n├── a\n│   ├── b\n│   │   └── d (after b, c)\n│   └── c [warehouse]\n└── other"
    )


def test_mermaid_has_a_node_for_each_step_and_an_arrow_for_each_dependency() -> None:
    text = picture({"end": (), "b": ("end",)}, "mermaid", title="t", notes={"b": 'say "x"'})
    assert text.splitlines() == [
        "---",
        "title: t",
        "---",
        "flowchart TD",
        '    s_end["end"]',
        '    s_b["b<br/>say #quot;x#quot;"]',
        "    s_end --> s_b",
    ]


def test_dot_quotes_its_names() -> None:
    text = picture({"a": (), "b": ("a",)}, "dot", title='t "x"', notes={"b": "warehouse"})
    assert text.splitlines() == [
        'digraph "t \\"x\\"" {',
        "    rankdir=TB;",
        "    node [shape=box];",
        '    "a" [label="a"];',
        '    "b" [label="b\\nwarehouse"];',
        '    "a" -> "b";',
        "}",
    ]


def test_a_long_chain_is_drawn_without_recursion() -> None:
    chain: dict[str, tuple[str, ...]] = {"s0": ()} | {f"s{n}": (f"s{n - 1}",) for n in range(1, 2_000)}
    assert len(picture(chain, "tree", title="t").splitlines()) == 2_001
