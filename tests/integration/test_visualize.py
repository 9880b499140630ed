"""Pictures of graphs of real actors."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
import ray
from ray.dag import InputNode, MultiOutputNode

import async_adag


@pytest.mark.parametrize("form", ["text", "dot", "svg"])
def test_every_form_shows_actors_methods_channels_and_sizes(workers, form):
    with InputNode() as inp:
        first = workers[0].add.bind(inp["amount"])
        dag = MultiOutputNode([workers[1].join.bind(first, inp[0]), workers[0].echo.bind(first)])
    with async_adag.compile(dag, max_inflight=5, buffer_size=3 << 19) as compiled:
        picture = compiled.visualize(format=form)
        words = ["Input", "[0]", "['amount']", "add", "join", "echo", "Output"]
        words += [f"Worker({worker._actor_id.hex()[:6]})" for worker in workers[:2]]
        words += ["shared memory ring, 5 slots, buffers of 1.5 MiB", "stays in the actor"]
        assert [word for word in words if word not in picture] == []
        assert compiled.execute(1, amount=2).get() == [(3, 1), 3]
        assert compiled.visualize(form) == picture
    assert compiled.visualize(form) == picture


def test_text_is_what_one_gets_unasked_and_notebooks_get_svg(workers):
    with InputNode() as x:
        dag = workers[0].echo.bind(x)
    with async_adag.compile(dag) as compiled:
        assert compiled.visualize() == compiled.visualize("text")
        assert ET.fromstring(compiled._repr_svg_()).tag.endswith("svg")
        with pytest.raises(ValueError, match="'text', 'dot', 'svg'"):
            compiled.visualize("png")


@ray.remote(num_cpus=0)
class Driver:
    def echo(self, value):
        return value

    def picture(self):
        with InputNode() as x:
            dag = self.echo_handle().echo.bind(x)
        with async_adag.compile(dag) as compiled:
            return compiled.visualize()

    def echo_handle(self):
        return ray.get_runtime_context().current_actor


def test_a_driver_that_is_an_actor_of_its_graph_hands_values_over(cluster):
    driver = Driver.remote()
    picture = ray.get(driver.picture.remote())
    ray.kill(driver)
    assert picture.count("[handed over within the driver's process]") == 2
    assert "shared memory" not in picture


def test_the_svg_of_a_graph_that_ran_says_where_time_goes(workers):
    with InputNode() as x:
        dag = workers[1].add.bind(workers[0].echo.bind(x))
    with async_adag.compile(dag) as compiled:
        text, svg = compiled.visualize(), compiled.visualize("svg")
        compiled.execute(1).get()
        before = compiled.stats()
        for n in range(3):
            compiled.execute(n).get()
        assert "4 executions in " in compiled.visualize("svg", times=True)
        timed = compiled.visualize("svg", times=before)
        assert "3 executions in " in timed
        assert timed.count(">busy ") == 2
        assert timed.count(">idle ") == 2
        assert (compiled.visualize(), compiled.visualize("svg")) == (text, svg), "the same each time"
