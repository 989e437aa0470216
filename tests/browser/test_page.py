"""The page in a real browser: what is drawn, found, clicked, typed, sorted and linked to."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from chromium import wait

from onnxq.cli.app import make_app
from onnxq.ir.module import GraphModule
from onnxq.ir.store import save_model

pytestmark = pytest.mark.browser

Visit = Callable[..., Any]
NODES = 3000
SECONDS = 2.0
TRIES = 8
DRAWN = "return [...document.querySelectorAll('#charts .chart')].every((one) => one.querySelector('svg'))"


def onnxq(*arguments: object) -> None:
    from typer.testing import CliRunner

    result = CliRunner().invoke(make_app(), [str(argument) for argument in arguments])
    assert result.exit_code in (0, 1), result.stderr  # 1: they differ


@pytest.fixture(scope="module")
def diff_page(source: Path, compiled: Path) -> Path:
    page = source.with_name("diff.html")
    onnxq("diff", source, compiled, "--data", "random", "--limit", 4, "--html", page)
    return page


@pytest.fixture(scope="module")
def report_page(source: Path, compiled: Path) -> Path:
    page = source.with_name("report.html")
    manifest = compiled.with_suffix(".manifest.json")
    onnxq("report", manifest, "--source", source, "--data", "random", "--limit", 4, "--html", page)
    return page


@pytest.fixture(scope="module")
def inspect_page(compiled: Path) -> Path:
    page = compiled.with_name("inspect.html")
    onnxq("inspect", compiled, "--kernels", "--html", page)
    return page


def complaints(driver: Any) -> list[str]:
    return [
        entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")
    ]


def place_of(driver: Any, name: str, pane: int = 0) -> tuple[int, int]:
    """Return where on the window the node stands."""
    x, y = driver.execute_script(
        """const number = scene.nodes.findIndex((node) => node.name === arguments[0]);
        const box = scene.boxOf(graph.levelNumber, number);
        const canvas = graph.panes[arguments[1]].canvas, at = canvas.getBoundingClientRect();
        return [at.x + at.width / 2 + (box.x - graph.camera.x) * graph.camera.scale,
                at.y + at.height / 2 + (box.y - graph.camera.y) * graph.camera.scale];""",
        name,
        pane,
    )
    return round(x), round(y)


def click(driver: Any, x: int, y: int) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.action_builder import ActionBuilder

    builder = ActionBuilder(driver)
    builder.pointer_action.move_to_location(x, y).click()
    builder.perform()
    ActionChains(driver).pause(0).perform()


def keys(driver: Any, *pressed: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(driver).send_keys(*pressed).perform()


def selected(driver: Any) -> str | None:
    name: str | None = driver.execute_script(
        "return graph.selected === null ? null : scene.nodes[graph.selected].name"
    )
    return name


def panel(driver: Any) -> str:
    return str(driver.execute_script("return document.getElementById('panel').innerText"))


@pytest.mark.parametrize("kind", ["diff_page", "report_page", "inspect_page"])
def test_every_tab_loads_without_a_complaint_and_without_a_network(
    kind: str, visit: Visit, request: pytest.FixtureRequest
) -> None:
    driver = visit(request.getfixturevalue(kind))
    tabs = driver.execute_script(
        "return [...document.getElementById('tabs').children].map((tab) => tab.dataset.tab)"
    )
    assert tabs[0] == "graph"
    assert "tables" in tabs
    for tab in tabs:
        driver.execute_script("openTab(arguments[0])", tab)
        assert driver.execute_script("return !document.getElementById(arguments[0]).hidden", tab)
        if tab == "charts":
            wait(driver, DRAWN)
    assert (
        driver.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)") == []
    )
    assert complaints(driver) == []


def test_the_graph_is_drawn(diff_page: Path, visit: Visit) -> None:
    driver = visit(diff_page)
    colours = driver.execute_script(
        """const canvas = graph.panes[0].canvas;
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        const seen = new Set();
        for (let at = 0; at < data.length; at += 4) seen.add(`${data[at]} ${data[at + 1]} ${data[at + 2]}`);
        return [...seen];"""
    )
    assert {"199 206 214", "86 180 233"} <= set(colours)  # boxes that are the same, and replaced


def test_search_finds_a_node(diff_page: Path, visit: Visit) -> None:
    driver = visit(diff_page)
    keys(driver, "/", "softmax")
    assert driver.execute_script("return document.activeElement.id") == "search"
    assert driver.execute_script("return document.getElementById('hits').textContent") == "1 found"
    keys(driver, "\ue007")
    assert selected(driver) == "softmax"
    x, y = place_of(driver, "softmax")
    pane = driver.execute_script(
        "const at = graph.panes[0].canvas.getBoundingClientRect(); return [at.x, at.right, at.y, at.bottom]"
    )
    assert pane[0] < x < pane[1]
    assert pane[2] < y < pane[3]


def test_a_click_shows_the_encodings(diff_page: Path, visit: Visit) -> None:
    driver = visit(diff_page)
    click(driver, *place_of(driver, "query"))
    assert selected(driver) == "query"
    text = panel(driver)
    for word in ("replaced", "Encoding of the weight", "int8", "scale", "zero point", "SQNR", "wq"):
        assert word in text
    wait(driver, "return document.querySelector('#panel .chart svg')")
    keys(driver, "\ue00c")
    assert selected(driver) is None
    assert driver.execute_script("return document.getElementById('panel').hidden")


def test_both_models_stand_side_by_side_at_the_same_place(diff_page: Path, visit: Visit) -> None:
    driver = visit(diff_page)
    driver.execute_script("graph.setLevel(scene.levels.length - 1)")
    width = driver.execute_script("return graph.panes.map((pane) => pane.canvas.clientWidth)")
    assert len(width) == 2
    assert abs(width[0] - width[1]) <= 2  # the line between them
    pairs = driver.execute_script(
        """const left = (number) => scene.nodes[number].side === 1 && scene.counterparts(number).length;
        return scene.nodes.flatMap((_, number) => !left(number) ? [] :
            [scene.counterparts(number)
             .map((other) => [graph.level.boxes[number], graph.level.boxes[other]])
             .filter(([one, two]) => one.x === two.x && one.y === two.y).length])"""
    )
    assert pairs
    assert all(count >= 1 for count in pairs)
    click(driver, *place_of(driver, "query", pane=0))
    lit = driver.execute_script(
        "return [...graph.lit].map((number) => [scene.nodes[number].op, scene.nodes[number].side])"
    )
    assert ["MatMul", 2] in lit


@pytest.mark.parametrize("view", ["side", "over", "before", "after"])
@pytest.mark.parametrize("colour", ["change", "dtype", "error", "time", "bytes"])
def test_every_view_and_colour_is_drawn(view: str, colour: str, diff_page: Path, visit: Visit) -> None:
    driver = visit(diff_page, f"#view={view}&colour={colour}")
    assert driver.execute_script("return [graph.view, graph.colourName]") == [view, colour]
    assert driver.execute_script("return graph.panes.length") == (2 if view == "side" else 1)
    legend = driver.execute_script("return document.getElementById('legend').innerText")
    assert "not known: give data" not in legend
    assert complaints(driver) == []


def test_an_address_leads_to_a_node_and_follows_it(diff_page: Path, visit: Visit) -> None:
    driver = visit(diff_page, "#node=context&view=over")
    assert selected(driver) == "context"
    assert "context" in panel(driver)
    keys(driver, "\ue015")  # down, to what reads it
    assert selected(driver) != "context"
    address = driver.execute_script("return location.hash")
    assert f"node={selected(driver)}" in address
    assert "view=over" in address


def test_keys_walk_zoom_and_change_the_view(diff_page: Path, visit: Visit) -> None:
    driver = visit(diff_page, "#node=scores")
    scale = driver.execute_script("return graph.camera.scale")
    keys(driver, "+")
    assert driver.execute_script("return graph.camera.scale") > scale
    keys(driver, "2")
    assert driver.execute_script("return graph.view") == "over"
    keys(driver, "\ue013")
    assert selected(driver) in ("query", "key_turn", "q_dq", "kt")
    theme = driver.execute_script("return document.documentElement.dataset.theme")
    keys(driver, "t")
    assert driver.execute_script("return document.documentElement.dataset.theme") != theme
    keys(driver, "?")
    assert driver.execute_script("return document.getElementById('keys').open")


def test_tables_sort_and_lead_to_the_graph(diff_page: Path, visit: Visit) -> None:
    driver = visit(diff_page, "#tab=tables")
    head = "[...document.querySelectorAll('#tables article:last-child th')]"
    columns = driver.execute_script(f"return {head}.map((one) => one.textContent)")
    column = columns.index("bytes before")
    driver.execute_script(f"{head}[arguments[0]].querySelector('button').click()", column)
    cells = driver.execute_script(
        """const rows = document.querySelectorAll('#tables article:last-child tbody tr');
        return [...rows].map((row) => row.children[arguments[0]].textContent);""",
        column,
    )
    numbers = [int(cell or -1) for cell in cells]
    assert numbers == sorted(numbers, reverse=True)
    assert (
        driver.execute_script(f"return {head}[arguments[0]].getAttribute('aria-sort')", column)
        == "descending"
    )
    driver.execute_script("document.querySelector('#tables article:last-child tbody tr').click()")
    assert driver.execute_script("return state.tab") == "graph"
    assert selected(driver) is not None


def test_a_narrow_window_stacks_the_panes(diff_page: Path, visit: Visit) -> None:
    driver = visit(diff_page)
    size = {"width": 420, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        tops = driver.execute_script(
            "return graph.panes.map((pane) => pane.canvas.getBoundingClientRect().top)"
        )
        assert tops[1] > tops[0]
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 420
    finally:
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**size, "width": 1400, "height": 900})


def long_model(nodes: int) -> GraphModule:
    """Return a chain of blocks of six nodes, a side branch in each."""
    value = first = ir.val("x", ir.DataType.FLOAT, [1, 4])
    made: list[ir.Node] = []
    for number in range(nodes // 6):
        here = value
        for step, op in enumerate(("Neg", "Relu", "Exp", "Tanh", "Abs")):
            made.append(ir.node(op, [here], name=f"/block.{number}/part/{op}_{step}"))
            here = made[-1].outputs[0]
        made.append(ir.node("Add", [here, value], name=f"/block.{number}/Add"))
        value = made[-1].outputs[0]
    for number, node in enumerate(made):
        node.outputs[0].name = f"v{number}"
        node.outputs[0].type, node.outputs[0].shape = first.type, first.shape
    graph = ir.Graph([first], [value], nodes=made, opset_imports={"": 21}, name="long")
    return GraphModule(ir.Model(graph, ir_version=10))


@pytest.fixture(scope="module")
def long_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    before, after = long_model(NODES), long_model(NODES)
    for node in list(after.graph)[::7]:
        if node.op_type == "Relu":
            node.op_type = "Sigmoid"
    for module, name in ((before, "before.onnx"), (after, "after.onnx")):
        save_model(module, folder / name)
    onnxq("diff", folder / "before.onnx", folder / "after.onnx", "--html", folder / "long.html")
    return folder / "long.html"


def test_a_double_click_opens_a_layer(long_page: Path, visit: Visit) -> None:
    driver = visit(long_page, "#level=0")
    before = driver.execute_script("return document.getElementById('level').value")
    driver.execute_script(
        """const box = graph.level.boxes.find((one) => !one.single), canvas = graph.panes[0].canvas;
        graph.goTo(box.members[0]);
        const at = canvas.getBoundingClientRect();
        const middle = { clientX: at.x + at.width / 2, clientY: at.y + at.height / 2 };
        canvas.dispatchEvent(new MouseEvent("dblclick", middle));"""
    )
    last = driver.execute_script("return scene.levels.length - 1")
    assert before != str(last)
    assert driver.execute_script("return document.getElementById('level').value") == str(last)
    assert f"level={last}" in driver.execute_script("return location.hash")


@pytest.mark.parametrize("level", ["", "#level=9"])
def test_a_graph_of_3000_nodes_answers_within_two_seconds(level: str, long_page: Path, visit: Visit) -> None:
    """The time is the page's own, from its opening; one try in time is enough, as other work slows some."""
    times = [math.inf]
    while min(times) >= 1000 * SECONDS and len(times) <= TRIES:
        driver = visit(long_page, level)
        spent = driver.execute_script(
            """const begin = performance.now();
            search("part/Relu_1");
            nextHit(1);
            graph.panes.forEach((pane) => graph.paint(pane));
            return performance.now() - begin;"""
        )
        times.append(int(driver.execute_script("return document.documentElement.dataset.ready")) + spent)
    assert driver.execute_script("return scene.nodes.length") >= NODES
    assert "part/Relu_1" in (selected(driver) or "")
    assert min(times) < 1000 * SECONDS
