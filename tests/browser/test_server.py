"""A server that is lost and comes again, and two pages of one."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from playwright.sync_api import expect

from pellucid.viewer.viewing.served import Served
from tests.browser import records
from tests.browser.conftest import Watched, settled


def test_a_lost_server_is_told_and_its_return_too(watched: Watched, serve: Callable[..., Served]) -> None:
    watched.may_fail = True
    record = records.sentence()
    server = serve(r0=record)
    page = watched.open(server.address)
    settled(page)
    server.close()
    page.goto(page.url.split("#")[0] + "#view=map&layer=1&heads=2")
    alarm = page.get_by_role("alert")
    expect(alarm).to_contain_text("does not answer")
    watched.shoot(page, "lost")
    address = urlsplit(server.address)
    serve(port=address.port, token=address.path.strip("/"), r0=record)
    expect(alarm).to_be_hidden(timeout=15_000)
    settled(page)
    watched.shoot(page, "found-again")
    expect(page.locator(".pl-map")).to_have_attribute("data-drawn", "final")


def test_a_server_of_another_run_at_the_same_port_is_told(watched: Watched, serve: Callable[..., Served]) -> None:
    """Also where nobody asked anything between the end of the one and the start of the other."""
    watched.may_fail = True
    record = records.sentence()
    server = serve(r0=record)
    page = watched.open(f"{server.address}#view=map&layer=1&heads=0")
    settled(page)
    server.close()
    address = urlsplit(server.address)
    other = serve(port=address.port, token="of-another-run", r0=record)
    page.goto(page.url.split("#")[0] + "#view=map&layer=1&heads=2")
    alarm = page.get_by_role("alert")
    expect(alarm).to_contain_text("this address is another run's")
    other.close()
    expect(alarm).to_contain_text("does not answer", timeout=15_000)
    serve(port=address.port, token=address.path.strip("/"), r0=record)
    expect(alarm).to_be_hidden(timeout=15_000)
    settled(page)
    expect(page.locator(".pl-map")).to_have_attribute("data-drawn", "final")


def test_a_layer_that_takes_another_s_place_is_shown(watched: Watched, serve: Callable[..., Served]) -> None:
    watched.may_fail = True  # what was asked of the layer before is refused
    record = records.sentence()
    page = watched.open(f"{serve(r0=record).address}#view=map&layer=1&heads=0&query=5")
    settled(page)
    record.add(records.layer("decoder.0.self", 4, len(records.WORDS), len(records.WORDS), causal=True, seed=9))
    strongest = record["decoder.0.self"].weights(queries=6, heads=0)[0, 0, 0].max().item()
    page.get_by_role("application", name="map").focus()
    page.keyboard.press("Shift+ArrowDown")
    first = page.get_by_role("complementary", name="under the crosshair").get_by_role("listitem").first
    expect(first).to_contain_text(f"{strongest:.3g}".removeprefix("0"))


def test_two_tabs_do_not_mind_each_other(watched: Watched, sentence: str) -> None:
    one = watched.open(f"{sentence}#view=map&layer=1&heads=0")
    two = watched.open(f"{sentence}#view=map&layer=1&heads=3")
    settled(one)
    settled(two)
    one.get_by_role("combobox", name="Colours").select_option("greys")
    settled(one)
    expect(two.get_by_role("combobox", name="Colours")).to_have_value("viridis")
